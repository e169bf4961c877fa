"""OpenVINO: the same masks as ONNX Runtime, in the precision that was asked for, for several threads at once."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from ntre_deploy.data.procedural import ProceduralDataset
from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.runtime import cpu
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.engines import open_engine, openvino, precision_unavailable
from ntre_deploy.runtime.engines.openvino import OpenVinoEngine
from ntre_deploy.runtime.engines.options import EngineOptions
from ntre_deploy.runtime.manifest import MANIFEST
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.stacked import stack
from ntre_deploy.runtime.support import SupportMemory

pytestmark = [
    pytest.mark.openvino,
    pytest.mark.skipif(openvino.unavailable() is not None, reason=openvino.unavailable() or ""),
]
needs_bf16 = pytest.mark.skipif(not cpu.native_bf16(), reason="this processor has no bf16 instructions")

Shot = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model for OpenVINO, in fp32 and in bf16 where this machine has it."""
    from ntre_deploy.export.bundle import ExportOptions, export_bundle

    out = tmp_path_factory.mktemp("demo") / "demo.ntre"
    checkpoint = Path(str(files("ntre_deploy") / "assets" / "demo.safetensors"))
    precisions = ("fp32", "bf16") if cpu.native_bf16() else ("fp32",)
    export_bundle(checkpoint, out, ExportOptions(precisions=precisions, engines=("openvino",)))
    return out


def episodes(count: int) -> list[tuple[list[Shot], np.ndarray]]:
    """Rendered scenes of each class in turn: one support, and another scene of that class as the query."""
    scenes = ProceduralDataset(99)
    found = []
    for class_id in list(scenes.class_names)[:count]:
        support, query = scenes.images(class_id)[:2]
        found.append(([(scenes.image(support), scenes.mask(support, class_id))], scenes.image(query)))
    return found


def agreement(segmenter: Segmenter, reference: Segmenter, count: int) -> tuple[float, float]:
    """Mean share of equal pixels over episodes, and the largest difference of logits relative to the largest logit."""
    equal, error = [], 0.0
    for shots, query in episodes(count):
        ours, theirs = (s.encode_episode(shots) for s in (segmenter, reference))
        equal.append(float((segmenter.segment(query, ours) == reference.segment(query, theirs)).mean()))
        a, b = segmenter.logits(query, ours)[0], reference.logits(query, theirs)[0]
        error = max(error, float(np.abs(a - b).max() / np.abs(b).max()))
    return float(np.mean(equal)), error


# --- what it computes


@pytest.mark.slow
def test_fp32_gives_the_masks_and_logits_of_onnx_runtime(demo: Path) -> None:
    equal, error = agreement(Segmenter.load(demo, "openvino", precision="fp32"), Segmenter.load(demo, "onnx-cpu"), 8)
    assert equal >= 0.9999
    assert error < 1e-3


@needs_bf16
@pytest.mark.slow
def test_bf16_gives_nearly_the_masks_of_fp32_and_really_is_bf16(demo: Path) -> None:
    segmenter = Segmenter.load(demo, "openvino", precision="bf16")
    equal, error = agreement(segmenter, Segmenter.load(demo, "onnx-cpu"), 12)
    assert equal >= 0.995
    assert 1e-4 < error < 0.2, "no difference at all would be fp32"


@pytest.mark.parametrize(("b", "n", "k", "m"), [(1, 1, 1, 64), (2, 3, 2, 7), (1, 5, 4, 128), (3, 1, 1, 1)])
def test_every_batch_and_number_of_classes_shots_and_keys_runs(demo: Path, b: int, n: int, k: int, m: int) -> None:
    bundle = Bundle.open(demo)
    model, rng = bundle.manifest.model, np.random.default_rng(b * n * k * m)
    side = bundle.manifest.input.size
    image = rng.standard_normal((b, 3, side, side)).astype(np.float32)
    prototypes = rng.standard_normal((n, model.prototype_channels)).astype(np.float32)
    keys = np.abs(rng.standard_normal((n, k, model.key_channels, m))).astype(np.float32)
    keys /= np.linalg.norm(keys, axis=2, keepdims=True)
    given = stack(prototypes, keys)
    ours = open_engine(bundle, "openvino", "fp32").engine.query(image, given)
    theirs = open_engine(bundle, "onnx-cpu", "fp32").engine.query(image, given)
    assert ours.shape == theirs.shape == (b, n, 2, *model.feature_size)
    assert np.abs(ours - theirs).max() <= 1e-3 * np.abs(theirs).max()


