"""The studio as a folder for any web host: the page, the web runtime, a bundle and onnxruntime-web."""

import html
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from ntre_deploy import __version__
from ntre_deploy.errors import InputError
from ntre_deploy.files import atomic_folder
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.manifest import MANIFEST
from ntre_deploy.studio.policy import DIRECTIVES, HEADERS
from ntre_deploy.studio.webfiles import OrtFiles, runtime_folder, web_entries

PAGE = Path(__file__).parent / "page"
SETTINGS = "studio.json"
FORMAT, VERSION = "ntre-studio-site", 1
_HEAD = '<meta charset="utf-8">\n'


@dataclass(frozen=True)
class Sizes:
    """Bytes of a written site: of the page with the web runtime, of the bundle, and of onnxruntime-web."""

    page: int
    bundle: int
    ort: int


def write_site(bundle: Bundle, out: Path, ort: OrtFiles, *, precision: str = "fp32", note: str | None = None) -> Sizes:
    """Write the site, whole or not at all; an earlier one is replaced.

    Args:
        bundle: of it, what the web runtime reads is copied, each file compared with its SHA-256.
        out: the folder.
        precision: of the graphs.
        note: what the page is to say of the model.

    Raises:
        InputError: `out` holds something else or cannot be written, or the bundle was changed or lacks what the web
            runtime needs.
    """
    check_site(out)
    entries = list(web_entries(bundle, precision))
    with atomic_folder(out, replace=True) as folder:
        shutil.copytree(PAGE, folder, dirs_exist_ok=True)
        index = folder / "index.html"
        index.write_text(_index(index.read_text("utf-8")), "utf-8")
        (folder / "web").mkdir()
        for module in sorted(runtime_folder().glob("*.js")):
            shutil.copyfile(module, folder / "web" / module.name)
        (folder / "bundle").mkdir()
        (folder / "bundle" / MANIFEST).write_bytes(bundle.text)
        for entry in entries:
            (folder / "bundle" / entry.name).write_bytes(bundle.read(entry))
        (folder / "ort").mkdir()
        for name in ort.names:
            shutil.copyfile(ort.folder / name, folder / "ort" / name)
        (folder / "_headers").write_text(_headers(), "utf-8")
        settings = {
            "format": FORMAT,
            "version": VERSION,
            "made_by": f"ntre_deploy {__version__}",
            "name": bundle.folder.resolve().name,
            "bundle": "bundle/",
            "ort": "ort/",
            "engine": ort.engine,
            "precision": precision,
            "note": note,
            "files": sorted(_names(folder)),
        }
        (folder / SETTINGS).write_text(json.dumps(settings, ensure_ascii=False, indent=1), "utf-8")
        bundled, engine = _bytes(folder / "bundle"), _bytes(folder / "ort")
        return Sizes(_bytes(folder) - bundled - engine, bundled, engine)


def check_site(out: Path) -> None:
    """See that a site may be written to a folder: it is not there, empty, or an earlier site and nothing else.

    Raises:
        InputError: it is something else.
    """
    if not out.is_dir() or out.is_symlink() or not any(out.iterdir()):
        return
    other = InputError(f"{out} holds something else than an earlier static studio; choose another folder.")
    settings = out / SETTINGS
    if not settings.is_file() or settings.is_symlink():
        raise other
    try:
        content = json.loads(settings.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise other from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("files"), list):
        raise other
    # the whole folder is replaced, and with it whatever else was put there
    more = _names(out) - {SETTINGS, *map(str, content["files"])}
    if more:
        raise InputError(
            f"{out} holds {sorted(more)[0]}, which is of no static studio; move it or choose another folder."
        )


def _index(text: str) -> str:
    policy = html.escape("; ".join(DIRECTIVES), quote=True)
    metas = (
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<meta name="ntre-studio" content="static">\n'
    )
    if text.count(_HEAD) != 1:
        raise InputError("The page of the studio is damaged; install ntre_deploy anew.")
    return text.replace(_HEAD, _HEAD + metas)


def _headers() -> str:
    """The file in which some web hosts look for the headers that they send; others do not mind it."""
    return "/*\n" + "".join(f"  {_title(name)}: {value}\n" for name, value in HEADERS.items())


def _title(name: str) -> str:
    return "-".join(part.capitalize() for part in name.split("-"))


def _names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def told(sizes: Sizes) -> str:
    """The sizes, for people."""
    page, bundle, ort = (f"{size / 1e6:.1f} MB" for size in (sizes.page, sizes.bundle, sizes.ort))
    return f"page {page}, bundle {bundle}, onnxruntime-web {ort}"
