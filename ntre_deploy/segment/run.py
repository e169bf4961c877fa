"""Segments photos, videos and streams, and writes what was asked for: reading and writing beside the engine."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import InputError
from ntre_deploy.interrupts import ended_by_interrupt
from ntre_deploy.runtime.imagefile import Pixels, write_jpeg, write_png
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.runtime.labels import label_map, label_scores
from ntre_deploy.runtime.letterbox import Letterbox, prepare_reduced
from ntre_deploy.runtime.overlay import overlay, palette, tag_names
from ntre_deploy.runtime.results.result import Result
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.sources.finding import Skipped, Source, told
from ntre_deploy.runtime.sources.frame import Frame
from ntre_deploy.runtime.sources.live import Live, never
from ntre_deploy.runtime.sources.opening import photo_frame
from ntre_deploy.runtime.sources.video import Video
from ntre_deploy.runtime.support import SupportMemory
from ntre_deploy.runtime.videowriter import WriteFrame, write_video
from ntre_deploy.segment.outputs import PAGE, Kinds, frame_outputs, photo_outputs, video_output
from ntre_deploy.segment.page import THUMBNAIL, Card, thumbnail, write_page
from ntre_deploy.segment.pipeline import side_by_side
from ntre_deploy.segment.writers import ResultFiles

Float = NDArray[np.float32]
Shares = NDArray[np.float64]

# pictures of a video on the page
_SHOWN = 4
# longer side of a photo's overlay, in pixels: enough for a screen, and a tenth of the bytes of the photo
OVERLAY_SIDE = 1600
# longer side at which scores are taken: means over so many pixels do not change with more
_SCORED_SIDE = 640


class _Ready(NamedTuple):
    """A picture and what the engine takes of it, float32 [3, size, size]."""

    source: Source
    frame: Frame
    pixels: Float
    box: Letterbox


class _Computed(NamedTuple):
    """A picture and its logits, float32 [N, 2, h, w]."""

    ready: _Ready
    logits: Float


class _Done(NamedTuple):
    """What is known and written of a picture, and the picture with the classes drawn in."""

    ready: _Ready
    result: Result
    shares: Shares
    written: dict[str, str]
    picture: Pixels


@dataclass
class Job:
    """What to do with the inputs.

    Attributes:
        segmenter, memories: label n is the n-th memory.
        out: folder for results.
        kinds: what to write.
        every: of a video's frames, take each n-th.
        partial: take a video that ends early.
        exact: read every pixel of large JPEGs; else a half or less where that is enough, which changes the masks along
            some edges.
        advance: called after each photo and frame, on another thread.
        tell: called with a line about a stream that has broken off or is there again, on another thread.
        skipped: photos and videos that were found in a folder and turned out to be damaged.
        busy: seconds that the engine has worked.
    """

    segmenter: Segmenter
    memories: Sequence[SupportMemory]
    out: Path
    kinds: Kinds
    every: int = 1
    partial: bool = False
    exact: bool = False
    advance: Callable[[], None] = lambda: None
    tell: Callable[[str], None] = print
    skipped: list[Skipped] = field(default_factory=list)
    busy: float = 0.0
    _cards: list[Card] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names = [memory.name for memory in self.memories]
        self._files = ResultFiles(self.out, self.names, self.kinds)
        self._unread: InputError | None = None
        self._least = None if self.exact else enough_pixels(self.segmenter.spec)

    def run(self, sources: Sequence[Source]) -> list[dict[str, Any]]:
        """Segment all of them; Ctrl-C ends a camera or stream, and with it the job, as if it had come to its end.

        Returns:
            for each input what was written, in `shares` the part of the pixels that each class has, and in `scores` how
            clear each class is where it was found (see `Segmenter.segment_scored`; of large pictures, over a part of
            their pixels); of a video, means over its frames and over the frames in which the class was found.

        Raises:
            InputError: an input that cannot be read to its end, unless it was found in a folder, or an output that
                cannot be written.
            EngineError: the engine failed.
        """
        results: list[dict[str, Any]] = []
        for photos, group in groupby(sources, lambda source: source.video is None):
            if photos:
                results += self._photos(list(group))
                continue
            for source in group:
                try:
                    results.append(self._video(source))
                except InputError as error:
                    if not source.found or error is not self._unread:
                        raise
                    self.skipped.append(Skipped(source.path, told(source.path, error)))
        self._files.finish()
        if "page" in self.kinds.together:
            write_page(self.out / PAGE, self._cards, self.names, self.segmenter.reason)
        return results

    @property
    def _side(self) -> int:
        """Longer side of what is drawn of a photo; 0 where nothing is."""
        return OVERLAY_SIDE if "overlay" in self.kinds.photos else 2 * THUMBNAIL * ("page" in self.kinds.together)

    def _photos(self, sources: Sequence[Source]) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = []

        def read(source: Source) -> _Ready | None:
            try:
                return self._ready(source, photo_frame(source.path, self._least))
            except InputError as error:
                if not source.found:
                    raise
                self.skipped.append(Skipped(source.path, told(source.path, error)))
                self.advance()
                return None

        def finish(computed: _Computed) -> _Done:
            source = computed.ready.source
            return self._finish(computed, *photo_outputs(self.out / source.place, source.path), self.kinds.photos)

        def collect(done: _Done) -> None:
            source, shares = done.ready.source, self._named(done.shares)
            name = (source.place / source.path.name).as_posix()
            self._files.gather(done.result, name, source.path)
            if "page" in self.kinds.together:
                links = [self._link(Path(done.written[kind])) for kind in ("overlay", "mask") if kind in done.written]
                self._cards.append(Card(name, [thumbnail(done.picture)], links, shares))
            scores = self._named(np.array(done.result.scores))
            results.append({"image": str(source.path), **done.written, "shares": shares, "scores": scores})
            self.advance()

        side_by_side(iter(sources), read, self._compute, finish, collect)
        return results

    def _video(self, source: Source) -> dict[str, Any]:
        video, kinds = source.video, self.kinds.videos
        assert video is not None
        place = self.out / source.place
        target = video_output(place, source.path)
        pictures = bool(kinds & {"mask", "overlay"})
        # without a number of frames, the first ones are shown
        step = max((video.frames or _SHOWN) // self.every // _SHOWN, 1)
        shown: list[str] = []
        total, clear, seen, frames = *np.zeros((3, len(self.names))), 0
        write: WriteFrame | None = None
        with ExitStack() as stack:
            # outermost: a file is being finished when the second Ctrl-C may come
            stop = stack.enter_context(ended_by_interrupt()) if source.live else never

            def finish(computed: _Computed) -> _Done:
                outputs = frame_outputs(place, source.path, computed.ready.frame.index)
                return self._finish(computed, *outputs, kinds)

            def collect(done: _Done) -> None:
                nonlocal frames, write
                frame = done.ready.frame
                if "video" in kinds:
                    # with the first frame, as a camera may be ended before it
                    write = write or stack.enter_context(write_video(target, video.size, video.rate / self.every))
                    write(_fitted(done.picture, video.size), frame.seconds)
                name = self._link(frame_outputs(place, source.path, frame.index)[0])
                self._files.gather(done.result, name, video=source.path.name, frame=frame.index)
                if "page" in self.kinds.together and frames % step == 0 and len(shown) < _SHOWN:
                    shown.append(thumbnail(done.picture))
                frames += 1
                np.add(total, done.shares, out=total)
                np.add(clear, done.result.scores, out=clear)
                np.add(seen, np.array(done.result.scores) > 0, out=seen)
                self.advance()

            # of a camera, what waits is late
            ahead = 1 if source.live else None
            side_by_side(
                self._frames(video, stop), lambda f: self._ready(source, f), self._compute, finish, collect, ahead=ahead
            )
        shares = self._named(total / max(frames, 1))
        name = video.name if isinstance(video, Live) else str(source.path)
        result: dict[str, Any] = {"video": name, "frames": frames, "shares": shares}
        result["scores"] = self._named(clear / np.maximum(seen, 1))
        if write is not None:
            result["overlay"] = str(target)
        if pictures:
            result["folder"] = str(place / source.path.stem)
        played = "" if write is None else self._link(target)
        links = [played] * bool(played) + [f"{self._link(place / source.path.stem)}/"] * pictures
        title = video.name if isinstance(video, Live) else (source.place / source.path.name).as_posix()
        self._cards.append(Card(title, shown, links, shares, frames, played))
        return result

    def _frames(self, video: Video | Live, stop: Callable[[], bool]) -> Iterator[Frame]:
        if isinstance(video, Live):
            return video.read(self.every, stop=stop, tell=self.tell)
        return self._file_frames(video)

    def _file_frames(self, video: Video) -> Iterator[Frame]:
        try:
            yield from video.read(self.every, partial=self.partial)
        except InputError as error:
            self._unread = error
            raise

    def _ready(self, source: Source, frame: Frame) -> _Ready:
        return _Ready(source, frame, *prepare_reduced(frame.pixels, frame.size, self.segmenter.spec))

    def _compute(self, ready: _Ready) -> _Computed:
        began = time.perf_counter()
        logits = self.segmenter.query(ready.pixels, self.memories)
        self.busy += time.perf_counter() - began
        return _Computed(ready, logits)

    def _finish(self, computed: _Computed, mask: Path, drawn: Path, kinds: frozenset[str]) -> _Done:
        """Make the label map, and write it, the overlay and other formats where they are wanted."""
        ready = computed.ready
        labels, scores = labelled(computed.logits, ready.box)
        result = Result(labels, self.names, None, computed.logits, ready.box, ready.source.path, scores)
        written = self._files.write(result, mask, ready.source.path if ready.source.video is None else None)
        if "mask" in kinds:
            write_png(mask, labels, palette(len(self.names)))
            written["mask"] = str(mask)
        picture = ready.frame.pixels
        if kinds & {"overlay", "video"} or "page" in self.kinds.together:
            if ready.source.video is None:
                picture = _fitted(picture, _bounded(picture.shape[:2], self._side))
            shown = cv2.resize(labels, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST).astype(
                np.uint8, copy=False
            )
            picture = tag_names(overlay(picture, shown), shown, self.names)
        if "overlay" in kinds:
            write_jpeg(drawn, picture)
            written["overlay"] = str(drawn)
        counts = np.bincount(labels.ravel(), minlength=len(self.names) + 1)[1:]
        return _Done(ready, result, counts / labels.size, written, picture)

    def _link(self, path: Path) -> str:
        return path.relative_to(self.out).as_posix()

    def _named(self, shares: Shares) -> dict[str, float]:
        return {name: round(float(share), 6) for name, share in zip(self.names, shares, strict=True)}


def enough_pixels(spec: InputSpec) -> int:
    """Pixels of the longer side at which a JPEG may be read: the engine's input is still an average over pixels."""
    return max(2 * spec.size + 1, OVERLAY_SIDE)


