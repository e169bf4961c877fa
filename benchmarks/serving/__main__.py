"""`ntre serve` measured from outside, on this machine alone, with the load generator hey (apt-get install hey).

    python benchmarks/serving overhead photos.ntre --out FILE.json
    python benchmarks/serving throughput photos.ntre --out FILE.json
    python benchmarks/serving overload demo49.ntre --out FILE.json
    python benchmarks/serving soak demo49.ntre --out FILE.json
    python benchmarks/serving triton photos.ntre --out FILE.json
    python benchmarks/serving paper THROUGHPUT.json

overhead: a JPEG of 640 x 480 to its label map, over HTTP and by a call in the process, in turn.  throughput: with 8
clients, against what `ntre bench` measures.  overload: twice to four times what the server can answer.  soak: 100,000
requests; every mask of one client is compared.  triton: the same requests to Triton.  paper: what many photos need and
cost.  Exit code 1 where something but a time does not hold.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

sys.path.append(str(Path(__file__).parents[1] / "cpu"))
# before installed packages, one of which is called `material` too
sys.path.insert(1, str(Path(__file__).parents[1] / "soak"))
import beside
import lasting
import overhead as http_overhead
import overload as refusing
import paper as reckoning
import throughput as rates
from common import ending, show, write_result  # type: ignore[import-not-found]
from setting import Setting, Wanted, open_setting
from usage import mib  # type: ignore[import-not-found]

from ntre_deploy.cli.console import counting, steps
from ntre_deploy.errors import GateError, InputError
from ntre_deploy.interrupts import held_interrupts

app = typer.Typer(help=(__doc__ or "").splitlines()[0], pretty_exceptions_enable=False, no_args_is_help=True)

BundlePath = Annotated[Path, typer.Argument(help="Bundle of `ntre export`.")]
Out = Annotated[Path, typer.Option("--out", help="JSON file to write.")]
Engine = Annotated[str, typer.Option("--engine", help="onnx-cpu or openvino.")]
Precision = Annotated[str, typer.Option("--precision", help="Of the engine.")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Photos at once; one a processor by default.")]
Photo = Annotated[Path | None, typer.Option("--photo", help="What is segmented; a rendered scene by default.")]
Rounds = Annotated[int, typer.Option("--rounds", min=1, help="Interleaved rounds.")]
Seconds = Annotated[float, typer.Option("--seconds", min=0.5, help="Of each side in a round.")]
Clients = Annotated[int, typer.Option("--clients", min=1, help="Of the load generator.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Of the rendered scenes.")]


@app.command()
def overhead(
    bundle: BundlePath,
    out: Out,
    count: Annotated[int, typer.Option("--count", min=1, help="Calls of each way.")] = 300,
    photo: Photo = None,
    engine: Engine = "onnx-cpu",
    precision: Precision = "fp32",
    seed: Seed = 0,
) -> None:
    """One client, one worker, one engine thread: what HTTP adds to the call."""
    wanted = Wanted(bundle, engine, precision, workers=1, threads=1, photo=photo, seed=seed)
    with ending(), _opened(wanted, out) as setting:
        with counting(count, "turns") as advance:
            found = http_overhead.measure(setting, count, advance)
        _write(out, setting, "overhead", found)
        rows = [
            [name, f"{one['ms']:.2f}", f"{one['p90_ms']:.2f}", f"{one['more_ms']:+.2f}" if "more_ms" in one else ""]
            for name, one in found["ways"].items()
        ]
        show("JPEG of 640 x 480 to its label map, one client", ["", "ms", "90 % ms", "more ms"], rows)


@app.command()
def throughput(
    bundle: BundlePath,
    out: Out,
    clients: Clients = 8,
    rounds: Rounds = 5,
    seconds: Seconds = 10.0,
    workers: Workers = None,
    photo: Photo = None,
    engine: Engine = "onnx-cpu",
    precision: Precision = "fp32",
    seed: Seed = 0,
) -> None:
    """Photos a second with clients, against the bench's own measure."""
    with ending(), _opened(Wanted(bundle, engine, precision, workers, None, photo, seed), out) as setting:
        with counting((rounds + 1) * len(rates.SIDES), "runs") as advance:
            found = rates.measure(setting, clients, rounds, seconds, advance)
        _write(out, setting, "throughput", found)
        rows = [
            [name, f"{one['a_second']:.1f}", f"{one['ratio']:.1%}", f"{one['cpu_ms_a_photo']:.1f}"]
            for name, one in found["sides"].items()
        ]
        show(f"{setting.workers} workers, {clients} clients", ["", "a second", "of bench", "CPU ms a photo"], rows)


