"""ONNX Runtime on the CPU, and what it shares with ONNX Runtime on CUDA: sessions with proof of where they run."""

import importlib.util
from contextlib import redirect_stdout, suppress
from io import StringIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.engines.options import EngineOptions
from ntre_deploy.runtime.onnxfile import check_self_contained
from ntre_deploy.runtime.stacked import StackedSupports

Float = NDArray[np.float32]

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int32)": "int32"}


def cpu_unavailable() -> str | None:
    """Why ONNX Runtime cannot run here, or None."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "onnxruntime is not installed (pip install 'ntre_deploy[cpu]')"
    try:
        import onnxruntime

        onnxruntime.InferenceSession  # noqa: B018
    # an install that is broken, or half overwritten by its other flavour, fails in ways of its own
    except Exception as error:
        return f"onnxruntime is installed but broken ({_first_line(error)}); `ntre doctor` tells what mends it"
    return None


def cuda_unavailable() -> str | None:
    """Why ONNX Runtime's CUDA provider cannot run here, or None; a session may still refuse it."""
    if reason := cpu_unavailable():
        return reason.replace("[cpu]", "[gpu]")
    import onnxruntime

    if CUDA not in onnxruntime.get_available_providers():
        return "the installed onnxruntime has no CUDA provider (pip install 'ntre_deploy[gpu]' instead of [cpu])"
    return None


def lacks(precision: str) -> str | None:
    """Why ONNX Runtime does not run a bundle's files in a precision, or None; fp8 runs, dequantised."""
    if precision == "bf16":
        return (
            "the bf16 files are what TensorRT plans are built from, and ONNX Runtime has no bf16 convolution for them"
        )
    return None


def open_cpu(bundle: Bundle, precision: str, options: EngineOptions) -> "OnnxEngine":
    """The bundle's graphs on the CPU.

    Raises:
        EngineError: ONNX Runtime does not run that precision.
    """
    if reason := lacks(precision):
        raise EngineError(f"onnx-cpu does not run {precision}: {reason}.")
    contents = read_graphs(bundle, precision)
    return OnnxEngine("onnx-cpu", precision, contents["support"], contents["query"], CPU, options.threads)


def read_graphs(bundle: Bundle, precision: str) -> dict[str, bytes]:
    """The bundle's ONNX files by role, checked.

    Raises:
        InputError: there are none of that precision, or one was changed.
    """
    contents = {}
    for role in ("support", "query"):
        entry = bundle.entry(role, "onnx", precision)
        if entry is None:
            raise InputError(f"{bundle.folder} has no {role} graph in {precision}; export it again.")
        contents[role] = bundle.read(entry)
        check_self_contained(contents[role], entry.name)
    return contents


class OnnxEngine:
    """Two sessions over ONNX files given as bytes; `run` of a session may be called from several threads."""

    def __init__(
        self, name: str, precision: str, support: bytes, query: bytes, provider: str = CPU, threads: int | None = None
    ) -> None:
        self.name = name
        self.precision = precision
        self._support = make_session(support, provider, threads, precision=precision)
        self._query = make_session(query, provider, threads, precision=precision)
        self._types = input_types(self._query)

    def support(self, image: Float, mask: Float) -> tuple[Float, Float]:
        """See `Engine.support`."""
        prototype, keys = _run(self._support, {"image": image, "mask": mask})
        return prototype, keys

    def query(self, image: Float, supports: StackedSupports) -> Float:
        """See `Engine.query`."""
        (logits,) = _run(self._query, {"image": image, **self.keep(supports)._asdict()})
        return logits

    def keep(self, supports: StackedSupports) -> StackedSupports:
        """Supports of the host in the types of the graph, so that no query has to round them."""
        return StackedSupports(*(np.asarray(a, self._types[n]) for n, a in supports._asdict().items()))

    def clone(self) -> "OnnxEngine":
        """ONNX Runtime's sessions are safe to share."""
        return self


def make_session(
    content: bytes,
    provider: str,
    threads: int | None,
    settings: dict[str, str] | None = None,
    *,
    precision: str = "",
) -> Any:
    """A session on exactly that provider.

    Args:
        settings: of the provider.
        precision: of the file, where ONNX Runtime has to be told something about it.

    Raises:
        EngineError: the graph cannot be loaded, or ONNX Runtime took another provider.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # its errors come as exceptions; it would print them too
    options.log_severity_level = 4
    options.inter_op_num_threads = 1
    if threads is not None:
        options.intra_op_num_threads = threads
    if precision == "fp8":
        # it would turn the biases beside E4M3 into integers, with scales that fp16 does not hold
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if provider == CUDA:
        _preload()
    try:
        session = onnxruntime.InferenceSession(content, options, providers=[(provider, settings or {})])
    # the binding raises its own exception classes, which have no public base
    except Exception as error:
        raise EngineError(f"ONNX Runtime cannot load the graph: {_first_line(error)}") from error
    used = session.get_providers()
    if used[0] != provider:
        raise EngineError(
            f"{provider} was asked for and ONNX Runtime took {used[0]}; `ntre doctor` tells what is missing."
        )
    return session


def _preload() -> None:
    """Load CUDA and cuDNN where pip has put them; without PyTorch, nothing else looks there."""
    import onnxruntime

    preload = getattr(onnxruntime, "preload_dlls", None)
    if preload is None:  # before 1.21
        return
    # it prints what it did not find, which the session's own error tells again
    with redirect_stdout(StringIO()), suppress(Exception):
        preload()


def input_types(session: Any) -> dict[str, np.dtype[Any]]:
    """NumPy's types of a session's inputs, by name."""
    return {entry.name: np.dtype(_TYPES[entry.type]) for entry in session.get_inputs()}


def _run(session: Any, inputs: dict[str, Any]) -> list[Float]:
    try:
        outputs: list[Float] = session.run(None, inputs)
    except Exception as error:
        raise failed(error) from error
    return outputs


def failed(error: Exception) -> EngineError:
    """What to raise where a run has failed."""
    return EngineError(f"ONNX Runtime failed while it ran: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    # one line; ONNX Runtime breaks its sentences, and what comes later is a list
    return " ".join(" ".join(str(error).splitlines()[:2]).split())[:300] or type(error).__name__
