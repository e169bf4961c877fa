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
    "labelme": "polygons for LabelMe (labelme/)",
    "yolo": "polygons for YOLO (yolo/)",
    "geojson": "polygons with holes as GeoJSON (geojson/)",
    "polygons": "polygons with holes as plain JSON (polygons/)",
    "label-studio": "predictions of all for Label Studio (label_studio.json)",
    "page": "a page to look at (overview.html)",
}
COCO, PAGE = "coco.json", "overview.html"
LABEL_STUDIO, LABEL_STUDIO_CONFIG, YOLO_DATA = "label_studio.json", "label_studio.xml", "yolo/data.yaml"
# of the kinds that write one file for all inputs
TOGETHER = {"coco": COCO, "label-studio": LABEL_STUDIO, "page": PAGE}
# of those that write a file for each image, as the tools look for them: folder and ending
SHAPES = {
    "labelme": ("labelme", ".json"),
    "yolo": ("yolo/labels", ".txt"),
    "geojson": ("geojson", ".geojson"),
    "polygons": ("polygons", ".json"),
}


@dataclass(frozen=True)
class Kinds:
    """What to write for photos, for videos, for all inputs together, and in the formats of other tools for each image.

    With `instances`, COCO has an annotation for each connected instance.
    """

    photos: frozenset[str]
    videos: frozenset[str]
    together: frozenset[str]
    shapes: frozenset[str] = frozenset()
    instances: bool = False


def chosen_kinds(wanted: Sequence[str] | None, sources: Sequence[Source], instances: bool = False) -> Kinds:
    """What was asked for; else what a person wants to see: pictures of photos, videos of videos, and the page.

    Raises:
        InputError: an unknown kind, or one that these inputs cannot give.
    """
    if instances and "coco" not in (wanted or ()):
        raise InputError("--instances is for --write coco, which is not asked for; add it or leave --instances out.")
    if wanted is None:
        return Kinds(frozenset({"mask", "overlay"}), frozenset({"video"}), frozenset({"page"}))
    kinds = frozenset(one_of(kind, KINDS, "--write") for kind in wanted)
    if "video" in kinds and all(source.video is None for source in sources):
        raise InputError("--write video is for videos, and there is none among the inputs; take --write overlay.")
    if kinds == {"video"} and any(source.video is None for source in sources):
        raise InputError("--write video writes nothing for the photos among the inputs; add --write overlay.")
    pictures = kinds & {"mask", "overlay"}
    return Kinds(pictures, pictures | (kinds & {"video"}), kinds & TOGETHER.keys(), kinds & SHAPES.keys(), instances)


def photo_outputs(out: Path, path: Path) -> tuple[Path, Path]:
    """Label map and overlay of a photo; of one from a folder inside a folder, `out` is with that place."""
    return out / f"{path.stem}.png", out / f"{path.stem}.overlay.jpg"


def shape_output(out: Path, kind: str, place: Path) -> Path:
    """The file of one of `SHAPES` for the image whose label map is at `place`, in `out`."""
    folder, ending = SHAPES[kind]
    return out / folder / place.relative_to(out).with_suffix(ending)


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
        yield from (shape_output(out, kind, mask) for kind in sorted(kinds.shapes))
        return
    if "video" in kinds.videos:
        yield video_output(place, source.path)
    if kinds.videos - {"video"}:
        yield place / source.path.stem
    # its frames' files lie in there
    yield from (out / SHAPES[kind][0] / source.place / source.path.stem for kind in sorted(kinds.shapes))
