"""`ntre build`: plans for a bundle's graphs, on the device that will run them."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ntre_deploy.cli.console import print_json, steps
from ntre_deploy.cli.grouped import grouped
from ntre_deploy.cli.plans import PlanOptions, tell_plan
from ntre_deploy.cli.trust import TrustedOption
from ntre_deploy.errors import one_of


@grouped
def command(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.", show_default=False)],
    engine: Annotated[str, typer.Option("--engine", help="trt, or trt-rtx.")] = "trt",
    precision: Annotated[
        str, typer.Option("--precision", help="fp32, fp16, bf16, int8 or fp8, of the bundle's files.")
    ] = "fp16",
    *,
    plans: PlanOptions,
    trusted: TrustedOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Build TensorRT plans from a bundle's own files, without torch and the checkpoint.

    Example: ntre build model.ntre --engine trt --precision fp16
    """
    from ntre_deploy.plans.addition import add_plans
    from ntre_deploy.plans.options import PRECISIONS
    from ntre_deploy.runtime.engines.tensorrt.api import ENGINES

    one_of(engine, ENGINES, "Engine")
    one_of(precision, PRECISIONS, "Precision")
    options = plans.chosen()
    with steps(quiet=as_json) as progress:
        added = add_plans(bundle, engine, precision, options, progress, trusted=trusted or None)
    if as_json:
        parity = None if added.parity is None else added.parity._asdict()
        print_json({"bundle": str(bundle), "plans": [asdict(file) for file in added.plans], "parity": parity})
        return
    for file in added.plans:
        tell_plan(file)
    if added.parity is not None:
        print(
            f"{engine} {precision}: {added.parity.pixels:.2%} of the self-test's pixels as stored by the export, "
            f"logits within {added.parity.logits:.1e}"
        )
    size = sum(file.size for file in added.plans) / 1e6
    print(f"added {len(added.plans)} plans to {bundle} ({size:.1f} MB)")