def test_read_only_and_strided_inputs_are_read_rightly_and_results_are_the_callers_own(demo: Path) -> None:
    bundle = Bundle.open(demo)
    engine, side = open_engine(bundle, "openvino", "fp32").engine, bundle.manifest.input.size
    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, 3, side, side)).astype(np.float32)
    mask = np.ones((1, 1, side, side), np.float32)
    prototype, keys = (a.copy() for a in engine.support(image, mask))
    strided = np.repeat(image, 2, axis=3)[..., ::2]
    assert not strided.flags["C_CONTIGUOUS"]
    image.flags.writeable = False
    kept = engine.support(image, mask)
    engine.support(np.zeros_like(image), mask)  # would write over results that are only views
    for given in (kept, engine.support(strided, mask)):
        np.testing.assert_array_equal(given[0], prototype)
        np.testing.assert_array_equal(given[1], keys)


def test_clones_in_threads_give_the_same_masks(demo: Path) -> None:
    segmenter = Segmenter.load(demo, "openvino", precision="fp32", threads=1, hint="throughput")
    drawn = episodes(3)
    memories: list[SupportMemory] = [segmenter.encode_episode(shots, str(i)) for i, (shots, _) in enumerate(drawn)]
    # one class and three: the second is compiled by whichever thread comes first
    chosen = [memories[:1], memories]
    wanted = [segmenter.segment(query, memory) for _, query in drawn for memory in chosen]

    def work(clone: Segmenter) -> list[np.ndarray]:
        return [clone.segment(query, memory) for _, query in drawn for memory in chosen]

    clones = [segmenter.clone() for _ in range(2)]
    assert clones[0].engine is not segmenter.engine
    with ThreadPoolExecutor(2) as pool:
        for got in pool.map(work, clones):
            for a, b in zip(got, wanted, strict=True):
                np.testing.assert_array_equal(a, b)


def test_only_the_latest_shapes_are_kept(demo: Path) -> None:
    bundle = Bundle.open(demo)
    entry = bundle.built("openvino", "fp32")
    assert entry is not None
    graph = openvino._Graph(bundle.read(bundle.file(entry.query)), "fp32", EngineOptions())
    first = graph.compiled((1, 1))
    for classes in (2, 3, 4):
        graph.compiled((1, classes))
    assert graph.compiled((1, 1)) is first
    graph.compiled((1, 5))
    assert list(graph._compiled) == [(1, 3), (1, 4), (1, 1), (1, 5)]


# --- the precision


def test_the_precision_that_runs_is_the_one_asked_for(demo: Path) -> None:
    for precision in Bundle.open(demo).precisions("openvino"):
        engine = open_engine(Bundle.open(demo), "openvino", precision).engine
        assert isinstance(engine, OpenVinoEngine)
        assert engine.precision == precision
        for types in engine.kernels().values():
            assert openvino.found_precision(types) == precision
            assert sum(types["Convolution"].values()) > 20


