"""`ntre`: assembles the sub-commands and turns errors into one line and an exit code.

Exit codes: 0 done; 1 a gate failed; 2 bad input or usage; 3 an engine or a device is not available; 70 a defect.
"""

import os
import signal
import sys
import traceback
from typing import Annotated, Any, cast

import typer

from ntre_deploy import __version__
from ntre_deploy.cli import bench, demo, doctor, export, import_weights, segment
from ntre_deploy.errors import NtreError, did_you_mean

DEFECT = 70

app = typer.Typer(
    name="ntre",
    help="Export, run and prove NTRENet few-shot segmentation.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ntre {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Export, run and prove NTRENet few-shot segmentation."""
    if debug:
        os.environ["NTRE_DEBUG"] = "1"


app.command("export")(export.command)
app.command("segment")(segment.command)
app.command("bench")(bench.command)
app.command("import-weights")(import_weights.command)
app.command("doctor")(doctor.command)
app.command("demo")(demo.command)


# typer keeps its copy of click's exceptions private; this is what BadParameter and UsageError derive from
_ClickException = cast(type[Exception], typer.BadParameter.__mro__[2])


def run() -> None:
    """Entry point of the console script."""
    # a stop by the system cleans up like Ctrl-C does
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        # the result of a sub-command that ends by `typer.Exit` is its exit code
        code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except _ClickException as error:
        if _text(error):  # empty where the help was shown instead
            _report(_usage(error))
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        _report("interrupted; nothing half-written is left")
        sys.exit(130)
    except NtreError as error:
        _report(f"error: {error}")
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        _report(_missing(error))
        sys.exit(3)
    except BrokenPipeError:
        # the reader of a pipe has gone; there is nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _report(f"error: {where}{error.strerror or error}; check the path, its permissions and the free space.")
        sys.exit(2)
    except Exception as error:
        _report(f"internal error: {type(error).__name__}: {error}; run with `ntre --debug` and report it")
        sys.exit(DEFECT)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _text(error: Any) -> str:
    return str(error.format_message())


def _usage(error: Any) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "ntre"
    message = " ".join(_text(error).split()).partition(" (Possible")[0].rstrip(".")
    hint = ""
    if "Did you mean" in message:
        message = message.rstrip("?") + "?"
    elif (given := getattr(error, "option_name", None)) and context is not None:
        hint = did_you_mean(given, [name for parameter in context.command.params for name in parameter.opts])
    end = "" if message.endswith("?") else "."
    return f"error: {message}{end}{hint} See `{path} --help`."


def _missing(error: ModuleNotFoundError) -> str:
    extras = {"torch": "export", "onnx": "export", "onnxscript": "export", "onnxruntime": "cpu"}
    name = (error.name or "").partition(".")[0]
    if name in extras:
        return f"error: this command needs {name}, which is not installed: pip install 'ntre_deploy[{extras[name]}]'"
    return f"error: {error}; reinstall ntre_deploy"


def _report(line: str) -> None:
    if os.environ.get("NTRE_DEBUG"):
        traceback.print_exc()
    print(line, file=sys.stderr)
