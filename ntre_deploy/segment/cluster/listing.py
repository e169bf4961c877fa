"""What the user names, to full names of photos: files, folders, patterns, lists and columns of Parquet, anywhere.

Nothing is opened here but lists: of a million photos, each is looked at once, by the worker that segments it.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.imagefile import IMAGE_SUFFIXES
from ntre_deploy.runtime.sources.finding import LIST
from ntre_deploy.segment.cluster.stores import Opened, full_name, open_place
from ntre_deploy.segment.cluster.tables import batches, opened_table

_WILD = frozenset("*?[")
_PARQUET = re.compile(r"(?P<place>.+?\.parquet/?|.+?(?=@))(?:@(?P<column>[^@/]+))?", re.DOTALL)
# names of a column that holds photos, where there are other texts beside it
_COLUMNS = ("path", "uri", "url", "file", "image", "photo")


@dataclass
class Listing:
    """The photos that sources name, in their order; some may come twice.

    Attributes:
        sources: files, folders, patterns, `@LIST` (a text file with a name a line), `-` for `lines`, and
            `NAME.parquet[@COLUMN]` (or `FOLDER@COLUMN`), each of this machine or an address such as `s3://bucket/x`.
        recursive: take the folders inside folders too.
        lines: names, such as the lines of standard input.
        left: endings of the files that were found and are no photos, and their numbers; filled while it is gone
            through.
    """

    sources: Sequence[str]
    recursive: bool = False
    lines: Iterable[str] = ()
    left: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[str]:
        """Full names, as `full_name` spells them.

        Raises:
            InputError: a source that is not there, cannot be read, or names nothing.
            EngineError: a package for it is missing.
        """
        for source in dict.fromkeys(self.sources):
            count = 0
            for name in self._photos(source):
                count += 1
                yield name
            if not count:
                hint = "" if self.recursive else "; --recursive takes the folders inside"
                raise InputError(f"Source {source} names no photo{hint} ({', '.join(IMAGE_SUFFIXES)}).")

    def _photos(self, source: str) -> Iterator[str]:
        if source == LIST:
            yield from _named(self.lines)
            return
        try:
            if source.startswith("@"):
                yield from _named(_lines(source[1:]))
                return
            opened = open_place(source)
            if not opened.system.exists(opened.path):
                if (matched := _PARQUET.fullmatch(source)) and matched["column"]:
                    yield from _column(matched["place"], matched["column"])
                    return
                if not _WILD & set(opened.path):
                    raise InputError(f"Source {source} does not exist.")
                yield from self._chosen(opened, sorted(opened.system.glob(opened.path)), _fixed(opened.path))
            elif re.fullmatch(r".+\.parquet/?", source):
                yield from _column(source, None)
            elif opened.system.isdir(opened.path):
                yield from self._inside(opened)
            else:
                yield full_name(source)
        except OSError as error:
            reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"Source {source} cannot be read: {reason}.") from error

    def _inside(self, opened: Opened) -> Iterator[str]:
        for folder, folders, files in opened.system.walk(opened.path, maxdepth=None if self.recursive else 1):
            # hidden ones are no one's pictures; the walk goes on in what is left
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from self._chosen(opened, (f"{folder.rstrip('/')}/{name}" for name in sorted(files)), opened.path)

    def _chosen(self, opened: Opened, paths: Iterable[str], root: str) -> Iterator[str]:
        for path in paths:
            if any(part.startswith(".") for part in path.removeprefix(root).split("/")):
                continue
            ending = os.path.splitext(path)[1].lower()
            if ending in IMAGE_SUFFIXES:
                yield opened.address(path)
            elif ending:
                self.left[ending] += 1


def _fixed(pattern: str) -> str:
    """The folders that a pattern names before its first wild one."""
    first = min(pattern.index(character) for character in _WILD if character in pattern)
    return pattern[: pattern.rfind("/", 0, first) + 1]


def _named(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        if name := line.rstrip("\r\n"):
            yield full_name(name)


def _lines(place: str) -> Iterator[str]:
    opened = open_place(place)
    try:
        with opened.system.open(opened.path, "r", encoding="utf-8") as file:
            yield from file
    except FileNotFoundError as error:
        raise InputError(f"The list {place} does not exist.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"The list {place} is no text in UTF-8; one name a line is expected.") from error


def _column(place: str, column: str | None) -> Iterator[str]:
    """The names in a column of a Parquet file, or of all of a folder."""
    from pyarrow import ArrowException, dataset

    opened = open_place(place)
    try:
        found = dataset.dataset(opened.path, filesystem=opened.system, format="parquet")
        texts = [one.name for one in found.schema if str(one.type) in ("string", "large_string", "string_view")]
        chosen = _choose(place, texts, column)
        for path in found.files:
            with opened.system.open(path, "rb") as file, opened_table(file) as table:
                # a file that lacks the column has no names
                for batch in batches(table, [chosen], 65536) if chosen in table.schema_arrow.names else ():
                    yield from (full_name(name) for name in batch.column(0).to_pylist() if name)
    except ArrowException as error:
        raise InputError(f"{place} cannot be read as Parquet: {' '.join(str(error).split())}.") from error


def _choose(place: str, texts: Sequence[str], column: str | None) -> str:
    if column is not None:
        if column in texts:
            return column
        raise InputError(f"{place} has no column '{column}' of texts; it has {', '.join(texts) or 'none'}.")
    usual = [name for name in texts if name.lower() in _COLUMNS]
    if len(texts) == 1 or len(usual) == 1:
        return (usual or list(texts))[0]
    raise InputError(
        f"{place} has {len(texts)} columns of texts ({', '.join(texts) or 'none'}); name the one with the photos as "
        f"{place}@COLUMN."
    )


def source_key(source: str, lines: Sequence[str] = ()) -> dict[str, Any]:
    """What tells whether a source is the one that it was: its full name, and of a list its content as far as is known.

    Folders and patterns have nothing but their names: what they name is written down when a run begins.

    Args:
        lines: what `-` stands for.

    Raises:
        InputError: a list that cannot be read.
    """
    if source == LIST or source.startswith("@"):
        digest = hashlib.sha256()
        for line in lines if source == LIST else _lines(source[1:]):
            digest.update(line.rstrip("\r\n").encode(errors="surrogateescape") + b"\n")
        return {"name": LIST if source == LIST else f"@{full_name(source[1:])}", "sha256": digest.hexdigest()}
    matched = _PARQUET.fullmatch(source)
    if matched is None or not (matched["column"] or matched["place"].rstrip("/").endswith(".parquet")):
        return {"name": full_name(source)}
    opened = open_place(matched["place"])
    try:
        files = opened.system.find(opened.path, detail=True)
    except OSError as error:
        raise InputError(f"Source {source} cannot be read: {error.strerror or error}.") from error
    kept = ("size", "mtime", "LastModified", "ETag", "etag", "md5Hash")
    told = {path: [str(info[key]) for key in kept if info.get(key) is not None] for path, info in files.items()}
    return {"name": full_name(matched["place"]), "column": matched["column"], "files": told}
