"""Files that are there whole or not at all: temporary name beside the target, fsync, rename."""

import ctypes
import errno
import glob
import hashlib
import os
import re
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from ntre_deploy.errors import InputError

_CHUNK = 1 << 20
# seconds for which a folder is left alone, as its maker may not have locked it yet
_FRESH = 60.0


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask_mode(base: int) -> int:
    # temporary files are private; what a user keeps should follow the user's umask
    mask = os.umask(0)
    os.umask(mask)
    return base & ~mask


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn what the operating system says about a file that cannot be read into bad input.

    Raises:
        InputError: any `OSError` of the block.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{what} {_short(path)} cannot be read: {error.strerror or error}.") from error


@contextmanager
def atomic_file(path: Path, *, mode: int = 0o666, replace: bool = True, scratch: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes that name when the block ends, or is removed when it fails.

    Args:
        mode: permissions of the file, of which the user's umask takes away.
        replace: take the place of a file of that name; off, such a file is an error and stays.
        scratch: folder (of the same file system) for the temporary path, where what a kill leaves of it would do harm
            beside `path`.

    Raises:
        InputError: the file cannot be written (no folder, no permission, no space), `path` is no plain file, or there
            and not to be replaced.
    """
    temporary: Path | None = None
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"Cannot write {path}: it is no plain file; choose another name.")
        if not replace and (path.exists() or path.is_symlink()):
            raise InputError(f"{path} exists already and is not replaced; choose another name.")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _partial(path if scratch is None else scratch / path.name)
        temporary.touch(mode=0o600, exist_ok=False)
        yield temporary
        os.chmod(temporary, _umask_mode(mode))
        _fsync(temporary)
        if replace or not _link(temporary, path):
            temporary.replace(path)
        _fsync(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _link(temporary: Path, path: Path) -> bool:
    """Give a file a second name, which unlike a rename fails where that is taken; False where links cannot be made."""
    try:
        os.link(temporary, path)
    except OSError:
        if path.exists():
            raise
        return False
    return True


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; it takes that name when the block ends, or is removed when it fails.

    With `replace`, a folder that stands there already is exchanged for it at the end, in one step where the system has
    one (Linux), and removed last.  Elsewhere it is moved aside first, and between the two renames neither has the name:
    a kill in that instant leaves both, whole, under hidden names beside it.  What a kill has left of an earlier try is
    removed first.

    Raises:
        InputError: the target exists and `replace` is off, it is no folder, or it cannot be written.
    """
    path = path.absolute()
    temporary: Path | None = None
    held: int | None = None
    try:
        if (path.exists() or path.is_symlink()) and not replace:
            raise InputError(f"{path} exists already; choose another name or pass --force to replace it.")
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise InputError(f"Cannot write {path}: it is no folder; choose another name.")
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        temporary = _partial(path)
        temporary.mkdir(mode=0o700)
        held = _hold(temporary)
        yield temporary
        os.chmod(temporary, _umask_mode(0o777))
        for child in temporary.rglob("*"):
            if child.is_file():
                os.chmod(child, _umask_mode(0o666))
            _fsync(child)
        _fsync(temporary)
        _swap(temporary, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if held is not None:
            os.close(held)


def _hold(folder: Path) -> int | None:
    """A lock on a folder, which the system lets go when this process ends, however it does; None without it."""
    if sys.platform == "win32":
        return None
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _sweep(path: Path) -> None:
    """Remove what killed processes have left of their work on a folder, and nothing that a living one holds."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.partial-*"):
        try:
            # an `.old` folder may be the only copy of what stood at `path`
            if left.suffix == ".old" or left.is_symlink() or time.time() - left.stat().st_mtime < _FRESH:
                continue
            if left.is_dir() and (held := _hold(left)) is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(held)
        # another process has swept it, or it is not ours
        except OSError:
            continue


def _partial(path: Path) -> Path:
    # the name is known before the file is there, so that an interrupt in between still finds what to remove
    # the ending stays: some writers go by it
    return path.with_name(f".{path.name}.partial-{secrets.token_hex(6)}{path.suffix}")


def _exchange(one: Path, other: Path) -> bool:
    """Give each of two names what the other had, in one step; False where the system or the file system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):  # a C library without it
        return False
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def _swap(new: Path, path: Path) -> None:
    had_one = path.exists()
    if had_one and _exchange(new, path):
        _fsync(path.parent)
        return  # the old one goes with the temporary name
    old = new.with_name(new.name + ".old")
    if had_one:
        path.rename(old)
    try:
        new.rename(path)
    except OSError:
        if had_one:
            old.rename(path)
        raise
    _fsync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def plain_name(text: str) -> str:
    """`text` as a file name: letters, digits and `_.+-` stay, everything else becomes `-`."""
    name = re.sub(r"[^\w.+-]+", "-", text).strip(".") or "-"
    return name[:120]


def check_ending(path: Path, ending: str, what: str) -> None:
    """See that a name which was chosen for a file has its ending.

    Raises:
        InputError: it has another one.
    """
    if path.suffix != ending:
        raise InputError(f"{what} {path.name} must end in {ending}, for example {path.stem}{ending}.")


def check_folder(path: Path) -> None:
    """See that a folder can be written to, or made, before work whose results go there; nothing is left of the try.

    Raises:
        InputError: it cannot.
    """
    try:
        there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise _cannot_write(path, error) from error


@contextmanager
def saving_tensors() -> Iterator[None]:
    """Turn safetensors' own error for a failed write back into the system's, which `atomic_*` report."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(str(error)) from error


def _cannot_write(path: Path, error: OSError) -> InputError:
    for parent in path.absolute().parents:
        if isinstance(error, (NotADirectoryError, FileExistsError)) and parent.is_file():
            return InputError(f"Cannot write {path}: {parent} is a file, not a folder. Choose another folder.")
    hint = "Free some space or choose" if error.errno in _NO_SPACE or error.errno is None else "Choose"
    return InputError(f"Cannot write {_short(path)}: {error.strerror or error}. {hint} another folder.")


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 1000 else f"{text[:120]}...{text[-60:]}"
