"""Where the photos, labels and class names of YOLO's data are."""

import importlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from ntre_deploy.errors import InputError, one_of
from ntre_deploy.runtime.imagefile import IMAGE_SUFFIXES

# files that name classes, the first that is there
NAMED = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml", "classes.txt", "obj.names")
SPLITS = ("train", "val", "test")
ALL = "all"
# a label file lies at most so deep below what names its classes: labels/train/x/a.txt
_LEVELS = 4
# a YAML file that names a thousand classes has some 20 kB, a label file of a thousand long polygons some 10 MB
_YAML_BYTES, _TEXT_BYTES = 1 << 20, 1 << 27


@dataclass(frozen=True)
class Photos:
    """The folder of the data, its photos in order, the names of classes (None: by number), and the split ("": none)."""

    root: Path
    files: list[Path]
    names: Mapping[int, str] | None
    split: str


def find_photos(source: Path, split: str | None) -> Photos:
    """The photos that a YAML file or a folder means.

    Raises:
        InputError: as `ntre_deploy.data.yolo.YoloDataset`.
    """
    if source.is_dir():
        named = next((source / name for name in NAMED if (source / name).is_file()), None)
        if named is None or not _is_yaml(named):
            if split is not None:
                raise InputError(f"{source} has no {NAMED[0]}, so there is no split '{split}'; leave out @{split}.")
            files = sorted(_photos_in(source))
            if not files:
                raise InputError(f"{source} holds no photos ({', '.join(IMAGE_SUFFIXES)}) and no {NAMED[0]}.")
            return Photos(source, files, names_near(source / "labels.txt"), "")
        source = named
    content = _read_yaml(source)
    root = _root(source, content)
    chosen = _chosen(source, content, split)
    files = [
        path for name in chosen for entry in _listed(source, content[name]) for path in _split(source, root, entry)
    ]
    if not files:
        raise InputError(f"{source}: there are no photos ({', '.join(IMAGE_SUFFIXES)}) in its {' and '.join(chosen)}.")
    return Photos(root, sorted(set(files)), _yaml_names(source, content), split or chosen[0])


def label_file(photo: Path) -> Path:
    """The label file of a photo: in the folder `labels` in place of the last one called `images`, or beside it."""
    parts = list(photo.with_suffix(".txt").parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
    return Path(*parts)


def names_near(file: Path) -> Mapping[int, str] | None:
    """Names of the classes from the nearest file that holds some, beside `file` or in a folder above; None without.

    Raises:
        InputError: it cannot be read.
    """
    for folder in list(file.absolute().parents)[:_LEVELS]:
        for path in (folder / name for name in NAMED):
            if path.is_file():
                return _yaml_names(path, _read_yaml(path)) if _is_yaml(path) else _text_names(path)
    return None


def read_lines(path: Path) -> list[str]:
    """Lines of a text file.

    Raises:
        InputError: it cannot be read, is no UTF-8, or is far too large.
    """
    try:
        if path.stat().st_size > _TEXT_BYTES:
            raise InputError(f"{path} has {path.stat().st_size:,} bytes, which no label file has.")
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise InputError(f"{path} cannot be read: {reason}.") from error


def _is_yaml(path: Path) -> bool:
    return path.suffix in (".yaml", ".yml")


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path} does not exist; give YOLO's data.yaml, or a folder of photos and labels.")
    if not _is_yaml(path):
        raise InputError(f"{path} is no YAML file; give YOLO's data.yaml, or a folder of photos and labels.")
    try:
        yaml = importlib.import_module("yaml")
    except ImportError as error:
        raise InputError(f"{path} needs PyYAML: pip install 'ntre_deploy[yolo]'.") from error
    try:
        text = path.read_bytes() if path.stat().st_size <= _YAML_BYTES else b"["
        # strings, lists and mappings alone: a class called `no` stays one
        content = yaml.load(text, yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path} is not YAML that can be read: {reason}.") from error
    if not isinstance(content, dict) or not isinstance(content.get("names"), (list, dict)):
        raise InputError(f"{path} has no names of classes (names: [fork, spoon], or names: with 0: fork below).")
    return content


