"""`ntre tune`: a model for a user's own classes, kept only if it is better on photos that were held out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ntre_deploy.cli.console import counting, note, print_json, reading_masks, steps, training
from ntre_deploy.cli.episodes import StrictOption
from ntre_deploy.errors import GateError, InputError


class _Say:
    """Bars on a terminal; elsewhere a line each."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet

    @contextmanager
    def evaluating(self, what: str, episodes: int) -> Iterator[Callable[[], None]]:
        with counting(episodes, f"measuring: {what}", self.quiet) as advance:
            yield advance

    @contextmanager
    def preparing(self) -> Iterator[Callable[[int, int], None]]:
        with reading_masks(self.quiet, "making scenes") as show:
            yield show

    @contextmanager
    def training(self, start: int, total: int) -> Iterator[Callable[[int, dict[str, float]], None]]:
        with training(start, total, self.quiet) as report:
            yield report


def command(
    base: Annotated[str, typer.Argument(help="Checkpoint, or a name of `ntre models`.", show_default=False)],
    photos: Annotated[
        str, typer.Argument(help="Folder of <class>/images and masks; COCO, CVAT, YOLO, LabelMe.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="NAME", help="Folder of the result, which bears its name.")
    ],
    step_count: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="Of training.")] = 200,
    rate: Annotated[float, typer.Option("--rate", metavar="R", help="Learning rate.")] = 1e-3,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, max=2**32 - 1, help="Of the draw.")] = 0,
    threads: Annotated[int | None, typer.Option("--threads", metavar="N", min=1, help="CPU threads.")] = None,
    strict: StrictOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Tune a model on your own photos; it is kept only if it is better.

    Three photos of ten are held out, and the model is judged on these, before
    and after, beside the training-free matcher. What is better is written to
    NAME/NAME.safetensors and exported to NAME/NAME.ntre, with a sheet of
    pictures; what is not better leaves nothing and exit code 1. Killed and
    started again, it goes on.

    Example: ntre tune photos my_photos/ --out mine
    """
    from ntre_deploy.data.registry import KINDS, guess_kind, open_dataset
    from ntre_deploy.model.registry import checkpoint_file

    if out.suffix in (".ntre", ".safetensors"):
        raise InputError(f"--out {out} names a folder for the result; leave out the ending: --out {out.stem}")
    if not 0 < rate <= 1:
        raise InputError(f"--rate is {rate}; it must be above 0 and at most 1.")
    source = checkpoint_file(base)
    spec = photos
    if Path(photos).exists() or photos.partition(":")[0] not in KINDS:
        spec = f"{guess_kind(Path(photos))}:{photos}"
    with reading_masks(as_json) as reading:
        dataset = open_dataset(spec, progress=reading, strict=strict)
        for class_id in dataset.class_names:
            dataset.images(class_id)
    import torch

    from ntre_deploy.export.bundle import ExportOptions, export_bundle
    from ntre_deploy.runtime.imagefile import write_png
    from ntre_deploy.tuning import report
    from ntre_deploy.tuning.run import TuneOptions, finish, tune

    if threads is not None:
        torch.set_num_threads(threads)
    options = TuneOptions(steps=step_count, rate=rate, seed=seed)
    try:
        tuned = tune(source, dataset, out, options, _Say(as_json))
    except KeyboardInterrupt:
        note(f"interrupted; the same command goes on from the last save in {out}")
        raise SystemExit(130) from None
    bundle = out / f"{out.resolve().name}.ntre"
    if tuned.checkpoint is not None:
        with steps(quiet=as_json) as progress:
            export_bundle(tuned.checkpoint, bundle, ExportOptions(verify_on=dataset, replace=True), progress)
        write_png(out / "sheet.png", report.sheet(tuned))
    finish(out)
    if as_json:
        print_json(report.content(tuned) | {"bundle": str(bundle) if tuned.checkpoint else None})
    else:
        from rich.console import Console

        console = Console()
        console.print(report.table(tuned)) if console.is_terminal else Console(width=120).print(report.table(tuned))
        for line in report.notes(tuned):
            print(f"note: {line}")
    if tuned.checkpoint is None:
        if not any(out.iterdir()):
            out.rmdir()
        raise GateError(
            f"Not better: {report.verdict(tuned)}. Nothing was written; `{base}` stays the better choice. More photos, "
            "or masks that are drawn more exactly, help most."
        )
    if not as_json:
        print(report.verdict(tuned))
        size = sum(f.stat().st_size for f in bundle.iterdir()) / 1e6
        print(f"wrote {tuned.checkpoint}, {bundle} ({size:.1f} MB) and {out / 'sheet.png'}")
        print(f"next: ntre segment {bundle} PHOTO --support NAME=IMAGE,MASK --out masks")
