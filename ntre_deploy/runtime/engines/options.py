"""How an engine is opened; what an engine does not know, it leaves."""

from dataclasses import dataclass
from pathlib import Path

from ntre_deploy.errors import InputError, one_of

HINTS = ("latency", "throughput")


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is opened.

    Attributes:
        threads: CPU threads; None leaves it to the engine.
        hint: `latency` gives all threads to one image; `throughput` runs several clones side by side (OpenVINO).
        cache: folder for compiled graphs, so that the next load is faster (OpenVINO, TensorRT for RTX); None keeps
            none.  Nothing but the self-test checks what lies in it, so it must be a folder that only its user can
            write.
        device_images: scale images and make label maps on the GPU (of engines that run there), rather than on the CPU.
            Inputs are those of the CPU within a grey level.  Not measured on a GPU yet, so it has to be asked for.
        device: which GPU, as CUDA numbers those that this process sees (CUDA_VISIBLE_DEVICES, MIG).

    Raises:
        InputError: a value outside its range.
    """

    threads: int | None = None
    hint: str = "latency"
    cache: Path | None = None
    device_images: bool = False
    device: int = 0

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise InputError(f"{self.threads} threads were asked for; at least 1 is needed.")
        if self.device < 0:
            raise InputError(f"GPU {self.device} was asked for; they are numbered from 0.")
        one_of(self.hint, HINTS, "Hint")