def labelled(logits: Float, box: Letterbox) -> tuple[Pixels, tuple[float, ...]]:
    """Labels of every pixel, and scores; those of a large picture from a part of its pixels.

    Args:
        logits: float32 [N, 2, h, w] of `Segmenter.query`.
        box: how the picture was fitted in.

    Returns:
        uint8 [H, W], and for each class its score in [0, 1].
    """
    height, width = _bounded((box.height, box.width), _SCORED_SIDE)
    if (height, width) == (box.height, box.width):
        return label_scores(logits, box)
    labels = label_map(logits, box)
    coarse, scores = label_scores(logits, replace(box, height=height, width=width))
    # what is so small that the part does not show it
    if any((labels == label).any() and not (coarse == label).any() for label in range(1, len(logits) + 1)):
        scores = label_scores(logits, box)[1]
    return labels, scores


def _bounded(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(H, W) with the longer side at most `side`, and the aspect ratio kept."""
    scale = min(side / max(size), 1.0)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _fitted(picture: Pixels, size: tuple[int, int]) -> Pixels:
    """A picture at (H, W): a stream may come back with another size, and a video has one."""
    if picture.shape[:2] == size:
        return picture
    return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def unseen(results: Sequence[dict[str, Any]]) -> list[str]:
    """Names of the classes that occur in no result."""
    names = list(results[0]["shares"]) if results else []
    return [name for name in names if not any(result["shares"][name] > 0 for result in results)]