def _yaml_names(path: Path, content: dict[str, Any]) -> Mapping[int, str]:
    given = content["names"]
    pairs = dict(enumerate(given)) if isinstance(given, list) else given
    names: dict[int, str] = {}
    for key, name in pairs.items():
        digits = str(key)
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 6) or not isinstance(name, str) or not name:
            raise InputError(f"{path}: names must be a list, or numbers from 0 on with a name each.")
        names[int(digits)] = name
    if not names:
        raise InputError(f"{path} names no class.")
    return names


def _text_names(path: Path) -> Mapping[int, str]:
    names = [line.strip() for line in read_lines(path)]
    while names and not names[-1]:
        names.pop()
    if not names or "" in names:
        raise InputError(f"{path} must have one name of a class on each line.")
    return dict(enumerate(names))


def _root(file: Path, content: dict[str, Any]) -> Path:
    """Folder of the data: `path` of the YAML file where that is there, else the file's own folder."""
    told = content.get("path")
    if isinstance(told, str) and told.strip():
        # another machine's path, as exports hold it, is not there
        try:
            if (given := file.parent / told.strip()).is_dir():
                return given
        except (OSError, ValueError):
            pass
    return file.parent


def _chosen(file: Path, content: dict[str, Any], split: str | None) -> list[str]:
    there = [name for name in SPLITS if content.get(name)]
    if not there:
        raise InputError(f"{file} names no photos; train, val or test must be a folder or a list of photos.")
    if split == ALL:
        return there
    if split is not None:
        one_of(split, (*there, ALL), f"{file}: split")
        return [split]
    if len(there) > 1:
        forms = ", ".join(f"@{name}" for name in (*there, ALL))
        raise InputError(f"{file} has the splits {', '.join(there)}; add one to its name: {forms}.")
    return there


def _listed(file: Path, value: Any) -> list[str]:
    entries = value if isinstance(value, list) else [value]
    if not all(isinstance(entry, str) and entry.strip() for entry in entries):
        raise InputError(f"{file}: train, val and test are folders or lists of photos, or several of them.")
    return entries


def _split(file: Path, root: Path, entry: str) -> Iterator[Path]:
    """Photos of one entry of a split: a folder, or a text file that lists them."""
    found = _below(root, root, entry)
    if found is None and entry.startswith("../"):
        # Roboflow's exports: meant from a folder that is not there
        found = _below(root, root, entry[3:])
    if found is None:
        raise InputError(f"{file}: {entry!r} is not in {root}; set path: to the folder that holds it.")
    if found.is_dir():
        yield from _photos_in(found)
        return
    if found.suffix != ".txt":
        raise InputError(f"{file}: {entry!r} is neither a folder nor a .txt list of photos.")
    for number, line in enumerate(read_lines(found), start=1):
        if not (name := line.strip()):
            continue
        photo = _below(root, found.parent, name) or _below(root, root, name)
        if photo is None or photo.suffix.lower() not in IMAGE_SUFFIXES:
            raise InputError(f"{found}, line {number}: {name[:80]!r} is no photo in {root}.")
        yield photo


def _below(root: Path, folder: Path, name: str) -> Path | None:
    """What `name` means in a folder, where that is there and below `root`."""
    try:
        path = folder / PureWindowsPath(name.strip()).as_posix()
        # by its name alone: links that a user has put into the folder may lead elsewhere
        inner = Path(os.path.abspath(path)).relative_to(os.path.abspath(root))
        return root / inner if path.exists() else None
    except (OSError, ValueError):
        return None


def _photos_in(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in IMAGE_SUFFIXES and not hidden and path.is_file():
            yield path
