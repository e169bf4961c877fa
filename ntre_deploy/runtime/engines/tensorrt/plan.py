"""One deserialised plan: its inputs and outputs, its optimisation profiles, and contexts to execute it in."""

from typing import Any

import numpy as np

from ntre_deploy.errors import EngineError
from ntre_deploy.runtime.cuda import explain
from ntre_deploy.runtime.engines.tensorrt.api import OUT_OF_MEMORY, Library, deserialise, inspect, make_logger
from ntre_deploy.runtime.engines.tensorrt.layers import found_precision, kernels

Shape = tuple[int, ...]
Shapes = dict[str, Shape]


class Plan:
    """A plan in the memory of the GPU; its contexts share it, and it is safe to share between threads.

    The primary context has to be current when it is made, used and dropped.

    Args:
        role: `support` or `query`.
        content: the file, whose hash was checked.
        trusted_host_code: see `deserialise`.
        runtime_cache: what an earlier `serialise_cache` gave, empty for nothing (TensorRT for RTX).

    Raises:
        EngineError: it cannot be loaded here.
    """

    def __init__(
        self,
        library: Library,
        role: str,
        content: bytes,
        *,
        trusted_host_code: bool = False,
        runtime_cache: bytes = b"",
    ) -> None:
        self.library, self.role = library, role
        self.logger = make_logger(library)
        trt = library.module
        self._runtime, self._engine = deserialise(library, self.logger, content, trusted_host_code=trusted_host_code)
        engine = self._engine
        types = {trt.DataType.FLOAT: np.float32, trt.DataType.HALF: np.float16, trt.DataType.INT32: np.int32}
        self.dtypes: dict[str, np.dtype[Any]] = {}
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        for index in range(engine.num_io_tensors):
            name = str(engine.get_tensor_name(index))
            found = types.get(engine.get_tensor_dtype(name))
            if found is None:
                raise EngineError(f"The {role} engine has '{name}' in a type that is not known; export it again.")
            self.dtypes[name] = np.dtype(found)
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (self.inputs if is_input else self.outputs).append(name)
        self.profiles = [
            {n: tuple(tuple(shape) for shape in engine.get_tensor_profile_shape(n, index)) for n in self.inputs}
            for index in range(engine.num_optimization_profiles)
        ]
        self._cache: Any = None
        self._runtime_config = self._configure(runtime_cache) if library.ahead_of_time else None

    def precision(self) -> str:
        """Precision that the engine inspector finds; `unknown` where the plan was built without details."""
        return found_precision(kernels(inspect(self.library, self._engine)))

    def largest(self, name: str, axis: int) -> int:
        """The largest size of an input's axis that any profile takes."""
        return max(int(profile[name][2][axis]) for profile in self.profiles)

    def profile(self, shapes: Shapes) -> int:
        """Number of the first profile that takes these shapes; the first ones are the narrow, fast ones.

        Raises:
            EngineError: none does.
        """
        for index, profile in enumerate(self.profiles):
            if all(_inside(shapes[n], profile[n][0], profile[n][2]) for n in self.inputs):
                return index
        given = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        limits = ", ".join(f"{n} up to {[self.largest(n, a) for a in range(len(s))]}" for n, s in shapes.items())
        raise EngineError(
            f"The {self.role} engine was built for {limits}, and {given} was given; build it for more with "
            "`ntre export --max-batch`, `--max-classes` or `--max-shots`."
        )

    def context(self, profile: int, stream: int, shapes: Shapes) -> tuple[Any, int]:
        """An execution context for one set of shapes, and the bytes of device memory that it needs while it runs.

        `use_scratch` gives it that memory, which is far less than what the largest shapes of its profile need.

        Raises:
            EngineError: it cannot be made.
        """
        self.logger.forget()
        strategy = self.library.module.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._runtime_config is not None:
            context = self._engine.create_execution_context(runtime_config=self._runtime_config)
        else:
            context = self._engine.create_execution_context(strategy)
        if context is None:
            raise self.failure("make an execution context")
        self._done(context.set_optimization_profile_async(profile, stream), "choose its profile")
        for name, shape in shapes.items():
            self._done(context.set_input_shape(name, shape), f"take {name} {list(shape)}")
        # 0 where it cannot tell; then the profile's maximum is what is known
        size = int(context.update_device_memory_size_for_shapes())
        return context, size or int(self._engine.get_device_memory_size_for_profile_v2(profile))

    def use_scratch(self, context: Any, address: int, size: int) -> None:
        """Give a context the memory that it works in."""
        context.set_device_memory(address, size)

    def output_shapes(self, context: Any) -> Shapes:
        """Shapes of the outputs for the inputs that a context was made for.

        Raises:
            EngineError: they cannot be told.
        """
        shapes = {name: tuple(int(n) for n in context.get_tensor_shape(name)) for name in self.outputs}
        if any(n < 0 for shape in shapes.values() for n in shape):
            raise self.failure("tell the shapes of its outputs")
        return shapes

    def bind(self, context: Any, addresses: dict[str, int]) -> None:
        """Set the device addresses of inputs and outputs.

        Raises:
            EngineError: one is refused.
        """
        for name, address in addresses.items():
            self._done(context.set_tensor_address(name, address), f"bind {name}")

    def enqueue(self, context: Any, stream: int) -> None:
        """Queue one execution.

        Raises:
            EngineError: it was refused.
        """
        self._done(context.execute_async_v3(stream), "run")

    def capturable(self, context: Any, stream: int) -> bool:
        """Whether an execution may be captured into a CUDA graph; TensorRT tells only when it is tried."""
        return not self.library.ahead_of_time or bool(context.is_stream_capturable(stream))

    def serialise_cache(self) -> bytes:
        """The kernels that TensorRT for RTX has compiled so far, for the next load; empty for TensorRT."""
        return b"" if self._cache is None else bytes(self._cache.serialize())

    def failure(self, what: str) -> EngineError:
        """What to raise where a call has failed; the reason is what the library logged."""
        told = self.logger.told("no reason given")
        if OUT_OF_MEMORY.search(" ".join(self.logger.errors)):
            return explain(what, "CUDA_ERROR_OUT_OF_MEMORY", told)
        return EngineError(f"{self.library.title} could not {what} ({self.role}): {told}.")

    def _done(self, succeeded: object, what: str) -> None:
        if not succeeded:
            raise self.failure(what)

    def _configure(self, runtime_cache: bytes) -> Any:
        trt = self.library.module
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        # compiled when a shape first occurs and not behind its back: a CUDA graph would keep the slow kernels for ever
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        self._cache = config.create_runtime_cache()
        # another GPU's or driver's is refused by itself, and then compiled anew
        if runtime_cache:
            self._cache.deserialize(runtime_cache)
        config.set_runtime_cache(self._cache)
        return config


def _inside(shape: Shape, least: Shape, most: Shape) -> bool:
    return len(shape) == len(least) and all(a <= n <= b for n, a, b in zip(shape, least, most, strict=True))
