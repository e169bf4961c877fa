"""What the user names: photos, videos, folders, patterns, cameras, streams and lists, to a list of sources."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ntre_deploy.errors import InputError, NtreError
from ntre_deploy.files import reading
from ntre_deploy.runtime.imagefile import IMAGE_SUFFIXES, image_size
from ntre_deploy.runtime.sources.live import Live, is_live
from ntre_deploy.runtime.sources.video import VIDEO_SUFFIXES, Video

_WILD = frozenset("*?[")
# stands for a list of paths on standard input
LIST = "-"


@dataclass(frozen=True)
class Source:
    """A photo, a video, or a camera or stream; the latter two were opened once.

    Attributes:
        path: of the file; of a camera or stream, a name for what is written of it.
        video: None of a photo.
        place: the folders between the one that was given and the file.
        found: whether it was found in a folder, by a pattern or in a list, and not named itself.
    """

    path: Path
    video: Video | Live | None = None
    place: Path = Path()
    found: bool = False

    @property
    def live(self) -> bool:
        """Whether it is a camera or a stream."""
        return isinstance(self.video, Live)


class Skipped(NamedTuple):
    """A file that was found and is not taken, and why."""

    path: Path
    reason: str


class Found(NamedTuple):
    """Sources in the order in which they were named, each once, and what was left out."""

    sources: list[Source]
    skipped: list[Skipped]


class _Named(NamedTuple):
    path: Path
    place: Path = Path()
    found: bool = False


def find_sources(given: Sequence[str | Path], *, recursive: bool = False, listed: Iterable[str] = ()) -> Found:
    """The sources that the arguments name; headers and first frames are read.

    Args:
        given: files, folders, patterns such as `photos/**/*.jpg` that the shell has left, numbers of cameras, addresses
            of streams, and `-` for the paths of `listed`.
        recursive: take the folders inside folders too.
        listed: paths, such as the lines of standard input.

    Raises:
        InputError: one that does not exist, holds nothing, or cannot be read.  What was found in a folder, by a pattern
            or in a list is skipped instead, unless nothing is left.
        EngineError: a video is named, and PyAV is not installed.
    """
    named: list[_Named | str] = []
    skipped: list[Skipped] = []
    for item in map(str, given):
        if item == LIST:
            named += _listed(listed, skipped)
        elif is_live(item):
            named.append(item)
        else:
            with reading(Path(item), "Input"):
                named += _expanded(Path(item), recursive, skipped)
    sources: list[Source] = []
    seen: set[Path | str] = set()
    # a file that is also named itself counts as named
    itself = {n.path.resolve() for n in named if isinstance(n, _Named) and not n.found}
    for one in named:
        if isinstance(one, str):
            if one not in seen:
                live = Live.open(one)
                sources.append(Source(live.path, live))
            seen.add(one)
            continue
        key = one.path.resolve()
        if key in seen:
            continue
        seen.add(key)
        if key in itself:
            sources.append(_source(one._replace(found=False)))
            continue
        try:
            sources.append(_source(one))
        except NtreError as error:
            skipped.append(Skipped(one.path, told(one.path, error)))
    if given and not sources:
        first = skipped[0] if skipped else Skipped(Path(str(given[0])), "nothing was named")
        raise InputError(f"None of the inputs can be used; {first.path}: {first.reason}.")
    return Found(sources, skipped)


def told(path: Path, error: Exception) -> str:
    """What an error says of a file, without the file."""
    text = str(error)
    for what in ("Image", "Video", "Input"):
        text = text.removeprefix(f"{what} {path} ")
    return text.rstrip(".")


def _listed(lines: Iterable[str], skipped: list[Skipped]) -> list[_Named]:
    """The files that lines name; those that do not exist are skipped."""
    found = []
    for line in lines:
        if name := line.rstrip("\r\n"):
            if Path(name).is_file():
                found.append(_Named(Path(name), found=True))
            else:
                skipped.append(Skipped(Path(name), "does not exist or is no file"))
    if not found:
        raise InputError("The list on standard input names no file; give one path a line.")
    return found


def _expanded(path: Path, recursive: bool, skipped: list[Skipped]) -> list[_Named]:
    if path.is_dir():
        paths, root, nothing = _inside(path, recursive, skipped), path, f"Folder {path} holds no photos or videos"
    elif not path.exists() and _WILD & set(str(path)):
        # what a pattern finds beside pictures was hardly meant
        paths = (p for p in sorted(map(Path, glob.glob(str(path), recursive=True))) if p.is_file())
        root, nothing = _fixed(path), f"No photo or video fits the pattern {path}"
    else:
        return [_Named(path)]
    found = []
    for inside in paths:
        if inside.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES):
            found.append(_Named(inside, inside.parent.relative_to(root), found=True))
        else:
            skipped.append(Skipped(inside, "no image or video"))
    if not found:
        inner = any(s.reason.startswith("a folder") for s in skipped)
        hint = " itself; --recursive takes the folders inside" if inner and not recursive else ""
        raise InputError(f"{nothing}{hint} ({', '.join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))}).")
    return found


def _inside(folder: Path, recursive: bool, skipped: list[Skipped]) -> Iterator[Path]:
    """Files of a folder, and of those inside it, in order; hidden ones are no one's pictures."""

    def stop(error: OSError) -> None:
        raise error

    for where, folders, names in os.walk(folder, onerror=stop):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if not recursive:
            skipped += [Skipped(Path(where, name), "a folder inside; --recursive takes it") for name in folders]
            folders.clear()
        yield from (Path(where, name) for name in sorted(names) if not name.startswith("."))


def _fixed(pattern: Path) -> Path:
    """The folders that a pattern names before its first wild one."""
    parts: list[str] = []
    for part in pattern.parent.parts:
        if _WILD & set(part):
            break
        parts.append(part)
    return Path(*parts)


def _source(named: _Named) -> Source:
    if named.path.suffix.lower() in VIDEO_SUFFIXES:
        return Source(named.path, Video.open(named.path), named.place, named.found)
    image_size(named.path)
    return Source(named.path, None, named.place, named.found)
