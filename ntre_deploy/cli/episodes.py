"""Options shared by the commands that run episodes, and the dataset and episodes that they mean."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ntre_deploy.cli.console import note, reading_masks
from ntre_deploy.errors import InputError, one_of

if TYPE_CHECKING:
    from ntre_deploy.data.dataset import Dataset
    from ntre_deploy.data.episodes import EpisodeSet

DatasetOption = Annotated[
    str,
    typer.Option(
        "--dataset", metavar="SPEC", help="procedural[:SEED], coco:FILE.json[:IMAGES], pascal:VOC[@train], folder:PATH."
    ),
]
EpisodesOption = Annotated[
    Path | None, typer.Option("--episodes", help="Episode file to run; drawn and written there if it is absent.")
]
# no defaults here: an existing episode file has its own values, and one that differs must be an error
ShotsOption = Annotated[int | None, typer.Option("--shots", min=1, help="Supports of each episode. (default: 1)")]
CountOption = Annotated[int | None, typer.Option("--count", min=1, help="Episodes to draw. (default: 20; eval 1000)")]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, help="Seed of the draw. (default: 0)")]
FoldOption = Annotated[int | None, typer.Option("--fold", help="Draw only from the novel classes of this fold (0-3).")]
SplitOption = Annotated[
    str | None, typer.Option("--split", help="How folds are cut: contiguous or interleaved. (default: the latter)")
]

_SPLIT = "interleaved"


@dataclass(frozen=True)
class Draw:
    """What the options say; None is left to the episode file, or to the default.

    `quiet` shows no bar while masks are read, and no warnings; `warn` takes them instead of stderr.
    """

    dataset: str
    episodes: Path | None = None
    shots: int | None = None
    count: int | None = None
    seed: int | None = None
    fold: int | None = None
    split: str | None = None
    default_count: int = 20
    quiet: bool = False
    warn: Callable[[str], None] | None = None


def open_episodes(draw: Draw) -> "tuple[Dataset, EpisodeSet]":
    """The dataset, and the episodes of the file or newly drawn ones.

    Raises:
        InputError: the dataset or the file cannot be used, they do not belong together, or classes lack images.
    """
    from ntre_deploy.data.dataset import open_dataset
    from ntre_deploy.data.folds import SPLITS

    cut = one_of(draw.split or _SPLIT, SPLITS, "Split")
    with reading_masks(draw.quiet) as progress:
        dataset = open_dataset(draw.dataset, progress=progress)
        if draw.episodes is not None and draw.episodes.exists():
            return dataset, _from_file(draw.episodes, draw, dataset)
        drawn, small = _drawn(draw, dataset, cut)
    if small:
        warning = _left_out(dataset, small, draw.shots or 1)
        if draw.warn is not None:
            draw.warn(warning)
        elif not draw.quiet:
            note(f"warning: {warning}")
    return dataset, drawn


def _from_file(path: Path, draw: Draw, dataset: "Dataset") -> "EpisodeSet":
    from ntre_deploy.data.episodes import read_episodes

    found = read_episodes(path)
    if found.dataset != dataset.name:
        raise InputError(
            f"Episodes {path} were drawn from {found.dataset}, not from {dataset.name}; "
            "pass the dataset that they belong to."
        )
    _check_same(draw, found)
    return found


def _drawn(draw: Draw, dataset: "Dataset", cut: str) -> "tuple[EpisodeSet, list[int]]":
    """New episodes, and the classes that have too few images to be among them."""
    from ntre_deploy.data.episodes import sample_episodes, usable_classes, write_episodes
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
    drawn = sample_episodes(dataset, usable, shots, count, draw.seed or 0, split=split, fold=draw.fold)
    if draw.episodes is not None:
        write_episodes(draw.episodes, drawn)
    return drawn, [c for c in classes if c not in usable]


def _left_out(dataset: "Dataset", small: list[int], shots: int) -> str:
    shown = ", ".join(f"'{dataset.class_names[c]}' {len(dataset.images(c))}" for c in small[:4])
    more = f" and {len(small) - 4} more" if len(small) > 4 else ""
    classes = "1 class" if len(small) == 1 else f"{len(small)} classes"
    return (
        f"{classes} of {dataset.name} left out, with fewer than the {shots + 1} images that {shots} shots and a query "
        f"need: {shown}{more}"
    )


def _check_same(draw: Draw, found: "EpisodeSet") -> None:
    there = {"shots": found.shots, "count": len(found.episodes), "seed": found.seed, "fold": found.fold}
    if found.fold is not None:
        there["split"] = found.split  # type: ignore[assignment]
    for name, value in there.items():
        given = getattr(draw, name)
        if given is not None and given != value:
            raise InputError(
                f"--{name} {given} was asked for, but the episodes of {draw.episodes} have {name} {value}; "
                f"leave out --{name}, or name a new file."
            )
