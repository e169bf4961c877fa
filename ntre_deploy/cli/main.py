"""`ntre`: assembles the sub-commands and turns errors into one line and an exit code.

Exit codes: 0 done; 1 a gate failed; 2 bad input or usage; 3 an engine or a device is not available; 70 a defect.
"""

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Annotated, Any, TextIO, cast

import typer

from ntre_deploy import __version__
from ntre_deploy.cli import (
    bench,
    build,
    conformance,
    demo,
    doctor,
    download,
    evaluate,
    export,
    import_weights,
    models,
    pretrain,
    segment,
    serve,
    sign,
    studio,
    train,
    triton,
    tune,
)
from ntre_deploy.cli.meaning import meant
from ntre_deploy.errors import NtreError, NtreWarning

DEFECT = 70
_INTERRUPTED = 130

app = typer.Typer(
    name="ntre",
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
    """Export, run and serve NTRENet few-shot segmentation (ntre COMMAND --help)."""
    if debug:
        os.environ["NTRE_DEBUG"] = "1"


COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo.command,
    "doctor": doctor.command,
    "models": models.command,
    "tune": tune.command,
    "export": export.command,
    "build": build.command,
    "sign": sign.command,
    "segment": segment.command,
    "serve": serve.command,
    "studio": studio.command,
    "triton": triton.command,
    "bench": bench.command,
    "conformance": conformance.command,
    "import-weights": import_weights.command,
    "download": download.command,
    "pretrain": pretrain.command,
    "train": train.command,
    "eval": evaluate.command,
}
# one line each in the list of `ntre --help`
_SHORT = {
    "demo": "The whole way with the model that comes with it.",
    "doctor": "What this machine can run, and what mends the rest.",
    "models": "What checkpoints can be had by name.",
    "tune": "A model for your own photos, kept if it is better.",
    "export": "A checkpoint to a bundle, verified against PyTorch.",
    "build": "TensorRT plans for a bundle, on the device.",
    "sign": "Who made a bundle, for devices that ask.",
    "segment": "Photos and videos to masks, by example.",
    "serve": "Bundles behind HTTP, for many clients.",
    "studio": "Mark it, see it found, in the browser.",
    "triton": "A bundle to a model repository of Triton.",
    "bench": "Speed and accuracy of a bundle beside PyTorch.",
    "conformance": "Proof that another runtime gives the same.",
    "import-weights": "Weights from elsewhere to a checkpoint.",
    "download": "The photos and masks of PASCAL-5i.",
    "pretrain": "A backbone from scratch.",
    "train": "A config to a checkpoint.",
    "eval": "mIoU of a checkpoint or a bundle.",
}
_PANELS = {
    "Start here": ("demo", "doctor", "models", "studio", "tune"),
    "Deploy": ("export", "build", "sign", "segment", "serve", "triton", "bench", "conformance"),
}
_OTHERS = "Train and evaluate"
for _name, _command in COMMANDS.items():
    _panel = next((panel for panel, names in _PANELS.items() if _name in names), _OTHERS)
    _kind = segment.Command if _name == "segment" else None
    app.command(_name, cls=_kind, short_help=_SHORT[_name], rich_help_panel=_panel)(_command)


