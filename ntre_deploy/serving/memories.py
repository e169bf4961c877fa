"""Support memories that a server keeps by name, in a folder that survives it and that several servers may share."""

import os
import re
import threading
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from ntre_deploy.errors import InputError, did_you_mean
from ntre_deploy.files import check_folder
from ntre_deploy.runtime.support import SupportMemory
from ntre_deploy.serving.limits import MissingError

SUFFIX = ".safetensors"
# a name is a file's and part of an address
_NAME = re.compile(r"\w[\w.+-]{0,99}")
_SHOWN = 8


def check_name(name: str) -> str:
    """The name, where a memory can have it.

    Raises:
        InputError: it is empty, too long, or has other characters than letters, digits and `_.+-`.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"{name[:120]!r} cannot name a memory; 1 to 100 letters, digits and _ . + - can.")
    return name


@dataclass(frozen=True)
class Kept:
    """A memory of the store.

    Attributes:
        memory: it, or None where its file cannot be read.
        changed: when it was put there, UTC.
        size: of its file, in bytes.
        error: why it cannot be used; empty where it can.
    """

    name: str
    memory: SupportMemory | None
    changed: datetime
    size: int
    error: str = ""


class MemoryStore:
    """Memories by name; several threads may use it, and several processes one folder.

    Args:
        folder: where they are kept, made with the first one; None keeps them in memory alone.
        model: id of the model that they must be of.
        most: so many are kept.

    Raises:
        InputError: the folder cannot be written to.
    """

    def __init__(self, folder: Path | None, model: str, most: int = 1000) -> None:
        if folder is not None:
            check_folder(folder)
        self.folder = folder
        self._model = model
        self._most = most
        # what a file was when it was read, and what was read
        self._read: dict[str, tuple[tuple[int, int, int], SupportMemory]] = {}
        self._held: dict[str, tuple[SupportMemory, datetime]] = {}
        self._lock = threading.RLock()

    def put(self, name: str, memory: SupportMemory) -> SupportMemory:
        """Keep a memory under a name, which becomes its class's, in place of one that has it.

        Raises:
            InputError: the name cannot be one, the memory is of another model, so many are kept already, or the file
                cannot be written.
        """
        check_name(name)
        memory = self._checked(name, replace(memory, name=name))
        with self._lock:
            names = self.names()
            if name not in names and len(names) >= self._most:
                raise InputError(f"{len(names)} memories are kept, and no more may be; delete one.")
            if self.folder is None:
                self._held[name] = memory, datetime.now(timezone.utc)
            else:
                memory.save(self._path(name))
                self._read[name] = self._state(self._path(name)), memory
        return memory

    def get(self, name: str) -> SupportMemory:
        """The memory of a name; the same object as long as nobody has changed it.

        Raises:
            MissingError: there is none.
            InputError: its file is damaged, or of another model.
        """
        with self._lock:
            if self.folder is None and name in self._held:
                return self._held[name][0]
            if self.folder is not None and _NAME.fullmatch(name):
                try:
                    state = self._state(self._path(name))
                    if name not in self._read or self._read[name][0] != state:
                        memory = replace(SupportMemory.load(self._path(name)), name=name)
                        self._read[name] = state, memory
                    return self._checked(name, self._read[name][1])
                except FileNotFoundError:
                    self._read.pop(name, None)
            names = self.names()
        shown = ", ".join(names[:_SHOWN]) + ", ..." * (len(names) > _SHOWN)
        raise MissingError(
            f"There is no memory {name[:100]!r}; there is {shown or 'none'}.{did_you_mean(name[:100], names)}"
        )

    def delete(self, name: str) -> None:
        """Forget a memory.

        Raises:
            MissingError: there is none of that name.
            InputError: its file cannot be removed.
        """
        with self._lock:
            if name not in self.names():
                self.get(name)
            self._held.pop(name, None)
            self._read.pop(name, None)
            if self.folder is not None:
                try:
                    self._path(name).unlink(missing_ok=True)
                except OSError as error:
                    raise InputError(f"The memory '{name}' cannot be removed: {error.strerror}.") from error

    def names(self) -> list[str]:
        """Names of all, in order."""
        with self._lock:
            if self.folder is None:
                return sorted(self._held)
            try:
                found = [entry.name for entry in os.scandir(self.folder) if entry.is_file()]
            except FileNotFoundError:
                return []
            names = [name[: -len(SUFFIX)] for name in found if name.endswith(SUFFIX)]
            return sorted(name for name in names if _NAME.fullmatch(name))

    def list(self) -> "list[Kept]":
        """All, with what is wrong with those that cannot be used."""
        kept = []
        for name in self.names():
            memory, error = None, ""
            try:
                memory = self.get(name)
                size, changed = self._stamp(name)
            except (MissingError, OSError):  # deleted meanwhile
                continue
            except InputError as problem:
                error = str(problem)
                size, changed = self._stamp(name)
            kept.append(Kept(name, memory, changed, size, error))
        return kept

    def _stamp(self, name: str) -> tuple[int, datetime]:
        if self.folder is None:
            memory, changed = self._held[name]
            return len(memory.to_bytes()), changed
        status = self._path(name).stat()
        return status.st_size, datetime.fromtimestamp(status.st_mtime, timezone.utc)

    def _checked(self, name: str, memory: SupportMemory) -> SupportMemory:
        if memory.model != self._model:
            raise InputError(f"The support memory '{name}' was made by another model or input size; encode it again.")
        return memory

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}{SUFFIX}"

    @staticmethod
    def _state(path: Path) -> tuple[int, int, int]:
        status = path.stat()
        return status.st_ino, status.st_mtime_ns, status.st_size
