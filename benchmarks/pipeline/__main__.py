"""How busy `ntre segment` keeps an engine, what reading large JPEGs smaller changes, and whether memory stays.

    python benchmarks/pipeline clip photos.ntre --out FILE.json
    python benchmarks/pipeline photos photos.ntre --out FILE.json
    python benchmarks/pipeline memory demo49.ntre --out FILE.json
    python benchmarks/pipeline reading photos.ntre --dataset coco:instances_val.json --out FILE.json

clip: frames a second of a 1920 x 1080 clip that becomes a video, against the engine alone.  photos: the share of the
time for which the engine works on 12-megapixel photos, with one step after the other and with all side by side.
memory: resident memory over a long clip.  reading: masks from reduced JPEGs against those from whole ones.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.resources import as_file, files
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from PIL import Image

sys.path += [str(Path(__file__).parents[1] / name) for name in ("cpu", "soak")]
from common import show, write_result  # type: ignore[import-not-found]
from reading import compare  # type: ignore[import-not-found]
from usage import Watch, judge, mib  # type: ignore[import-not-found]

from ntre_deploy.bench.machine import environment
from ntre_deploy.errors import NtreError
from ntre_deploy.files import check_folder
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.imagefile import Pixels, read_image, read_mask, write_png
from ntre_deploy.runtime.labels import label_scores
from ntre_deploy.runtime.letterbox import prepare_image
from ntre_deploy.runtime.overlay import overlay, palette, tag_names
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.sources.finding import find_sources
from ntre_deploy.runtime.support import SupportMemory
from ntre_deploy.runtime.videowriter import write_video
from ntre_deploy.segment.outputs import chosen_kinds
from ntre_deploy.segment.page import thumbnail
from ntre_deploy.segment.run import Job

app = typer.Typer(help=(__doc__ or "").splitlines()[0], pretty_exceptions_enable=False, no_args_is_help=True)

BundlePath = Annotated[Path, typer.Argument(help="Bundle of `ntre export`.")]
Out = Annotated[Path, typer.Option("--out", help="JSON file to write.")]
Engine = Annotated[str, typer.Option("--engine", help="Of the bundle.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="CPU threads of the engine.")]
Rounds = Annotated[int, typer.Option("--rounds", min=1, help="Interleaved rounds.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of noise and draws.")]

_HD, _TWELVE = (1080, 1920), (3024, 4032)


@app.command()
def clip(
    bundle: BundlePath,
    out: Out,
    frames: Annotated[int, typer.Option("--frames", min=10, help="Of the clip.")] = 150,
    rounds: Rounds = 5,
    engine: Engine = "onnx-cpu",
    threads: Threads = 1,
    seed: Seed = 0,
) -> None:
    """Frames a second of a 1920 x 1080 clip, against the engine's own rate."""
    with _setting(bundle, out, engine, threads) as (segmenter, memory, folder, write):
        _clip(folder / "clip.mp4", frames, _HD, seed)
        photo = _street(_HD)
        rows = []
        for _ in range(rounds):
            alone = [_bench(segmenter, memory, photo) for _ in range(20)]
            seconds, busy = _run(segmenter, memory, folder / "clip.mp4", folder / "out")
            rows.append(
                {
                    "bench_total_ms": 1e3 * median(a + b + c for a, b, c in alone),
                    "bench_compute_ms": 1e3 * median(b for _, b, _ in alone),
                    "frame_ms": 1e3 * seconds / frames,
                    "engine_busy": busy / seconds,
                }
            )
        of_total = median(row["bench_total_ms"] / row["frame_ms"] for row in rows)
        of_compute = median(row["bench_compute_ms"] / row["frame_ms"] for row in rows)
        write(seed, {"frames": frames, "rounds": rows, "of_bench_rate": of_total, "of_compute_rate": of_compute})
        columns = ["bench_total_ms", "bench_compute_ms", "frame_ms", "engine_busy"]
        show("1920 x 1080", columns, [[f"{row[c]:.3g}" for c in columns] for row in rows])
        print(f"{of_total:.0%} of the rate of `ntre bench`, {of_compute:.0%} of the query graph alone")


