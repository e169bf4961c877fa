"""The HTML page, as a browser shows it: what the JSON says, offline, light and dark, on a phone and on a desk."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntre_deploy.bench.footprint import Footprint
from ntre_deploy.bench.gates import Gates, check_gates
from ntre_deploy.bench.report import Run
from ntre_deploy.bench.report.charts import speed_accuracy
from ntre_deploy.bench.report.page import render
from ntre_deploy.bench.report.tables import cost_rows, latency_rows, parity_rows
from ntre_deploy.bench.runner import Picture, Result
from ntre_deploy.bench.systems import Facts
from ntre_deploy.bench.throughput import Rate
from ntre_deploy.data.episodes import Episode

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")

# what a reader sees, read by a page around the report's, which itself runs no script
PROBE = """<!doctype html><body style="margin:0">
<iframe id="f" src="report.html" style="border:0;width:WIDTHpx;height:900px"></iframe><pre id="seen"></pre><script>
document.getElementById("f").onload = () => {
  const page = document.getElementById("f").contentDocument, root = page.documentElement;
  const all = (path, of) => [...page.querySelectorAll(path)].map(of);
  const text = e => e.innerText.replace(/\\s+/g, " ").trim();
  const rows = id => all(`#${id} tbody tr`, r => [...r.cells].map(text));
  const style = e => page.defaultView.getComputedStyle(e);
  const middle = e => { const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; };
  document.getElementById("seen").innerText = JSON.stringify({
    width: root.scrollWidth, background: style(page.body).backgroundColor, colour: style(page.body).color,
    heading: text(page.querySelector("h1")), verdict: all("#verdict", text)[0], warnings: all("#warnings li", text),
    latency: rows("latency"), parity: rows("parity"), costs: rows("costs"), best: all("#best b", text),
    points: all("svg.area circle.at", middle), numbers: all("svg.area .number", middle),
    legend: all("#points li", text),
    splits: all(".bar", b => [...b.children].map(s => s.getBoundingClientRect().width)),
    histograms: all("svg.histogram", s => [...s.querySelectorAll("rect")].map(r => r.getBoundingClientRect().height)),
    pictures: all("#episodes img", i => i.naturalWidth), captions: all("#episodes .episode", text),
    environment: text(page.getElementById("environment")),
  });
};
</script>"""


@pytest.fixture
def told(build: Callable[..., dict[str, Any]], result: Callable[..., Result]) -> dict[str, Any]:
    """A report with three systems, everything measured, one gate passed and one failed."""
    memory = Footprint(150.4, 20.0, 30.6, 130_000_000, 40_000_000, None)
    facts = Facts("fp16", "read back from query.onnx at export", {"query.onnx": 1_234_000})
    run = Run(
        rates=[None, [Rate(1, 20.0, 19.0, 21.0)], [Rate(1, 50.0, 49.0, 51.0), Rate(2, 80.25, 80.0, 80.5)]],
        footprints=[memory, memory, memory],
        facts=[None, None, facts],
        protocol={"harness_overhead_ms": 0.0123},
        skipped={"onnx-cuda": "no CUDA"},
    )
    report = build(
        result("pytorch full", [40.0] * 39 + [90.0], episodes=2),
        result("pytorch cached", [30.0] * 40, episodes=2),
        result("onnx-cpu", [20.0] * 40, "fp16", episodes=2),
        run=run,
    )
    report["gates"] = check_gates(Gates(max_p99=10.0, min_speedup=1.5), report)
    return report


@pytest.fixture
def pictures() -> list[Picture]:
    """Two bad episodes; the engine marks one pixel more than PyTorch in the first."""
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    mask = np.zeros((480, 640), np.uint8)
    mask[100:300, 200:400] = 1
    other = mask.copy()
    other[300, 300] = 1
    masks = {"pytorch full fp32": mask, "pytorch cached fp32": mask, "onnx-cpu fp16": other}
    made = []
    for name in ("fork <b>&", "spoon"):
        episode = Episode(0, name, "q.jpg", ("s.jpg",))
        made.append(Picture(episode, photo, mask, photo, mask, masks, {"onnx-cpu fp16": 1 / mask.size}))
    return made


@pytest.fixture
def page(told: dict[str, Any], pictures: list[Picture], tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(render(told, pictures), encoding="utf-8")
    return path


def look(page: Path, width: int, dark: bool = False) -> dict[str, Any]:
    probe = page.with_name("probe.html")
    probe.write_text(PROBE.replace("WIDTH", str(width)))
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1400,1000"]
    command += [
        "--allow-file-access-from-files",
        "--virtual-time-budget=5000",
        f"--user-data-dir={page.parent / 'own'}",
    ]
    # nothing of the network is there for it
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    done = subprocess.run(
        [*command, "--dump-dom", probe.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr
    seen: dict[str, Any] = json.loads(html.unescape(found[1]))
    return seen


@browser
def test_the_browser_shows_what_the_json_says(page: Path, told: dict[str, Any]) -> None:
    seen = look(page, 1100)
    assert seen["heading"] == "tiny"
    for name, rows in (
        ("latency", latency_rows(told)),
        ("parity", parity_rows(told)),
        ("costs", cost_rows(told)),
    ):
        assert seen[name] == [list(row) for row in rows]
    # and these rows say what the JSON says
    engine = told["systems"][2]
    assert seen["latency"][2][:5] == [
        "onnx-cpu fp16",
        *(f"{engine['latency_ms']['total'][p]:.1f}" for p in PERCENTILES),
    ]
    assert seen["best"] == ["onnx-cpu fp16", f"{engine['speedup']:.2f} x", "100.000 %", "100.00"]
    assert seen["warnings"] == told["warnings"]
    assert seen["verdict"].startswith("1 of 2 gates failed")
    assert all(check["text"] in seen["verdict"] for check in told["gates"])
    for words in ("ntre bench tiny.ntre", "no CUDA", "0.0123 ms", told["episodes"]["sha256"][:16], "read back from"):
        assert words in seen["environment"]


PERCENTILES = ("p50", "p90", "p95", "p99")


@browser
def test_the_charts_are_drawn_where_the_figures_lie(page: Path, told: dict[str, Any]) -> None:
    seen = look(page, 1100)
    medians = [system["latency_ms"]["total"]["p50"] for system in told["systems"]]
    across = [x for x, _ in seen["points"]]
    # faster is further left, by the logarithm
    assert across[2] < across[1] < across[0]
    share = (across[1] - across[2]) / (across[0] - across[2])
    assert share == pytest.approx(np.log(medians[1] / medians[2]) / np.log(medians[0] / medians[2]), abs=0.02)
    assert [x for x, _ in seen["numbers"]] == pytest.approx(across, abs=2)
    # all have the same mIoU
    assert np.ptp([y for _, y in seen["points"]]) < 1
    assert ["onnx-cpu fp16" in line for line in seen["legend"]] == [False, False, True]
    compute = [system["latency_ms"]["compute"]["p50"] for system in told["systems"]]
    drawn = [pieces[1] for pieces in seen["splits"]]
    assert [d / drawn[0] for d in drawn] == pytest.approx([c / compute[0] for c in compute], abs=0.02)
    # 39 samples of 40 ms and one of 90 ms that must be seen
    assert [len(bars) for bars in seen["histograms"]] == [2, 1, 1]
    assert min(min(bars) for bars in seen["histograms"]) > 1


@browser
def test_the_worst_episodes_are_side_by_side(page: Path) -> None:
    seen = look(page, 1100)
    assert seen["pictures"] == [320] * 12
    assert seen["captions"][0].startswith("fork <b>& image q.jpg")
    for words in ("support", "query", "ground truth", "PyTorch", "onnx-cpu fp16", "difference", "0.000 %"):
        assert words in seen["captions"][1]


@browser
@pytest.mark.parametrize("width", [390, 1100])
def test_nothing_is_wider_than_the_screen(width: int, page: Path) -> None:
    assert look(page, width)["width"] <= width


@browser
def test_dark_and_light_follow_the_reader(page: Path) -> None:
    def brightness(colour: str) -> int:
        return sum(int(part) for part in re.findall(r"\d+", colour)[:3])

    light, dark = look(page, 1100), look(page, 1100, dark=True)
    assert brightness(light["background"]) > 600 > 300 > brightness(light["colour"])
    assert brightness(dark["background"]) < 100 < 600 < brightness(dark["colour"])


def test_the_page_needs_nothing_but_itself_and_runs_no_script(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "Content-Security-Policy" in text
    assert "default-src 'none'" in text
    assert "<script" not in text
    assert "http://" not in text
    assert "https://" not in text
    assert all(source.startswith("data:image/") for source in re.findall(r'(?:src|href)="([^"]*)"', text))
    # names come from anywhere
    assert "fork <b>" not in text
    assert "fork &lt;b&gt;&amp;" in text


def test_the_page_stays_below_three_megabytes_however_many_pictures_there_are(
    told: dict[str, Any], pictures: list[Picture]
) -> None:
    # noise, which no format can compress
    text = render(told, pictures * 30)
    shown = text.count('class="episode"')
    assert 4 < shown < 60
    assert f"{60 - shown} more are in sheet.png" in text
    assert len(text.encode()) < 3_000_000


def test_a_single_differing_pixel_is_seen_in_the_difference(pictures: list[Picture]) -> None:
    from ntre_deploy.bench.report.page import ONLY_ENGINE, ONLY_REFERENCE, _difference

    picture = pictures[0]
    reference, mask = picture.masks["pytorch full fp32"], picture.masks["onnx-cpu fp16"]
    shown = _difference(picture.query, reference, mask, picture.truth)
    assert shown.shape == (240, 320, 3)
    assert (shown[150, 150] == ONLY_ENGINE).all()
    assert not (shown == ONLY_REFERENCE).all(axis=2).any()
    ignored = np.full_like(picture.truth, 255)
    assert not (_difference(picture.query, reference, mask, ignored) == ONLY_ENGINE).all(axis=2).any()


def test_a_report_without_engines_pictures_gates_and_extras_is_a_page_too(
    build: Callable[..., dict[str, Any]], result: Callable[..., Result]
) -> None:
    text = render(build(result("pytorch full", [40.0])), [])
    assert "No gates were asked for" in text
    assert "Worst episodes" not in text
    assert "fastest engine" not in text


def test_the_numbers_of_systems_that_are_alike_do_not_cover_each_other(
    build: Callable[..., dict[str, Any]], result: Callable[..., Result]
) -> None:
    systems = [result("pytorch full", [40.0]), *(result(name, [20.0 + i / 10]) for i, name in enumerate("abc"))]
    points, _, _ = speed_accuracy(build(*systems))
    assert [point.lane for point in points] == [0, 0, 1, 2]
