"""`ntre demo`: the whole way from a checkpoint to masks, on rendered scenes, and on a photo where that can be."""

from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from ntre_deploy.cli import bench, export, segment
from ntre_deploy.cli.episodes import Draw

# scenes that no training has used
SCENES = "procedural:2022"


def command(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for everything that the demo writes.")] = Path(
        "demo_out"
    ),
    count: Annotated[int, typer.Option("--count", min=1, help="Episodes to measure in step 3.")] = 24,
    threads: Annotated[int, typer.Option("--threads", min=1, help="CPU threads of every system.")] = 2,
) -> None:
    """Export the bundled demo model, segment classes it has never seen, and measure the export against PyTorch.

    Where ntre_deploy[photos] is installed, a real photo comes last.

    Example: ntre demo --out demo_out
    """
    from ntre_deploy.bench.session import Plan
    from ntre_deploy.files import check_folder
    from ntre_deploy.model.checkpoint import load_checkpoint
    from ntre_deploy.model.registry import MODELS, asset_file
    from ntre_deploy.runtime.segmenter import Segmenter

    check_folder(out)
    checkpoint = asset_file("demo")
    origin = load_checkpoint(checkpoint).origin
    photos = MODELS["photos"].missing is None
    steps = 4 if photos else 3
    print(f"1/{steps} export the demo model")
    export.command(checkpoint, out=out / "demo.ntre", precision=["fp32"], force=True)
    print(f"2/{steps} segment scenes of new classes on ONNX Runtime")
    # without a fold, it learned from other classes than these, and all of them are new
    split = None if origin["fold"] is None else origin["split"]
    novel = Draw(SCENES, None, 1, count, 0, origin["fold"], split)
    segmenter = Segmenter.load(out / "demo.ntre", "onnx-cpu", threads=threads)
    segment.run_episodes(segmenter, replace(novel, count=8, seed=1), out / "segmented")
    print(f"3/{steps} measure against PyTorch")
    bench.run([out / "demo.ntre"], [checkpoint], novel, Plan(threads=threads), out=out)
    if not photos:
        print(f"for photos there is another model: {MODELS['photos'].missing}")
        return
    print(f"4/{steps} the model for photos: a bus, shown once, in another street")
    export.command(asset_file("photos"), out=out / "photos.ntre", precision=["fp32"], force=True)
    with as_file(files("ntre_deploy") / "assets" / "photos") as pictures:
        shot = f"bus={pictures / 'bus.jpg'},{pictures / 'bus_mask.png'}"
        photo = str(out / "photo")
        segment.command(out / "photos.ntre", [str(pictures / "street.jpg")], support=[shot], out=photo, threads=threads)
