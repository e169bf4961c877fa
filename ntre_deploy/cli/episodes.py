"""Options shared by the commands that run episodes, and the dataset and episodes that they mean."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ntre_deploy.cli.console import note, reading_masks
from ntre_deploy.cli.grouped import option
from ntre_deploy.errors import InputError, one_of

if TYPE_CHECKING:
    from ntre_deploy.data.dataset import Dataset
    from ntre_deploy.data.episodes import EpisodeSet
    from ntre_deploy.data.ways import WaysSet

T = TypeVar("T", "EpisodeSet", "WaysSet")
Warn = Callable[[str], None]

PANEL = "Episodes"
DatasetOption = Annotated[
    str,
    typer.Option(
        "--dataset",
        metavar="SPEC",
        help="KIND:PATH: coco, cvat, yolo, labelme, folder ...",
        rich_help_panel=PANEL,
    ),
]
# beside everything that reads annotations: those without a mask are skipped and counted without it
StrictOption = Annotated[bool, typer.Option("--strict", help="Refuse annotations without a mask.")]
_SPLIT = "interleaved"
_option = partial(option, PANEL)


# no defaults here: an existing episode file has its own values, and one that differs must be an error
@dataclass(frozen=True)
class EpisodeOptions:
    """The options of commands that run episodes of `--dataset`; see `grouped`."""

    episodes: Annotated[Path | None, _option("--episodes", "FILE", "To run; absent, it is written.")] = None
    shots: Annotated[int | None, _option("--shots", "N", "Supports of each.", min=1, show_default="1")] = None
    ways: Annotated[int | None, _option("--ways", "N", "Classes of each.", min=1, show_default="1")] = None
    no_calibrate: Annotated[bool, _option("--no-calibrate", None, "Leave the margins of classes raw.")] = False
    count: Annotated[int | None, _option("--count", "N", "How many.", min=1, show_default="20")] = None
    seed: Annotated[int | None, _option("--seed", "N", "Of the draw.", min=0, show_default="0")] = None
    fold: Annotated[int | None, _option("--fold", "0..3", "Only the fold's novel classes.")] = None
    split: Annotated[
        str | None, _option("--split", "NAME", "contiguous or interleaved.", show_default="interleaved")
    ] = None
    strict: Annotated[bool, _option("--strict", None, "Refuse annotations without a mask.")] = False

    @property
    def drawn(self) -> bool:
        """Whether anything says which episodes."""
        return [self.episodes, self.shots, self.ways, self.count, self.seed, self.fold, self.split] != [None] * 7

    def draw(self, dataset: str, *, quiet: bool, default_count: int = 20, warn: Warn | None = None) -> "Draw":
        """What they say about a dataset; see `Draw`."""
        given = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "no_calibrate"}
        return Draw(dataset, **given, default_count=default_count, quiet=quiet, warn=warn)

    def check(self) -> None:
        """Refuse `--no-calibrate` where there is one class and nothing to compare.

        Raises:
            InputError: that.
        """
        if (self.ways or 1) < 2 and self.no_calibrate:
            raise InputError("--no-calibrate is for several classes; add --ways N, or leave it out.")


@dataclass(frozen=True)
class ManyEpisodeOptions(EpisodeOptions):
    """Those of a command that runs more of them where nobody says how many."""

    count: Annotated[int | None, _option("--count", "N", "How many.", min=1, show_default="1000")] = None


@dataclass(frozen=True)
class Draw:
    """What the options say; None is left to the episode file, or to the default.

    `quiet` shows no bar while masks are read, and no warnings; `warn` takes them instead of stderr; `strict` is that of
    `open_dataset`.  `ways` is for `open_ways` alone.
    """

    dataset: str
    episodes: Path | None = None
    shots: int | None = None
    count: int | None = None
    seed: int | None = None
    fold: int | None = None
    split: str | None = None
    ways: int | None = None
    default_count: int = 20
    quiet: bool = False
    strict: bool = False
    warn: Warn | None = None


def open_episodes(draw: Draw) -> "tuple[Dataset, EpisodeSet]":
    """The dataset, and the episodes of the file or newly drawn ones.

    Raises:
        InputError: the dataset or the file cannot be used, they do not belong together, or classes lack images.
    """
    from ntre_deploy.data.episodes import read_episodes, sample_episodes, write_episodes

    return _open(draw, read_episodes, sample_episodes, write_episodes)


def open_ways(draw: Draw) -> "tuple[Dataset, WaysSet]":
    """The dataset, and the N-way episodes of the file or newly drawn ones; `draw.ways` is given.

    Raises:
        InputError: as `open_episodes`, or there are fewer classes than ways.
    """
    from ntre_deploy.data.ways import read_ways, sample_ways, write_ways

    def sample(dataset: "Dataset", classes: list[int], *rest: int, **more: Any) -> "WaysSet":
        return sample_ways(dataset, classes, draw.ways or 1, *rest, **more)

    return _open(draw, read_ways, sample, write_ways)


def _open(
    draw: Draw, read: "Callable[[Path], T]", sample: "Callable[..., T]", write: "Callable[[Path, T], None]"
) -> "tuple[Dataset, T]":
    from ntre_deploy.data.folds import SPLITS
    from ntre_deploy.data.registry import open_dataset

    cut = one_of(draw.split or _SPLIT, SPLITS, "Split")
    with reading_masks(draw.quiet) as progress:
        dataset = open_dataset(draw.dataset, progress=progress, strict=draw.strict)
        if draw.episodes is not None and draw.episodes.exists():
            return dataset, _from_file(read(draw.episodes), draw, dataset)
        drawn, small = _drawn(draw, dataset, cut, sample)
        if draw.episodes is not None:
            write(draw.episodes, drawn)
    if small:
        warning = _left_out(dataset, small, draw.shots or 1)
        if draw.warn is not None:
            draw.warn(warning)
        elif not draw.quiet:
            note(f"warning: {warning}")
    return dataset, drawn


def _from_file(found: T, draw: Draw, dataset: "Dataset") -> T:
    if found.dataset != dataset.name:
        raise InputError(
            f"Episodes {draw.episodes} were drawn from {found.dataset}, not from {dataset.name}; "
            "pass the dataset that they belong to."
        )
    _check_same(draw, found)
    return found


def _drawn(draw: Draw, dataset: "Dataset", cut: str, sample: "Callable[..., T]") -> tuple[T, list[int]]:
    """New episodes, and the classes that have too few images to be among them."""
    from ntre_deploy.data.episodes import usable_classes
    from ntre_deploy.data.folds import novel_classes

    shots = draw.shots or 1
    classes = list(dataset.class_names)
    if draw.fold is not None:
        classes = list(novel_classes(len(classes), draw.fold, cut))
    usable = usable_classes(dataset, classes, shots)
    if not usable:
        most = max(len(dataset.images(c)) for c in classes)
        raise InputError(
            f"No class of {dataset.name} has the {shots + 1} images that {shots} shots and a query need; "
            f"its largest has {most}: ask for --shots {max(most - 1, 1)} or fewer."
        )
    split = "all" if draw.fold is None else cut
    count = draw.count or draw.default_count
    drawn = sample(dataset, usable, shots, count, draw.seed or 0, split=split, fold=draw.fold)
    return drawn, [c for c in classes if c not in usable]


def _left_out(dataset: "Dataset", small: list[int], shots: int) -> str:
    shown = ", ".join(f"'{dataset.class_names[c]}' {len(dataset.images(c))}" for c in small[:4])
    more = f" and {len(small) - 4} more" if len(small) > 4 else ""
    classes = "1 class" if len(small) == 1 else f"{len(small)} classes"
    return (
        f"{classes} of {dataset.name} left out, with fewer than the {shots + 1} images that {shots} shots and a query "
        f"need: {shown}{more}"
    )


def _check_same(draw: Draw, found: "EpisodeSet | WaysSet") -> None:
    there = {"shots": found.shots, "count": len(found.episodes), "seed": found.seed, "fold": found.fold}
    if draw.ways is not None:
        there["ways"] = getattr(found, "ways", 1)
    if found.fold is not None:
        there["split"] = found.split  # type: ignore[assignment]
    for name, value in there.items():
        given = getattr(draw, name)
        if given is not None and given != value:
            raise InputError(
                f"--{name} {given} was asked for, but the episodes of {draw.episodes} have {name} {value}; "
                f"leave out --{name}, or name a new file."
            )