# typer keeps its copy of click's exceptions private; this is what BadParameter and UsageError derive from
_ClickException = cast(type[Exception], typer.BadParameter.__mro__[2])


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Ours in one line, as errors are; those of libraries as Python shows them."""
    if issubclass(category, NtreWarning):
        _report(f"warning: {message}")
    else:
        _shown_by_python(message, category, filename, lineno, file, line)


_shown_by_python = warnings.showwarning


def run() -> None:
    """Entry point of the console script."""
    warnings.showwarning = _show_warning
    warnings.simplefilter("always", NtreWarning)
    # a stop by the system cleans up like Ctrl-C does
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    try:
        try:
            # the result of a sub-command that ends by `typer.Exit` is its exit code
            code = app(prog_name="ntre", standalone_mode=False)
        except Exception:
            # compiled libraries turn an interrupt into errors of their own, such as a file that cannot be read
            if _interrupts:
                raise KeyboardInterrupt from None
            raise
        if code == _INTERRUPTED:
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except _ClickException as error:
        if _text(error):  # empty where the help was shown instead
            _report(_usage(error))
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        _report("interrupted; nothing half-written is left")
        sys.exit(_INTERRUPTED)
    except SystemExit as error:
        # typer ends with 1, which means a failed gate here, when the reader of a pipe has gone
        if isinstance(error.__context__, BrokenPipeError):
            sys.exit(0)
        raise
    except NtreError as error:
        _report(f"error: {error}")
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        _report(_missing(error))
        sys.exit(3)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _report(f"error: {where}{error.strerror or error}; check the path, its permissions and the free space.")
        sys.exit(2)
    except Exception as error:
        _report(f"internal error: {type(error).__name__}: {error}; run with `ntre --debug` and report it")
        sys.exit(DEFECT)


_interrupts: list[int] = []


def _interrupt(number: int, frame: object) -> None:
    _interrupts.append(number)
    raise KeyboardInterrupt


def _text(error: Any) -> str:
    return str(error.format_message())


def _usage(error: Any) -> str:
    """One line about a wrong command line: the option and the value that was given, what is wrong, where to look."""
    context = getattr(error, "ctx", None)
    named = [] if context is not None else [word for word in sys.argv[1:2] if word in COMMANDS]
    path = context.command_path if context is not None else " ".join(["ntre", *named])
    message = " ".join(_text(error).split()).partition(" (Possible")[0].rstrip(".")
    hint = ""
    if option := getattr(error, "option_name", None):
        if option == "--debug":
            hint = " It goes before the command: `ntre --debug ...`."
        elif context is not None and "requires" not in message:
            ours = meant(option, [name for p in context.command.params for name in p.opts])
            hint = f" Did you mean '{ours}'?" if ours is not None else ""
    elif (parameter := getattr(error, "param", None)) is not None and message.startswith("Invalid value"):
        given = _given(parameter.opts)
        if given is not None:
            wrong = message.partition(": ")[2].partition(", unable")[0].replace("Input should be", "must be")
            message = f"{max(parameter.opts, key=len)} {given!r} cannot be used: it {wrong}"
    end = "" if message.endswith("?") else "."
    return f"error: {message}{end}{hint} See `{path} --help`."


def _given(names: list[str]) -> str | None:
    """The value behind one of an option's names on the command line."""
    for word, following in zip(sys.argv[1:], [*sys.argv[2:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name in names:
            return value if equals else following
    return None


def _missing(error: ModuleNotFoundError) -> str:
    extras = {"onnxruntime": "cpu", "openvino": "openvino", "nncf": "int8"}
    extras |= dict.fromkeys(("torch", "onnx", "onnxscript"), "export") | dict.fromkeys(("jinja2", "psutil"), "bench")
    extras |= {
        "tensorrt": "trt",
        "tensorrt_rtx": "trt-rtx",
        "cuda": "cuda",
        "pycuda": "pycuda",
        "filelock": "trt",
        "cryptography": "sign",
        "ray": "ray",
        "pyarrow": "ray",
        "fsspec": "ray",
    }
    name = (error.name or "").partition(".")[0]
    if name in extras:
        return f"error: this command needs {name}, which is not installed: pip install 'ntre_deploy[{extras[name]}]'"
    return f"error: {error}; reinstall ntre_deploy"


def _report(line: str) -> None:
    if os.environ.get("NTRE_DEBUG"):
        traceback.print_exc()
    # a file name may hold a line break, and a report is one line
    print("".join(c if c.isprintable() else repr(c)[1:-1] for c in line), file=sys.stderr)
