"""`ntre serve`: bundles behind HTTP, one process for one machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ntre_deploy.cli.engines import EngineOption, PrecisionOption, ThreadsOption, one_engine
from ntre_deploy.cli.segment import origin_warning
from ntre_deploy.cli.trust import TrustedOption
from ntre_deploy.errors import EngineError, InputError

if TYPE_CHECKING:
    from ntre_deploy.serving.service import Service

_PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
_MILLION = 1_000_000


def command(
    bundles: Annotated[
        list[str], typer.Argument(metavar="[NAME=]BUNDLE...", help="Bundle folders.", show_default=False)
    ],
    host: Annotated[str, typer.Option("--host", metavar="NAME", help="Another address needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", min=0, max=65535, help="0: a free one.")] = 8378,
    api_key: Annotated[
        str | None,
        typer.Option("--api-key", metavar="KEY", envvar="NTRE_API_KEY", show_envvar=False, help="Or NTRE_API_KEY."),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", metavar="FILE", help="Keys, one a line.", show_default=False)
    ] = None,
    memories: Annotated[Path, typer.Option("--memories", metavar="FOLDER", help="For memories.")] = Path("memories"),
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", min=1, help="Photos at once.", show_default="CPUs")
    ] = None,
    queue: Annotated[int, typer.Option("--queue", metavar="N", min=0, help="Requests waiting.")] = 64,
    timeout: Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="Of a request.")] = 30,
    max_body: Annotated[int, typer.Option("--max-body", metavar="MB", min=1, help="Of a request.")] = 32,
    max_pixels: Annotated[int, typer.Option("--max-pixels", metavar="MP", min=1, help="Of a photo.")] = 50,
    drain_seconds: Annotated[
        float, typer.Option("--drain-seconds", metavar="SECONDS", min=0, help="To answer what was accepted.")
    ] = 30,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not log requests.")] = False,
    engine: EngineOption = "auto",
    precision: PrecisionOption = None,
    threads: ThreadsOption = None,
    trusted: TrustedOption = None,
) -> None:
    """Serve bundles over HTTP: photos in, masks out, memories kept by name.

    Speaks the open inference protocol (v2), for clients of Triton and KServe, and
    takes photos at /segment; /docs lists all. Needs the extra `serve`.

    Example: ntre serve photos.ntre --port 8378
    """
    from ntre_deploy.serving.limits import Limits

    name, asked = one_engine(engine, precision)
    folders = _named(bundles)
    limits = Limits(body_bytes=max_body * _MILLION, pixels=max_pixels * _MILLION, seconds=timeout, waiting=queue)
    _check_packages()
    from prometheus_client import disable_created_metrics

    from ntre_deploy.files import check_folder
    from ntre_deploy.runtime.bundle import Bundle
    from ntre_deploy.serving.http.application import create_app
    from ntre_deploy.serving.http.logs import event, log_to
    from ntre_deploy.serving.http.server import listen, run
    from ntre_deploy.serving.http.settings import LOOPBACK_NAMES, Settings, is_loopback, read_keys
    from ntre_deploy.serving.service import Service

    keys = read_keys(api_key, api_key_file)
    if not keys and not is_loopback(host):
        raise InputError(
            f"--host {host} lets other machines ask, which needs a key: set NTRE_API_KEY, or give --api-key-file FILE "
            "(`openssl rand -hex 32` makes one)."
        )
    # what is wrong with files is told before anything listens; engines load behind it
    opened = {title: Bundle.open(folder, trusted=trusted or None) for title, folder in folders.items()}
    check_folder(memories)
    listening = listen(host, port)
    log_to()
    # a second series beside each counter that nobody asks for
    disable_created_metrics()  # type: ignore[no-untyped-call]
    for title, bundle in opened.items():
        if (warning := origin_warning(bundle.manifest.model.origin)) is not None:
            event("warning", 30, bundle=title, message=warning)

    def load() -> "Mapping[str, Service]":
        return {
            title: Service.open(
                folder,
                name=title,
                engine=name,
                precision=asked,
                workers=workers,
                threads=threads,
                memories=memories / title,
                limits=limits,
                trusted=trusted or None,
            )
            for title, folder in folders.items()
        }

    hosts = () if keys else LOOPBACK_NAMES
    app = create_app(load, Settings(limits, keys, hosts, log_requests=not quiet))
    run(app, listening, drain_seconds)


def _named(bundles: list[str]) -> dict[str, Path]:
    """Folders by the names that clients know them by.

    Raises:
        InputError: two have one name, or a name cannot be part of an address.
    """
    from ntre_deploy.serving.memories import check_name
    from ntre_deploy.serving.service import bundle_name

    found: dict[str, Path] = {}
    for text in bundles:
        given, equals, folder = text.partition("=")
        if not equals or Path(text).exists():
            given, folder = bundle_name(text), text
        try:
            check_name(given)
        except InputError as error:
            raise InputError(f"Bundle {text} needs a name of letters, digits and _ . + -: NAME={folder}.") from error
        if given in found:
            raise InputError(f"Two bundles are called '{given}'; give one another name: NAME={folder}.")
        found[given] = Path(folder)
    return found


def _check_packages() -> None:
    for name in _PACKAGES:
        try:
            __import__(name)
        except ModuleNotFoundError as error:
            raise EngineError(f"ntre serve needs {error.name}: pip install 'ntre_deploy[serve]'") from error