@app.command()
def overload(
    bundle: BundlePath,
    out: Out,
    factors: Annotated[str, typer.Option("--factors", help="Of the capacity.")] = "2,3,4",
    queue: Annotated[int, typer.Option("--queue", min=0, help="Requests that may wait.")] = 16,
    rounds: Rounds = 3,
    seconds: Seconds = 10.0,
    workers: Workers = None,
    engine: Engine = "onnx-cpu",
    precision: Precision = "fp32",
    seed: Seed = 0,
) -> None:
    """More than it can answer: waiting, refusals, memory."""
    with ending():
        wanted = Wanted(bundle, engine, precision, workers, None, None, seed, queue)
        chosen = _factors(factors)
        with _opened(wanted, out) as setting:
            with counting(2 + 2 * rounds * len(chosen), "runs") as advance:
                found = refusing.measure(setting, chosen, rounds, seconds, advance)
            found["failed"] = refusing.problems(found)
            _write(out, setting, "overload", found)
            rows = [
                [
                    f"{factor} x",
                    f"{one['offered_of_capacity']:.2f} x",
                    f"{one['accepted_of_capacity']:.2f} x",
                    f"{one['p50_ms']:.0f}",
                    f"{one['p99_ms']:.0f}",
                    f"{one['p99_of_bound']:.0%}",
                ]
                for factor, one in found["loads"].items()
            ]
            show(
                f"capacity {found['capacity_a_second']:.1f} a second, bound {found['bound_ms']:.0f} ms",
                ["", "offered", "accepted", "p50 ms", "p99 ms", "of the bound"],
                rows,
            )
            memory = {name: mib(size) for name, size in found["resident_bytes"].items()}
            print(f"resident memory {memory['before']} before, {memory['after']} after, {memory['most']} at most")
            _fail(found["failed"])


@app.command()
def soak(
    bundle: BundlePath,
    out: Out,
    requests: Annotated[int, typer.Option("--requests", min=1, help="Of the load generator.")] = 100_000,
    workers: Workers = None,
    engine: Engine = "onnx-cpu",
    precision: Precision = "fp32",
    seed: Seed = 0,
) -> None:
    """Many requests: no error, no wrong mask, and memory and open files stay. Ctrl-C writes what was found so far."""
    with (
        ending(),
        _opened(Wanted(bundle, engine, precision, workers, None, None, seed), out) as setting,
        held_interrupts() as interrupted,
    ):
        before = 0

        def told(done: int) -> None:
            nonlocal before
            advance(done - before)
            before = done

        with counting(requests, "requests") as advance:
            found = lasting.measure(setting, requests, told, interrupted)
        _write(out, setting, "soak", found)
        usage, compared = found["usage"], found["compared"]
        print(
            f"{found['completed']} requests in {found['seconds']:.0f} s, {found['broken']} broken, {found['statuses']}"
        )
        print(f"{compared['masks']} masks compared, {compared['wrong']} wrong")
        if "growth" in usage:
            print(
                f"resident memory {mib(usage['resident_bytes_after_warm_up'])} after warm-up, "
                f"{mib(usage['resident_bytes_at_end'])} at the end ({usage['growth']:+.2%}); "
                f"open files {usage['files']}, threads {usage['threads']}"
            )
        _fail(found["failed"])


