"""Several processes as one: started by torchrun, joined by PyTorch's own collectives."""

import os
from dataclasses import dataclass, field
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

from ntre_deploy.errors import InputError


@dataclass(frozen=True)
class Processes:
    """This process among `count`; one process alone needs no initialisation."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def join(cls) -> "Processes":
        """Join the processes that torchrun started, or stand alone; takes a GPU for each process where there are some.

        Raises:
            InputError: more processes on this machine than GPUs.
        """
        local = int(os.environ.get("LOCAL_RANK", "0"))
        gpus = torch.cuda.device_count()
        if gpus and local >= gpus:
            raise InputError(f"torchrun started {local + 1} processes or more on a machine with {gpus} GPUs.")
        device = torch.device("cuda", local) if gpus else torch.device("cpu")
        if "WORLD_SIZE" not in os.environ:
            return cls(device=device)
        if gpus:
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            # the first process validates while the others wait, which may take longer than the default of ten minutes
            dist.init_process_group("nccl" if gpus else "gloo", timeout=timedelta(hours=2))
        return cls(dist.get_rank(), dist.get_world_size(), device)

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def share(self, count: Tensor) -> Tensor:
        """The mean of a count [] over the processes; see `ntre_deploy.model.losses.target_loss`."""
        if self.count == 1:
            return count
        total = count.detach().clone().to(torch.float64)
        dist.all_reduce(total)
        return total / self.count

    def gather(self, tensor: Tensor) -> Tensor:
        """[b, ...] of all processes in the order of their ranks, [B, ...]."""
        if self.count == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.count)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def mean(self, value: float) -> float:
        """The mean of a number over the processes."""
        if self.count == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return float(total) / self.count

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            dist.barrier()

    def leave(self) -> None:
        """Leave the group that `join` joined."""
        if self.count > 1:
            dist.destroy_process_group()
