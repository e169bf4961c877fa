"""A bundle on disk: `NAME.ntre/` with a manifest, graphs, engines and a self-test; nothing in it is trusted."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from ntre_deploy.errors import InputError
from ntre_deploy.files import reading
from ntre_deploy.runtime.manifest import MANIFEST, EngineEntry, FileEntry, Manifest, manifest_bytes, parse_manifest
from ntre_deploy.runtime.reference import ReferenceSet, unpack_reference
from ntre_deploy.runtime.signature import SIGNATURE, Trusted, check_signature, read_signature

SELF_TEST = "selftest.safetensors"
REFERENCE = "reference.safetensors"


@dataclass(frozen=True)
class SelfTest:
    """A small episode and what it must give.

    Attributes:
        image, support_image: uint8 RGB [H, W, 3].
        support_mask, labels: uint8 [H, W] of 0 and 1.
        logits: float32 [2, h, w] of the PyTorch network in fp32.
    """

    image: NDArray[np.uint8]
    support_image: NDArray[np.uint8]
    support_mask: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its files are there, listed and of the listed sizes; contents are hashed when read.

    Attributes:
        text: the bytes of the manifest, of which a signature is.
    """

    folder: Path
    manifest: Manifest
    text: bytes = field(default=b"", repr=False)

    @classmethod
    def open(cls, folder: str | Path, *, trusted: Trusted | None = None) -> "Bundle":
        """Open a bundle.

        Args:
            folder: where it is.
            trusted: public Ed25519 keys (PEM files, their content, or keys of `cryptography`), by one of which the
                manifest must be signed; this is looked at before anything of the bundle is parsed.

        Raises:
            InputError: no bundle, no signature by a trusted key, a bad manifest, a file that is missing, not listed or
                of another size.
        """
        folder = Path(folder)
        text = manifest_bytes(folder)
        if trusted is not None:
            check_signature(folder, text, trusted)
        read_signature(folder)  # no other file may hide under its name
        return cls.of(folder, text)

    @classmethod
    def of(cls, folder: Path, text: bytes) -> "Bundle":
        """The bundle in a folder whose manifest has been read; nothing is asked of its signature.

        Raises:
            InputError: as `open`.
        """
        manifest = parse_manifest(folder / MANIFEST, text)
        listed = {entry.name: entry for entry in manifest.files}
        with reading(folder, "Bundle"):
            found = {path.name for path in folder.iterdir()}
            if unlisted := sorted(found - listed.keys() - {MANIFEST, SIGNATURE}):
                raise InputError(
                    f"Bundle {folder} holds {unlisted[0]!r}, which its manifest does not list; remove that file."
                )
            for name, entry in listed.items():
                path = folder / name
                if not path.is_file() or path.is_symlink():
                    raise InputError(f"Bundle {folder} lacks its file {name}; copy it whole or export it again.")
                if path.stat().st_size != entry.size:
                    raise InputError(
                        f"{path} has {path.stat().st_size} bytes where the manifest says {entry.size}; "
                        "copy the bundle whole or export it again."
                    )
        return cls(folder, manifest, text)

    def read(self, entry: FileEntry) -> bytes:
        """The content of one file, checked against its SHA-256 before anything looks into it.

        Raises:
            InputError: the content has changed, or cannot be read.
        """
        with reading(self.folder / entry.name, "Bundle file"):
            content = (self.folder / entry.name).read_bytes()
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise InputError(
                f"{self.folder / entry.name} has been changed: its SHA-256 is not the manifest's; "
                "copy the bundle again or export it again."
            )
        return content

    def entry(self, role: str, engine: str = "", precision: str = "") -> FileEntry | None:
        """The file of that role, engine and (found) precision; None where there is none."""
        for entry in self.manifest.files:
            if (entry.role, entry.engine, entry.precision_found) == (role, engine, precision):
                return entry
        return None

    def precisions(self, engine: str) -> list[str]:
        """Precisions in which both graphs of an engine are there, in the manifest's order."""
        queries = [e.precision_found for e in self.manifest.files if (e.role, e.engine) == ("query", engine)]
        built = [e.precision_found for e in self.manifest.engines if e.engine == engine]
        return [p for p in queries if self.entry("support", engine, p) is not None and p not in built] + built

    def built(self, engine: str, precision: str) -> EngineEntry | None:
        """The engine of that name and (found) precision that compiles graphs of the bundle; None without."""
        for entry in self.manifest.engines:
            if (entry.engine, entry.precision_found) == (engine, precision):
                return entry
        return None

    def file(self, name: str) -> FileEntry:
        """The file of that name, which a checked manifest lists."""
        return next(entry for entry in self.manifest.files if entry.name == name)

    def self_test(self) -> SelfTest:
        """Read the self-test.

        Raises:
            InputError: there is none, or it is damaged.
        """
        entry = self.entry("self-test")
        if entry is None:
            raise InputError(f"Bundle {self.folder} has no self-test; export it again.")
        try:
            return SelfTest(**load_tensors(self.read(entry)))
        # a dtype that NumPy lacks raises AttributeError or KeyError
        except (SafetensorError, TypeError, AttributeError, KeyError) as error:
            raise InputError(f"The self-test of {self.folder} is damaged: {error}; export the bundle again.") from error

    def reference(self) -> ReferenceSet | None:
        """Read the reference set; None where the export stored none.

        Raises:
            InputError: it is damaged, or its logits are of another size than this model's.
        """
        entry = self.entry("reference")
        if entry is None:
            return None
        content = self.read(entry)
        try:
            found = unpack_reference(content)
        except InputError as error:
            raise InputError(f"The reference set of {self.folder}: {error}; export the bundle again.") from error
        wanted = (2, *self.manifest.model.feature_size)
        if any(episode.logits.shape != wanted for episode in found.episodes):
            raise InputError(f"The reference set of {self.folder} does not fit its graphs; export the bundle again.")
        return found