@needs_bf16
def test_a_graph_that_runs_in_another_precision_is_an_engine_error(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # what OpenVINO does by itself where nobody names a precision
    monkeypatch.setitem(openvino._HINTS, "fp32", "bf16")
    with pytest.raises(EngineError, match="asked for fp32 and runs the graph in bf16") as caught:
        open_engine(Bundle.open(demo), "openvino", "fp32")
    assert caught.value.exit_code == 3


@needs_bf16
def test_bf16_without_bf16_instructions_is_refused_by_name_and_passed_over_by_auto(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(demo)
    assert open_engine(bundle, "auto").reason.startswith("openvino bf16")
    monkeypatch.setattr(cpu, "cpu_flags", lambda: frozenset({"avx2", "avx512f"}))
    with pytest.raises(EngineError, match="no bf16 instructions") as caught:
        open_engine(bundle, "openvino", "bf16")
    assert caught.value.exit_code == 3
    choice = open_engine(bundle, "auto")
    assert (choice.engine.name, choice.engine.precision) == ("openvino", "fp32")
    assert "openvino bf16: this processor has no bf16 instructions" in choice.reason
    assert precision_unavailable("openvino", "bf16") is not None
    assert precision_unavailable("openvino", "fp32") is None


@pytest.mark.parametrize(
    ("types", "found"),
    [
        ({"Convolution": {"brgconv_avx512_bf16": 3}}, "bf16"),
        ({"Convolution": {"brgconv_avx512_f32": 3, "jit_avx2_f32": 1}}, "fp32"),
        ({"Convolution": {"brgconv_avx512_u8": 1, "brgconv_avx512_bf16": 70}}, "int8"),
        ({"Convolution": {"brgconv_avx512_bf16": 3, "brgconv_avx512_f32": 1}}, "bf16 and fp32"),
        ({"MatMul": {"brgemm_avx512_bf16": 3}}, "unknown"),
    ],
)
def test_the_found_precision_is_that_of_all_convolutions(types: dict[str, dict[str, int]], found: str) -> None:
    assert openvino.found_precision(types) == found


# --- what is refused


def test_a_bundle_that_was_not_exported_for_openvino_is_refused(exported: Path) -> None:
    with pytest.raises(InputError, match="not fp32"):
        open_engine(Bundle.open(exported), "openvino", "fp32")
    with pytest.raises(EngineError, match="the bundle holds no openvino files"):
        open_engine(Bundle.open(exported), "openvino")


@pytest.mark.parametrize(("given", "close"), [("openvio", "openvino"), ("openvino-npu", "openvino")])
def test_an_unknown_device_is_refused_with_the_closest_name(demo: Path, given: str, close: str) -> None:
    with pytest.raises(InputError, match=f"Engine '{given}' is unknown.*Did you mean '{close}'"):
        Segmenter.load(demo, given)


def test_an_unknown_hint_is_refused(demo: Path) -> None:
    with pytest.raises(InputError, match=r"Hint 'troughput' is unknown.*Did you mean 'throughput'"):
        Segmenter.load(demo, hint="troughput")


@pytest.mark.parametrize("content", [b"", b"not onnx at all"])
def test_garbage_in_place_of_a_graph_is_one_line(content: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EngineError, match="cannot load the graph") as caught:
        OpenVinoEngine("fp32", content, content)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_inputs_that_do_not_fit_are_one_line(demo: Path) -> None:
    engine = open_engine(Bundle.open(demo), "openvino", "fp32").engine
    with pytest.raises(EngineError, match="failed while it ran") as caught:
        engine.support(np.zeros((1, 3, 160, 160), np.float32), np.ones((1, 1, 160, 160), np.float32))
    assert "\n" not in str(caught.value)


def test_a_changed_file_is_refused_before_openvino_reads_it(demo: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(demo, tmp_path / "demo.ntre"))
    content = bytearray((bundle / "query.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "query.onnx").write_bytes(content)
    with pytest.raises(InputError, match="has been changed"):
        Segmenter.load(bundle, "openvino", precision="fp32")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda e: e.update(query="../query.onnx"), "no query graph of the bundle"),
        (lambda e: e.update(support="query.onnx"), "no support graph of the bundle"),
        (lambda e: e.update(engine=7), "engine is 7"),
        (lambda e: e.pop("precision_found"), "precision_found"),
        (lambda e: e.update(details=[]), "details is"),
    ],
)
def test_a_hostile_engine_entry_is_refused(
    demo: Path, tmp_path: Path, edit: Callable[[dict[str, object]], None], words: str
) -> None:
    bundle = Path(shutil.copytree(demo, tmp_path / "demo.ntre"))
    content = json.loads((bundle / MANIFEST).read_text())
    edit(content["engines"][0])
    (bundle / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(InputError, match=words):
        Bundle.open(bundle)


# --- the cache


def cached(demo: Path, folder: Path) -> Segmenter:
    return Segmenter.load(demo, "openvino", precision="fp32", cache=folder)


def test_a_cache_is_written_once_and_read_again(demo: Path, tmp_path: Path) -> None:
    cached(demo, tmp_path)
    (own,) = tmp_path.iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in own.iterdir()}
    assert len(before) == 2
    cached(demo, tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in own.iterdir()} == before


@pytest.mark.parametrize("damage", [lambda c: c[: len(c) // 2], lambda c: b"", lambda c: b"x" * 1000])
def test_a_damaged_cache_is_written_anew(demo: Path, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    cached(demo, tmp_path)
    (own,) = tmp_path.iterdir()
    for path in own.iterdir():
        path.write_bytes(damage(path.read_bytes()))
    cached(demo, tmp_path)  # and passes its self-test


def test_a_cache_of_another_version_is_left_alone(demo: Path, tmp_path: Path) -> None:
    cached(demo, tmp_path)
    (own,) = tmp_path.iterdir()
    other = own.rename(tmp_path / "openvino-2025.1.0")
    before = {path.name: path.read_bytes() for path in other.iterdir()}
    cached(demo, tmp_path)
    assert {path.name: path.read_bytes() for path in other.iterdir()} == before
    assert openvino.cache_folder(tmp_path, "2025.1.0") == other
    assert own.is_dir()


def test_a_cache_folder_that_cannot_be_made_is_bad_input(demo: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"Cache folder .*file cannot be made"):
        cached(demo, tmp_path / "file")


# --- what it needs

_WITHOUT_TORCH = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "onnxruntime", "onnxscript", "nncf", "scipy"):
            raise ImportError(name + " is not installed on the device")
sys.meta_path.insert(0, Block())
import numpy as np
from ntre_deploy import Segmenter
segmenter = Segmenter.load(sys.argv[1], "openvino", precision="fp32")
image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
mask = np.zeros((50, 70), np.uint8)
mask[10:40, 20:60] = 1
print(segmenter.segment(image, segmenter.encode_support([(image, mask)])).shape)
"""


def test_it_runs_where_torch_onnx_and_onnxruntime_are_not_installed(demo: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", _WITHOUT_TORCH, str(demo)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "(50, 70)\n", ""), done.stderr


_INTERRUPTED = """
import gc, os, signal, sys, threading, time
from ntre_deploy import Segmenter
# a shell's jobs in the background ignore it, and what they start
signal.signal(signal.SIGINT, signal.default_int_handler)
engines = [Segmenter.load(sys.argv[1], "openvino")]
def drop():
    engines.clear()
    gc.collect()
thread = threading.Thread(target=drop)
thread.start()
thread.join()
try:
    os.kill(os.getpid(), signal.SIGINT)
    # the system may hand the signal to a thread of OpenVINO's, and this one learns of it a little later
    for _ in range(600):
        time.sleep(0.1)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_after_an_engine_went_on_another_thread_is_one(demo: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", _INTERRUPTED, str(demo)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


@pytest.mark.parametrize("name", ["auto", "openvino"])
def test_a_broken_openvino_is_an_engine_error_or_passed_over(demo: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text('raise ImportError("libopenvino.so: cannot open")')
    code = (
        "import sys; from ntre_deploy import EngineError, Segmenter\n"
        "try: print(Segmenter.load(sys.argv[1], sys.argv[2], self_test=False).reason)\n"
        "except EngineError as error: print('EngineError:', error)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(demo), name],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    wanted = "EngineError: Engine openvino cannot run here" if name == "openvino" else "onnx-cpu fp32; passed over"
    assert done.stdout.startswith(wanted)
    assert "openvino is installed but broken" in done.stdout
