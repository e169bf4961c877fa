"""OpenVINO entries of a bundle: no files of their own, but proof of what OpenVINO makes of the bundle's ONNX files.

OpenVINO reads ONNX as fast as it matters (0.4 s for 166 MB, where its own format takes 0.1 s and each file's SHA-256
as long), so a second copy of the weights in its format would only double the bundle.
"""

from ntre_deploy.errors import EngineError
from ntre_deploy.runtime.cpu import cpu_name, native_bf16
from ntre_deploy.runtime.engines import openvino
from ntre_deploy.runtime.engines.openvino import OpenVinoEngine
from ntre_deploy.runtime.manifest import EngineEntry

# precision of the engine -> that of the ONNX files it reads
READS = {"fp32": "fp32", "bf16": "fp32", "int8": "int8"}


def check_available(precisions: tuple[str, ...]) -> None:
    """See that OpenVINO can build and verify these precisions here.

    Raises:
        EngineError: it cannot.
    """
    if reason := openvino.unavailable():
        raise EngineError(f"Engine {openvino.NAME} cannot run here: {reason}; `ntre doctor` tells more.")
    for precision in precisions:
        if reason := openvino.lacks(precision):
            raise EngineError(
                f"{openvino.NAME} in {precision} cannot be verified here: {reason}; export fp32 here, "
                f"or {precision} on a machine that has them."
            )


def describe(engine: OpenVinoEngine, files: dict[str, str]) -> EngineEntry:
    """The manifest's entry of an engine that was built from the files of those names (`support`, `query`)."""
    import openvino as library

    kernels = engine.kernels()
    found = {role: openvino.found_precision(types) for role, types in kernels.items()}
    return EngineEntry(
        engine=engine.name,
        precision_asked=engine.precision,
        precision_found=found["query"],
        support=files["support"],
        query=files["query"],
        details={
            "version": library.get_version(),
            "processor": cpu_name(),
            "native_bf16": native_bf16(),
            "support_found": found["support"],
            "not_quantised": engine.rest,
            "kernels": kernels,
        },
    )
