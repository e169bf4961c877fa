"""One stage of the GPU script: `stages.py STAGE RESULT`."""

import argparse
import importlib.metadata
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from networks import FP16, FP32, Inputs, Networks, Run, cases
from timing import Clock

REPOSITORY = Path(__file__).parents[2]
_PACKAGES = ("torch", "triton", "onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt-rtx", "cuda-bindings", "pycuda")


class Stage:
    """Options of the script, and the figures so far, which are written after each of them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device: str = options.device
        self.quick: bool = options.quick
        self.work: Path = options.work
        self.prepared: Path | None = options.prepared
        self.clock = Clock(options.device, 0.02 if options.quick else 1.0)
        self._path: Path = options.result
        self.figures: dict[str, Any] = {}

    def tell(self, name: str, value: Any) -> None:
        """Note a figure."""
        self.figures[name] = value
        self._path.write_text(json.dumps(self.figures, indent=2, default=str))
        print(name, value, flush=True)

    @contextmanager
    def trying(self, name: str) -> Iterator[None]:
        """What fails in here is a figure that is missing, with its reason."""
        try:
            yield
        except Exception as error:
            self.tell(name, {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"})


def machine(stage: Stage, _: str) -> None:
    """What the machine is, and its own ceilings: copies and matrix products."""
    import torch

    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    stage.tell("versions", found)
    stage.tell("tf32", {"matmul": torch.backends.cuda.matmul.allow_tf32, "cudnn": torch.backends.cudnn.allow_tf32})
    if stage.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        capability = f"{properties.major}.{properties.minor}"
        stage.tell("gpu", {"name": properties.name, "sm": capability, "cuda": torch.version.cuda})
    size, side = (1 << 20, 256) if stage.quick else (1 << 28, 8192)
    host = torch.empty(size, dtype=torch.uint8, pin_memory=stage.device == "cuda")
    there, other = (torch.empty(size, dtype=torch.uint8, device=stage.device) for _ in range(2))
    copies: dict[str, Callable[[], object]] = {
        "host_to_device": lambda: there.copy_(host, non_blocking=True),
        "device_to_host": lambda: host.copy_(there, non_blocking=True),
        "device_to_device": lambda: other.copy_(there),
    }
    for name, copy in copies.items():
        stage.tell(f"{name}_gb_per_s", size / 1e6 / stage.clock.torch(copy)["p50"])
    for kind in (torch.float16, torch.bfloat16, torch.float32):
        a, b = (torch.randn(side, side, device=stage.device).to(kind) for _ in range(2))
        spent = stage.clock.torch(lambda a=a, b=b: a @ b)["p50"]  # type: ignore[misc]
        stage.tell(f"matmul_{str(kind).removeprefix('torch.')}_tflop_per_s", 2 * side**3 / spent / 1e9)


def tests(stage: Stage, _: str) -> None:
    """The tests marked `gpu`; the folders by name, as others may need packages that are not here."""
    folders = ["tests/kernels", "tests/runtime/test_gpu.py"]
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *folders]
    _call(stage, "tests", command)
    # CUDA's own checker of memory accesses ends with 9 where it finds one
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        stage.tell("tests under compute-sanitizer", {"not run": "compute-sanitizer is not on PATH"})
    else:
        watched = [sanitizer, "--tool", "memcheck", "--error-exitcode", "9", *command[:-1]]
        _call(stage, "tests under compute-sanitizer", watched)


def kernels(stage: Stage, _: str) -> None:
    """Each kernel beside what PyTorch does by itself, by the benchmark of its own."""
    out = stage.work / "kernels_compared.json"
    _call(stage, "kernels", [sys.executable, "-P", str(REPOSITORY / "benchmarks" / "kernels"), "--out", str(out)])
    if out.is_file():
        stage.tell("compared", json.loads(out.read_text()))


def _call(stage: Stage, name: str, command: list[str]) -> None:
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    print(done.stdout[-4000:], done.stderr[-1000:])
    last = ((done.stdout or done.stderr).strip().splitlines() or [""])[-1]
    stage.tell(name, {"exit_code": done.returncode, "summary": last})


def whole(stage: Stage, backbone: str) -> None:
    """A 1920 x 1080 image in host memory to its label map in host memory, around the query graph in PyTorch.

    Once with pre- and post-processing on the CPU, and on a GPU once more with the kernels, on PyTorch's stream.
    """
    import torch

    from ntre_deploy.model.config import input_spec
    from ntre_deploy.runtime.labels import label_map
    from ntre_deploy.runtime.letterbox import prepare_image

    networks = Networks(stage.quick, backbone, stage.device)
    mode = FP16 if stage.device == "cuda" else FP32
    graph, supports = networks.photo_query(mode)
    image, spec = _photo(), input_spec(networks.model.config, networks.size)

    def on_host() -> Any:
        pixels, box = prepare_image(image, spec)
        with torch.inference_mode():
            logits = graph(torch.from_numpy(pixels)[None].to(stage.device), *supports)[0].float().cpu().numpy()
        return label_map(logits, box)

    stage.tell(f"pytorch {mode.precision} end to end 1920 x 1080", stage.clock.wall(on_host))
    if stage.device != "cuda":
        return
    label = f"pytorch {mode.precision} end to end 1920 x 1080, images on the device"
    with stage.trying(label):
        on_device = _with_kernels(graph, supports, image, spec)
        figures = stage.clock.wall(on_device)
        stage.tell(label, figures | {"equal_pixels": float((on_device() == on_host()).mean())})


def _with_kernels(graph: Any, supports: tuple[Any, ...], image: Any, spec: Any) -> Callable[[], Any]:
    """Pre- and post-processing by the kernels around a graph of PyTorch, all on its stream."""
    import torch

    from ntre_deploy.kernels.launch import Kernels
    from ntre_deploy.runtime.cuda import open_device
    from ntre_deploy.runtime.letterbox import Letterbox

    device = open_device()
    with device.active():
        launcher = Kernels(device, device.compute_capability)
    box = Letterbox.fit(*image.shape[:2], spec.size)
    staging = torch.empty(image.shape, dtype=torch.uint8, pin_memory=True)
    source = torch.empty(image.shape, dtype=torch.uint8, device="cuda")
    pixels = torch.empty(1, 3, spec.size, spec.size, device="cuda")
    labels = torch.empty(image.shape[:2], dtype=torch.uint8, device="cuda")
    back = torch.empty(image.shape[:2], dtype=torch.uint8, pin_memory=True)

    def call() -> Any:
        stream = torch.cuda.current_stream().cuda_stream
        staging.copy_(torch.from_numpy(image))
        with torch.inference_mode(), device.active():
            source.copy_(staging, non_blocking=True)
            launcher.prepare(source.data_ptr(), 3 * box.width, box, spec, pixels.data_ptr(), half=False, stream=stream)
            logits = graph(pixels, *supports)[0].float().contiguous()
            size = (logits.shape[0], *logits.shape[2:])
            launcher.label_map(logits.data_ptr(), size, box, labels.data_ptr(), half=False, stream=stream)
            back.copy_(labels, non_blocking=True)
        torch.cuda.current_stream().synchronize()
        return back.numpy().copy()

    return call


def export(stage: Stage, backbone: str) -> None:
    """The bundle that the other stages measure, with the plans that can be built here."""
    _export(stage, Networks(stage.quick, backbone, stage.device).checkpoint(stage.work), f"{backbone}.ntre")


def _export(stage: Stage, checkpoint: Path, out: str) -> Path:
    """Export in fp16 with as many plans as come out; one that fails does not cost the others."""
    from ntre_deploy.export.bundle import ExportOptions, export_bundle

    plans = _plans(stage)
    if stage.prepared is not None and (stage.prepared / out).is_dir():
        return _build(stage, stage.prepared / out, stage.work / out, plans)
    for engines in dict.fromkeys([("onnx", *plans), *(("onnx", plan) for plan in plans), ("onnx",)]):
        name = "export with " + " and ".join(engines)
        with stage.trying(name):
            options = ExportOptions(("fp16",), engines=engines, replace=True)
            manifest = export_bundle(checkpoint, stage.work / out, options, print)
            stage.tell(name, {"verification": manifest.verification, "files": [f.name for f in manifest.files]})
            return stage.work / out
    raise RuntimeError("nothing could be exported")


def _build(stage: Stage, prepared: Path, out: Path, plans: list[str]) -> Path:
    """A copy of a bundle, with the plans that can be built of its own graphs."""
    from ntre_deploy.plans.addition import add_plans
    from ntre_deploy.plans.options import TensorRtOptions

    shutil.copytree(prepared, out, dirs_exist_ok=True)
    stage.tell("taken from", str(prepared))
    for engine in plans:
        with stage.trying(f"build {engine}"):
            added = add_plans(out, engine, "fp16", TensorRtOptions(), print)
            stage.tell(f"build {engine}", {"files": [entry.name for entry in added.plans], "parity": added.parity})
    return out


def _plans(stage: Stage) -> list[str]:
    """The engines whose plans can be built for this GPU and run here."""
    from ntre_deploy.errors import NtreError
    from ntre_deploy.plans.options import TensorRtOptions, targets
    from ntre_deploy.runtime.engines import available_engines
    from ntre_deploy.runtime.engines.tensorrt import ENGINES

    reasons = available_engines()
    for engine in ENGINES:
        if reasons[engine] is None:
            try:
                targets(engine, "fp16", TensorRtOptions())
            except NtreError as error:
                reasons[engine] = str(error)
    stage.tell("engines", reasons)
    return [engine for engine in ENGINES if reasons[engine] is None]


def engines(stage: Stage, backbone: str) -> None:
    """Engines of the bundle: device time, end to end, and parity with PyTorch in fp32."""
    from ntre_deploy.runtime.bundle import Bundle
    from ntre_deploy.runtime.engines import available_engines, engine_precisions
    from ntre_deploy.runtime.engines.tensorrt import ENGINES
    from ntre_deploy.runtime.segmenter import Segmenter

    path = stage.work / f"{backbone}.ntre"
    bundle = Bundle.open(path)
    networks = Networks(stage.quick, backbone, stage.device)
    for name, reason in available_engines().items():
        held = engine_precisions(bundle, name)
        # the CPU's engines are no question to a GPU
        if not held or (stage.device == "cuda" and name in ("onnx-cpu", "openvino")):
            continue
        if reason:
            stage.tell(name, {"not run": reason})
            continue
        with stage.trying(name):
            segmenter = Segmenter.load(path, name, precision=held[0])
            for case in cases(stage.quick):
                label = f"{name} {held[0]} {case}"
                with stage.trying(label):
                    stage.tell(label, _query(stage, networks, segmenter.engine, networks.inputs(bundle, case)))
            memory = _whole(stage, name, segmenter)
            if name in ENGINES:
                _whole_on_device(stage, name, path, segmenter, memory)


def _query(stage: Stage, networks: Networks, engine: Any, given: Inputs) -> dict[str, Any]:
    """Device time of a query whose inputs lie on the device where the engine can read them there."""
    from ntre_deploy.runtime.engines import keep_supports
    from ntre_deploy.runtime.engines.tensorrt import TensorRtEngine
    from ntre_deploy.runtime.segmenter import logits_error

    supports = keep_supports(engine, given.supports)
    if isinstance(engine, TensorRtEngine):
        lane, shared = engine._lane, engine._shared
        assert lane is not None
        assert shared is not None
        with shared.device.active():
            plan = shared.plans["query"]
            inputs = {"image": shared.upload(given.image, plan.dtypes["image"], lane), **supports._asdict()}
        figures = stage.clock.stream(shared.device, lane.stream, lambda: lane.run_on_device(plan, inputs, wait=False))
    else:
        figures = stage.clock.wall(lambda: engine.query(given.image, supports))
    got = engine.query(given.image, supports)
    return figures | {"logits_error": logits_error(got, networks.reference(given))}


def _photo() -> Any:
    """uint8 RGB [1080, 1920, 3]; smooth, because noise is another image after half a grey level."""
    across, down = np.meshgrid(np.linspace(0, 9, 1920), np.linspace(0, 6, 1080))
    waves = np.stack([np.sin(across + down), np.cos(across - down), np.sin(2 * down)], axis=-1)
    return (127 * (1 + waves)).astype(np.uint8)


def _whole(stage: Stage, name: str, segmenter: Any) -> Any:
    """A 1920 x 1080 image in host memory to its label map in host memory; gives the support that it was done with."""
    image, mask = _photo(), np.zeros((1080, 1920), np.uint8)
    mask[300:800, 500:1400] = 1
    memory = segmenter.encode_support([(image, mask)])
    stage.tell(f"{name} end to end 1920 x 1080", stage.clock.wall(lambda: segmenter.segment(image, memory)))
    stage.tell(f"{name} support", stage.clock.wall(lambda: segmenter.encode_support([(image, mask)])))
    stage.tell(f"{name} without a graph", getattr(segmenter.engine, "graph_note", ""))
    return memory


def _whole_on_device(stage: Stage, name: str, bundle: Path, host: Any, memory: Any) -> None:
    """As `_whole`, with pre- and post-processing by the kernels, and the share of pixels with the host's label."""
    from ntre_deploy.runtime.segmenter import Segmenter

    image = _photo()
    label = f"{name} end to end 1920 x 1080, images on the device"
    with stage.trying(label):
        device = Segmenter.load(bundle, name, device_images=True)
        figures = stage.clock.wall(lambda: device.segment(image, memory))
        equal = float((device.segment(image, memory) == host.segment(image, memory)).mean())
        stage.tell(label, figures | {"equal_pixels": equal})


