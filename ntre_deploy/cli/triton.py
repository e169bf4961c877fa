"""`ntre triton`: a model repository for Triton, NVIDIA's inference server."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ntre_deploy.cli.console import print_json, steps
from ntre_deploy.cli.engines import NAME, one_engine
from ntre_deploy.cli.trust import TrustedOption
from ntre_deploy.errors import InputError

if TYPE_CHECKING:
    from ntre_deploy.serving.triton.repository import Written

# as `ntre_deploy.serving.triton.options` has it, which imports too much for a help text
SERVER = "http://127.0.0.1:8000"


def command(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.", show_default=False)],
    repository: Annotated[Path, typer.Argument(metavar="REPO", help="Folder of models.", show_default=False)],
    name: Annotated[str | None, typer.Option("--name", help="Of the model.", show_default="the bundle's")] = None,
    version: Annotated[int, typer.Option("--version", metavar="N", min=1, help="Of the model.")] = 1,
    keep: Annotated[int, typer.Option("--keep", metavar="N", min=1, help="Newest versions.")] = 1,
    memories: Annotated[
        Path | None, typer.Option("--memories", metavar="FOLDER", help="Those that requests can name.")
    ] = None,
    graphs: Annotated[bool, typer.Option("--graphs", help="Write the bare graphs as models too.")] = False,
    engine: Annotated[str, typer.Option("--engine", metavar=NAME, help="trt, onnx-cpu ...")] = "auto",
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", min=1, help="Of each.", show_default="a fair share")
    ] = None,
    instances: Annotated[int, typer.Option("--instances", metavar="N", min=1, help="Engines, a process each.")] = 1,
    gpus: Annotated[str | None, typer.Option("--gpus", metavar="0,1", help="On which, with so many each.")] = None,
    max_batch: Annotated[
        int | None, typer.Option("--max-batch", metavar="N", help="Images.", show_default="4; 1 on CPUs")
    ] = None,
    preferred: Annotated[str | None, typer.Option("--preferred", metavar="2,4", help="Sizes of batches.")] = None,
    delay: Annotated[
        int | None, typer.Option("--delay", metavar="US", help="For a batch.", show_default="500; CPUs 0")
    ] = None,
    queue: Annotated[int, typer.Option("--queue", metavar="N", help="Requests that may wait.")] = 64,
    timeout: Annotated[int, typer.Option("--timeout", metavar="MS", help="They wait at most.")] = 30_000,
    resource: Annotated[
        list[str] | None, typer.Option("--resource", metavar="NAME=N", help="Rate limit; repeatable.")
    ] = None,
    priority: Annotated[
        int | None, typer.Option("--priority", metavar="N", help="For rate limits; 1 is the highest.")
    ] = None,
    no_warmup: Annotated[bool, typer.Option("--no-warmup", help="Ready without a run.")] = False,
    server: Annotated[
        str, typer.Option("--server", metavar="URL", help="Its HTTP.", show_default="port 8000 here")
    ] = SERVER,
    link: Annotated[bool, typer.Option("--link", help="Link the bundle's files, copy none.")] = False,
    trusted: TrustedOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace that version of a model.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a bundle into a model repository of Triton.

    Example: ntre triton model.ntre models --memories memories
    """
    engine_name, own = one_engine(engine, None)
    from ntre_deploy.serving.triton.options import Options, Sources
    from ntre_deploy.serving.triton.repository import write_repository

    options = Options(
        name=name,
        version=version,
        keep=keep,
        engine=engine_name,
        precision=own,
        threads=threads,
        instances=instances,
        gpus=_numbers(gpus, "--gpus"),
        max_batch=max_batch,
        preferred=_numbers(preferred, "--preferred"),
        delay=delay,
        queue=queue,
        timeout=timeout,
        resources=tuple(map(_resource, resource or ())),
        priority=priority,
        warmup=not no_warmup,
        server=server,
    )
    sources = Sources(memories, tuple(trusted or ()), link)
    with steps(as_json) as tell:
        written = write_repository(bundle, repository, options, sources, graphs=graphs, force=force, tell=tell)
    if as_json:
        print_json({"repository": str(repository), "models": [_facts(model) for model in written]})
        return
    for model in written:
        names = f"; memories: {', '.join(model.memories)}" if model.memories else ""
        print(f"wrote {model.folder}, version {model.version} ({model.kind}){names}")
    print(f"serve it: tritonserver --model-repository {repository} --model-control-mode explicit --load-model '*'")


def _facts(model: "Written") -> dict[str, object]:
    return {
        "name": model.name,
        "version": model.version,
        "kind": model.kind,
        "folder": str(model.folder),
        "memories": list(model.memories),
    }


def _numbers(text: str | None, option: str) -> tuple[int, ...]:
    if text is None:
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{option} {text!r} cannot be used; numbers such as 1,2 are expected.") from error


def _resource(text: str) -> tuple[str, int]:
    name, equals, count = text.partition("=")
    if not equals or not count.isdecimal():
        raise InputError(f"--resource {text!r} cannot be used; NAME=COUNT is expected, such as memory=1.")
    return name, int(count)
