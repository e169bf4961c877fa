"""Which files are written for which input; none falls on another one, nor on a file that the user gave."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ntre_deploy.errors import InputError, one_of
from ntre_deploy.runtime.sources.finding import Source

# kind -> what is written
KINDS = {
    "mask": "label maps (PNG)",
    "overlay": "photos with the classes drawn in (JPEG)",
    "video": "videos with the classes drawn in (mp4)",
    "coco": "run-length codes of all masks (coco.json)",
    "page": "a page to look at (overview.html)",
}
COCO, PAGE = "coco.json", "overview.html"


@dataclass(frozen=True)
class Kinds:
    """What to write for photos, for videos, and for all inputs together."""

    photos: frozenset[str]
    videos: frozenset[str]
    together: frozenset[str]


def chosen_kinds(wanted: Sequence[str] | None, sources: Sequence[Source]) -> Kinds:
    """What was asked for; else what a person wants to see: pictures of photos, videos of videos, and the page.

    Raises:
        InputError: an unknown kind, or one that these inputs cannot give.
    """
    if wanted is None:
        return Kinds(frozenset({"mask", "overlay"}), frozenset({"video"}), frozenset({"page"}))
    kinds = frozenset(one_of(kind, KINDS, "--write") for kind in wanted)
    if "video" in kinds and all(source.video is None for source in sources):
        raise InputError("--write video is for videos, and there is none among the inputs; take --write overlay.")
    if kinds == {"video"} and any(source.video is None for source in sources):
        raise InputError("--write video writes nothing for the photos among the inputs; add --write overlay.")
    pictures = kinds & {"mask", "overlay"}
    return Kinds(pictures, pictures | (kinds & {"video"}), kinds & {"coco", "page"})


def photo_outputs(out: Path, path: Path) -> tuple[Path, Path]:
    """Label map and overlay of a photo; of one from a folder inside a folder, `out` is with that place."""
    return out / f"{path.stem}.png", out / f"{path.stem}.overlay.jpg"


def video_output(out: Path, path: Path) -> Path:
    """The video with the classes drawn in."""
    return out / f"{path.stem}.overlay.mp4"


def frame_outputs(out: Path, path: Path, number: int) -> tuple[Path, Path]:
    """Label map and overlay of one frame, counted in the input from 0 on."""
    return photo_outputs(out / path.stem, Path(f"{number:06d}.png"))


def check_outputs(out: Path, kinds: Kinds, sources: Sequence[Source], given: Iterable[Path]) -> None:
    """See that no output takes the place of another one or of an input.

    Args:
        given: all files that the user named.

    Raises:
        InputError: names the two that do not go together.
    """
    inputs = {path.resolve() for path in given}
    written: dict[Path, Path] = {}
    for source in sources:
        for target in _targets(out, kinds, source):
            if target.resolve() in inputs:
                raise InputError(f"{target} is an input and would be overwritten; choose another folder with --out.")
            if target in written:
                raise InputError(
                    f"{written[target]} and {source.path} would both be written as {target}; rename one, or segment "
                    "them into two folders with --out."
                )
            written[target] = source.path


def _targets(out: Path, kinds: Kinds, source: Source) -> Iterator[Path]:
    if "coco" in kinds.together:
        yield out / COCO / source.place / source.path.name  # its name there
    place = out / source.place
    if source.video is None:
        mask, overlay = photo_outputs(place, source.path)
        yield from [mask] * ("mask" in kinds.photos) + [overlay] * ("overlay" in kinds.photos)
        return
    if "video" in kinds.videos:
        yield video_output(place, source.path)
    if kinds.videos - {"video"}:
        yield place / source.path.stem