def torch_eager(stage: Stage, backbone: str) -> None:
    """PyTorch eager, full network and cached query graph: fp32 without and with TF32, fp16, bf16."""
    networks = Networks(stage.quick, backbone, stage.device)
    for run in networks.eager():
        _measure(stage, run)


def compiled(stage: Stage, backbone: str, how: str, *, full: bool) -> None:
    """torch.compile with CUDA graphs."""
    networks = Networks(stage.quick, backbone, stage.device)
    for run in networks.compiled(how, full=full):
        _measure(stage, run)


def inductor(stage: Stage, backbone: str) -> None:
    """The cached query graph packaged ahead of time by AOTInductor."""
    _measure(stage, Networks(stage.quick, backbone, stage.device).packaged(stage.work))


def _measure(stage: Stage, run: Run) -> None:
    """Time, and how far the logits are from fp32: max |a - b| / max |b|, and the share of equal places."""
    with stage.trying(run.label):
        with run.mode.chosen():
            figures = stage.clock.torch(run.call)
            got = run.call().float().clone()  # a CUDA graph writes over its results
        wanted = run.reference().float()
        error = (got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-6)
        same = (got.argmax(-3) == wanted.argmax(-3)).float().mean()
        stage.tell(run.label, figures | {"logits_error": float(error), "equal_places": float(same)})


