"""A kit on disk, read with every file checked against what `kit.json` says of it."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from ntre_deploy.conformance.cases import KitError, check_case
from ntre_deploy.conformance.netpbm import Pixels, from_netpbm, repeated
from ntre_deploy.errors import InputError
from ntre_deploy.files import reading
from ntre_deploy.runtime.bundle import Bundle

FORMAT = "ntre-conformance"
VERSION = 1
KIT = "kit.json"


def bundle_entry(bundle: Bundle) -> dict[str, Any]:
    """What a kit says of its bundle, as JSON values."""
    return {
        "name": bundle.manifest.name,
        "model": bundle.manifest.model.id,
        "input_size": bundle.manifest.input.size,
        "manifest_sha256": hashlib.sha256(bundle.text).hexdigest(),
    }


@contextmanager
def reading_kit(path: Path, what: str = "Kit file") -> Iterator[None]:
    """As `reading`, of what belongs to a kit.

    Raises:
        KitError: any `OSError` of the block.
    """
    try:
        with reading(path, what):
            yield
    except KitError:
        raise
    except InputError as error:
        raise KitError(str(error)) from error


@dataclass(frozen=True)
class Kit:
    """An opened kit.

    Attributes:
        content: of `kit.json`.
        sha256: of its bytes.
    """

    folder: Path
    content: dict[str, Any]
    sha256: str
    _seen: set[str] = field(default_factory=set, repr=False)

    @classmethod
    def open(cls, folder: str | Path) -> "Kit":
        """Read `kit.json`; the other files are read when they are asked for.

        Raises:
            KitError: no kit, or one of another version.
        """
        path = Path(folder) / KIT
        with reading_kit(path, "Kit"):
            if not path.is_file():
                raise KitError(
                    f"{folder} is no kit: it has no {KIT}; make one with `ntre conformance BUNDLE --out KIT`."
                )
            text = path.read_bytes()
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise KitError(f"{path} is not readable JSON ({error}); make the kit again.") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise KitError(f"{path} is not that of a conformance kit.")
        if content.get("version") != VERSION:
            raise KitError(
                f"{path} is of version {content.get('version')}; this version of ntre reads {VERSION}: make it again."
            )
        wanted = {"bundle": dict, "tolerances": dict, "files": dict, "images": dict, "masks": dict, "cases": list}
        for key, kind in wanted.items():
            if not isinstance(content.get(key), kind):
                raise KitError(f"{path} lacks the entry '{key}'; make the kit again.")
        try:
            for case in content["cases"]:
                check_case(case)
        except KitError as error:
            raise KitError(f"{path}: {error}; make the kit again.") from error
        return cls(Path(folder), content, hashlib.sha256(text).hexdigest())

    def check_bundle(self, bundle: Bundle) -> None:
        """See that a bundle is the one that the kit was made of.

        Raises:
            KitError: it is another one.
        """
        wanted, found = self.content["bundle"], bundle_entry(bundle)
        if wanted.get("manifest_sha256") != found["manifest_sha256"]:
            raise KitError(
                f"The kit {self.folder} was made of the bundle '{wanted.get('name')}' (model {wanted.get('model')}), "
                f"and {bundle.folder} is another one or was changed since; make a kit of it with "
                f"`ntre conformance {bundle.folder} --out KIT`."
            )

    def file(self, path: str) -> Path:
        """Where a file is, once its size and SHA-256 were found to be right.

        Raises:
            KitError: the kit does not list it, or it was changed.
        """
        entry = self.content["files"].get(path)
        where = self.folder / path
        # a name that leaves the folder is listed by no kit that this package wrote, and is not followed
        if not isinstance(entry, dict) or ".." in Path(path).parts or Path(path).is_absolute():
            raise KitError(f"The kit {self.folder} does not list its file {path!r}; make the kit again.")
        if path not in self._seen:
            with reading_kit(where):
                content = where.read_bytes()
            if len(content) != entry.get("size") or hashlib.sha256(content).hexdigest() != entry.get("sha256"):
                raise KitError(f"{where} has been changed: its SHA-256 is not that of {KIT}; make the kit again.")
            self._seen.add(path)
        return where

    def read(self, path: str) -> bytes:
        """The content of a file.

        Raises:
            KitError: as `file`.
        """
        where = self.file(path)
        with reading_kit(where):
            return where.read_bytes()

    def tensors(self, path: str, *names: str) -> dict[str, NDArray[Any]]:
        """The arrays of a safetensors file, of the shapes that docs/conformance.md gives [...]; `names` among them.

        Raises:
            KitError: as `file`, or it does not hold them.
        """
        try:
            found = load_tensors(self.read(path))
        except (SafetensorError, ValueError, TypeError, AttributeError, KeyError) as error:
            raise KitError(f"{self.folder / path} cannot be read ({error}); make the kit again.") from error
        if missing := [name for name in names if name not in found]:
            raise KitError(f"{self.folder / path} lacks {missing[0]}; make the kit again.")
        return found

    def image(self, name: str) -> Pixels:
        """An image by its name, uint8 RGB [H, W, 3].

        Raises:
            KitError: as `file`, or it is no image.
        """
        return self._picture("images", name, "RGB")

    def mask(self, name: str) -> Pixels:
        """A mask by its name, uint8 [H, W].

        Raises:
            KitError: as `file`, or it is no mask.
        """
        return self._picture("masks", name, "L")

    def labels(self, path: str) -> Pixels:
        """A label map of `cases`, uint8 [H, W].

        Raises:
            KitError: as `file`, or it is none.
        """
        return self._netpbm(path, "L")

    def _picture(self, kind: str, name: str, mode: str) -> Pixels:
        try:
            entry = self.content[kind][name]
            path, height, width = str(entry["file"]), int(entry["height"]), int(entry["width"])
        except (KeyError, TypeError, ValueError) as error:
            raise KitError(f"The kit {self.folder} has no entry '{name}' in its {kind}; make the kit again.") from error
        return repeated(self._netpbm(path, mode), height, width)

    def _netpbm(self, path: str, mode: str) -> Pixels:
        content = self.read(path)
        try:
            return from_netpbm(content, mode)
        except InputError as error:
            raise KitError(f"{self.folder / path}: {error}; make the kit again.") from error
