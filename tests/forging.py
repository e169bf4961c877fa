"""Bundles that are changed behind their manifest's back and memories of random numbers, for tests of every runtime."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ntre_deploy.runtime.calibration import Calibration
from ntre_deploy.runtime.support import SupportMemory

Change = Callable[[dict[str, Any]], object]


def change_manifest(bundle: Path, change: Change) -> None:
    """Let `change` alter the parsed manifest, and write it back."""
    path = bundle / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def list_anew(bundle: Path, name: str) -> None:
    """Let the manifest be right about a file that was changed."""
    content = (bundle / name).read_bytes()

    def change(manifest: dict[str, Any]) -> None:
        (entry,) = [entry for entry in manifest["files"] if entry["name"] == name]
        entry |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    change_manifest(bundle, change)


def drawn_memory(
    name: str = "fork", calibration: Calibration | None = None, shots: int = 2, step: float = 0.25
) -> SupportMemory:
    """A memory of random numbers, whose shots have 3, 4 ... keys and scores that are `step` apart."""
    rng = np.random.default_rng(0)
    keys = tuple(rng.normal(size=(4, 3 + n)).astype(np.float32) for n in range(shots))
    scores = tuple(step * n for n in range(shots)) if shots > 1 else None
    return SupportMemory(name, rng.normal(size=5).astype(np.float32), keys, "0123456789abcdef", calibration, scores)


def assert_same_memory(one: Any, other: Any) -> None:
    """Compare a memory with another one, which may be another runtime's with the same attributes."""
    facts = [(m.name, m.model, m.calibration, m.shot_scores, m.shots) for m in (one, other)]
    assert facts[0] == facts[1]
    for mine, theirs in zip((one.prototype, *one.keys), (other.prototype, *other.keys), strict=True):
        np.testing.assert_array_equal(mine, theirs)
