"""The runtimes side by side: Python and C++ with OpenVINO, the bare engine, and the web runtime in Chromium.

    python benchmarks/runtimes BUNDLE.ntre --photo FILE.jpg --out FILE.json

Each side is a process of its own and all are asked in turn, in rounds: from the pixels of a photo of 1920 x 1080 to its
label map, and what lies before and after the engine.  Loading is timed from the start of the process, in turn too.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

sys.path += [str(Path(__file__).parents[1] / room) for room in ("cpu", "web")]
from common import show, write_result  # type: ignore[import-not-found]
from pages import chromium_missing, launch, serve  # type: ignore[import-not-found]
from processes import Side, build, command_of  # type: ignore[import-not-found]

from ntre_deploy.bench.machine import environment
from ntre_deploy.data.procedural import render_scene
from ntre_deploy.errors import NtreError
from ntre_deploy.files import check_folder
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.imagefile import read_image
from ntre_deploy.runtime.segmenter import Segmenter

Pixels = NDArray[np.uint8]
Ask = Callable[[str, int], list[float]]

WIDTH, HEIGHT = 1920, 1080
PARTS = ("whole", "before", "after")
# of Python's, what C++ may take
ALLOWED = {"whole": 1.0, "before": 1.0, "after": 1.0, "load": 0.5, "memory": 0.5}
LIBRARY_BYTES = 1_000_000

_OPEN = """async ({ threads, width, height }) => {
  const { WorkerSegmenter, SupportMemory } = await import("/src/index.js");
  const { prepareImage } = await import("/src/letterbox.js");
  const { labelMap } = await import("/src/labels.js");
  const bytes = async (name) => new Uint8Array(await (await fetch("/files/" + name)).arrayBuffer());
  const began = performance.now();
  const worker = await WorkerSegmenter.load("/bundle/", { ort: "/ort/", engine: "wasm", threads });
  const memory = await SupportMemory.fromBytes(await bytes("memory.safetensors"));
  const image = new ImageData(new Uint8ClampedArray((await bytes("image.rgba")).buffer), width, height);
  await worker.segment(image, memory);
  const loaded = performance.now() - began;
  const { input, model } = await (await fetch("/bundle/manifest.json")).json();
  const { box } = prepareImage({ data: image.data, width, height, channels: 4 }, input);
  const [h, w] = model.feature_size;
  const data = new Float32Array((await bytes("logits.f32")).buffer);
  const calls = {
    whole: () => worker.segment(image, memory),
    before: () => prepareImage({ data: image.data, width, height, channels: 4 }, input),
    after: () => labelMap({ data, classes: 1, height: h, width: w }, box),
  };
  globalThis.timed = async ([part, count]) => {
    const found = [];
    for (let n = 0; n < count; n++) {
      const start = performance.now();
      await calls[part]();
      found.push(performance.now() - start);
    }
    return found;
  };
  globalThis.labels = async () => [...(await worker.segment(image, memory)).labels];
  return loaded;
}"""


def main(
    bundle: Annotated[Path, typer.Argument(help="Bundle of `ntre export --engine openvino`.")],
    out: Annotated[Path, typer.Option("--out", help="JSON file to write.")],
    photo: Annotated[
        Path | None, typer.Option("--photo", help="What is segmented; a rendered scene by default.")
    ] = None,
    precision: Annotated[str, typer.Option("--precision", help="Of OpenVINO.")] = "fp32",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Interleaved rounds.")] = 7,
    count: Annotated[int, typer.Option("--count", min=1, help="Calls of each in a round.")] = 5,
    loads: Annotated[int, typer.Option("--loads", min=1, help="Times that each process is started.")] = 3,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Of every engine.")] = 2,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the rendered scenes.")] = 0,
) -> None:
    """Python, C++, web and the bare engine, interleaved."""
    try:
        _measure(bundle, out, photo, precision, rounds, count, loads, threads, seed)
    except NtreError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _measure(
    bundle: Path,
    out: Path,
    photo: Path | None,
    precision: str,
    rounds: int,
    count: int,
    loads: int,
    threads: int,
    seed: int,
) -> None:
    check_folder(out.parent)
    before, opened = environment(threads), Bundle.open(bundle)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        program = build(folder / "build")
        _material(bundle, folder, photo, precision, threads, seed)
        given = [str(bundle), precision, str(threads), str(folder / "memory.safetensors"), str(folder / "image.rgb")]
        given += [str(WIDTH), str(HEIGHT)]
        started: dict[str, Side] = {}
        load_ms: dict[str, list[float]] = {}
        for _ in range(loads):
            for name in ("python", "cpp", "engine"):
                if name in started:
                    started[name].close()
                started[name] = Side(command_of(name, program, given))
                load_ms.setdefault(name, []).append(started[name].load_ms)
        for side in started.values():
            stack.callback(side.close)
        calls: dict[str, Ask] = {name: side.ask for name, side in started.items()}
        labels = {
            name: _labels_of(side, folder / f"{name}.labels") for name, side in started.items() if name != "engine"
        }
        web = _open_web(stack, bundle, folder, threads)
        skipped = {}
        if isinstance(web, str):
            skipped["web"] = web
        else:
            page, browser_version, loaded = web
            load_ms["web"] = [loaded]
            calls["web"] = lambda part, number: page.evaluate("(given) => timed(given)", [part, number])
            labels["web"] = np.array(page.evaluate("labels()"), np.uint8)
        rows = _rounds(calls, rounds, count)
        found = _summary(rows, load_ms)
        for name, side in started.items():
            found[name]["memory_mb"] = side.memory_mb()
        for name, own in labels.items():
            found[name]["equal_pixels"] = float(np.mean(own == labels["python"]))
        library = _stripped(folder / "build" / "libntre.so", folder / "stripped.so")
    _judge(found, library)
    write_result(
        out,
        "benchmarks/runtimes",
        opened,
        seed,
        before,
        {
            "photo": [HEIGHT, WIDTH],
            "precision": precision,
            "chromium": None if "web" in skipped else browser_version,
            "skipped": skipped,
            "library_bytes": library,
            "load_after": os.getloadavg()[0],
            "systems": found,
            "rounds": rows,
        },
    )
    _tell(found)
    print(f"libntre.so with OpenVINO's engine, stripped: {library:,} bytes")
    for name, reason in skipped.items():
        print(f"{name} is left out: {reason}")


def _material(bundle: Path, folder: Path, photo: Path | None, precision: str, threads: int, seed: int) -> None:
    """What every side reads: the photo, a memory of a rendered scene, and logits."""
    scene = render_scene(5, seed)
    support, mask = scene.image, (scene.labels == scene.target + 1).astype(np.uint8)
    image = _cover(render_scene(6, seed).image if photo is None else read_image(photo))
    segmenter = Segmenter.load(bundle, "openvino", precision=precision, threads=threads)
    memory = segmenter.encode_support([(support, mask)], "target")
    memory.save(folder / "memory.safetensors")
    logits, _ = segmenter.logits(image, memory)
    (folder / "logits.f32").write_bytes(logits.astype("<f4").tobytes())
    (folder / "image.rgb").write_bytes(image.tobytes())
    (folder / "image.rgba").write_bytes(np.dstack([image, np.full(image.shape[:2], 255, np.uint8)]).tobytes())


def _cover(image: Pixels) -> Pixels:
    """Scale an image to cover the frame, and cut its middle out."""
    scale = max(WIDTH / image.shape[1], HEIGHT / image.shape[0])
    size = max(WIDTH, round(image.shape[1] * scale)), max(HEIGHT, round(image.shape[0] * scale))
    large = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    top, left = (large.shape[0] - HEIGHT) // 2, (large.shape[1] - WIDTH) // 2
    return np.ascontiguousarray(large[top : top + HEIGHT, left : left + WIDTH])


def _labels_of(side: Side, path: Path) -> Pixels:
    side.ask("labels", path)
    return np.frombuffer(path.read_bytes(), np.uint8)


def _open_web(stack: ExitStack, bundle: Path, folder: Path, threads: int) -> tuple[Any, str, float] | str:
    """A page with the web runtime, the browser's version and how long loading took; or why there is none."""
    if reason := chromium_missing():
        return str(reason)
    if not any(file.precision_found == "fp32" and file.engine == "onnx" for file in Bundle.open(bundle).manifest.files):
        return "the bundle has no ONNX files in fp32"
    from playwright.sync_api import sync_playwright

    browser = launch(stack.enter_context(sync_playwright()))
    stack.callback(browser.close)
    site = stack.enter_context(serve({"files": folder, "bundle": bundle.resolve()}, isolated=threads > 1))
    page = browser.new_page()
    page.goto(site.address)
    loaded = page.evaluate(_OPEN, {"threads": threads, "width": WIDTH, "height": HEIGHT})
    return page, browser.version, loaded