@app.command()
def triton(
    bundle: BundlePath,
    out: Out,
    count: Annotated[int, typer.Option("--count", min=1, help="Requests of one client in a round.")] = 50,
    clients: Clients = 8,
    rounds: Rounds = 5,
    seconds: Seconds = 8.0,
    workers: Workers = None,
    photo: Photo = None,
    engine: Engine = "onnx-cpu",
    precision: Precision = "fp32",
    seed: Seed = 0,
) -> None:
    """Triton and `ntre serve`: latency of one client, throughput with many."""
    from tritons import triton as started

    with (
        ending(),
        _opened(Wanted(bundle, engine, precision, workers, None, photo, seed), out) as setting,
        ExitStack() as stack,
    ):
        with steps() as tell:
            tell("starting Triton")
            other = stack.enter_context(started(setting))
        with counting(2 * 2 * rounds, "runs") as advance:
            found = beside.measure(setting, other, count, clients, rounds, seconds, advance)
        _write(out, setting, "triton", found)
        rows = [
            [
                f"{kind}, {name}",
                f"{one['one_client_ms']:.1f} ({one['one_client_ratio']:.2f} x)",
                f"{one['a_second']:.1f} ({one['rate_ratio']:.2f} x)",
                f"{one['p99_ms']:.0f}",
                f"{one['cpu_ms']:.1f}",
            ]
            for kind, both in found["bodies"].items()
            for name, one in both.items()
        ]
        columns = ["", "one client ms", f"{clients} clients, a second", "p99 ms", "CPU ms"]
        show(f"{setting.workers} workers or instances; ratios are to serve", columns, rows)


@app.command()
def paper(
    result: Annotated[Path, typer.Argument(help="JSON of `throughput`.")],
    rate: Annotated[float, typer.Option("--rate", min=1, help="Requests a second.")] = 1000,
    photos: Annotated[float, typer.Option("--photos", min=1, help="In all.")] = 1e8,
    core_hour: Annotated[float, typer.Option("--core-hour", min=0, help="Price of a core's hour.")] = 0.04,
    gpu_hour: Annotated[float, typer.Option("--gpu-hour", min=0, help="Price of a GPU's hour, without cores.")] = 1.0,
    gpu_rate: Annotated[float, typer.Option("--gpu-rate", min=1, help="Photos a second of one GPU.")] = 300,
    busy: Annotated[float, typer.Option("--busy", min=0.05, max=1, help="Share of the time that they work.")] = 0.7,
    machine: Annotated[int, typer.Option("--machine", min=1, help="Cores of one.")] = 16,
) -> None:
    """What many photos need and cost, as a table in Markdown."""
    with ending():
        measured = reckoning.Measured.read(result)
        assumed = reckoning.Assumed(core_hour, gpu_hour, busy, gpu_rate, machine)
        found = reckoning.needs(measured, rate, photos, assumed)
        print("\n".join(reckoning.rows(measured, found, rate, photos, assumed)))


def _factors(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(1 < factor <= 100 for factor in found):
        raise InputError(f"--factors {text}: numbers above 1 with commas between them are expected, such as 2,3,4.")
    return found


@contextmanager
def _opened(wanted: Wanted, out: Path) -> Iterator[Setting]:
    """The setting, with a line on the terminal while it is made."""
    with ExitStack() as stack:
        with steps() as tell:
            tell("opening the bundle here and behind ntre serve")
            setting = stack.enter_context(open_setting(wanted, out))
        yield setting


def _write(out: Path, setting: Setting, kind: str, found: dict[str, Any]) -> None:
    content = {"kind": kind, **setting.told(), **found}
    write_result(out, "benchmarks/serving", setting.opened, setting.wanted.seed, setting.before, content)


def _fail(failed: list[str]) -> None:
    if failed:
        raise GateError(" ".join(failed))


if __name__ == "__main__":
    app(prog_name="python benchmarks/serving")
