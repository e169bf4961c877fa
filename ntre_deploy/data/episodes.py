"""Episodes: drawn once from a seed, kept in a file, run by PyTorch and by every engine alike.

A file is JSON lines.  The first line is the header (format, version, dataset, split, fold, shots, seed, count
and the SHA-256 of the set); every other line is one episode: class, class_name, query, supports.  Version 1 is this
form; version 2 has the N-way episodes of `ntre_deploy.data.ways`.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from ntre_deploy.data.dataset import Dataset, check_class
from ntre_deploy.errors import InputError
from ntre_deploy.files import atomic_file

FORMAT = "ntre-episodes"
VERSION = 1
# of N-way episodes, which `ntre_deploy.data.ways` reads and writes
WAYS_VERSION = 2

Types = dict[str, tuple[type, ...]]
_HEADER: Types = {
    "format": (str,),
    "version": (int,),
    "dataset": (str,),
    "split": (str,),
    "fold": (int, type(None)),
    "shots": (int,),
    "seed": (int,),
    "count": (int,),
    "sha256": (str,),
}
_WAYS_HEADER: Types = _HEADER | {"ways": (int,)}
_EPISODE: Types = {"class": (int,), "class_name": (str,), "query": (str,), "supports": (list,)}


@dataclass(frozen=True)
class Episode:
    """One query image and the support images that show its class."""

    class_id: int
    class_name: str
    query: str
    supports: tuple[str, ...]


Each = TypeVar("Each")


@dataclass(frozen=True)
class DrawnSet(Generic[Each]):
    """Episodes of any kind and what they were drawn from; `fold` is None where no fold was held back."""

    dataset: str
    split: str
    fold: int | None
    shots: int
    seed: int
    episodes: tuple[Each, ...]

    def describe(self) -> dict[str, Any]:
        """What identifies the set, as JSON values: for reports and the header of its file."""
        facts = {f.name: getattr(self, f.name) for f in fields(self)}
        episodes = facts.pop("episodes")
        return facts | {"count": len(episodes), "sha256": self.hash}

    @property
    def hash(self) -> str:
        """Hexadecimal SHA-256 over the canonical JSON of all fields; equal for equal sets."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode("ascii")).hexdigest()


Drawn = TypeVar("Drawn", bound=DrawnSet[Any])


class EpisodeSet(DrawnSet[Episode]):
    """Episodes of one class each."""


def usable_classes(dataset: Dataset, classes: Iterable[int], shots: int) -> list[int]:
    """Those of `classes` that have an image for a query and `shots` supports."""
    return [c for c in classes if len(dataset.images(c)) > shots]


def sample_episodes(
    dataset: Dataset,
    classes: Sequence[int],
    shots: int,
    count: int,
    seed: int,
    *,
    split: str = "all",
    fold: int | None = None,
) -> EpisodeSet:
    """Draw `count` episodes of `shots` supports each from the given classes.

    The classes are visited in rounds: each round is a new random order of all of them, so that their counts
    differ by one at most.  Episode i does not depend on `count`: a longer set begins with the shorter one.
    NumPy may change its streams between releases, so keep the file where episodes must stay the same.

    Raises:
        InputError: no classes, a class twice or unknown, shots or count below 1, a seed outside 0 to 2**32 -
            1, or a class with fewer than shots + 1 images.
    """
    names, images = check_draw(dataset, classes, shots, count, seed)
    episodes = []
    for c, rng in rounds(list(names), count, seed):
        query, *supports = draw_images(images[c], shots, rng)
        episodes.append(Episode(c, names[c], query, tuple(supports)))
    return EpisodeSet(dataset.name, split, fold, shots, seed, tuple(episodes))


def check_draw(
    dataset: Dataset, classes: Sequence[int], shots: int, count: int, seed: int
) -> tuple[dict[int, str], dict[int, Sequence[str]]]:
    """Names and images of the classes, in the order of their ids: the order in which a caller names them is nothing.

    Raises:
        InputError: as `sample_episodes`.
    """
    for value, least, what in ((shots, 1, "shots"), (count, 1, "episodes"), (seed, 0, "as the seed")):
        if value < least:
            raise InputError(f"{value} {what} cannot be used; give {least} or more.")
    if seed >= 2**32:
        raise InputError(f"{seed} as the seed cannot be used; give at most {2**32 - 1}.")
    order = sorted(classes)
    if not order or len(set(order)) != len(order):
        raise InputError("Episodes need at least one class, and each class only once.")
    names = {c: check_class(dataset.name, dataset.class_names, c) for c in order}
    images = {c: dataset.images(c) for c in order}
    for c in order:
        if len(images[c]) <= shots:
            raise InputError(
                f"Class '{names[c]}' of {dataset.name} has {len(images[c])} images with enough target, "
                f"but {shots}-shot episodes need {shots + 1}. Leave the class out or ask for fewer shots."
            )
    return names, images


def rounds(order: Sequence[int], count: int, seed: int) -> Iterator[tuple[int, np.random.Generator]]:
    """Class and generator of each of `count` episodes; see `sample_episodes`."""
    for i in range(count):
        turn, place = divmod(i, len(order))
        # The third word keeps the stream of a round apart from that of the episode with the same number
        if place == 0:
            shuffled = np.random.default_rng(np.random.SeedSequence([seed, turn, 1])).permutation(order)
        yield int(shuffled[place]), np.random.default_rng(np.random.SeedSequence([seed, i]))


