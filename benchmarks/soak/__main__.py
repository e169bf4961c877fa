"""Run a bundle for long, and see that masks stay right and that memory, open files and threads stay what they were.

    python benchmarks/soak queries model.ntre --count 100000 --out FILE.json
    python benchmarks/soak reloads model.ntre --count 2000 --out FILE.json

queries: several clones at once, a thread each, random photos and memories; every mask must be the one that a single
thread gave for the same photo and memories.  reloads: open, ask once and drop.  Exit code 1 where something does not
hold.  Ctrl-C writes what was found so far and ends with 130.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

sys.path.append(str(Path(__file__).parents[1] / "cpu"))
from common import ending, write_result  # type: ignore[import-not-found]
from material import Material, draw_pairs, draw_photos, encode_memories
from queries import Asked, ask, first_masks
from reloads import reload
from usage import judge, mib

from ntre_deploy.bench.machine import environment
from ntre_deploy.cli.console import counting, steps
from ntre_deploy.data.registry import open_dataset
from ntre_deploy.errors import GateError
from ntre_deploy.files import check_folder
from ntre_deploy.interrupts import held_interrupts
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.segmenter import Segmenter

app = typer.Typer(help=(__doc__ or "").splitlines()[0], pretty_exceptions_enable=False, no_args_is_help=True)

BundlePath = Annotated[Path, typer.Argument(help="Bundle of `ntre export`.")]
Out = Annotated[Path, typer.Option("--out", help="JSON file to write.")]
Engine = Annotated[str, typer.Option("--engine", help="onnx-cpu or openvino.")]
Precision = Annotated[str, typer.Option("--precision", help="Of the engine.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="CPU threads of the engine.")]
DatasetSpec = Annotated[str, typer.Option("--dataset", help="Of photos and memories, as of `ntre bench`.")]
Photos = Annotated[int, typer.Option("--photos", min=1, help="Photos, each of a random size.")]
Sides = Annotated[tuple[int, int], typer.Option("--sides", help="Smallest and largest side of a photo, in pixels.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Of all that is drawn.")]


@app.command()
def queries(
    bundle: BundlePath,
    out: Out,
    count: Annotated[int, typer.Option("--count", min=1, help="Queries.")] = 100_000,
    clones: Annotated[int, typer.Option("--clones", min=1, help="Clones of the segmenter, a thread each.")] = 8,
    memories: Annotated[int, typer.Option("--memories", min=1, help="Support memories.")] = 50,
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="Pairs of a photo and memories to draw from.")] = 512,
    photos: Photos = 64,
    sides: Sides = (64, 400),
    dataset: DatasetSpec = "procedural",
    engine: Engine = "onnx-cpu",
    precision: Precision = "fp32",
    threads: Threads = 1,
    seed: Seed = 0,
) -> None:
    """Ask several clones at once, and compare every mask with the one that a single thread gave."""
    with ending():
        check_folder(out.parent)
        before, opened = environment(threads), Bundle.open(bundle)
        segmenter = Segmenter.load(bundle, engine, precision=precision, threads=threads)
        material = _material(segmenter, dataset, photos, sides, memories, pairs, seed)
        with counting(len(material.pairs), "first masks") as advance:
            expected = first_masks(segmenter, material, advance)

        def work(advance: Callable[[], None], interrupted: Callable[[], bool]) -> Asked:
            return ask(segmenter, material, expected, count, clones, seed, advance=advance, interrupted=interrupted)

        _run("queries", work, count, out, opened, before, seed, _told(segmenter, material, threads, clones=clones))


@app.command()
def reloads(
    bundle: BundlePath,
    out: Out,
    count: Annotated[int, typer.Option("--count", min=1, help="How often the bundle is opened.")] = 2000,
    photos: Photos = 8,
    sides: Sides = (64, 400),
    dataset: DatasetSpec = "procedural",
    engine: Engine = "onnx-cpu",
    precision: Precision = "fp32",
    threads: Threads = 2,
    seed: Seed = 0,
) -> None:
    """Open the bundle with its self-test, ask once and drop it, again and again."""
    with ending():
        check_folder(out.parent)
        before, opened = environment(threads), Bundle.open(bundle)

        def load() -> Segmenter:
            return Segmenter.load(bundle, engine, precision=precision, threads=threads)

        segmenter = load()
        material = _material(segmenter, dataset, photos, sides, photos, photos, seed)
        expected = first_masks(segmenter, material)
        told = _told(segmenter, material, threads)
        del segmenter

        def work(advance: Callable[[], None], interrupted: Callable[[], bool]) -> Asked:
            return reload(load, material, expected, count, advance=advance, interrupted=interrupted)

        _run("reloads", work, count, out, opened, before, seed, told)


def _material(
    segmenter: Segmenter, spec: str, photos: int, sides: tuple[int, int], memories: int, pairs: int, seed: int
) -> Material:
    with steps() as show:
        show("photos")
        dataset = open_dataset(spec)
        drawn = draw_photos(dataset, photos, sides, seed)
        show("memories")
        encoded = encode_memories(segmenter, dataset, memories, seed)
    return Material(drawn, encoded, draw_pairs(len(drawn), len(encoded), pairs, seed))


def _told(segmenter: Segmenter, material: Material, threads: int, **more: int) -> dict[str, Any]:
    return {
        "engine": segmenter.engine.name,
        "precision": segmenter.engine.precision,
        "engine_threads": threads,
        **more,
        "photos": len(material.photos),
        "memories": len(material.memories),
        "pairs": len(material.pairs),
    }


def _run(
    what: str,
    work: Callable[[Callable[[], None], Callable[[], bool]], Asked],
    count: int,
    out: Path,
    bundle: Bundle,
    before: dict[str, Any],
    seed: int,
    told: dict[str, Any],
) -> None:
    """Do the work, write the result, say it, and fail where something did not hold.

    Raises:
        GateError: masks were wrong, or the process did not stay what it was.
        KeyboardInterrupt: the work was interrupted; its result is written all the same.
    """
    with held_interrupts() as interrupted:
        with counting(count, what) as advance:
            found = work(advance, interrupted)
        verdict = judge(found.samples, count)
        failed = list(verdict.failed)
        if found.wrong:
            failed.insert(0, f"{found.wrong} of {found.completed} masks are wrong.")
        result = {
            "kind": what,
            **told,
            "count": count,
            "completed": found.completed,
            "seconds": found.seconds,
            "a_second": found.completed / found.seconds,
            "wrong_masks": found.wrong,
            "wrong_examples": found.examples,
            "passed": not failed and found.completed == count,
            "failed": failed,
            "usage": verdict.figures,
        }
        write_result(out, "benchmarks/soak", bundle, seed, before, result)
    print(f"{found.completed} {what} in {found.seconds:.0f} s, {found.wrong} wrong masks")
    if "growth" in verdict.figures:
        figures = verdict.figures
        print(
            f"resident memory {mib(figures['resident_bytes_after_warm_up'])} after warm-up, "
            f"{mib(figures['resident_bytes_at_end'])} at the end ({figures['growth']:+.2%}), "
            f"{mib(figures['resident_bytes_most'])} at most; open files {_range(figures['files'])}, "
            f"threads {_range(figures['threads'])}"
        )
    if failed:
        raise GateError(" ".join(failed))


def _range(ends: list[int]) -> str:
    return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


if __name__ == "__main__":
    app(prog_name="python benchmarks/soak")
