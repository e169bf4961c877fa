"""Writing a Triton model repository of a bundle; each model of it is there whole or not at all."""

import os
import re
import shutil
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ntre_deploy.errors import InputError, NtreWarning
from ntre_deploy.files import atomic_folder, reading
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.manifest import MANIFEST
from ntre_deploy.runtime.signature import SIGNATURE, read_pem
from ntre_deploy.runtime.support import SupportMemory
from ntre_deploy.serving.memories import SUFFIX, check_name
from ntre_deploy.serving.service import bundle_name
from ntre_deploy.serving.triton import options as chosen
from ntre_deploy.serving.triton.backend import BUNDLE, MEMORIES, TRUSTED
from ntre_deploy.serving.triton.config import model_config
from ntre_deploy.serving.triton.graphs import Graph, find_graphs, graph_config
from ntre_deploy.serving.triton.options import Options, Sources
from ntre_deploy.serving.triton.textformat import Message, to_text
from ntre_deploy.serving.triton.warmup import FOLDER, write_warmup

CONFIG = "config.pbtxt"
_MODEL = '''"""A bundle of ntre_deploy, which has to be installed where Triton's Python backend runs."""

from ntre_deploy.serving.triton.backend import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''
_VERSION = re.compile(r"[1-9][0-9]*")


@dataclass(frozen=True)
class Written:
    """A model of the repository.

    Attributes:
        name: of the model.
        folder: it.
        version: that was written.
        kind: `python`, `onnxruntime_onnx` or `tensorrt_plan`.
        memories: names of those that requests can use.
    """

    name: str
    folder: Path
    version: int
    kind: str
    memories: tuple[str, ...] = ()


def write_repository(
    bundle: str | Path,
    repository: Path,
    options: Options | None = None,
    sources: Sources | None = None,
    *,
    graphs: bool = False,
    force: bool = False,
    tell: Callable[[str], None] = lambda step: None,
) -> list[Written]:
    """Write the model of a bundle, and the bare graphs as models of their own where they are asked for.

    Args:
        bundle: folder written by `ntre export`.
        repository: folder of models, made if need be.
        options, sources: how it is served, and what else goes into it.
        graphs: write `NAME_support` and `NAME_query` too, in every precision that the bundle has.
        force: replace the version of a model that is there; its other versions stay, and so do memories of the same
            model id.
        tell: is called with each step.

    Returns:
        the models, the one on the Python backend first.

    Raises:
        InputError: no bundle, no signature where one is demanded, a name that cannot be one, memories that cannot be
            used, or a model that is there and not to be replaced.  Nothing was written then.
        EngineError: ONNX Runtime is missing, which reads the inputs of bare graphs.
    """
    options, sources = options or Options(), sources or Sources()
    keys = [read_pem(path) for path in sources.trusted]
    opened = Bundle.open(bundle, trusted=keys or None)
    name = chosen.check_name(bundle_name(bundle) if options.name is None else options.name)
    tell("checking the bundle")
    for entry in opened.manifest.files:
        opened.read(entry)
    extra = find_graphs(opened, name) if graphs else []
    seeds = _memories(sources.memories, opened)
    # all that can be refused is, before the first model is written
    for model in (name, *(graph.name for graph in extra)):
        if (there := repository / model).exists() and not force:
            raise InputError(f"{there} exists already; choose another --name or pass --force to replace its version.")
    tell(f"writing {name}")
    with _model(repository / name, options.version, force) as (folder, version):
        bundle_files(opened, version / BUNDLE, sources.link)
        (version / "model.py").write_text(_MODEL)
        seeds = _kept(repository / name / str(options.version) / MEMORIES, opened) | seeds
        (version / MEMORIES).mkdir()
        for own, memory in seeds.items():
            memory.save(version / MEMORIES / f"{own}{SUFFIX}")
        for number, key in enumerate(keys, start=1):
            (version / TRUSTED).mkdir(exist_ok=True)
            (version / TRUSTED / f"{number}.pem").write_bytes(key)
        warmup = write_warmup(opened, folder / FOLDER) if options.warmup else []
        _write_config(folder, model_config(name, options, warmup))
    found = [Written(name, repository / name, options.version, "python", tuple(sorted(seeds)))]
    for graph in extra:
        tell(f"writing {graph.name}")
        with _model(repository / graph.name, options.version, force) as (folder, version):
            (version / graph.file).write_bytes(opened.read(graph.entry))
            _write_config(folder, graph_config(graph, options))
        found.append(Written(graph.name, repository / graph.name, options.version, graph.platform))
    return found


def bundle_files(bundle: Bundle, folder: Path, link: bool) -> None:
    """Copy what a bundle lists, or give it a second name.

    Raises:
        InputError: links cannot be made there.
    """
    folder.mkdir()
    names = [MANIFEST, *(entry.name for entry in bundle.manifest.files)]
    if (bundle.folder / SIGNATURE).is_file():
        names.append(SIGNATURE)
    for name in names:
        if not link:
            shutil.copyfile(bundle.folder / name, folder / name)
            continue
        try:
            os.link(bundle.folder / name, folder / name)
        except OSError as error:
            raise InputError(
                f"{bundle.folder / name} cannot be linked into {folder.parents[2]}: {error.strerror}; leave --link out."
            ) from error


@contextmanager
def _model(target: Path, number: int, force: bool) -> Iterator[tuple[Path, Path]]:
    """Folders of a model and of its new version, which take the place of what is there at the end."""
    modes: list[tuple[Path, int]] = []
    with atomic_folder(target, replace=force) as folder:
        with reading(target, "Model"):
            for other in sorted(target.iterdir() if target.is_dir() else ()):
                if _VERSION.fullmatch(other.name) and other.name != str(number) and other.is_dir():
                    shutil.copytree(other, folder / other.name, copy_function=_second_name)
        version = folder / str(number)
        version.mkdir()
        yield folder, version
        # a file with two names has one mode, which is not to change under the other name
        for path in folder.rglob("*"):
            if path.is_file() and path.stat().st_nlink > 1:
                modes.append((target / path.relative_to(folder), stat.S_IMODE(path.stat().st_mode)))
    for path, mode in modes:
        with suppress(OSError):
            path.chmod(mode)


def _second_name(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def _write_config(folder: Path, config: Message) -> None:
    (folder / CONFIG).write_text(to_text(config), encoding="utf-8")


def _memories(folder: Path | None, bundle: Bundle) -> dict[str, SupportMemory]:
    """Those of a folder by the names of their files."""
    if folder is None:
        return {}
    with reading(folder, "Memories"):
        paths = sorted(folder.glob(f"*{SUFFIX}"))
    if not paths:
        raise InputError(f"{folder} holds no support memory (*{SUFFIX}); make some with `ntre segment --save-memory`.")
    found = {}
    for path in paths:
        found[check_name(path.stem)] = memory = SupportMemory.load(path)
        if memory.model != bundle.manifest.model.id:
            raise InputError(f"{path} was made by another model or input size than {bundle.folder}; encode it again.")
    return found


def _kept(folder: Path, bundle: Bundle) -> dict[str, SupportMemory]:
    """Memories of the version that is replaced, where the new one can use them."""
    found, lost = {}, []
    for path in sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else ():
        try:
            memory = SupportMemory.load(path)
        except InputError:
            lost.append(path.stem)
            continue
        if memory.model == bundle.manifest.model.id:
            found[path.stem] = memory
        else:
            lost.append(path.stem)
    if lost:
        warnings.warn(
            f"{len(lost)} memories of {folder.parent} are not of {bundle.folder} and are left out ({lost[0]}"
            f"{', ...' if len(lost) > 1 else ''}); encode them again.",
            NtreWarning,
            stacklevel=2,
        )
    return found


__all__ = ["Graph", "Written", "bundle_files", "write_repository"]