def _rounds(calls: dict[str, Ask], rounds: int, count: int) -> list[dict[str, dict[str, list[float]]]]:
    rows = []
    for number in range(rounds + 1):
        row = {
            name: {part: ask(part, count) for part in (("whole",) if name == "engine" else PARTS)}
            for name, ask in calls.items()
        }
        # the first one warms up
        if number:
            rows.append(row)
    return rows


def _summary(rows: list[dict[str, dict[str, list[float]]]], load_ms: dict[str, list[float]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in rows[0]:
        found[name] = {"load_ms": load_ms[name]}
        for part in rows[0][name]:
            # within a round the machine is as busy for all; what else it does only ever adds
            ratios = [median(row[name][part]) / median(row["python"][part]) for row in rows]
            least = {one: min(value for row in rows for value in row[one][part]) for one in (name, "python")}
            found[name][part] = {
                "ms": median(value for row in rows for value in row[name][part]),
                "ratio": median(ratios),
                "least_ms": least[name],
                "least_ratio": least[name] / least["python"],
            }
    return found


def _stripped(library: Path, to: Path) -> int:
    """Bytes of a library as packages carry it."""
    done = subprocess.run(["strip", "-o", str(to), str(library)], capture_output=True, check=False)
    return (to if done.returncode == 0 else library).stat().st_size


def _judge(found: dict[str, Any], library: int) -> None:
    cpp, python = found["cpp"], found["python"]
    ratios = {part: cpp[part]["ratio"] for part in PARTS}
    ratios["load"] = min(cpp["load_ms"]) / min(python["load_ms"])
    ratios["memory"] = cpp["memory_mb"]["all"] / python["memory_mb"]["all"]
    cpp["of_python"] = {
        name: {"ratio": ratio, "allowed": ALLOWED[name], "passed": ratio <= ALLOWED[name]}
        for name, ratio in ratios.items()
    }
    cpp["of_python"]["library"] = {"bytes": library, "allowed": LIBRARY_BYTES, "passed": library < LIBRARY_BYTES}


def _tell(found: dict[str, Any]) -> None:
    rows = []
    for name, one in found.items():
        times = [f"{one[part]['ms']:.2f} ({one[part]['ratio']:.2f} x)" if part in one else "" for part in PARTS]
        memory = f"{one['memory_mb']['all']:.0f}" if "memory_mb" in one else ""
        equal = f"{one['equal_pixels']:.3%}" if "equal_pixels" in one else ""
        rows.append([name, *times, f"{min(one['load_ms']):.0f}", memory, equal])
    columns = ["", "photo to labels ms", "before", "after", "load ms", "resident MB", "equal pixels"]
    show(f"{WIDTH} x {HEIGHT}; ratios are to Python", columns, rows)


if __name__ == "__main__":
    typer.run(main)
