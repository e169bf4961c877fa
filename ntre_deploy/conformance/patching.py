"""A copy of a bundle with a patch of a kit; docs/conformance.md describes the operations."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ntre_deploy.conformance.cases import KitError
from ntre_deploy.conformance.kit import Kit, reading_kit
from ntre_deploy.files import reading


@contextmanager
def patched(kit: Kit, bundle: Path, operations: Sequence[dict[str, Any]]) -> Iterator[Path]:
    """Yield the folder of a patched copy, which is removed in the end.

    Raises:
        KitError: the patch cannot be applied, or a file of the kit was changed.
    """
    with tempfile.TemporaryDirectory(prefix="ntre-conformance-", ignore_cleanup_errors=True) as outside:
        folder = Path(outside) / bundle.name
        folder.mkdir()
        with reading(bundle, "Bundle"):
            for path in bundle.iterdir():
                _link_or_copy(path, folder / path.name)
        for number, operation in enumerate(operations):
            with reading_kit(folder, "The patched copy"):
                _apply(kit, folder, operation, Path(outside) / f"moved-{number}")
        yield folder


def _link_or_copy(source: Path, target: Path) -> None:
    # a second name costs nothing; another file system has none for it
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _apply(kit: Kit, folder: Path, operation: dict[str, Any], outside: Path) -> None:
    try:
        name, op = str(operation["name"]), operation["op"]
        path = folder / name
        if path.parent != folder or name in ("", ".", ".."):
            raise KitError(f"The kit {kit.folder} patches {name!r}, which is no file of a bundle; make the kit again.")
        if op == "write":
            _put(path, kit.read(operation["file"]))
        elif op == "append":
            _put(path, path.read_bytes() + bytes.fromhex(operation["hex"]))
        elif op == "overwrite":
            content, new, at = path.read_bytes(), bytes.fromhex(operation["hex"]), int(operation["at"])
            _put(path, content[:at] + new + content[at + len(new) :])
        elif op == "resize":
            size = int(operation["size"])
            _put(path, path.read_bytes()[:size].ljust(size, b"\0"))
        elif op == "remove":
            path.unlink()
        elif op == "link":
            path.rename(outside)
            path.symlink_to(outside)
        elif op == "folder":
            path.unlink(missing_ok=True)
            path.mkdir()
        else:
            raise KitError(f"The kit {kit.folder} has a patch with the operation {op!r}, which is unknown.")
    except (KeyError, TypeError, ValueError) as error:
        raise KitError(f"The kit {kit.folder} has a patch that cannot be applied ({error}); make it again.") from error


def _put(path: Path, content: bytes) -> None:
    # the bundle's own file may be behind the same name
    path.unlink(missing_ok=True)
    path.write_bytes(content)
