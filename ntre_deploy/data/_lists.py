"""Image lists that take long to make, kept in a file beside the data so that only the first use reads every mask."""

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

from ntre_deploy.errors import InputError
from ntre_deploy.files import atomic_file, check_folder

# fewer masks are read again in a second or two, and nothing need be written into a small folder of pictures
WORTH_KEEPING = 1000

_VERSION = 1  # of the file; a change of its form, or of the rule by which images are listed, raises it

Lists = Sequence[Sequence[str]]


def kept_lists(
    name: str,
    beside: Path,
    cache: Path | None,
    fingerprint: str,
    known: Collection[str],
    classes: int,
    build: Callable[[], Lists],
) -> list[tuple[str, ...]]:
    """Lists of image ids, one for each class: from their file if it belongs to this data, else built and kept.

    Args:
        name: of the file.
        beside: folder of the data, where the file lies by default; where it cannot be written, nothing is kept.
        cache: folder that the caller named in place of `beside`.
        fingerprint: changes with everything that the lists follow from.
        known: ids that exist; a file with others is not used.
        build: makes the lists.

    Raises:
        InputError: what `build` raises, or `cache` cannot be written (said before anything is built).
    """
    path = (cache or beside) / name
    if (found := _load(path, fingerprint, known, classes)) is not None:
        return found
    if cache is not None:
        check_folder(cache)
    lists = build()
    # beside the data the file is a courtesy: data folders are often read-only
    with suppress(InputError) if cache is None else nullcontext():
        _store(path, fingerprint, lists)
    return [tuple(ids) for ids in lists]


def _digest(fingerprint: object, lists: object) -> str:
    return hashlib.sha256(json.dumps([fingerprint, lists]).encode("ascii")).hexdigest()


def _store(path: Path, fingerprint: str, lists: Lists) -> None:
    digest = _digest(fingerprint, lists)
    content = {"version": _VERSION, "fingerprint": fingerprint, "sha256": digest, "lists": lists}
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content) + "\n", encoding="ascii")


def _load(path: Path, fingerprint: str, known: Collection[str], classes: int) -> list[tuple[str, ...]] | None:
    """The file's lists, or None where it is absent, damaged, of another version or of other data."""
    try:
        content = json.loads(path.read_bytes())
        expected = [_VERSION, fingerprint, _digest(fingerprint, content["lists"])]
        if [content["version"], content["fingerprint"], content["sha256"]] != expected:
            return None
        lists = [tuple(ids) for ids in content["lists"]]
        return lists if len(lists) == classes and set(known) >= set().union(*lists) else None
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return None
