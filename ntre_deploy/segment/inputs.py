"""What the user names: photos, videos, folders and patterns, to a list of files."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ntre_deploy.errors import InputError
from ntre_deploy.files import reading
from ntre_deploy.runtime.imagefile import IMAGE_SUFFIXES, image_size
from ntre_deploy.runtime.video import VIDEO_SUFFIXES, Video

_WILD = frozenset("*?[")


@dataclass(frozen=True)
class Source:
    """A photo, or a video that was opened once."""

    path: Path
    video: Video | None = None


def find_sources(given: Sequence[Path]) -> list[Source]:
    """The photos and videos that the arguments name, in their order and each once; headers and first frames are read.

    Args:
        given: files, folders (their own files, not those of folders inside), or patterns such as `photos/**/*.jpg` that
            the shell has left.

    Raises:
        InputError: one that does not exist, holds nothing, or cannot be read.
    """
    paths: list[Path] = []
    for path in given:
        with reading(path, "Input"):
            paths += _expanded(path)
    once = {path.resolve(): path for path in reversed(paths)}
    return [_source(path) for path in dict.fromkeys(paths) if once[path.resolve()] == path]


def _expanded(path: Path) -> list[Path]:
    if path.is_dir():
        inside = sorted(p for p in path.iterdir() if _wanted(p))
        if not inside:
            raise InputError(f"Folder {path} holds no photos or videos ({_endings()}).")
        return inside
    if not path.exists() and _WILD & set(str(path)):
        found = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if _wanted(p))
        if not found:
            raise InputError(f"No photo or video ({_endings()}) fits the pattern {path}.")
        return found
    return [path]


def _wanted(path: Path) -> bool:
    return path.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES) and path.is_file()


def _endings() -> str:
    return ", ".join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))


def _source(path: Path) -> Source:
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return Source(path, Video.open(path))
    image_size(path)
    return Source(path)
