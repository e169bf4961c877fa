"""`ntre studio`: a page for making support masks, and for seeing the network work on one's own photos."""

import os
from pathlib import Path
from typing import Annotated

import typer

from ntre_deploy.cli.console import note
from ntre_deploy.cli.engines import EngineOption, PrecisionOption, ThreadsOption, one_engine
from ntre_deploy.cli.segment import origin_warning
from ntre_deploy.cli.trust import TrustedOption
from ntre_deploy.errors import EngineError, InputError


def command(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.", show_default=False)],
    photos: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FOLDER|PHOTO", help="Folders and photos for the strip.", show_default=False),
    ] = None,
    session: Annotated[
        Path, typer.Option("--session", metavar="FOLDER", help="What is marked; it goes on there.")
    ] = Path("studio"),
    port: Annotated[
        int | None,
        typer.Option(
            "--port", metavar="N", min=1, max=65535, help="Of the address.", show_default="8377 or a free one"
        ),
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address alone.")] = False,
    static: Annotated[
        Path | None,
        typer.Option(
            "--static", metavar="FOLDER", help="Write the page for a web host instead: no server.", show_default=False
        ),
    ] = None,
    ort: Annotated[
        Path | None,
        typer.Option(
            "--ort", metavar="FOLDER", help="onnxruntime-web, for --static and ?engine=web.", show_default=False
        ),
    ] = None,
    webgpu: Annotated[bool, typer.Option("--webgpu", help="Its files for WebGPU too, 27 MB more.")] = False,
    engine: EngineOption = "auto",
    precision: PrecisionOption = None,
    threads: ThreadsOption = None,
    trusted: TrustedOption = None,
) -> None:
    """Mark objects on your own photos in the browser, and see them found.

    Serves a page on 127.0.0.1 alone: mark an object with a box, clicks, a brush
    or a polygon, and every other photo shows it; correct what is wrong, and take
    memories, masks, annotations or the whole session. Needs the extra `studio`.
    --static writes it as a site that runs in the browser alone, and needs none.

    Example: ntre studio photos.ntre my_photos/
    """
    from ntre_deploy.runtime.bundle import Bundle

    name, asked = one_engine(engine, precision)
    if static is not None:
        if photos:
            raise InputError(f"--static takes no photos ({photos[0]}): they are opened in the page.")
        if name != "auto":
            raise InputError(f"--static runs on the web runtime: leave --engine {name} out.")
        _write_static(bundle, static, ort, webgpu=webgpu, precision=asked, trusted=trusted)
        return
    try:
        import starlette
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise EngineError(f"ntre studio needs {error.name}: pip install 'ntre_deploy[studio]'") from error
    del starlette
    from ntre_deploy.runtime.segmenter import Segmenter
    from ntre_deploy.studio.photos import find_photos
    from ntre_deploy.studio.serve import listen, serve
    from ntre_deploy.studio.session import Session
    from ntre_deploy.studio.studio import Studio
    from ntre_deploy.studio.webfiles import WebFiles, find_ort

    # what is wrong with its files is found here; whether it runs is found when it is loaded, and told on the page
    opened = Bundle.open(bundle, trusted=trusted or None)
    web = None if ort is None else WebFiles(opened, find_ort(ort, webgpu=webgpu))
    found, skipped = find_photos(photos or [])
    for path, reason in skipped:
        note(f"skipped {path}: {reason}")

    if threads is None and (os.cpu_count() or 1) <= 2:
        # the browser works on the same machine, and the engine's second thread would spin in its way
        threads = 1

    def load() -> Segmenter:
        return Segmenter.load(bundle, name, precision=asked, threads=threads, trusted=trusted or None)

    kept = Session(session, found)
    listening = listen(port)
    left_out = [(path.name, reason) for path, reason in skipped]
    studio = Studio(bundle.resolve(), load, kept, left_out, origin_warning, web)
    serve(studio, listening, kept.token(), browser=not no_browser, tell=note)


def _write_static(
    bundle: Path, out: Path, ort: Path | None, *, webgpu: bool, precision: str | None, trusted: list[Path] | None
) -> None:
    from ntre_deploy.runtime.bundle import Bundle
    from ntre_deploy.studio.static import check_site, told, write_site
    from ntre_deploy.studio.webfiles import find_ort

    opened = Bundle.open(bundle, trusted=trusted or None)
    check_site(out)
    found = find_ort(ort, webgpu=webgpu)
    warning = origin_warning(opened.manifest.model.origin)
    sizes = write_site(opened, out, found, precision=precision or "fp32", note=warning)
    if warning is not None:
        note(f"warning: {warning}")
    note(f"wrote {out} ({told(sizes)}); serve it over https, or try it: python -m http.server --directory {out}")
