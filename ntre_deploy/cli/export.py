"""`ntre export`: a checkpoint to a verified bundle."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ntre_deploy.cli.console import print_json, steps
from ntre_deploy.cli.episodes import StrictOption
from ntre_deploy.cli.grouped import grouped
from ntre_deploy.cli.plans import PlanOptions, tell_plan
from ntre_deploy.errors import InputError, one_of

# engine -> its precisions; ntre_deploy.export, which knows them too, is imported only when it is needed
_ENGINES = {
    "onnx": ("fp32", "fp16", "bf16", "int8", "fp8"),
    "openvino": ("fp32", "bf16", "int8"),
    "trt": ("fp32", "fp16", "bf16", "int8", "fp8"),
    "trt-rtx": ("fp32", "fp16", "bf16", "int8", "fp8"),
}
_PLANS = ("trt", "trt-rtx")


@grouped
def command(
    checkpoint: Annotated[
        Path, typer.Argument(help="Checkpoint (.safetensors), or a name of `ntre models`.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Bundle folder.", show_default="NAME.ntre here")
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option("--engine", help="onnx, openvino, trt or trt-rtx; repeatable.", show_default="onnx"),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option("--precision", help="fp32, fp16, bf16, int8 or fp8; repeatable.", show_default="fp32"),
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", help="Input side, 8k + 1.", show_default="the checkpoint's")
    ] = None,
    opset: Annotated[int, typer.Option("--opset", help="ONNX opset, 18 to 23.")] = 18,
    verify_on: Annotated[
        str | None,
        typer.Option(
            "--verify-on", metavar="SPEC", help="Dataset to verify on besides noise.", show_default="rendered scenes"
        ),
    ] = None,
    calibrate_on: Annotated[
        str | None,
        typer.Option(
            "--calibrate-on",
            metavar="SPEC",
            help="Photos that set int8's and fp8's ranges.",
            show_default="rendered scenes",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            metavar="SPEC",
            help="Dataset of 8 episodes with PyTorch's results, for bench on devices; none: no such set.",
            show_default="that of --verify-on",
        ),
    ] = None,
    strict: StrictOption = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
    *,
    plans: PlanOptions,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Export a checkpoint to a bundle, verified against PyTorch.

    Example: ntre export model.safetensors --precision fp32 --precision fp16
    """
    from ntre_deploy.model.registry import checkpoint_file

    engines = tuple(dict.fromkeys(engine or ["onnx"]))
    for value in engines:
        one_of(value, _ENGINES, "Engine")
    precisions = tuple(dict.fromkeys(precision or ["fp32"]))
    for value in precisions:
        one_of(value, dict.fromkeys(p for e in engines for p in _ENGINES[e]), f"Precision of {' and '.join(engines)}")
    if calibrate_on is not None and not {"int8", "fp8"} & set(precisions):
        raise InputError("--calibrate-on is for int8 and fp8; add --precision int8 or leave it out.")
    out = out or Path(f"{checkpoint.stem}.ntre")
    if out.suffix != ".ntre":
        example = f"{out.name}.ntre" if out.name.strip(".") not in ("", "ntre") else "model.ntre"
        raise InputError(f"Bundle name '{out.name}' must be NAME.ntre, for example {example}.")
    chosen = plans.chosen()
    source = checkpoint_file(checkpoint)
    if out.exists() and not force:
        raise InputError(f"{out} exists already; choose another name with --out or pass --force to replace it.")
    from ntre_deploy.data.registry import open_dataset

    dataset = open_dataset(verify_on, strict=strict) if verify_on else None
    calibration = open_dataset(calibrate_on, strict=strict) if calibrate_on else None
    drawn_from = open_dataset(reference, strict=strict) if reference and reference != "none" else None
    from ntre_deploy.export.bundle import ExportOptions, export_bundle
    from ntre_deploy.export.stored import EPISODES

    options = ExportOptions(
        precisions,
        size,
        opset,
        dataset,
        force,
        engines,
        calibration,
        chosen,
        reference=drawn_from,
        reference_episodes=0 if reference == "none" else EPISODES,
    )
    with steps(quiet=as_json) as progress:
        manifest = export_bundle(source, out, options, progress)
    if as_json:
        built = [asdict(file) for file in manifest.files if file.engine in _PLANS]
        content = {"bundle": str(out), "model": manifest.model.id, "verification": manifest.verification}
        print_json(content | ({"plans": built} if built else {}))
        return
    for entry in manifest.verification:
        worst = max(case["logits"] for case in entry["cases"])
        equal = min(case["pixels"] for case in entry["cases"])
        inputs = ", ".join(dict.fromkeys(case["kind"] for case in entry["cases"]))
        of = entry["precision"] if engines == ("onnx",) else f"{entry['engine']} {entry['precision']}"
        print(f"{of}: logits within {worst:.1e}, {equal:.2%} equal pixels at worst (on {inputs})")
    for file in manifest.files:
        if file.engine in _PLANS:
            tell_plan(file)
        if file.role == "query" and "cost" in file.details:
            cost, kept = file.details["cost"], ", ".join(file.details["kept_in_floating_point"]) or "nothing"
            judged_on = file.details["calibration"]["held_out"]["dataset"]
            print(
                f"{file.precision_found}: {cost['agreement']:.2%} equal pixels, {-cost['miou_drop']:+.4f} mIoU on "
                f"held-out episodes of {judged_on}; kept in floating point: {kept}"
            )
    size_mb = sum(entry.size for entry in manifest.files) / 1e6
    if manifest.model.origin.get("head") == "untrained":
        print("note: the head of this checkpoint is untrained; its masks mean nothing yet")
    print(f"wrote {out} ({size_mb:.1f} MB)")
