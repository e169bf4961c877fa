"""Files of a folder or an object store by their names, through fsspec or pyarrow, written whole or not at all.

A place is a path of this machine or an address such as `s3://bucket/folder`.
"""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.files import atomic_file, check_folder

_ADDRESS = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+)://.+", re.IGNORECASE | re.DOTALL)
# one request puts a whole object under its name there, and nobody sees a part of it
_OBJECTS = frozenset(("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci"))
_PACKAGES = dict.fromkeys(("s3", "s3a"), "s3fs") | dict.fromkeys(("gs", "gcs"), "gcsfs")
_PACKAGES |= dict.fromkeys(("abfs", "abfss", "az"), "adlfs")
# what a kill may leave of files of this machine lies there, apart from results
_SCRATCH = ".partial"


class Opened(NamedTuple):
    """A file system, and a path there.

    Attributes:
        system: as fsspec has them.
        path: of the place in it.
        scheme: such as `s3`; `file` for this machine.
        before: what makes a path of the system an address; empty for this machine.
    """

    system: Any
    path: str
    scheme: str
    before: str = ""

    @property
    def local(self) -> bool:
        """Whether it is a file or folder of this machine."""
        return self.scheme == "file"

    def address(self, path: str) -> str:
        """The full name of another path of the same system."""
        return path if path.startswith(f"{self.scheme}://") else self.before + path


def is_address(place: str) -> bool:
    """Whether a place is no path of this machine; `file://` is one in other words."""
    return _ADDRESS.fullmatch(place) is not None and not place.lower().startswith("file://")


def full_name(place: str) -> str:
    """A place in one spelling: an address as it is, or an absolute path without `.`, `..` and `file://`."""
    return place if is_address(place) else os.path.abspath(re.sub("^file://(localhost)?", "", place, flags=re.I))


@lru_cache(maxsize=64)
def _system(scheme: str, base: str) -> tuple[Any, bool]:
    """The file system of an address, and whether pyarrow has it rather than fsspec."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(base)[0], False
    except ImportError as error:
        reason = error
    except ValueError as error:
        raise InputError(f"{base} cannot be opened: {error}.") from error
    from pyarrow import ArrowException, fs

    try:
        if scheme not in _PACKAGES:
            raise reason
        found, _ = fs.FileSystem.from_uri(base)
    except (ArrowException, OSError, ImportError) as error:
        hint = f": pip install {_PACKAGES[scheme]}" if scheme in _PACKAGES else f" ({reason})"
        raise EngineError(f"{scheme}:// needs a package that is not installed{hint}") from error
    from fsspec.implementations.arrow import ArrowFSWrapper

    return ArrowFSWrapper(found), True


def open_place(place: str) -> Opened:
    """The file system of a place.

    Raises:
        InputError: a scheme that nobody knows.
        EngineError: the package for it, or the extra `ray`, is not installed.
    """
    with needed():
        import fsspec  # noqa: F401
    matched = _ADDRESS.fullmatch(place)
    if matched is None or not is_address(place):
        return Opened(_system("file", "/")[0], full_name(place), "file")
    scheme = matched["scheme"].lower()
    rest = place.partition("://")[2]
    system, arrow = _system(scheme, f"{scheme}://{rest.partition('/')[0]}/")
    place = f"{scheme}://{rest.rstrip('/')}"
    path = rest.rstrip("/") if arrow else str(system._strip_protocol(place))
    return Opened(system, path, scheme, place.removesuffix(path))


@contextmanager
def needed() -> Iterator[None]:
    """Say which extra a missing package belongs to.

    Raises:
        EngineError: an import of the block failed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "ray").partition(".")[0]
        raise EngineError(f"Clusters need {name}, which is not installed: pip install 'ntre_deploy[ray]'") from error


@contextmanager
def local_file(place: str) -> Iterator[Path]:
    """A file of any place as one of this machine, for the block.

    Raises:
        FileNotFoundError, OSError: it cannot be read.
    """
    opened = open_place(place)
    if opened.local:
        yield Path(opened.path)
        return
    with tempfile.TemporaryDirectory(prefix="ntre-photo-") as folder:
        # by its ending, Pillow finds the reader of iPhones' photos
        copy = Path(folder, "photo" + PurePosixPath(opened.path).suffix)
        opened.system.get_file(opened.path, str(copy))
        yield copy


class Store:
    """Files below a place, by names with `/`.

    Args:
        place: a folder, made with the first file, or the address of one.

    Raises:
        InputError: an unknown scheme.
        EngineError: a package is missing.
    """

    def __init__(self, place: str) -> None:
        self.place = full_name(place).rstrip("/") if not is_address(place) else place.rstrip("/")
        self._opened = open_place(self.place)

    def __reduce__(self) -> tuple[type["Store"], tuple[str]]:
        return Store, (self.place,)

    def check(self) -> None:
        """See that it can be written to, before work whose results go there.

        Raises:
            InputError: it cannot.
        """
        if self._opened.local:
            check_folder(Path(self._opened.path))
        else:
            self.write("run.probe", b"")
            self.remove("run.probe")

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none.

        Raises:
            InputError: it cannot be read.
        """
        try:
            content: bytes = self._opened.system.cat_file(self._path(name))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._told(name, "read", error) from error
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file in place of one that may be there, whole or not at all.

        Raises:
            InputError: it cannot be written.
        """
        if self._opened.local:
            self._write_here(name, content)
            return
        system, path = self._opened.system, self._path(name)
        try:
            if self._opened.scheme in _OBJECTS:
                system.pipe_file(path, content)
                return
            # hidden, as readers of a folder of Parquet leave such files out
            folder, _, file = path.rpartition("/")
            system.makedirs(folder, exist_ok=True)
            temporary = f"{folder}/.{file}.{os.getpid()}.partial"
            system.pipe_file(temporary, content)
            if system.exists(path):
                system.rm_file(path)
            system.mv(temporary, path)
        except OSError as error:
            raise self._told(name, "written", error) from error

    def _write_here(self, name: str, content: bytes) -> None:
        scratch = Path(self.place, _SCRATCH)
        try:
            scratch.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._told(name, "written", error) from error
        with atomic_file(Path(self.place, name), scratch=scratch) as temporary:
            temporary.write_bytes(content)

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder, without it; none where there is no such folder.

        Raises:
            InputError: it cannot be read.
        """
        self._opened.system.invalidate_cache()
        try:
            found = self._opened.system.ls(self._path(folder), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise self._told(folder, "read", error) from error
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is no error.

        Raises:
            InputError: it cannot be removed.
        """
        try:
            self._opened.system.rm_file(self._path(name))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._told(name, "removed", error) from error

    def sweep(self) -> None:
        """Remove what killed processes have left of files that they were writing."""
        if self._opened.local:
            import shutil

            shutil.rmtree(Path(self.place, _SCRATCH), ignore_errors=True)

    def open(self, name: str) -> Any:
        """A file to read from anywhere, as Parquet is read."""
        return self._opened.system.open(self._path(name), "rb")

    def _path(self, name: str) -> str:
        return f"{self._opened.path}/{name}"

    def _told(self, name: str, what: str, error: OSError) -> InputError:
        reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
        return InputError(f"{self.place}/{name} cannot be {what}: {reason}. Check the address and your rights there.")