@app.command()
def photos(
    bundle: BundlePath,
    out: Out,
    count: Annotated[int, typer.Option("--count", min=2, help="Photos of 12 megapixels.")] = 12,
    rounds: Rounds = 3,
    engine: Engine = "onnx-cpu",
    threads: Threads = 1,
    seed: Seed = 0,
) -> None:
    """The share of the time for which the engine works on a folder of 12-megapixel photos."""
    with _setting(bundle, out, engine, threads) as (segmenter, memory, folder, write):
        (folder / "in").mkdir()
        for number in range(count):
            _noisy(_street(_TWELVE), seed + number).save(folder / "in" / f"{number}.jpg", quality=92)
        rows = []
        for _ in range(rounds):
            before = _one_after_the_other(segmenter, memory, sorted((folder / "in").iterdir()), folder / "before")
            after = _run(segmenter, memory, folder / "in", folder / "out")
            exact = _run(segmenter, memory, folder / "in", folder / "out", exact=True)
            rows.append(
                {
                    name: {"photo_ms": 1e3 * seconds / count, "engine_busy": busy / seconds}
                    for name, (seconds, busy) in {"before": before, "after": after, "exact": exact}.items()
                }
            )
        share = {name: median(row[name]["engine_busy"] for row in rows) for name in rows[0]}
        ratio = {name: median(r["before"]["photo_ms"] / r[name]["photo_ms"] for r in rows) for name in rows[0]}
        write(seed, {"photos": count, "size": _TWELVE, "rounds": rows, "engine_busy": share, "times_faster": ratio})
        for name in share:
            print(f"{name}: engine busy {share[name]:.0%} of the time, {ratio[name]:.1f} x as fast as before")


