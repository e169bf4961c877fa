"""N-way episodes: N classes with supports each, and one query that holds at least one of them.

The query, the first class and its supports of episode i are those of the one-way episode i of the same seed; the other
classes are drawn from those that are left.  Files are those of `ntre_deploy.data.episodes` in version 2: the header has
`ways` too, and a line is query and ways, each of these class, class_name and supports.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ntre_deploy.data.dataset import Dataset
from ntre_deploy.data.episodes import (
    WAYS_VERSION,
    DrawnSet,
    Types,
    check_draw,
    draw_images,
    parse_record,
    read_records,
    rebuilt,
    rounds,
    write_records,
)
from ntre_deploy.errors import InputError
from ntre_deploy.runtime.imagefile import Pixels
from ntre_deploy.runtime.masks import IGNORE

# labels are bytes: 0 is background and 255 ignored
MAX_WAYS = 254

_EPISODE: Types = {"query": (str,), "ways": (list,)}
_WAY: Types = {"class": (int,), "class_name": (str,), "supports": (list,)}


@dataclass(frozen=True)
class Way:
    """One class of an episode and the images that show it."""

    class_id: int
    class_name: str
    supports: tuple[str, ...]


@dataclass(frozen=True)
class WaysEpisode:
    """One query and N classes, in the order of their ids: label n is the n-th of `ways`."""

    query: str
    ways: tuple[Way, ...]


@dataclass(frozen=True)
class WaysSet(DrawnSet[WaysEpisode]):
    """Episodes of N classes each."""

    ways: int


def sample_ways(
    dataset: Dataset,
    classes: Sequence[int],
    ways: int,
    shots: int,
    count: int,
    seed: int,
    *,
    split: str = "all",
    fold: int | None = None,
) -> WaysSet:
    """Draw `count` episodes of `ways` different classes with `shots` supports each; no image occurs twice in one.

    One class of an episode is drawn as `sample_episodes` draws it, and the query shows it; the others may be in the
    query or not.

    Raises:
        InputError: fewer classes than ways, ways that no label map holds, what `sample_episodes` refuses, or an episode
            for which too few images are left.
    """
    names, images = check_draw(dataset, classes, shots, count, seed)
    check_ways(ways, len(names), dataset.name)
    episodes = []
    for first, rng in rounds(list(names), count, seed):
        query, *supports = draw_images(images[first], shots, rng)
        used, found = {query, *supports}, [Way(first, names[first], tuple(supports))]
        for c in rng.permutation([c for c in names if c != first]).tolist():
            if len(found) == ways:
                break
            left = [image for image in images[c] if image not in used]
            if len(left) < shots:
                continue
            chosen = [left[k] for k in rng.choice(len(left), shots, replace=False)]
            used.update(chosen)
            found.append(Way(c, names[c], tuple(chosen)))
        if len(found) < ways:
            raise InputError(
                f"{dataset.name} has too few images for {ways} ways of {shots} shots in which none occurs twice; "
                "ask for fewer --ways or --shots."
            )
        episodes.append(WaysEpisode(query, tuple(sorted(found, key=lambda way: way.class_id))))
    return WaysSet(dataset.name, split, fold, shots, seed, tuple(episodes), ways)


def check_ways(ways: int, usable: int, name: str) -> None:
    """See that so many classes can be asked for at once.

    Raises:
        InputError: they are none, more than `usable`, or more than labels.
    """
    if not 1 <= ways <= MAX_WAYS:
        raise InputError(f"--ways {ways} cannot be used; give 1 to {MAX_WAYS}.")
    if ways > usable:
        raise InputError(
            f"--ways {ways} was asked for, but {name} has {usable} classes with enough images; "
            f"ask for --ways {usable} or fewer, or for fewer shots."
        )


def ways_truth(masks: Sequence[Pixels]) -> Pixels:
    """The label map that is right.

    Args:
        masks: of the N ways, uint8 [H, W] each: 1 on the class, 255 ignored, 0 elsewhere.

    Returns:
        uint8 [H, W]: 0 background, n where the n-th mask alone claims a pixel, 255 where several do or any ignores it.
    """
    claims = np.stack([mask == 1 for mask in masks])
    truth: Pixels = np.where(claims.any(axis=0), claims.argmax(axis=0) + 1, 0).astype(np.uint8)
    truth[(claims.sum(axis=0) > 1) | np.stack([mask == IGNORE for mask in masks]).any(axis=0)] = IGNORE
    return truth


def write_ways(path: str | Path, ways_set: WaysSet) -> None:
    """Write a set as JSON lines, whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    lines = [
        {
            "query": e.query,
            "ways": [{"class": w.class_id, "class_name": w.class_name, "supports": w.supports} for w in e.ways],
        }
        for e in ways_set.episodes
    ]
    write_records(path, WAYS_VERSION, ways_set.describe(), lines)


def read_ways(path: str | Path) -> WaysSet:
    """Read a set and check all of it: types, counts, shots, no class and no image twice in an episode, and the hash.

    Raises:
        InputError: names the file, the line and what was expected there.
    """
    path = Path(path)
    header, lines = read_records(path, WAYS_VERSION)
    ways, shots = header["ways"], header["shots"]
    if not 1 <= ways <= MAX_WAYS:
        raise InputError(f"{path}, line 1: {ways} ways; expected 1 to {MAX_WAYS}.")
    return rebuilt(WaysSet, path, header, tuple(_episode(path, n, line, ways, shots) for n, line in lines))


def _episode(path: Path, number: int, line: str, ways: int, shots: int) -> WaysEpisode:
    record = parse_record(path, number, line, _EPISODE)
    where = f"{path}, line {number}"
    if len(record["ways"]) != ways:
        raise InputError(f"{where}: expected 'ways' to be {ways} classes (the header's ways).")
    found = []
    for way in record["ways"]:
        right = isinstance(way, dict) and set(way) == set(_WAY) and all(type(way[k]) in _WAY[k] for k in _WAY)
        if not right or way["class"] < 0:
            raise InputError(f"{where}: expected each of 'ways' to have a class from 0 on, class_name and supports.")
        if len(way["supports"]) != shots or not all(isinstance(support, str) for support in way["supports"]):
            raise InputError(f"{where}: expected 'supports' to be {shots} image ids (the header's shots).")
        found.append(Way(way["class"], way["class_name"], tuple(way["supports"])))
    ids = [way.class_id for way in found]
    if ids != sorted(set(ids)):
        raise InputError(f"{where}: expected different classes in the order of their ids.")
    if len({record["query"], *(image for way in found for image in way.supports)}) != 1 + ways * shots:
        raise InputError(f"{where}: expected {1 + ways * shots} different images, but one occurs twice.")
    return WaysEpisode(record["query"], tuple(found))
