"""What Triton's Python backend runs: one engine of a bundle behind `execute`, for requests one by one or in batches."""

import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ntre_deploy.errors import EngineError, InputError, NtreError
from ntre_deploy.runtime.cpu import usable_cores
from ntre_deploy.runtime.results.result import Result
from ntre_deploy.runtime.support import SupportMemory
from ntre_deploy.serving.limits import Limits, MissingError
from ntre_deploy.serving.memories import SUFFIX
from ntre_deploy.serving.service import Service
from ntre_deploy.serving.triton.guard import Guard
from ntre_deploy.serving.triton.tensors import Item, items, outputs

# in the folder of a version
BUNDLE, MEMORIES, TRUSTED = "bundle.ntre", "memories", "trusted"
# Triton's queue is the one that is bounded in length and time
_LIMITS = Limits(seconds=3600.0, waiting=1 << 16)


class TritonPythonModel:
    """An instance of the model; Triton makes one in each process of the backend.

    `initialize`, `execute` and `finalize` are Triton's; see its manual of the Python backend.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Open the bundle of the version's folder, and start the guard of this process.

        Args:
            args: `model_config` (JSON), `model_repository` (the model's folder), `model_version` and more.

        Raises:
            TritonModelException: the bundle or its engine cannot be used, in one line.
        """
        # only there inside the server's process
        import triton_python_backend_utils as triton

        self._triton = triton
        folder = Path(args["model_repository"]) / args["model_version"]
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        try:
            check_arrays(triton)
            self._service = _open(folder, config, parameters, args)
        except NtreError as error:
            raise triton.TritonModelException(str(error)) from None
        server = parameters.get("server", "")
        self._guard = Guard.start(args["model_name"], server, folder / "model.py", os.getppid())

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests: those with equal supports go through the engine together, and each has its own errors."""
        answers: list[Any] = [None] * len(requests)
        asked: dict[int, list[Item]] = {}
        for number, request in enumerate(requests):
            try:
                if request.is_cancelled():
                    answers[number] = self._refused("The client has gone.", self._triton.TritonError.CANCELLED)
                else:
                    asked[number] = items({tensor.name(): tensor.as_numpy() for tensor in request.inputs()})
            except Exception as error:
                answers[number] = self._failed(error)
        found = self._segment(asked)
        for number, results in found.items():
            answers[number] = self._answer(requests[number], results)
        return answers

    def finalize(self) -> None:
        """End the instance."""
        self._guard.dismiss()
        self._service.close()

    def _segment(self, asked: dict[int, list[Item]]) -> dict[int, "list[Result | Exception]"]:
        """For each request what was found in its images, or what was wrong."""
        found: dict[int, list[Any]] = {number: [None] * len(some) for number, some in asked.items()}
        together: dict[Any, list[tuple[int, int]]] = {}
        for number, some in asked.items():
            for place, item in enumerate(some):
                together.setdefault(item.key, []).append((number, place))
        for members in together.values():
            same = [asked[number][place] for number, place in members]
            try:
                results = self._service.segment_many([item.image for item in same], same[0].supports)
            except Exception as error:
                results = [error] * len(same)
            for (number, place), result in zip(members, results, strict=True):
                found[number][place] = result
        return found

    def _answer(self, request: Any, results: "list[Result | Exception]") -> Any:
        for number, result in enumerate(results, start=1):
            if isinstance(result, Exception):
                return self._failed(result, f"Image {number}: " if len(results) > 1 else "")
        try:
            arrays = outputs([result for result in results if isinstance(result, Result)])
        except Exception as error:
            return self._failed(error)
        wanted = set(request.requested_output_names())
        tensors = [self._triton.Tensor(name, array) for name, array in arrays.items() if name in wanted]
        return self._triton.InferenceResponse(output_tensors=tensors)

    def _failed(self, error: Exception, where: str = "") -> Any:
        codes = self._triton.TritonError
        if isinstance(error, MissingError):
            return self._refused(f"{where}{error}", codes.NOT_FOUND)
        if isinstance(error, InputError):
            return self._refused(f"{where}{error}", codes.INVALID_ARG)
        if isinstance(error, NtreError) and not isinstance(error, EngineError):
            return self._refused(f"{where}{error}", codes.UNAVAILABLE)
        if not isinstance(error, EngineError):
            traceback.print_exception(error, file=sys.stderr)
            return self._refused(f"{where}internal error: {type(error).__name__}: {error}", codes.INTERNAL)
        return self._refused(f"{where}{error}", codes.INTERNAL)

    def _refused(self, message: str, code: int) -> Any:
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
        return self._triton.InferenceResponse(output_tensors=[], error=self._triton.TritonError(line, code))


def check_arrays(triton: Any) -> None:
    """See that the backend reads NumPy's arrays as they are: one built for NumPy 1 reads those of NumPy 2 wrongly.

    Raises:
        EngineError: it does not.
    """
    wanted = np.arange(6, dtype=np.float32).reshape(2, 3)
    try:
        got = triton.Tensor("check", wanted).as_numpy()
        view = triton.Tensor.from_dlpack("check", triton.Tensor("check", wanted).to_dlpack()).as_numpy()
        right = np.array_equal(got, wanted) and np.array_equal(view, wanted) and view.strides == wanted.strides
    except Exception:
        right = False
    if not right:
        raise EngineError(
            f"This Triton's Python backend cannot read arrays of NumPy {np.__version__}; install 'numpy<2' in its "
            "environment, or take Triton 2.53 (24.12) or newer."
        )


def _open(folder: Path, config: dict[str, Any], parameters: dict[str, str], args: dict[str, str]) -> Service:
    on_gpu = args["model_instance_kind"] == "GPU"
    instances = sum(group["count"] for group in config["instance_group"])
    threads = int(parameters["threads"]) if "threads" in parameters else max(1, usable_cores() // instances)
    keys = sorted((folder / TRUSTED).glob("*.pem"))
    if (folder / TRUSTED).is_dir() and not keys:
        raise InputError(f"{folder / TRUSTED} holds no key, so nothing is trusted; write the model again.")
    memories = folder / MEMORIES
    writable = os.access(memories if memories.is_dir() else folder, os.W_OK)
    service = Service.open(
        folder / BUNDLE,
        name=args["model_name"],
        engine=parameters.get("engine", "auto"),
        precision=parameters.get("precision"),
        workers=1,
        threads=threads,
        device=int(args["model_instance_device_id"]) if on_gpu else 0,
        memories=memories if writable else None,
        limits=_LIMITS,
        trusted=keys or None,
    )
    # a repository that is mounted for reading alone cannot be a store, and does not change
    if not writable and memories.is_dir():
        for path in sorted(memories.glob(f"*{SUFFIX}")):
            service.memories.put(path.stem, SupportMemory.load(path))
    return service
