"""One ONNX file to one plan: parsed, strongly typed, built, and its precision found in what was built."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ntre_deploy.errors import EngineError, GateError, InputError
from ntre_deploy.interrupts import held_interrupts
from ntre_deploy.plans.options import Profile, TensorRtOptions
from ntre_deploy.plans.progress import Phases, make_monitor
from ntre_deploy.runtime.cpu import usable_cores
from ntre_deploy.runtime.engines.tensorrt.api import OUT_OF_MEMORY, Library, deserialise, inspect, make_logger
from ntre_deploy.runtime.engines.tensorrt.layers import Kernels, found_precision, kernels
from ntre_deploy.runtime.onnxfile import unsigned_activations

_HARDWARE = {"ampere-plus": "AMPERE_PLUS", "same-compute-capability": "SAME_COMPUTE_CAPABILITY"}
_SHOWN = 3  # errors of the parser that are told


@dataclass(frozen=True)
class Built:
    """A plan and what it is.

    Attributes:
        plan: the file.
        kernels: see `layers.kernels`.
        precision: that most convolutions run in.
        found_by: `inspector`, or `builder` where there is no GPU to load the plan on.
        timing_cache: for the next build; empty where the library has none.
        scratch: bytes of device memory that the largest shapes need beside weights, inputs and outputs; None where the
            builder does not tell.
    """

    plan: bytes
    kernels: Kernels
    precision: str
    found_by: str
    timing_cache: bytes = b""
    scratch: int | None = None


def build(
    library: Library,
    content: bytes,
    profiles: Sequence[Profile],
    targets: Sequence[str],
    options: TensorRtOptions,
    *,
    what: str = "engine",
    tf32: bool = False,
    timing_cache: bytes = b"",
    progress: Callable[[str], None] = lambda step: None,
) -> Built:
    """Build a plan.

    The network is strongly typed: what the ONNX file has in fp16 or behind explicit quantisation runs so, and its
    fp32 islands stay fp32.

    Args:
        content: ONNX file.
        profiles: ranges of the dynamic axes; a graph that has some needs one at least.
        targets: compute capabilities, for a library that builds ahead of time.
        what: names the graph in messages and progress.
        tf32: fp32 convolutions and products may round to TF32, which has the mantissa of fp16.
        timing_cache: of an earlier build on this GPU.

    Raises:
        InputError: int8 activations are unsigned, or the library does not know an option.
        EngineError: the library cannot start, read the file or build it; says why.
        KeyboardInterrupt: SIGINT or SIGTERM came; the build is stopped at its next step.
    """
    check_signed(content, what)
    # the library calls the logger and the monitor, and would swallow what is raised in them
    with held_interrupts() as stopped:
        monitor = make_monitor(library, Phases(f"building {what}", progress), stopped)
        return _build(library, content, profiles, targets, options, what, tf32, timing_cache, monitor)
    raise AssertionError("an interrupt is raised")


def _build(
    library: Library,
    content: bytes,
    profiles: Sequence[Profile],
    targets: Sequence[str],
    options: TensorRtOptions,
    what: str,
    tf32: bool,
    timing_cache: bytes,
    monitor: Any,
) -> Built:
    trt = library.module
    logger = make_logger(library)
    try:
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
    # without a driver, the constructors of TensorRT raise TypeError for their null pointer
    except Exception as error:
        raise EngineError(f"{library.title} cannot start: {logger.told(str(error))}.") from error
    if not parser.parse(content):
        raise EngineError(f"{library.title} {library.version} cannot read the {what} graph: {_errors(parser)}.")
    builder.max_threads = usable_cores()
    config = builder.create_builder_config()
    _configure(library, config, targets, options)
    if not tf32:  # it is on by default
        config.clear_flag(trt.BuilderFlag.TF32)
    for profile in profiles:
        _add(builder, config, profile, what)
    config.progress_monitor = monitor
    keeps_timings = not library.ahead_of_time
    if keeps_timings:
        # another version's or GPU's is refused, and then this build starts from nothing
        kept = config.create_timing_cache(timing_cache)
        if kept is None or not config.set_timing_cache(kept, False):
            config.set_timing_cache(config.create_timing_cache(b""), False)
    logger.forget()
    memory = builder.build_serialized_network(network, config)
    if monitor.error is not None:
        raise monitor.error
    if memory is None:
        raise _failure(library, logger, what, options)
    plan, scratch = bytes(memory), logger.scratch
    told, found_by = _layers(library, logger, plan, options)
    counts = kernels(told)
    found = config.get_timing_cache() if keeps_timings else None
    timings = b"" if found is None else bytes(found.serialize())
    return Built(plan, counts, found_precision(counts), found_by, timings, scratch)


def check_precision(built: Built, asked: str, what: str) -> None:
    """See that a plan came out in the precision that was asked for.

    Where TensorRT has fused all convolutions into layers that do not tell, the strong types of the network have to do:
    the manifest then says `unknown`.

    Raises:
        GateError: most of its convolutions run in another one.
    """
    if built.precision not in (asked, "unknown"):
        raise GateError(
            f"The {what} engine was asked for in {asked}, and its convolutions came out in {built.precision} "
            f"({_counts(built.kernels)}); no bundle was written."
        )


def check_signed(content: bytes, what: str) -> None:
    """See that no tensor of a QDQ file is quantised to uint8: TensorRT reads signed ones alone.

    Raises:
        InputError: one is; or the file is no ONNX.
    """
    try:
        unsigned = unsigned_activations(content)
    except InputError as error:
        raise InputError(f"The {what} graph is not a readable ONNX file; export it again.") from error
    if unsigned:
        raise InputError(
            f"The int8 {what} graph has {len(unsigned)} unsigned activations (the first is {unsigned[0]}), as engines "
            "for CPUs take them; TensorRT needs signed ones. Export again with --engine trt --precision int8."
        )


def _configure(library: Library, config: Any, targets: Sequence[str], options: TensorRtOptions) -> None:
    trt = library.module
    # so that the inspector tells types; it costs nothing when the engine runs
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.effort is not None:
        config.builder_optimization_level = options.effort
    if options.hardware != "none":
        level = getattr(trt.HardwareCompatibilityLevel, _HARDWARE[options.hardware], None)
        if level is None:
            raise InputError(
                f"{library.title} {library.version} does not know --hardware {options.hardware}; take another "
                "level, or 10.13 and later."
            )
        config.hardware_compatibility_level = level
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if library.ahead_of_time:
        # a CUDA graph cannot be captured around memory that the library takes by itself
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            capability = getattr(trt.ComputeCapability, f"SM{target.replace('.', '')}")
            if not config.set_compute_capability(capability, index):
                raise EngineError(f"{library.title} {library.version} does not build for compute capability {target}.")


def _add(builder: Any, config: Any, profile: Profile, what: str) -> None:
    made = builder.create_optimization_profile()
    try:
        for name, (least, best, most) in profile.items():
            made.set_shape(name, least, best, most)
        index = config.add_optimization_profile(made)
    except ValueError as error:
        raise EngineError(f"The {what} graph does not take the shapes {profile}: {error}.") from error
    if index < 0:
        raise EngineError(f"The {what} graph does not take the shapes {profile}.")


def _errors(parser: Any) -> str:
    found = []
    for index in range(min(parser.num_errors, _SHOWN)):
        error = parser.get_error(index)
        where = f"{error.node_operator()} '{error.node_name()}': " if error.node_operator() else ""
        found.append(where + " ".join(str(error.desc()).split())[:200])
    if parser.num_errors > _SHOWN:
        found.append(f"and {parser.num_errors - _SHOWN} more")
    return "; ".join(found).rstrip(".") or "no reason given"


def _failure(library: Library, logger: Any, what: str, options: TensorRtOptions) -> EngineError:
    told = logger.told("no reason given")
    hint = "a lower --effort or another --sm may build"
    if "no optimization profile" in told:
        hint = "its dynamic axes need a profile"
    elif OUT_OF_MEMORY.search(told) or "workspace" in told.lower():
        limit = "not limited" if options.workspace_mib is None else f"{options.workspace_mib} MiB"
        hint = f"give it more memory (--workspace, now {limit}) or a smaller --max-batch"
    elif "Turing" in told or "SM75" in told:
        hint = "take --precision fp16, leave 7.5 out of --sm, or take --engine trt on such a GPU"
    return EngineError(f"{library.title} {library.version} cannot build the {what} engine: {told}; {hint}.")


def _layers(library: Library, logger: Any, plan: bytes, options: TensorRtOptions) -> tuple[str, str]:
    layers = logger.layers
    try:
        runtime, engine = deserialise(library, logger, plan, trusted_host_code=options.version_compatible)
    except EngineError:
        # without the GPU that it is for, what the builder said of the finished engine is all there is
        if not library.ahead_of_time:
            raise
        return layers, "builder"
    told = inspect(library, engine)
    del engine, runtime
    return told, "inspector"


def _counts(counts: Kernels) -> str:
    return ", ".join(f"{kind}: {' '.join(f'{n} {t}' for t, n in found.items())}" for kind, found in counts.items())
