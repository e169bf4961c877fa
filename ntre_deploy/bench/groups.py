"""Several bundles in one run: those of one model share their PyTorch reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.bench import pytorch
from ntre_deploy.bench.systems import System, Wanted, find_checkpoint, found_beside, open_engines
from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.model.registry import checkpoint_file
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.inputspec import InputSpec

Stored = Sequence[tuple[NDArray[np.float32], NDArray[np.uint8]]]


@dataclass
class Group:
    """Systems that compute the same network at the same input size; the first is the reference of the others.

    Attributes:
        bundles: name of the bundle behind each system; PyTorch's is the group's first.  Empty in a run of one.
        stored: for each episode the logits [1, 2, h, w] and label map [H, W] of PyTorch that the systems are compared
            with in the place of the first one; empty where that is the reference.
    """

    spec: InputSpec
    systems: list[System]
    bundles: list[str]
    stored: Stored = ()


@dataclass
class Opened:
    """Bundles ready to be measured.

    Attributes:
        bundles: by a name that is theirs alone.
        checkpoints: of each of them; none where PyTorch is not compared with.
        skipped: engine -> why it cannot run here.
        lacking: why PyTorch is not compared with; empty where it is.
        notes: what a reader of the figures has to know.
        trusted: files of the keys by one of which each bundle is signed; none where this was not demanded.
    """

    bundles: dict[str, Bundle] = field(default_factory=dict)
    checkpoints: dict[str, Path] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    trusted: tuple[Path, ...] = ()
    lacking: str = ""


def find_bundles(folders: Sequence[Path], checkpoints: Sequence[Path], trusted: Sequence[Path] = ()) -> Opened:
    """Open bundles and find the checkpoint of each.

    Args:
        folders, checkpoints: any number, in any order.
        trusted: files of public keys, by one of which each bundle must be signed; none demands nothing.

    Raises:
        InputError: a folder is no bundle, given twice or not signed as demanded, a checkpoint is missing or belongs to
            none of them.
    """
    opened = Opened(trusted=tuple(trusted))
    if len({folder.resolve() for folder in folders}) != len(folders):
        raise InputError("A bundle is given twice; name each one once.")
    for folder in folders:
        bundle = Bundle.open(folder, trusted=trusted or None)
        opened.bundles[_unused(bundle.manifest.name, opened.bundles)] = bundle
    if not pytorch.installed():
        if checkpoints:
            raise InputError(
                f"--checkpoint {checkpoints[0]} is for PyTorch, which is not installed here; leave it out."
            )
        opened.lacking = "PyTorch is not installed"
        return opened
    checkpoints = [checkpoint_file(given) for given in checkpoints]
    left = list(checkpoints)
    for name, bundle in opened.bundles.items():
        if len(opened.bundles) == 1 and len(checkpoints) == 1:
            found = find_checkpoint(bundle, checkpoints[0])
        else:
            matching = _matching(bundle, checkpoints) or found_beside(bundle)
            if matching is None:
                opened.lacking = opened.lacking or (
                    f"the checkpoint of {bundle.folder} is not beside it (--checkpoint FILE names it)"
                )
                continue
            found = matching
        opened.checkpoints[name] = found
        left = [c for c in left if c != found]
    if left:
        raise InputError(f"Checkpoint {left[0]} is not the one that any of these bundles was exported from.")
    if opened.lacking:
        opened.checkpoints = {}
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


def open_groups(
    opened: Opened,
    threads: int,
    engines: Sequence[Wanted] = (),
    *,
    device_images: bool = False,
    stored: Mapping[str, Stored] | None = None,
) -> Opened:
    """Open every system of the bundles, as groups of one model each, whose first is the reference.

    That is PyTorch's full network on the CPU.  Where PyTorch or its checkpoint is not there, as on a device, it is what
    `stored` has for the model's id, else an engine: in fp32 and on the CPU before any other.  PyTorch on the GPU comes
    last, where an engine runs there.

    Raises:
        InputError, EngineError: as `Network` and `open_engines`.
    """
    compared = not opened.lacking
    places: dict[str, Group] = {}
    networks: dict[str, pytorch.Network] = {}
    for name, bundle in opened.bundles.items():
        model = bundle.manifest.model.id
        systems, skipped = open_engines(bundle, threads, engines, device_images=device_images)
        if model not in places:
            own = () if compared or stored is None else stored[model]
            places[model] = Group(bundle.manifest.input, [], [], own)
            opened.groups.append(places[model])
            if compared:
                networks[model] = pytorch.Network(bundle, opened.checkpoints[name], threads)
                systems = [*map(networks[model].system, pytorch.ON_CPU), *systems]
        places[model].systems += systems
        places[model].bundles += [name if len(opened.bundles) > 1 else ""] * len(systems)
        opened.skipped |= skipped
    for model, group in places.items():
        if not compared:
            _lead(group)
        elif any(system.device == "gpu" for system in group.systems):
            added = [networks[model].system(variant) for variant in pytorch.gpu_variants()]
            group.systems += added
            group.bundles += [group.bundles[0]] * len(added)
    if not compared:
        _without_pytorch(opened)
    return opened


def _lead(group: Group) -> None:
    """Put the most exact engine first."""
    pairs = sorted(
        zip(group.systems, group.bundles, strict=True), key=lambda p: (p[0].precision != "fp32", p[0].device)
    )
    group.systems, group.bundles = [system for system, _ in pairs], [bundle for _, bundle in pairs]


def _without_pytorch(opened: Opened) -> None:
    opened.groups = [group for group in opened.groups if group.systems]
    if not opened.groups:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in opened.skipped.items())
        raise EngineError(f"Neither PyTorch nor an engine of these bundles runs here ({reasons or 'they hold none'}).")
    if all(group.stored for group in opened.groups):
        against = "what the export stored of PyTorch"
    else:
        firsts = [f"{group.systems[0].name} {group.systems[0].precision}" for group in opened.groups]
        against = ", ".join(dict.fromkeys(firsts))
    opened.notes.append(f"{opened.lacking}: what differs is told against {against}, and there are no speed-ups")
