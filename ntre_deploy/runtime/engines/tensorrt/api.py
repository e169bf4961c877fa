"""One adapter for `tensorrt` 10.3 to 11 and `tensorrt_rtx` 1.7: which library is here, and how it speaks.

TensorRT 11 has no precision flags, no calibrators and no implicit batch any more; 10 still has them.  Only what all
of them share is used, so there is one path: a strongly typed network, whose precision is that of its ONNX file.  The
names are tested against the recorded lists of each version.
"""

import importlib
import importlib.util
import re
from dataclasses import dataclass
from typing import Any

from ntre_deploy.errors import EngineError

# what is built by one of them is never called the other's
ENGINES = ("trt", "trt-rtx")
_MODULES = {"trt": "tensorrt", "trt-rtx": "tensorrt_rtx"}
_TITLES = {"trt": "TensorRT", "trt-rtx": "TensorRT for RTX"}
# the first version that is supported, and the first that is not
_VERSIONS = {"trt": ((10, 3), (12,)), "trt-rtx": ((1, 7), (2,))}
# how its messages tell that the GPU's memory was too small
OUT_OF_MEMORY = re.compile(r"out ?of ?memory|cudaErrorMemoryAllocation|cudaError 2\b", re.IGNORECASE)
# what the builder prints of the finished engine when it is asked for every detail
_LAYERS = "Layers:\n"
_SCRATCH = re.compile(r"Total Activation Memory: (\d+) bytes")


@dataclass(frozen=True)
class Library:
    """An imported TensorRT.

    Attributes:
        engine: `trt` or `trt-rtx`.
        module: `tensorrt` or `tensorrt_rtx`.
        version: such as `10.16.1.11`.
    """

    engine: str
    module: Any
    version: str

    @property
    def title(self) -> str:
        """`TensorRT` or `TensorRT for RTX`."""
        return _TITLES[self.engine]

    @property
    def ahead_of_time(self) -> bool:
        """Whether it builds for named GPUs, without one at hand."""
        return self.engine == "trt-rtx"

    def compute_capabilities(self) -> tuple[str, ...]:
        """Those that it builds for ahead of time, such as `8.6`, in order; empty where it builds for its own GPU."""
        if not self.ahead_of_time:
            return ()
        found = [re.fullmatch(r"SM(\d+)(\d)", name) for name in self.module.ComputeCapability.__members__]
        return tuple(f"{m[1]}.{m[2]}" for m in found if m)


def title(engine: str) -> str:
    """`TensorRT` or `TensorRT for RTX`."""
    return _TITLES[engine]


def unavailable(engine: str) -> str | None:
    """Why a library cannot be used here, or None; whether there is a GPU is not looked at."""
    module = _MODULES[engine]
    install = f"(pip install 'ntre_deploy[{engine}]')"
    if importlib.util.find_spec(module) is None:
        return f"{module} is not installed {install}"
    try:
        found = importlib.import_module(module)
        version = str(found.__version__)
        found.Builder, found.Runtime  # noqa: B018
    # a placeholder of a plain package index, bindings without their libraries and half an install each fail otherwise
    except Exception as error:
        return (
            f"{module} is installed but does not work ({' '.join(str(error).split())[:200] or type(error).__name__}); "
            f"install the whole package from NVIDIA: pip install --extra-index-url https://pypi.nvidia.com {module}"
        )
    least, below = _VERSIONS[engine]
    if not least <= _numbers(version) < below:
        wanted = f"{'.'.join(map(str, least))} to {below[0] - 1}"
        return f"{module} {version} is installed, and {wanted} is supported {install}"
    return None


def load(engine: str) -> Library:
    """Import a library.

    Raises:
        EngineError: it is absent, broken or of an unsupported version.
    """
    if reason := unavailable(engine):
        raise EngineError(f"Engine {engine} cannot be used here: {reason}; `ntre doctor` tells more.")
    module = importlib.import_module(_MODULES[engine])
    return Library(engine, module, str(module.__version__))


def make_logger(library: Library) -> Any:
    """An `ILogger` that prints nothing and keeps what errors and reports need: `told(what)`, `layers`, `scratch`
    and `forget()`."""
    trt = library.module
    severe = (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)

    base: Any = trt.ILogger

    # the base class exists only where the library does
    class Logger(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self.errors: list[str] = []
            self.layers = ""
            self.scratch: int | None = None

        def log(self, severity: Any, message: str) -> None:
            if severity in severe:
                self.errors.append(message)
            elif message.startswith(_LAYERS):
                self.layers = message[len(_LAYERS) :]
            elif found := _SCRATCH.search(message):
                self.scratch = int(found[1])

        def forget(self) -> None:
            """Forget the errors of what was done before."""
            self.errors.clear()

        def told(self, otherwise: str) -> str:
            """The first error, which is the cause of the others, without places in the library's own sources."""
            text = " ".join((self.errors or [otherwise])[0].split())
            text = re.sub(r" ?\(?[Ii]n \w+ at /\S+:\d+\)?:?", "", text)
            return re.sub(r"^I\w+::\w+: Error Code \d+: ", "", text)[:300].rstrip(" .")

    return Logger()


def deserialise(library: Library, logger: Any, plan: bytes, *, trusted_host_code: bool = False) -> tuple[Any, Any]:
    """A plan, whose hash was checked, as (runtime, engine); the engine must not outlive the runtime.

    Args:
        trusted_host_code: let the plan bring code for the host, as version-compatible ones do.

    Raises:
        EngineError: there is no GPU, the plan belongs elsewhere or is damaged: the library returns None for all.
    """
    logger.forget()
    try:
        runtime = library.module.Runtime(logger)
        if trusted_host_code:
            runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(plan)
    # without a driver, the constructors raise TypeError for their null pointer
    except Exception as error:
        raise EngineError(f"{library.title} cannot start: {logger.told(str(error))}.") from error
    if engine is None:
        raise EngineError(
            f"{library.title} {library.version} cannot load the engine: {logger.told('no reason given')}."
        )
    return runtime, engine


def inspect(library: Library, engine: Any) -> str:
    """What the engine inspector tells of every layer of a deserialised engine, as JSON."""
    text: str = engine.create_engine_inspector().get_engine_information(library.module.LayerInformationFormat.JSON)
    return text


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