def draw_images(images: Sequence[str], shots: int, rng: np.random.Generator) -> list[str]:
    """A query and `shots` supports, all different."""
    return [images[k] for k in rng.choice(len(images), shots + 1, replace=False)]


def write_episodes(path: str | Path, episode_set: EpisodeSet) -> None:
    """Write a set as JSON lines, whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    lines = [
        {"class": e.class_id, "class_name": e.class_name, "query": e.query, "supports": e.supports}
        for e in episode_set.episodes
    ]
    write_records(path, VERSION, episode_set.describe(), lines)


def read_episodes(path: str | Path) -> EpisodeSet:
    """Read a set and check all of it: types, counts, shots, no image twice in an episode, and the hash.

    Raises:
        InputError: names the file, the line and what was expected there.
    """
    path = Path(path)
    header, lines = read_records(path, VERSION)
    episodes = tuple(_episode(path, n, line, header["shots"]) for n, line in lines)
    return rebuilt(EpisodeSet, path, header, episodes)


def write_records(
    path: str | Path, version: int, header: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]
) -> None:
    """Write a header and one line for each episode, whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    content = [{"format": FORMAT, "version": version} | dict(header), *lines]
    with atomic_file(Path(path)) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in content), encoding="ascii", newline="\n")


def read_records(path: Path, version: int) -> tuple[dict[str, Any], list[tuple[int, str]]]:
    """The checked header of a file of that version, and its other lines with their numbers.

    Raises:
        InputError: no such file, another form of it, or a header that does not fit its lines.
    """
    if not path.is_file():
        raise InputError(f"Episode file {path} does not exist or is not a file.")
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, ValueError) as error:
        raise InputError(f"Episode file {path} is not text that can be read: {error}.") from error
    several = _has_ways(lines[0])
    header = parse_record(path, 1, lines[0], _WAYS_HEADER if several else _HEADER)
    # a file of the other kind is told what it is, whatever else is asked for
    kind = WAYS_VERSION if several else VERSION
    if header["format"] != FORMAT or header["version"] != kind:
        raise InputError(
            f"{path}, line 1: format '{header['format']}' version {header['version']}; "
            f"expected '{FORMAT}' version {kind}."
        )
    if kind != version:
        raise InputError(
            f"{path} holds {header['ways']}-way episodes; run them with `ntre eval` or `ntre bench` and "
            f"--ways {header['ways']}."
            if several
            else f"{path} holds one-way episodes; leave out --ways, or name a new file."
        )
    if header["shots"] < 1:
        raise InputError(f"{path}, line 1: {header['shots']} shots; expected 1 or more.")
    if header["count"] != len(lines) - 1:
        raise InputError(f"{path}, line 1: expected {header['count']} episodes, but {len(lines) - 1} lines follow.")
    return header, list(enumerate(lines[1:], start=2))


def rebuilt(kind: type[Drawn], path: Path, header: Mapping[str, Any], episodes: tuple[Any, ...]) -> Drawn:
    """The set of that kind which a file holds, by its header and its episodes.

    Raises:
        InputError: its hash is not that of the header.
    """
    found = kind(**{f.name: header[f.name] for f in fields(kind) if f.name != "episodes"}, episodes=episodes)
    if found.hash != header["sha256"]:
        raise InputError(
            f"{path}, line 1: expected the SHA-256 {header['sha256']}, but the content gives {found.hash}; "
            "the file was changed after it was written, so draw the episodes again or restore it."
        )
    return found


def _has_ways(line: str) -> bool:
    """Whether a header is that of N-way episodes."""
    try:
        return "ways" in json.loads(line)
    except (ValueError, RecursionError, TypeError):
        return False


def _episode(path: Path, number: int, line: str, shots: int) -> Episode:
    record = parse_record(path, number, line, _EPISODE)
    supports = record["supports"]
    if len(supports) != shots or not all(isinstance(support, str) for support in supports):
        raise InputError(f"{path}, line {number}: expected 'supports' to be {shots} image ids (the header's shots).")
    if len({record["query"], *supports}) != shots + 1:
        raise InputError(f"{path}, line {number}: expected {shots + 1} different images, but one occurs twice.")
    if record["class"] < 0:
        raise InputError(f"{path}, line {number}: expected 'class' to be 0 or more.")
    return Episode(record["class"], record["class_name"], record["query"], tuple(supports))


def parse_record(path: Path, number: int, line: str, types: Types) -> dict[str, Any]:
    """A line as an object with exactly the keys of `types`, and values of those types.

    Raises:
        InputError: it is something else.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}, line {number}: expected a JSON object, but {error}.") from error
    # Unknown keys are refused because the hash would not cover them
    if not isinstance(record, dict) or set(record) != set(types):
        raise InputError(f"{path}, line {number}: expected a JSON object with exactly {', '.join(types)}.")
    for key, allowed in types.items():
        # type() and not isinstance(): True is no number here
        if type(record[key]) not in allowed:
            raise InputError(f"{path}, line {number}: '{key}' is of the wrong type {type(record[key]).__name__}.")
    return record
