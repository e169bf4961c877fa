"""The state of a run: everything that a resumed run needs to end where an unbroken one ends."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ntre_deploy.errors import InputError
from ntre_deploy.files import atomic_file, saving_tensors
from ntre_deploy.model.checkpoint import fill, read_safetensors
from ntre_deploy.model.contrastive import PrototypeBank
from ntre_deploy.model.network import FewShotNetwork

FORMAT = "ntre-training-state"
VERSION = 1
_KEY = "ntre"


@dataclass
class Progress:
    """How far a run is: steps done, best validation so far, and the gradient scaler's state (fp16)."""

    step: int = 0
    best: float | None = None
    scaler: dict[str, Any] | None = None


def save_state(
    path: Path,
    config: dict[str, Any],
    progress: Progress,
    model: FewShotNetwork,
    optimiser: torch.optim.Optimizer,
    bank: PrototypeBank | None,
    proxies: Tensor | None = None,
    average: nn.Module | None = None,
) -> None:
    """Write the state in one file, so that a kill leaves an old or a new one and never a mixture.

    Args:
        proxies: [n, D] of the dense classification's classes; None without it.
        average: the model with the running average of its weights; None without it.

    Raises:
        InputError: the file cannot be written.
    """
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for index, values in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{index}/{name}": value for name, value in values.items() if isinstance(value, Tensor)}
    if bank is not None:
        tensors |= {f"bank/{key}": value for key, value in bank.state_dict().items()}
    if proxies is not None:
        tensors["dense/proxies"] = proxies
    if average is not None:
        tensors |= {f"average/{name}": tensor for name, tensor in average.state_dict().items()}
    content = {"format": FORMAT, "version": VERSION, "config": config, "progress": vars(progress)}
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with atomic_file(path) as temporary, saving_tensors():
        save_file(copies, temporary, {_KEY: json.dumps(content, sort_keys=True)})


def load_state(
    path: Path,
    config: dict[str, Any],
    model: FewShotNetwork,
    optimiser: torch.optim.Optimizer,
    bank: PrototypeBank | None,
    proxies: Tensor | None = None,
    average: nn.Module | None = None,
) -> Progress:
    """Bring a run back to where `save_state` left it; arguments as in `save_state`.

    Raises:
        InputError: no such file, damage, or the state of a run with another config (names what differs).
    """
    tensors, metadata = read_safetensors(path)
    try:
        content = json.loads(metadata[_KEY])
        found, progress = content["config"], Progress(**content["progress"])
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path} is not the state of a training run: {error}.") from error
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        raise InputError(f"{path} is not the state of a training run of version {VERSION}.")
    if different := _differences(json.loads(json.dumps(config)), found):
        raise InputError(
            f"{path} belongs to a run with another config ({', '.join(different[:4])}); "
            "resume with the same options or choose another --out."
        )
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "optimiser": {}, "bank": {}, "dense": {}, "average": {}}
    for name, tensor in tensors.items():
        group, _, rest = name.partition("/")
        groups.setdefault(group, {})[rest] = tensor
    fill(model, groups["model"], f"State {path}")
    if average is not None:
        fill(average, groups["average"], f"State {path}")
    if proxies is not None:
        with torch.no_grad():
            proxies.copy_(groups["dense"]["proxies"])
    state = optimiser.state_dict()
    state["state"] = {}
    for name, tensor in groups["optimiser"].items():
        index, _, key = name.partition("/")
        state["state"].setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict(state)
    if bank is not None:
        device = next(model.parameters()).device
        bank.load_state_dict({key: value.to(device) for key, value in groups["bank"].items()})
    return progress


def saved_step(path: Path) -> int:
    """The step of a state; 0 where there is none that can be read, which `load_state` reports."""
    try:
        with safe_open(path, framework="numpy") as file:
            step = json.loads(file.metadata()[_KEY])["progress"]["step"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return 0
    return step if isinstance(step, int) else 0


def _differences(ours: Any, theirs: Any, at: str = "") -> list[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        names = sorted({*ours, *theirs})
        return [d for n in names for d in _differences(ours.get(n), theirs.get(n), f"{at}.{n}" if at else n)]
    return [] if ours == theirs else [f"{at}: {theirs!r} there, {ours!r} here"]
