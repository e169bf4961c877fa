"""Checkpoints: safetensors with the model's config in the metadata, so that loading needs nothing else."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ntre_deploy.errors import InputError
from ntre_deploy.files import atomic_file, saving_tensors
from ntre_deploy.model.config import ModelConfig
from ntre_deploy.model.heads import build_network, read_config
from ntre_deploy.model.network import FewShotNetwork

FORMAT = "ntre-checkpoint"
VERSION = 1
_KEY = "ntre"
# a counter that no computation of a frozen BatchNorm reads; torchvision's older files lack it too
_COUNTER = "num_batches_tracked"
# a file name of another machine would mean nothing here, and loading must not download
_LENDER = "package:"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: the model in eval mode, and what is known of its origin (plain JSON values)."""

    model: FewShotNetwork
    origin: dict[str, Any]


def save_checkpoint(
    path: str | Path, model: FewShotNetwork, origin: Mapping[str, Any], borrow: str | None = None
) -> None:
    """Write `model` with its config; `origin` is JSON that tells where the weights come from.

    Args:
        borrow: a named source of `import_weights`, such as `package:efficientnet_lite0`: what the backbone has from
            there is left out, and read from there again when the checkpoint is loaded.

    Raises:
        InputError: the file cannot be written.
        EngineError: the source of `borrow` is not there.
    """
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items() if not k.endswith(_COUNTER)}
    if borrow is not None:
        theirs = _borrowed(borrow, model.config)
        tensors = {k: v for k, v in tensors.items() if k not in theirs or not torch.equal(v, theirs[k])}
    # one entry, because safetensors orders several at random, and equal models must be equal files
    content = {"format": FORMAT, "version": VERSION, "config": model.config.to_dict(), "origin": dict(origin)}
    content |= {} if borrow is None else {"borrow": borrow}
    metadata = {_KEY: json.dumps(content, sort_keys=True)}
    with atomic_file(Path(path)) as temporary, saving_tensors():
        save_file(tensors, temporary, metadata)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint written by `save_checkpoint`.

    Raises:
        InputError: not a checkpoint of this project, or its tensors do not fit its config.
        EngineError: its backbone is a package's, which is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"Checkpoint {path} does not exist or is not a file.")
    tensors, metadata = read_safetensors(path)
    if _KEY not in metadata:
        raise InputError(f"{path} holds weights but no NTRENet checkpoint; run `ntre import-weights {path} OUT` first.")
    try:
        content = json.loads(metadata[_KEY])
        found, version, options, origin = (content[k] for k in ("format", "version", "config", "origin"))
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"Checkpoint {path} has no readable metadata: {error}.") from error
    if found != FORMAT or not isinstance(options, dict) or not isinstance(origin, dict):
        raise InputError(f"Checkpoint {path} has no readable metadata: no config or no origin.")
    if version != VERSION:
        raise InputError(f"Checkpoint {path} has format version {version}; this version of ntre reads {VERSION}.")
    config = read_config(options)
    # without memory and random numbers of its own: a small file must not ask for more than it brings
    with torch.device("meta"):
        model = build_network(config)
    if "borrow" in content:
        tensors = _borrowed(str(content["borrow"]), config) | tensors
    check_fit(model, tensors, f"Checkpoint {path}")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"Checkpoint {path} holds NaN or infinity in {name}; take an earlier checkpoint.")
    counters = {name: torch.zeros((), dtype=torch.int64) for name in model.state_dict() if name.endswith(_COUNTER)}
    model.load_state_dict(tensors | counters, assign=True)
    return Checkpoint(model.eval(), origin)


def _borrowed(source: str, config: ModelConfig) -> dict[str, Tensor]:
    """The backbone's tensors of a named source of weights, under a checkpoint's names."""
    from ntre_deploy.model.weights import lent_backbone

    if not source.startswith(_LENDER):
        raise InputError(f"A backbone can be borrowed from {_LENDER}NAME, not from '{source}'.")
    found = lent_backbone(source, config).state_dict()
    return {f"backbone.{name}": tensor for name, tensor in found.items() if not name.endswith(_COUNTER)}


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the metadata of a safetensors file.

    Raises:
        InputError: the file is not safetensors, or is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        pickled = path.suffix in (".pth", ".pt")
        hint = "a .pth file goes through `ntre import-weights` first" if pickled else "if it was cut off, copy it again"
        raise InputError(f"{path} is not a readable safetensors file: {error}; {hint}.") from error


def fill(module: torch.nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Copy `tensors` into `module`, every one of both sides.

    Raises:
        InputError: as `check_fit`.
    """
    check_fit(module, tensors, what)
    own = module.state_dict()
    with torch.no_grad():
        for name, tensor in tensors.items():
            if not name.endswith(_COUNTER):
                own[name].copy_(tensor)


def check_fit(module: torch.nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Check that names and shapes of `tensors` are those of `module`.

    Raises:
        InputError: names the tensors that are missing, extra or of another shape.
    """
    own = module.state_dict()
    wanted = {k for k in own if not k.endswith(_COUNTER)}
    given = {k for k in tensors if not k.endswith(_COUNTER)}
    problems = []
    if missing := sorted(wanted - given):
        problems.append(f"missing {_some(missing)}")
    if extra := sorted(given - wanted):
        problems.append(f"extra {_some(extra)}")
    for name in sorted(wanted & given):
        if own[name].shape != tensors[name].shape:
            expected, found = list(own[name].shape), list(tensors[name].shape)
            problems.append(f"{name} has shape {found} where {expected} is expected")
    if problems:
        raise InputError(f"{what} does not fit the network: {'; '.join(problems[:4])}.")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