@app.command()
def memory(
    bundle: BundlePath,
    out: Out,
    frames: Annotated[int, typer.Option("--frames", min=100, help="Of the clip.")] = 10_000,
    engine: Engine = "onnx-cpu",
    threads: Threads = 1,
    seed: Seed = 0,
) -> None:
    """Resident memory of this process over a long clip."""
    with _setting(bundle, out, engine, threads) as (segmenter, memory, folder, write):
        _clip(folder / "clip.mp4", frames, (240, 320), seed)
        watch, done = Watch(frames), 0

        def advance() -> None:
            nonlocal done
            done += 1
            watch.count(done)

        seconds, _ = _run(segmenter, memory, folder / "clip.mp4", folder / "out", advance)
        verdict = judge(watch.samples, frames)
        samples = [asdict(s) for s in watch.samples[:: max(1, len(watch.samples) // 40)]]
        write(
            seed,
            {
                "frames": done,
                "seconds": seconds,
                "usage": verdict.figures,
                "failed": verdict.failed,
                "samples": samples,
            },
        )
        figures = verdict.figures
        print(
            f"{done} frames in {seconds:.0f} s; resident memory {mib(figures['resident_bytes_after_warm_up'])} after "
            f"warm-up, {mib(figures['resident_bytes_at_end'])} at the end ({figures['growth']:+.2%})"
        )
        if verdict.failed:
            sys.exit(1)


@app.command()
def reading(
    bundle: BundlePath,
    out: Out,
    dataset: Annotated[str, typer.Option("--dataset", help="Of photos with masks, as of `ntre bench`.")],
    count: Annotated[int, typer.Option("--count", min=1, help="One-shot episodes.")] = 100,
    engine: Engine = "onnx-cpu",
    threads: Threads = 1,
    seed: Seed = 0,
) -> None:
    """How masks change where large JPEGs are read at a half or a quarter."""
    with _setting(bundle, out, engine, threads) as (segmenter, _, folder, write):
        found = compare(segmenter, dataset, count, seed, _TWELVE[1], folder / "photo.jpg")
        write(seed, found)
        for row in found["rows"]:
            print(
                f"read at {row['least']} pixels or more (1/{row['factor']}): {row['changed']:.3%} of a mask changes, "
                f"mIoU {row['miou']:.2f}; change {row['miou_change']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})"
            )


@contextmanager
def _setting(
    bundle: Path, out: Path, engine: str, threads: int
) -> Iterator[tuple[Segmenter, SupportMemory, Path, Any]]:
    """A segmenter with the bus of the package's photo, a folder for files, and what writes the result."""
    try:
        check_folder(out.parent)
        before, opened = environment(threads), Bundle.open(bundle)
        segmenter = Segmenter.load(bundle, engine, threads=threads)
        with as_file(files("ntre_deploy") / "assets" / "photos") as shown:
            shot = (read_image(shown / "bus.jpg"), read_mask(shown / "bus_mask.png"))
        support = segmenter.encode_support([shot], "bus")

        def write(seed: int, found: dict[str, Any]) -> None:
            told = {"engine": segmenter.engine.name, "precision": segmenter.engine.precision, "engine_threads": threads}
            write_result(out, "benchmarks/pipeline", opened, seed, before, told | found)

        with tempfile.TemporaryDirectory() as folder:
            yield segmenter, support, Path(folder), write
    except NtreError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _run(
    segmenter: Segmenter,
    memory: SupportMemory,
    given: Path,
    out: Path,
    advance: Callable[[], None] = lambda: None,
    *,
    exact: bool = False,
) -> tuple[float, float]:
    """Seconds of `ntre segment` behind its loading, and those in which its engine worked."""
    sources = find_sources([given]).sources
    job = Job(segmenter, [memory], out, chosen_kinds(None, sources), exact=exact, advance=advance)
    began = time.perf_counter()
    job.run(sources)
    return time.perf_counter() - began, job.busy


def _one_after_the_other(
    segmenter: Segmenter, memory: SupportMemory, paths: list[Path], out: Path
) -> tuple[float, float]:
    """As `ntre segment` was before: every photo read twice and whole, its overlay a PNG of its size, on one thread."""
    began, busy = time.perf_counter(), 0.0
    for path in paths:
        read_image(path)
    for path in paths:
        image = read_image(path)
        pixels, box = prepare_image(image, segmenter.spec)
        asked = time.perf_counter()
        logits = segmenter.query(pixels, memory)
        busy += time.perf_counter() - asked
        labels, _ = label_scores(logits, box)
        write_png(out / f"{path.stem}.png", labels, palette(1))
        picture = tag_names(overlay(image, labels), labels, ["bus"])
        write_png(out / f"{path.stem}.overlay.png", picture)
        thumbnail(picture)
    return time.perf_counter() - began, busy


def _bench(segmenter: Segmenter, memory: SupportMemory, photo: Pixels) -> tuple[float, float, float]:
    """Seconds before, in and behind the query graph, as `ntre bench` takes them."""
    times = [time.perf_counter()]
    pixels, box = prepare_image(photo, segmenter.spec)
    times.append(time.perf_counter())
    logits = segmenter.query(pixels, memory)
    times.append(time.perf_counter())
    segmenter_labels = label_scores(logits, box)
    times.append(time.perf_counter())
    assert segmenter_labels[0].shape == photo.shape[:2]
    return times[1] - times[0], times[2] - times[1], times[3] - times[2]


def _street(size: tuple[int, int]) -> Pixels:
    """The package's other photo of a bus, cut and enlarged to (H, W)."""
    with as_file(files("ntre_deploy") / "assets" / "photos") as shown:
        image = read_image(shown / "street.jpg")
    scale = max(size[0] / image.shape[0], size[1] / image.shape[1])
    large = cv2.resize(image, None, fx=scale * 1.001, fy=scale * 1.001, interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(large[: size[0], : size[1]]).astype(np.uint8, copy=False)


def _noisy(image: Pixels, seed: int) -> Image.Image:
    """With the noise of a sensor: enlarged photos would be compressed and decoded too easily."""
    noise = np.random.default_rng(seed).normal(0, 4, (*image.shape[:2], 1)).astype(np.float32)
    return Image.fromarray((image + noise).clip(0, 255).astype(np.uint8))


def _clip(path: Path, frames: int, size: tuple[int, int], seed: int) -> None:
    """A camera that pans slowly over the photo."""
    height, width = size
    wide = np.asarray(_noisy(_street((height + 64, width + 64)), seed))
    with write_video(path, size, 25) as write:
        for k in range(frames):
            y, x = (round(32 + 32 * f(k / 40)) for f in (np.sin, np.cos))
            write(np.ascontiguousarray(wide[y : y + height, x : x + width]))


if __name__ == "__main__":
    app()