def demo(stage: Stage, _: str) -> None:
    """mIoU and masks of the demo model: the same files on every engine here, and on PyTorch in fp32."""
    from ntre_deploy.bench.session import Plan
    from ntre_deploy.cli.bench import run
    from ntre_deploy.cli.demo import SCENES
    from ntre_deploy.cli.episodes import Draw
    from ntre_deploy.model.registry import asset_file

    checkpoint = asset_file("demo")
    bundle = _export(stage, checkpoint, "demo.ntre")
    draw = Draw(SCENES, shots=1, count=2 if stage.quick else 96, seed=0, quiet=True)
    much = Plan(seconds=0, samples=1, threads=8, workers=0, memory=False, pictures=0)
    report = run([bundle], [checkpoint], draw, much, as_json=True)
    for system in report["systems"]:
        stage.tell(f"{system['name']} {system['precision']}", {k: system[k] for k in ("accuracy", "parity")})
    stage.tell("not run", report["skipped"])


_STAGES: dict[str, Callable[[Stage, str], None]] = {
    "machine": machine,
    "tests": tests,
    "export": export,
    "engines": engines,
    "torch": torch_eager,
    "kernels": kernels,
    "whole": whole,
    "compile-cached": lambda stage, backbone: compiled(stage, backbone, "reduce-overhead", full=False),
    "compile-full": lambda stage, backbone: compiled(stage, backbone, "reduce-overhead", full=True),
    "autotune-cached": lambda stage, backbone: compiled(stage, backbone, "max-autotune", full=False),
    "inductor": inductor,
    "demo": demo,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage")
    parser.add_argument("result", type=Path)
    parser.add_argument("--work", type=Path, default=Path())
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--prepared", type=Path)
    options = parser.parse_args()
    kind, _, backbone = options.stage.partition(":")
    _STAGES[kind](Stage(options), backbone)


if __name__ == "__main__":
    main()
