"""From mouse-up to the overlay on another photo, in Chromium: python benchmarks/studio BUNDLE [--out FILE]

`ntre studio` serves rendered scenes; a person's strokes, boxes and the frames of a camera are timed in the page itself,
beside the longest task of its thread, during which it does not answer.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from ntre_deploy.bench.machine import environment
from ntre_deploy.data.procedural import CLASSES, KINDS, render_scene

PHOTOS = 8

_WATCH = """async () => {
  const { predictor } = await import("/js/main.js");
  window.times = { up: 0, first: [], all: [], tasks: [] };
  addEventListener("pointerup", () => { times.up = performance.now(); times.next = true; }, true);
  predictor.addEventListener("prediction", () => {
    // what the strip draws now is on the screen with the next frame
    const { up, next } = times;
    if (next) requestAnimationFrame(() => times.first.push(performance.now() - up));
    times.next = false;
  });
  predictor.addEventListener("scores", () => times.all.push(performance.now() - times.up));
  new PerformanceObserver((list) => { for (const one of list.getEntries()) times.tasks.push(one.duration); })
    .observe({ type: "longtask" });
}"""


def main() -> None:
    """Measure, and print or write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--strokes", type=int, default=20)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = _measure(given.bundle.resolve(), Path(folder), given.strokes)
    content = {"bundle": given.bundle.name, "machine": environment(None), "milliseconds": figures}
    text = json.dumps(content, indent=1)
    if given.out is not None:
        given.out.write_text(text + "\n")
    print(text)


def _measure(bundle: Path, folder: Path, strokes: int) -> dict[str, Any]:
    (folder / "photos").mkdir()
    for number in range(PHOTOS):
        scene = render_scene(CLASSES.index("key") + number * len(KINDS), seed=11)
        Image.fromarray(scene.image).save(folder / "photos" / f"{number}.png")
        if number == 0:
            ys, xs = np.nonzero(scene.labels == scene.target + 1)
    box = int(xs.min()) - 3, int(ys.min()) - 3, int(xs.max()) + 3, int(ys.max()) + 3
    command = [str(Path(sys.executable).with_name("ntre")), "studio", str(bundle), "photos", "--no-browser"]
    server = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        address = re.search(r"http://\S+", server.stderr.readline())
        assert address is not None
        return _drive(address[0], box, strokes)
    finally:
        server.terminate()
        server.wait()


def _drive(address: str, box: tuple[int, int, int, int], strokes: int) -> dict[str, Any]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    flags = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as driver:
        page = driver.chromium.launch(executable_path=program, args=flags).new_page(
            viewport={"width": 1280, "height": 800}
        )
        page.goto(address)
        page.wait_for_selector("#engine.ready")
        page.wait_for_selector("#canvas[data-place]")
        time.sleep(2)
        page.evaluate(_WATCH)

        def at(x: float, y: float) -> tuple[float, float]:
            place = page.locator("#canvas").get_attribute("data-place")
            corner = page.locator("#canvas").bounding_box()
            assert place is not None
            assert corner is not None
            left, top, scale = map(float, place.split())
            return corner["x"] + left + x * scale, corner["y"] + top + y * scale

        def drag(x1: float, y1: float, x2: float, y2: float) -> None:
            page.evaluate("() => { window.seen = times.first.length; }")
            page.mouse.move(*at(x1, y1))
            page.mouse.down()
            page.mouse.move(*at(x2, y2), steps=4)
            page.mouse.up()
            page.wait_for_function("() => times.first.length > window.seen")
            _settle(page)

        def taken() -> dict[str, list[float]]:
            found: dict[str, list[float]] = page.evaluate(
                "() => { const t = { ...times }; times.first = []; times.all = []; times.tasks = []; return t; }"
            )
            return found

        drag(*box)
        taken()
        boxes = []
        for _ in range(max(3, strokes // 4)):
            page.keyboard.press("Control+z")
            _settle(page)
            taken()
            drag(*box)
            boxes += taken()["first"]
        page.keyboard.press("r")
        for number in range(strokes):
            drag(20 + 4 * number, 12, 40 + 4 * number, 16)
        found = taken()
        page.click("#camera-open")
        time.sleep(5)
        rate = page.locator("#camera-rate").inner_text()
        return {
            "brush_to_first_overlay": _summary(found["first"]),
            "brush_to_all_overlays_and_scores": _summary(found["all"]),
            "box_to_first_overlay": _summary(boxes),
            "longest_task_of_the_page": round(max(found["tasks"], default=0)),
            "photos": PHOTOS,
            "camera": rate,
        }


def _settle(page: Any) -> None:
    """Wait until nothing is to be found any more."""
    done = (
        "async () => { const { predictor, store } = await import('/js/main.js');"
        " await store.settled(); return predictor.scored === predictor.round; }"
    )
    for _ in range(200):
        time.sleep(0.1)
        if page.evaluate(done):
            return


def _summary(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 1),
        "p90": round(float(np.quantile(values, 0.9)), 1),
        "n": len(values),
    }


if __name__ == "__main__":
    main()
