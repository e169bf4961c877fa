"""Milliseconds of device time (CUDA events) and of wall clock; no sample is dropped."""

import time
from collections.abc import Callable
from typing import Any

from ntre_deploy.bench.latency import summarise, warm_up

LEAST_SAMPLES = 30
# seconds that a figure may take beyond its time to reach the least number of samples
_PATIENCE = 5.0


class Clock:
    """Times calls on a device of PyTorch.

    Args:
        device: `cuda` or `cpu`.
        seconds: of sampling for each figure.
    """

    def __init__(self, device: str, seconds: float) -> None:
        self.device, self.seconds = device, seconds

    def torch(self, call: Callable[[], object]) -> dict[str, Any]:
        """`call` queues work on PyTorch's stream."""
        import torch

        if self.device == "cpu":
            return self.wall(call)

        def once() -> float:
            first, second = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            call()
            second.record()
            second.synchronize()
            return float(first.elapsed_time(second))

        return self._sample(once, "CUDA events around one call")

    def stream(self, device: Any, stream: int, call: Callable[[], object]) -> dict[str, Any]:
        """`call` queues work on a stream of `ntre_deploy.runtime.cuda`, on its device's context."""
        with device.active():
            first, second = device.make_event(), device.make_event()

        def once() -> float:
            with device.active():
                device.record(first, stream)
                call()
                device.record(second, stream)
                device.wait(stream)
                return float(device.elapsed(first, second))

        return self._sample(once, "CUDA events around one call")

    def wall(self, call: Callable[[], object]) -> dict[str, Any]:
        """`call` returns when its work is done."""

        def once() -> float:
            began = time.perf_counter_ns()
            call()
            return (time.perf_counter_ns() - began) / 1e6

        return self._sample(once, "wall clock of a call that waits")

    def _sample(self, once: Callable[[], float], how: str) -> dict[str, Any]:
        warm_up(once, seconds=min(0.2, self.seconds), least=3)
        values, end = list[float](), time.perf_counter() + self.seconds
        while len(values) < LEAST_SAMPLES or time.perf_counter() < end:
            values.append(once())
            if time.perf_counter() > end + _PATIENCE:  # too slow for the least number
                break
        return {"how": how} | summarise(values)
