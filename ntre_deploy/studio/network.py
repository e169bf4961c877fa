"""The network behind the page: shots are encoded once, and predictions kept as long as the shots stay the same."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.encoding import EncodedShot
from ntre_deploy.runtime.masks import IGNORE
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.support import SupportMemory
from ntre_deploy.studio.photos import Pictures
from ntre_deploy.studio.session import Plan, Session
from ntre_deploy.studio.worker import OutdatedError

Pixels = NDArray[np.uint8]
Key = TypeVar("Key")
Value = TypeVar("Value")

_SHOTS, _MEMORIES, _LABELS = 512, 16, 48


class Recent(Generic[Key, Value]):
    """A table that forgets what was not asked for the longest."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of a key, made where it is not known."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        value = self._kept[key] = make()
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return value


@dataclass(frozen=True)
class ClassScore:
    """How well the shots of a class explain each other.

    Attributes:
        number: of the class.
        shots: ids of its photos, the newest last.
        scores: for each shot the IoU of its mask with what the other shots give, in [0, 1]; empty with one shot.
        gained: what the newest shot has added to the mean score of the others, in [-1, 1]; None below three shots.
    """

    number: int
    shots: tuple[str, ...]
    scores: tuple[float, ...]
    gained: float | None


class Network:
    """A `Segmenter` and what it has made so far; one thread uses it.

    Args:
        load: opens the bundle.
    """

    def __init__(self, load: Callable[[], Segmenter], session: Session, pictures: Pictures) -> None:
        self._load = load
        self._session = session
        self._pictures = pictures
        self._segmenter: Segmenter | None = None
        self._shots = Recent[tuple[str, int, str], EncodedShot](_SHOTS)
        self._memories = Recent[Any, list[SupportMemory]](_MEMORIES)
        self._labels = Recent[Any, Pixels](_LABELS)

    @property
    def segmenter(self) -> Segmenter:
        """The segmenter, loaded when it is asked for first.

        Raises:
            InputError, EngineError: as `Segmenter.load`.
        """
        if self._segmenter is None:
            self._segmenter = self._load()
        return self._segmenter

    def memories(self, plan: Plan) -> list[SupportMemory]:
        """The memories of a plan's classes, calibrated on each other.

        Raises:
            InputError: a mask is too small for the network, or the plan is empty.
            OutdatedError: marks have changed since.
            EngineError: the engine failed.
        """
        if not plan.classes:
            raise InputError("Nothing is marked yet; mark the object in one photo.")
        return self._join(plan, scored=False)

    def labels(self, photo_id: str, plan: Plan) -> Pixels:
        """What the network finds in a photo: uint8 [h, w] at its working size, 0 or the number of a class.

        Raises:
            InputError, OutdatedError, EngineError: as `memories`, or the photo cannot be read.
        """

        def make() -> Pixels:
            return self._numbered(self._pictures.working(self._session.photo(photo_id)), plan)

        return self._labels.get((photo_id, plan.key), make)

    def frame(self, image: Pixels, plan: Plan) -> Pixels:
        """As `labels`, of a camera's frame, uint8 RGB [H, W, 3]; nothing is kept."""
        return self._numbered(image, plan)

    def scores(self, plan: Plan) -> list[ClassScore]:
        """Leave-one-out scores of each class, and what its newest shot has gained.

        Raises:
            InputError, OutdatedError, EngineError: as `memories`.
        """
        if not plan.classes:
            return []
        found = []
        for item, shots, memory in zip(plan.classes, plan.shots, self._join(plan, scored=True), strict=True):
            scores = memory.shot_scores or ()
            gained = None
            if len(shots) > 2:
                alone = Plan((item,), (shots[:-1],), plan.revision)
                before = self._join(alone, scored=True)[0].shot_scores or ()
                both = list(zip(scores[:-1], before, strict=True))
                gained = sum(now - then for now, then in both) / len(both)
            found.append(ClassScore(item.number, tuple(photo for photo, _ in shots), scores, gained))
        return found

    def _numbered(self, image: Pixels, plan: Plan) -> Pixels:
        found = self.segmenter.segment(image, self.memories(plan))
        numbers = np.zeros(256, np.uint8)
        numbers[1 : len(plan.classes) + 1] = [c.number for c in plan.classes]
        return numbers[found]

    def _join(self, plan: Plan, *, scored: bool) -> list[SupportMemory]:
        # with several classes, the calibration has asked for all that the scores need
        scored = scored or len(plan.classes) > 1

        def make() -> list[SupportMemory]:
            encoded = {
                item.name: [self._encoded(photo, item.number, digest, item.name) for photo, digest in shots]
                for item, shots in zip(plan.classes, plan.shots, strict=True)
            }
            return self.segmenter.join_shots(encoded, leave_one_out=scored)

        return self._memories.get((plan.key, scored), make)

    def _encoded(self, photo_id: str, number: int, digest: str, name: str) -> EncodedShot:
        def make() -> EncodedShot:
            mark = self._session.marks.get(photo_id)
            if mark is None or mark.digest != digest:
                raise OutdatedError("The marks have changed.")
            photo = self._session.photo(photo_id)
            mask = class_mask(self._session.labels(photo_id), number)
            try:
                return self.segmenter.encode_shot((self._pictures.working(photo), mask), name)
            except InputError as error:
                raise InputError(f"{photo.name}: {error}") from error

        return self._shots.get((photo_id, number, digest), make)


def class_mask(labels: Pixels, number: int) -> Pixels:
    """The mask of one class of a label map [H, W]: uint8 with 1 on the class and 255 where pixels are to be ignored."""
    return np.where(labels == IGNORE, IGNORE, labels == number).astype(np.uint8)
