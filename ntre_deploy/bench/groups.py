"""Several bundles in one run: those of one model share their PyTorch reference."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ntre_deploy.bench.systems import CACHED, FULL, System, Wanted, build_systems, find_checkpoint, open_engines
from ntre_deploy.errors import InputError
from ntre_deploy.model.registry import checkpoint_file
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.image import InputSpec

# not engines of a bundle: what the engines are compared with
PYTORCH = (FULL, CACHED)


@dataclass
class Group:
    """Systems that compute the same network at the same input size; the first is the reference of the others.

    Attributes:
        bundles: name of the bundle behind each system; PyTorch's is the group's first.  Empty in a run of one.
    """

    spec: InputSpec
    systems: list[System]
    bundles: list[str]


@dataclass
class Opened:
    """Bundles ready to be measured.

    Attributes:
        bundles: by a name that is theirs alone.
        checkpoints: of each of them.
        skipped: engine -> why it cannot run here.
    """

    bundles: dict[str, Bundle] = field(default_factory=dict)
    checkpoints: dict[str, Path] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def find_bundles(folders: Sequence[Path], checkpoints: Sequence[Path]) -> Opened:
    """Open bundles and find the checkpoint of each.

    Raises:
        InputError: a folder is no bundle or given twice, a checkpoint is missing or belongs to none of them.
    """
    opened = Opened()
    if len({folder.resolve() for folder in folders}) != len(folders):
        raise InputError("A bundle is given twice; name each one once.")
    for folder in folders:
        bundle = Bundle.open(folder)
        opened.bundles[_unused(bundle.manifest.name, opened.bundles)] = bundle
    checkpoints = [checkpoint_file(given) for given in checkpoints]
    left = list(checkpoints)
    for name, bundle in opened.bundles.items():
        if len(opened.bundles) == 1 and len(checkpoints) == 1:
            found = find_checkpoint(bundle, checkpoints[0])
        else:
            found = _matching(bundle, checkpoints) or find_checkpoint(bundle, None)
        opened.checkpoints[name] = found
        left = [c for c in left if c != found]
    if left:
        raise InputError(f"Checkpoint {left[0]} is not the one that any of these bundles was exported from.")
    return opened


def _unused(name: str, taken: dict[str, Bundle]) -> str:
    number = 2
    free = name
    while free in taken:
        free, number = f"{name} ({number})", number + 1
    return free


def _matching(bundle: Bundle, checkpoints: Sequence[Path]) -> Path | None:
    for path in checkpoints:
        try:
            return find_checkpoint(bundle, path)
        except InputError:  # that of another bundle
            continue
    return None


def open_groups(opened: Opened, threads: int, engines: Sequence[Wanted] = ()) -> Opened:
    """Open every system of the bundles, as groups of one model each.

    Raises:
        InputError, EngineError: as `build_systems`.
    """
    places: dict[str, Group] = {}
    for name, bundle in opened.bundles.items():
        model = bundle.manifest.model.id
        if model in places:
            systems, skipped = open_engines(bundle, threads, engines)
        else:
            systems, skipped = build_systems(bundle, opened.checkpoints[name], threads, engines)
            places[model] = Group(bundle.manifest.input, [], [])
            opened.groups.append(places[model])
        places[model].systems += systems
        places[model].bundles += [name if len(opened.bundles) > 1 else ""] * len(systems)
        opened.skipped |= skipped
    return opened
