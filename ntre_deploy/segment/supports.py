"""What `--support` says: photos with masks, boxes or points; what GrabCut makes is written to be looked at."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ntre_deploy.errors import InputError
from ntre_deploy.files import plain_name
from ntre_deploy.runtime.imagefile import Pixels, read_image, write_png
from ntre_deploy.runtime.overlay import overlay
from ntre_deploy.segment.grabcut import Box, Points, cut, draw_prompt, read_box, read_points
from ntre_deploy.segment.shots import Files, mask_file, read_shot

FOLDER = "supports"

# a photo in front of it is missing, or the name
_BARE = re.compile(r"(?:^|[=,])\s*(?:box|points)=")
_PROMPT = re.compile(r"(?:(?P<name>.*)=)?(?P<image>[^=]+),\s*(?P<kind>box|points)=(?P<rest>.*)", re.DOTALL)


@dataclass(frozen=True)
class Example:
    """A photo, and what shows the class in it: a mask file (with its choice behind `@`), a box or points."""

    image: Path
    shown: Path | Box | Points

    @property
    def files(self) -> list[Path]:
        """Those that it is read from."""
        return [self.image, mask_file(self.shown)[0]] if isinstance(self.shown, Path) else [self.image]


@dataclass(frozen=True)
class Drawn:
    """A mask that was made from a box or points.

    Attributes:
        name: of the class.
        mask_file, overlay_file: where it is to be written, and the photo with it.
        image: uint8 RGB [H, W, 3].
        mask: uint8 [H, W], 1 on the target.
        prompt: what it was made from.
    """

    name: str
    mask_file: Path
    overlay_file: Path
    image: Pixels
    mask: Pixels
    prompt: Box | Points

    def write(self) -> None:
        """Write both files.

        Raises:
            InputError: one cannot be written.
        """
        write_png(self.mask_file, self.mask * 255)
        write_png(self.overlay_file, draw_prompt(overlay(self.image, self.mask), self.prompt))


def parse_supports(given: Sequence[str]) -> dict[str, list[Example]]:
    """Examples of every class, in the order in which the classes are named.

    Args:
        given: `[NAME=]IMAGE,MASK`, `[NAME=]IMAGE,box=x1,y1,x2,y2` or `[NAME=]IMAGE,points=x,y;x,y;-x,y`.

    Raises:
        InputError: one is none of these.
    """
    classes: dict[str, list[Example]] = {}
    shown: Path | Box | Points
    for text in given:
        if found := _PROMPT.fullmatch(text):
            read = read_box if found["kind"] == "box" else read_points
            name, image, shown = found["name"], found["image"], read(found["rest"])
        else:
            name, equals, pair = text.rpartition("=")
            image, _, mask = pair.rpartition(",")
            if not mask.strip() or (equals and not name) or _BARE.search(text):
                image = ""
            name, shown = name or None, Path(mask.strip())
        if not image.strip() or name == "":
            raise InputError(
                f"Support '{text}' is not [NAME=]IMAGE,MASK, for example fork=fork.jpg,fork_mask.png; in place of MASK "
                "stands box=x1,y1,x2,y2 or points=x,y;x,y too."
            )
        classes.setdefault(name or "target", []).append(Example(Path(image.strip()), shown))
    return classes


def drawn_files(out: Path, name: str, number: int) -> tuple[Path, Path]:
    """Mask and overlay of the n-th example of a class, counted from 1 on."""
    stem = f"{plain_name(name.replace(' ', '_'))}_{number}"
    return out / FOLDER / f"{stem}_mask.png", out / FOLDER / f"{stem}_overlay.png"


def check_drawn(out: Path, classes: Mapping[str, Sequence[Example]], given: Iterable[Path]) -> None:
    """See that no mask which is made here takes the place of a file that the user gave.

    Raises:
        InputError: one would.
    """
    inputs = {path.resolve() for path in given}
    for name, examples in classes.items():
        for number, example in enumerate(examples, start=1):
            for path in () if isinstance(example.shown, Path) else drawn_files(out, name, number):
                if path.resolve() in inputs:
                    raise InputError(f"{path} is given and would be overwritten; choose another folder with --out.")


def read_supports(
    classes: Mapping[str, Sequence[Example]], out: Path, *, strict: bool = False
) -> tuple[dict[str, list[tuple[Pixels, Pixels]]], list[Drawn]]:
    """The arrays of all examples; nothing is written.

    Args:
        out: folder of the results, to which `Drawn` belongs.
        strict: refuse annotation files in which some annotations have no mask.

    Returns:
        class -> (uint8 RGB [H, W, 3], uint8 [H, W] with 1 on the target and 255 to be ignored) of each example, and the
        masks that were made.

    Raises:
        InputError: a file cannot be read, a mask is none or can mean several things, or a box or point shows nothing.
    """
    files: Files = {}
    drawn: list[Drawn] = []
    arrays: dict[str, list[tuple[Pixels, Pixels]]] = {}
    for name, examples in classes.items():
        for number, example in enumerate(examples, start=1):
            if isinstance(example.shown, Path):
                shot = read_shot(name, example.image, example.shown, strict=strict, files=files)
            else:
                image = read_image(example.image)
                try:
                    shot = image, cut(image, example.shown)
                except InputError as error:
                    raise InputError(f"Support '{name}', {example.image}: {error}") from error
                drawn.append(Drawn(name, *drawn_files(out, name, number), *shot, example.shown))
            arrays.setdefault(name, []).append(shot)
    return arrays, drawn
