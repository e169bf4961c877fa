"""Options shared by the commands that run episodes, and the dataset and episodes that they mean."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ntre_deploy.errors import InputError, one_of

if TYPE_CHECKING:
    from ntre_deploy.data.dataset import Dataset
    from ntre_deploy.data.episodes import EpisodeSet

DatasetOption = Annotated[
    str, typer.Option("--dataset", help="procedural[:SEED], coco:FILE.json[:IMAGES] or folder:PATH.", metavar="SPEC")
]
EpisodesOption = Annotated[
    Path | None, typer.Option("--episodes", help="Episode file to run; drawn and written there if it is absent.")
]
ShotsOption = Annotated[int, typer.Option("--shots", min=1, help="Supports of each episode.")]
CountOption = Annotated[int, typer.Option("--count", min=1, help="Number of episodes to draw.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of the draw.")]
FoldOption = Annotated[int | None, typer.Option("--fold", help="Draw only from the novel classes of this fold (0-3).")]
SplitOption = Annotated[str, typer.Option("--split", help="How folds are cut: interleaved or contiguous.")]


@dataclass(frozen=True)
class Draw:
    """What the options say."""

    dataset: str
    episodes: Path | None
    shots: int
    count: int
    seed: int
    fold: int | None
    split: str


def open_episodes(draw: Draw) -> "tuple[Dataset, EpisodeSet]":
    """The dataset, and the episodes of the file or newly drawn ones.

    Raises:
        InputError: the dataset or the file cannot be used, they do not belong together, or classes lack images.
    """
    from ntre_deploy.data.dataset import open_dataset
    from ntre_deploy.data.episodes import read_episodes, sample_episodes, write_episodes
    from ntre_deploy.data.folds import SPLITS, novel_classes

    one_of(draw.split, SPLITS, "Split")
    dataset = open_dataset(draw.dataset)
    if draw.episodes is not None and draw.episodes.exists():
        found = read_episodes(draw.episodes)
        if found.dataset != dataset.name:
            raise InputError(
                f"Episodes {draw.episodes} were drawn from {found.dataset}, not from {dataset.name}; "
                "pass the dataset that they belong to."
            )
        return dataset, found
    classes = list(dataset.class_names)
    if draw.fold is not None:
        classes = list(novel_classes(len(classes), draw.fold, draw.split))
    usable = [c for c in classes if len(dataset.images(c)) > draw.shots]
    if not usable:
        most = max(len(dataset.images(c)) for c in classes)
        raise InputError(
            f"No class of {dataset.name} has the {draw.shots + 1} images that {draw.shots} shots and a query need; "
            f"its largest has {most}: ask for --shots {max(most - 1, 1)} or fewer."
        )
    split = "all" if draw.fold is None else draw.split
    drawn = sample_episodes(dataset, usable, draw.shots, draw.count, draw.seed, split=split, fold=draw.fold)
    if draw.episodes is not None:
        write_episodes(draw.episodes, drawn)
    return dataset, drawn
