"""The web runtime in Chromium: its worker, its engines, what it refuses and what it asks for."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from tests.forging import list_anew

Run = Callable[..., Any]

# a picture with something in it, and its mask
_SHOT = """
  const width = 96, height = 64;
  const image = new ImageData(width, height), mask = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
    const inside = x > 20 && x < 60 && y > 10 && y < 50, at = y * width + x;
    mask[at] = inside ? 1 : 0;
    image.data.set(inside ? [200, (x * 7) % 256, 30, 255] : [(y * 5) % 256, 90, (x * 3) % 256, 255], 4 * at);
  }
"""
_LOAD = _SHOT + 'const segmenter = await WorkerSegmenter.load("/tiny/", { ort, engine: "wasm" });\n'


def test_the_worker_and_the_page_give_the_same_and_tell_what_they_are(run: Run) -> None:
    code = (
        _LOAD
        + """
      const here = await Segmenter.load("/tiny", { ort: new URL(ort, location.href) });
      const found = [];
      for (const one of [segmenter, here]) {
        const rest = mask.map((value) => 1 - value);
        const classes = [["a", [{ image, mask }, { image, mask }]], ["b", [{ image, mask: rest }]]];
        const memories = await one.encodeSupports(classes);
        const result = await one.segment(image, memories);
        const probabilities = result.probabilities();
        found.push({
          reason: one.reason, engine: one.engine, precision: one.precision, threads: one.threads,
          model: one.model, size: one.inputSize,
          labels: [...result.labels], names: result.names, sides: [result.width, result.height],
          areas: result.areas, scores: result.scores, mask: [...result.mask("b")],
          clear: [Math.min(...probabilities), Math.max(...probabilities)],
          memories: memories.map((own) => ({ ...own, shots: own.shots, prototype: null, keys: null })),
          unknown: await outcome(() => result.mask("c")),
        });
        await one.close();
      }
      return found;
    """
    )
    worker, page = run(code)
    assert worker["reason"] == "wasm fp32 on 1 thread"
    # without a GPU; on a machine that has one it may be right
    assert page["engine"] in ("wasm", "webgpu")
    if page["engine"] == "wasm":
        assert page["reason"].startswith("wasm fp32 on 1 thread; webgpu: ")
        assert {k: v for k, v in worker.items() if k != "reason"} == {k: v for k, v in page.items() if k != "reason"}
    assert (worker["sides"], worker["names"], worker["size"]) == ([96, 64], ["a", "b"], 65)
    labels = np.array(worker["labels"])
    assert worker["areas"] == [int((labels == 1).sum()), int((labels == 2).sum())]
    assert worker["mask"] == (labels == 2).astype(int).tolist()
    assert all(0 <= score <= 1 for score in worker["scores"])
    assert 0 < worker["clear"][0] <= worker["clear"][1] <= 1
    assert [(m["name"], m["shots"]) for m in worker["memories"]] == [("a", 2), ("b", 1)]
    assert len(worker["memories"][0]["shotScores"]) == 2
    assert worker["memories"][1]["shotScores"] is None
    assert worker["memories"][0]["calibration"]["scale"] == 1
    assert worker["unknown"] == ["InputError", "There is no class 'c'; there is a, b."]


def test_shots_that_were_encoded_alone_join_to_the_same_memories(run: Run) -> None:
    code = (
        _LOAD
        + """
      const other = { width: 96, height: 64, data: image.data.map((v, i) => v ^ (i % 61)) };
      const shots = [{ image, mask }, { image: other, mask }];
      const own = await Segmenter.load("/tiny/", { ort, engine: "wasm" });
      const plain = (all) => all.map(({ name, prototype, keys, calibration, shotScores }) =>
        [name, [...prototype], keys.map(({ count }) => count), calibration, shotScores]);
      const found = [];
      for (const one of [segmenter, own]) {
        const encoded = [];
        for (const shot of shots) encoded.push(await one.encodeShot(shot, "a"));
        const classes = [["a", encoded], ["b", encoded.slice(1)]];
        found.push(plain(await one.joinShots(classes)));
        found.push(plain(await one.joinShots([["a", encoded]], { leaveOneOut: false })));
      }
      found.push(plain(await segmenter.encodeSupports([["a", shots], ["b", shots.slice(1)]])));
      const wrong = [
        await outcome(() => segmenter.joinShots([["a", []]])),
        await outcome(() => segmenter.joinShots([["a", [{ name: "a" }]]])),
      ];
      return [found, wrong];
    """
    )
    found, wrong = run(code)
    assert found[0] == found[2] == found[4]
    assert found[1] == found[3]
    assert found[1][0][1:3] == found[0][0][1:3]
    assert (len(found[0][0][4]), found[1][0][4]) == (2, None)
    assert wrong == [
        ["InputError", "No support was given for 'a'; one image and mask at least."],
        ["InputError", "A shot is expected that `encodeShot` of this segmenter gave."],
    ]


def test_everything_that_shows_an_image_is_taken(run: Run, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    code = (
        _LOAD
        + """
      const memory = await segmenter.encodeSupport([{ image, mask }], "it");
      const file = await (await fetch("/files/picture.png")).blob();
      const element = new Image();
      element.src = URL.createObjectURL(file);
      await element.decode();
      const canvas = document.createElement("canvas");
      canvas.width = 80; canvas.height = 48;
      canvas.getContext("2d").drawImage(element, 0, 0);
      const bitmap = await createImageBitmap(file);
      const pixels = canvas.getContext("2d").getImageData(0, 0, 80, 48);
      const rgb = new Uint8Array(80 * 48 * 3).map((_, i) => pixels.data[4 * Math.floor(i / 3) + (i % 3)]);
      const frame = new VideoFrame(bitmap, { timestamp: 0 });
      const sources = { file, element, canvas, bitmap, pixels, rgb: { data: rgb, width: 80, height: 48 }, frame };
      const found = {};
      for (const [name, source] of Object.entries(sources)) {
        found[name] = [...(await segmenter.segment(source, memory)).logits.data];
      }
      frame.close();
      return [found, bitmap.width, pixels.data.length];
    """
    )
    found, width, length = run(code)
    assert (width, length) == (80, 80 * 48 * 4)  # nothing was taken away from the page
    for name, logits in found.items():
        np.testing.assert_allclose(logits, found["pixels"], atol=0 if name != "frame" else 0.5, err_msg=name)


def test_a_mask_may_be_a_black_and_white_file(run: Run, tmp_path: Path) -> None:
    mask = np.zeros((64, 96), np.uint8)
    mask[11:50, 21:60] = 1
    Image.fromarray(mask * 255).save(tmp_path / "white.png")
    Image.fromarray(mask).save(tmp_path / "ones.png")
    code = (
        _LOAD
        + """
      const file = async (name) => (await fetch(`/files/${name}.png`)).blob();
      const files = [await file("white"), await file("ones")];
      const memories = [];
      for (const own of [mask, ...files]) memories.push(await segmenter.encodeSupport([{ image, mask: own }], "it"));
      return memories.map(({ prototype }) => [...prototype]);
    """
    )
    array, white, ones = run(code)
    assert array == white == ones


def test_bad_images_masks_and_memories_are_told_through_the_worker(run: Run) -> None:
    code = (
        _LOAD
        + """
      const memory = await segmenter.encodeSupport([{ image, mask }], "it");
      const other = memory.with({ model: "another" });
      const tiny = new Uint8Array(mask.length); tiny[0] = 1;
      const text = new Blob(["no image"]);
      const calls = {
        size: () => segmenter.encodeSupport([{ image, mask: mask.slice(1) }], "it"),
        empty: () => segmenter.encodeSupport([{ image, mask: mask.map(() => 0) }], "it"),
        values: () => segmenter.encodeSupport([{ image, mask: mask.map((v) => 7 * v) }], "it"),
        kind: () => segmenter.encodeSupport([{ image, mask: "mask" }], "it"),
        turned: () => segmenter.encodeSupport([{ image, mask: new ImageData(height, width) }], "it"),
        none: () => segmenter.encodeSupport([], "it"),
        nothing: () => segmenter.encodeSupport([null], "it"),
        model: () => segmenter.segment(image, other),
        memories: () => segmenter.segment(image, []),
        no_memory: () => segmenter.segment(image, [{}]),
        no_image: () => segmenter.segment("photo.jpg", memory),
        no_file: () => segmenter.segment(text, memory),
        bytes: () => segmenter.segment({ data: new Uint8Array(7), width: 2, height: 2 }, memory),
        sides: () => segmenter.segment({ data: new Uint8Array(0), width: 0, height: 2 }, memory),
      };
      const found = {};
      for (const [name, call] of Object.entries(calls)) found[name] = await outcome(call);
      found.after = (await segmenter.segment(image, memory)).labels.length;
      found.seen = await outcome(() => segmenter.encodeSupport([{ image, mask: tiny }], "it", { allowUnseen: true }));
      await segmenter.close();
      found.closed = await outcome(() => segmenter.segment(image, memory));
      return found;
    """
    )
    found = run(code)
    assert found.pop("after") == 96 * 64
    assert found.pop("seen") == ["nothing", ""]
    assert {name for name, (kind, _) in found.items() if kind != "InputError"} == set()
    for name, words in {
        "size": "Support 1 of 'it': the mask has 6143 pixels and its image 96 x 64",
        "empty": "Support 1 of 'it': the mask is empty",
        "values": "the mask holds the values [7]",
        "kind": "Support 1 of 'it': the mask is String, which is no image",
        "turned": "the mask has 64 x 96 pixels and its image 96 x 64",
        "none": "No support was given for 'it'",
        "nothing": "Support 1 of 'it': the image is undefined",
        "model": "The support memory 'it' was made by another model",
        "memories": "No support memory was given",
        "no_memory": "A support memory is expected",
        "no_image": "The image is String, which is no image",
        "no_file": "The image is Blob, which is no image",
        "bytes": "holds 7 bytes; 4 (RGBA) or 3 (RGB)",
        "sides": "has 0 x 2 pixels; a side is 1 to 32767",
        "closed": "This segmenter is closed",
    }.items():
        assert words in found[name][1]


def test_the_page_goes_on_while_the_worker_works(run: Run) -> None:
    code = (
        _LOAD
        + """
      const memory = await segmenter.encodeSupport([{ image, mask }], "it");
      const large = new ImageData(3000, 2000);
      let longest = 0, last = performance.now(), working = true;
      const watch = new MessageChannel();
      watch.port1.onmessage = () => {
        const now = performance.now();
        longest = Math.max(longest, now - last);
        last = now;
        if (working) watch.port2.postMessage(0);
      };
      watch.port2.postMessage(0);
      const pauses = [], whole = [];
      for (let n = 0; n < 5; n++) {
        const began = last = performance.now();
        longest = 0;
        await segmenter.segment(large, memory, { scores: true });
        pauses.push(longest);
        whole.push(performance.now() - began);
      }
      working = false;
      return [pauses, whole];
    """
    )
    pauses, whole = run(code)
    # what the page itself does would be there each time; a pause that other processes make is not
    assert min(pauses) < min(300, min(whole) / 3), (pauses, whole)


def test_requests_are_answered_in_order_and_a_lost_worker_is_told(run: Run) -> None:
    code = (
        _LOAD
        + """
      const memory = await segmenter.encodeSupport([{ image, mask }], "it");
      const done = [];
      await Promise.all([0, 1, 2].map((n) => segmenter.segment(image, [memory, memory]).then(() => done.push(n))));
      const stop = new AbortController();
      const loading = outcome(() => WorkerSegmenter.load("/tiny/", { ort, signal: stop.signal }));
      stop.abort();
      const lost = new Worker("data:text/javascript,setTimeout(()=>{throw Error('out of memory')},50)");
      return [done, await loading, await outcome(() => WorkerSegmenter.load("/tiny/", { ort, worker: lost }))];
    """
    )
    order, aborted, lost = run(code)
    assert order == [0, 1, 2]
    assert aborted[0] == "DOMException"
    assert lost[0] == "EngineError"
    assert "out of memory" in lost[1]


def test_a_bundle_that_fails_is_refused_on_the_way_in(run: Run, bundle: Path, tmp_path: Path) -> None:
    turned = Path(shutil.copytree(bundle, tmp_path / "turned.ntre"))
    tensors = load_file(turned / "selftest.safetensors")
    save_file(tensors | {"labels": 1 - tensors["labels"]}, turned / "selftest.safetensors")
    list_anew(turned, "selftest.safetensors")
    damaged = bytearray((bundle / "query.onnx").read_bytes())
    damaged[100] ^= 4
    (bundle / "query.onnx").write_bytes(damaged)
    code = """
      const load = (folder, options) =>
        outcome(() => WorkerSegmenter.load(`/files/${folder}/`, { ort, engine: "wasm", ...options }));
      return [
        await load("turned.ntre"), await load("turned.ntre", { selfTest: false }),
        await load("tiny.ntre"), await load("nothing"),
        await load("turned.ntre", { precision: "bf16" }), await load("turned.ntre", { precision: "int8" }),
        await load("turned.ntre", { engine: "cuda" }), await load("turned.ntre", { threads: 2 }),
        await load("turned.ntre", { ort: "/nothing/" }), await load("turned.ntre", { ort: {} }),
        await load("turned.ntre", { engine: "webgpu" }),
      ];
    """
    found = run(code)
    wanted = [
        ("EngineError", "wasm fp32 fails the bundle's self-test: "),
        ("nothing", ""),
        ("InputError", "query.onnx has been changed"),
        ("InputError", "manifest.json cannot be read: the server says 404"),
        ("EngineError", "wasm does not run bf16"),
        ("InputError", "has no support graph in int8"),
        ("InputError", "engine 'cuda' is unknown; it must be one of auto, webgpu, wasm."),
        ("EngineError", "this page is not cross-origin isolated"),
        ("EngineError", "onnxruntime-web cannot be loaded from http://127.0.0.1"),
        ("InputError", "`ort` must be the URL of a folder"),
    ]
    for (kind, message), (wanted_kind, words) in zip(found, wanted, strict=False):
        assert kind == wanted_kind, message
        assert words in message
    assert found[-1][0] == "EngineError" or found[-1] == ["nothing", ""]  # with a GPU


def test_sixteen_bits_run_and_pass_the_self_test(run: Run) -> None:
    code = (
        _SHOT
        + """
      const segmenter = await WorkerSegmenter.load("/tiny/", { ort, engine: "wasm", precision: "fp16" });
      const memory = await segmenter.encodeSupport([{ image, mask }], "it");
      return [segmenter.reason, (await segmenter.segment(image, memory)).labels.length];
    """
    )
    assert run(code) == ["wasm fp16 on 1 thread", 96 * 64]


def test_an_isolated_page_has_threads_and_the_same_label_map(run: Run) -> None:
    code = (
        _SHOT
        + """
      const found = [];
      for (const threads of [1, 2]) {
        const segmenter = await WorkerSegmenter.load("/tiny/", { ort, engine: "wasm", threads });
        const memory = await segmenter.encodeSupport([{ image, mask }], "it");
        const { logits, labels } = await segmenter.segment(image, memory);
        found.push([segmenter.threads, segmenter.reason, [...logits.data], [...labels]]);
        await segmenter.close();
      }
      return found;
    """
    )
    one, two = run(code, isolated=True)
    assert [one[:2], two[:2]] == [[1, "wasm fp32 on 1 thread"], [2, "wasm fp32 on 2 threads"]]
    np.testing.assert_allclose(one[2], two[2], atol=1e-3)
    assert np.mean(np.array(one[3]) == two[3]) > 0.999


def test_a_gpu_that_fails_is_told_and_webassembly_takes_its_place(run: Run) -> None:
    code = """
      const requestDevice = async () => { throw new Error("device lost"); };
      const adapter = { info: {}, features: new Set(), limits: {}, requestDevice };
      Object.defineProperty(navigator, "gpu", { value: { requestAdapter: async () => adapter } });
      const segmenter = await Segmenter.load("/tiny/", { ort });
      const wanted = await outcome(() => Segmenter.load("/tiny/", { ort, engine: "webgpu" }));
      return [segmenter.engine, segmenter.reason, wanted];
    """
    engine, reason, wanted = run(code)
    assert engine == "wasm"
    assert reason.startswith("wasm fp32 on 1 thread; webgpu: onnxruntime-web cannot load the graph on webgpu")
    assert wanted[0] == "EngineError"


@pytest.mark.slow
def test_webgpu_passes_the_self_test_on_a_gpu_that_the_processor_imitates(
    pages: ModuleType, playwright: Any, exported: Path
) -> None:
    code = "async () => {" + _SHOT.replace(
        "new ImageData(width, height)", "{ data: new Uint8Array(4 * width * height), width, height }"
    )
    code += """
      const { WorkerSegmenter } = await import("/src/index.js");
      const found = [];
      for (const engine of ["wasm", "webgpu"]) {
        const segmenter = await WorkerSegmenter.load("/tiny/", { ort: "/ort/", engine });
        const memory = await segmenter.encodeSupport([{ image, mask }], "it");
        const { labels } = await segmenter.segment(image, memory);
        found.push([segmenter.reason, [...labels]]);
      }
      const auto = await WorkerSegmenter.load("/tiny/", { ort: "/ort/" });
      return [...found, auto.reason];
    }"""
    arguments = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--ignore-gpu-blocklist")
    browser = pages.launch(playwright, *arguments)
    try:
        with pages.serve({"tiny": exported}) as site:
            page = browser.new_page()
            page.goto(site.address)
            if not page.evaluate("async () => Boolean(await navigator.gpu?.requestAdapter())"):
                pytest.skip("this Chromium imitates no GPU")
            wasm, webgpu, auto = page.evaluate(code)
    finally:
        browser.close()
    assert webgpu[0] == "webgpu fp32"
    assert np.mean(np.array(wasm[1]) == webgpu[1]) > 0.98
    assert auto == "wasm fp32 on 1 thread; webgpu: the GPU is one that the processor imitates"


def test_nothing_is_asked_of_other_places(run: Run) -> None:
    asked: list[str] = []
    code = _LOAD + 'await segmenter.segment(image, await segmenter.encodeSupport([{ image, mask }], "it"));'
    run("return 0;")
    run.page.context.on("request", lambda request: asked.append(request.url))  # type: ignore[attr-defined]
    run(code)
    assert any("ort-wasm-simd-threaded.wasm" in path for path in run.site.asked)  # type: ignore[attr-defined]
    assert [url for url in asked if not url.startswith(("http://127.0.0.1", "data:", "blob:"))] == []


def test_the_example_finds_it_again(run: Run, pages: ModuleType, tmp_path: Path) -> None:
    text = (pages.RUNTIME / "examples" / "index.html").read_text()
    assert len(text.splitlines()) <= 50
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (64, 96, 3), np.uint8)
    mask = np.zeros((64, 96), np.uint8)
    mask[10:40, 20:60] = 255
    for name, array in {"image": picture, "mask": mask, "photo": picture}.items():
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    run("return 0;")
    page = run.page  # type: ignore[attr-defined]
    page.goto(f"{run.site.address}/examples/index.html?bundle=/tiny/&ort=/ort/")  # type: ignore[attr-defined]
    page.wait_for_function("document.querySelector('#state').textContent.startsWith('w')", timeout=60_000)
    for name in ("image", "mask", "photo"):
        page.set_input_files(f"#{name}", tmp_path / f"{name}.png")
    page.wait_for_function("document.querySelector('#state').textContent.includes('score')", timeout=60_000)
    assert page.evaluate("[canvas.width, canvas.height]") == [96, 64]
    (tmp_path / "text.png").write_text("no image")
    page.set_input_files("#photo", tmp_path / "text.png")
    page.wait_for_function("document.querySelector('#state').textContent.includes('The image is')", timeout=60_000)
