"""The web runtime in Chromium against ONNX Runtime on this machine: WebAssembly on one thread and with threads.

    python benchmarks/web demo.ntre --out FILE.json

All are asked in turn, in rounds: the query graph alone, and from pixels to label map (in the browser through the
worker, as a page does it).  A page's longest pause while its worker works is measured beside it.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer

sys.path += [str(Path(__file__).parents[1] / "cpu")]
from common import show, write_result  # type: ignore[import-not-found]
from pages import ORT, RUNTIME, chromium_missing, launch, serve  # type: ignore[import-not-found]

from ntre_deploy.bench.machine import environment
from ntre_deploy.data.procedural import render_scene
from ntre_deploy.errors import EngineError, NtreError
from ntre_deploy.files import check_folder
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.letterbox import prepare_image
from ntre_deploy.runtime.segmenter import Segmenter

# of one thread of ONNX Runtime, what WebAssembly may take on one thread and with more
_ALLOWED = {"wasm, 1 thread": 4.0, "wasm, threads": 2.5}
_BASE = "native, 1 thread"
_SCENE = 5

_OPEN = """async ({ threads, width, height }) => {
  const { Segmenter, WorkerSegmenter, SupportMemory } = await import("/src/index.js");
  const { prepareImage } = await import("/src/letterbox.js");
  const { stackMemories } = await import("/src/stacked.js");
  const bytes = async (name) => new Uint8Array(await (await fetch("/files/" + name)).arrayBuffer());
  const options = { ort: "/ort/", engine: "wasm", threads };
  const began = performance.now();
  const worker = await WorkerSegmenter.load("/bundle/", options);
  const loaded = performance.now() - began;
  const here = await Segmenter.load("/bundle/", options);
  const memory = await SupportMemory.fromBytes(await bytes("memory.safetensors"));
  const image = new ImageData(new Uint8ClampedArray((await bytes("image.rgba")).buffer), width, height);
  const { pixels } = prepareImage({ data: image.data, width, height, channels: 4 }, here.manifest.input);
  const stacked = stackMemories([memory]);
  const timed = async (call, count) => {
    const found = [];
    for (let n = 0; n < count; n++) {
      const start = performance.now();
      await call();
      found.push(performance.now() - start);
    }
    return found;
  };
  globalThis.query = (count) => timed(() => here.runner.query(pixels, here.inputSize, stacked), count);
  globalThis.whole = (count) => timed(() => worker.segment(image, memory), count);
  globalThis.labels = async () => [...(await worker.segment(image, memory)).labels];
  globalThis.pause = async (count) => {
    let longest = 0, last = performance.now(), working = true;
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      longest = Math.max(longest, performance.now() - last);
      last = performance.now();
      if (working) port2.postMessage(0);
    };
    port2.postMessage(0);
    await whole(count);
    working = false;
    return longest;
  };
  return { reason: worker.reason, threads: worker.threads, load_ms: loaded };
}"""


def main(
    bundle: Annotated[Path, typer.Argument(help="Bundle of `ntre export`, in fp32.")],
    out: Annotated[Path, typer.Option("--out", help="JSON file to write.")],
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Interleaved rounds.")] = 7,
    count: Annotated[int, typer.Option("--count", min=1, help="Queries of each in a round.")] = 5,
    threads: Annotated[int, typer.Option("--threads", min=2, help="Of those that have several.")] = 2,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the scene.")] = 0,
) -> None:
    """WebAssembly in Chromium against ONNX Runtime, interleaved."""
    try:
        _measure(bundle, out, rounds, count, threads, seed)
    except NtreError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _measure(bundle: Path, out: Path, rounds: int, count: int, threads: int, seed: int) -> None:
    if reason := chromium_missing():
        raise EngineError(f"{reason}.")
    check_folder(out.parent)
    before, opened = environment(threads), Bundle.open(bundle)
    scene = render_scene(_SCENE, seed)
    image, mask = scene.image, (scene.labels == scene.target + 1).astype(np.uint8)
    native = {n: Segmenter.load(bundle, "onnx-cpu", precision="fp32", threads=n) for n in (1, threads)}
    memory = native[1].encode_support([(image, mask)], "target")
    pixels, _ = prepare_image(image, native[1].spec)
    with ExitStack() as stack:
        from playwright.sync_api import sync_playwright

        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        memory.save(folder / "memory.safetensors")
        (folder / "image.rgba").write_bytes(np.dstack([image, np.full(mask.shape, 255, np.uint8)]).tobytes())
        browser = launch(stack.enter_context(sync_playwright()))
        stack.callback(browser.close)
        pages: dict[str, Any] = {}
        told: dict[str, Any] = {}
        for name, number in {"wasm, 1 thread": 1, "wasm, threads": threads}.items():
            mounts = {"files": folder, "bundle": bundle.resolve()}
            site = stack.enter_context(serve(mounts, isolated=number > 1))
            pages[name] = browser.new_page()
            pages[name].goto(site.address)
            sizes = {"threads": number, "width": image.shape[1], "height": image.shape[0]}
            told[name] = pages[name].evaluate(_OPEN, sizes)
        wanted = native[1].segment(image, memory).ravel()
        equal = {name: float(np.mean(page.evaluate("labels()") == wanted)) for name, page in pages.items()}
        calls: dict[str, tuple[Callable[[], list[float]], Callable[[], list[float]]]] = {
            (_BASE if n == 1 else "native, threads"): (
                lambda n=n: _timed(lambda: native[n].query(pixels, memory), count),  # type: ignore[misc]
                lambda n=n: _timed(lambda: native[n].segment(image, memory), count),  # type: ignore[misc]
            )
            for n in native
        }
        for name, page in pages.items():
            calls[name] = (
                lambda page=page: page.evaluate("(n) => query(n)", count),  # type: ignore[misc]
                lambda page=page: page.evaluate("(n) => whole(n)", count),  # type: ignore[misc]
            )
        rows = _rounds(calls, rounds)
        pauses = {name: page.evaluate("(n) => pause(n)", count) for name, page in pages.items()}
        versions = {"chromium": browser.version, "onnxruntime-web": _package_version()}
    found = _summary(rows, equal, pauses)
    write_result(
        out,
        "benchmarks/web",
        opened,
        seed,
        before,
        {
            "image": list(image.shape[:2]),
            "web_versions": versions,
            "pages": told,
            "package_bytes": sum(path.stat().st_size for path in (RUNTIME / "src").iterdir()),
            "load_after": os.getloadavg()[0],
            "systems": found,
            "rounds": rows,
        },
    )
    _tell(found)


def _rounds(
    calls: dict[str, tuple[Callable[[], list[float]], Callable[[], list[float]]]], rounds: int
) -> list[dict[str, dict[str, list[float]]]]:
    rows = []
    for number in range(rounds + 1):
        row = {name: {"query_ms": query(), "whole_ms": whole()} for name, (query, whole) in calls.items()}
        # the first one warms up
        if number:
            rows.append(row)
    return rows


def _timed(call: Callable[[], object], count: int) -> list[float]:
    found = []
    for _ in range(count):
        begun = time.perf_counter()
        call()
        found.append(1e3 * (time.perf_counter() - begun))
    return found


def _summary(
    rows: list[dict[str, dict[str, list[float]]]], equal: dict[str, float], pauses: dict[str, float]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in rows[0]:
        found[name] = {}
        for kind in ("query_ms", "whole_ms"):
            # within a round the machine is as busy for all
            ratios = [median(row[name][kind]) / median(row[_BASE][kind]) for row in rows]
            found[name][kind] = median(value for row in rows for value in row[name][kind])
            found[name][kind.replace("_ms", "_ratio")] = median(ratios)
            # what else a shared machine does only ever adds
            least = [min(value for row in rows for value in row[one][kind]) for one in (name, _BASE)]
            found[name][kind.replace("_ms", "_least_ms")] = least[0]
            found[name][kind.replace("_ms", "_least_ratio")] = least[0] / least[1]
        if name in equal:
            found[name] |= {"equal_pixels": equal[name], "longest_pause_ms": pauses[name]}
        if name in _ALLOWED:
            found[name] |= {"allowed_ratio": _ALLOWED[name], "passed": found[name]["query_ratio"] <= _ALLOWED[name]}
    return found


def _tell(found: dict[str, Any]) -> None:
    columns = [
        "",
        "query ms",
        "of native on 1 thread",
        "of the least times",
        "pixels to labels ms",
        "ratio",
        "aim",
        "longest pause of the page",
    ]
    rows = [
        [
            name,
            f"{one['query_ms']:.1f}",
            f"{one['query_ratio']:.2f} x",
            f"{one['query_least_ratio']:.2f} x",
            f"{one['whole_ms']:.1f}",
            f"{one['whole_ratio']:.2f} x",
            f"{one['allowed_ratio']} x" if "allowed_ratio" in one else "",
            f"{one['longest_pause_ms']:.0f} ms" if "longest_pause_ms" in one else "",
        ]
        for name, one in found.items()
    ]
    show("Web runtime", columns, rows)


def _package_version() -> str:
    return str(json.loads((ORT.parent / "package.json").read_text())["version"])


if __name__ == "__main__":
    typer.run(main)
