"""A kit while it is written: its files, and what `kit.json` will say of them."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as save_tensors

from ntre_deploy.conformance.netpbm import Pixels, to_netpbm
from ntre_deploy.runtime.support import SupportMemory

Case = dict[str, Any]


class Draft:
    """Collects files and cases in a folder.

    Attributes:
        files, images, masks, cases: the entries of `kit.json` of these names.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, dict[str, Any]] = {}
        self.images: dict[str, dict[str, Any]] = {}
        self.masks: dict[str, dict[str, Any]] = {}
        self.cases: list[Case] = []

    def put(self, path: str, content: bytes) -> str:
        """Write a file and return its path; what is there already has to be the same."""
        entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        if self.files.setdefault(path, entry) != entry:
            raise ValueError(f"{path} is written twice")
        (self.folder / path).parent.mkdir(exist_ok=True)
        (self.folder / path).write_bytes(content)
        return path

    def tensors(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> str:
        """Write the arrays that a case must give, of the shapes that its kind demands."""
        whole = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
        return self.put(f"cases/{name}.safetensors", save_tensors(whole))

    def image(self, name: str, pixels: Pixels, size: tuple[int, int] | None = None, *, file: str = "") -> str:
        """Add an image uint8 [h, w, 3], repeated to `size` (H, W), and return its name; `file` shares one file."""
        self.images[name] = self._picture(f"images/{file or name}.ppm", pixels, size)
        return name

    def mask(self, name: str, pixels: Pixels, size: tuple[int, int] | None = None, *, file: str = "") -> str:
        """Add a mask uint8 [h, w], as `image`."""
        self.masks[name] = self._picture(f"masks/{file or name}.pgm", pixels, size)
        return name

    def _picture(self, path: str, pixels: Pixels, size: tuple[int, int] | None) -> dict[str, Any]:
        height, width = size or pixels.shape[:2]
        return {"file": self.put(path, to_netpbm(pixels)), "width": width, "height": height}

    def labels(self, name: str, labels: Pixels) -> str:
        """Write a label map uint8 [H, W] that a case must give, and return its path."""
        return self.put(f"cases/{name}.pgm", to_netpbm(labels))

    def memory(self, name: str, memory: SupportMemory) -> str:
        """Write a memory and return its path."""
        path = f"memories/{name}.safetensors"
        (self.folder / path).parent.mkdir(exist_ok=True)
        memory.save(self.folder / path)
        return self.put(path, (self.folder / path).read_bytes())

    def case(self, kind: str, name: str, steps: Sequence[str], **content: Any) -> None:
        """Add a case; entries that are None are left out."""
        if any(case["name"] == name for case in self.cases):
            raise ValueError(f"the case {name} is there twice")
        known = {key: value for key, value in content.items() if value is not None}
        self.cases.append({"name": name, "kind": kind, "steps": list(steps), **known})

    def refusal(self, kind: str, name: str, words: Sequence[str], *, error: str = "input", **content: Any) -> None:
        """Add a case that must fail, with an error of a class whose message holds these words."""
        self.case(kind, name, ["error"], error={"class": error, "text": list(words)}, **content)
