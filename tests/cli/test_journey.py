"""The whole way as a user goes it: weights, export, segment; segment in a process without torch and onnx."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ntre_deploy.model.checkpoint import load_checkpoint
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.overlay import palette

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def without_torch(without: Callable[..., Path]) -> Path:
    return without("torch", "onnx", "onnxscript")


@pytest.fixture(scope="module")
def two_way(
    tiny: SimpleNamespace,
    pictures: SimpleNamespace,
    without_torch: Path,
    ntre: Callable[..., Done],
    tmp_path_factory: pytest.TempPathFactory,
) -> SimpleNamespace:
    """Two classes over a folder of photos, with their memories saved."""
    folder = tmp_path_factory.mktemp("two way")
    names = ("first thing", "second")
    shots = [f"{name}={image},{mask}" for name, (image, mask) in zip(names, pictures.supports, strict=True)]
    arguments = [tiny.bundle, pictures.photos, "--support", shots[0], "-s", shots[1], "--out", "masks"]
    done = ntre("segment", *arguments, "--save-memory", "memory", cwd=folder, blocked=without_torch)
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(folder=folder, names=names, done=done)


def test_import_weights_makes_a_checkpoint_that_needs_no_config(tiny: SimpleNamespace) -> None:
    done = tiny.imported
    assert (done.stderr, done.stdout.count("\n")) == ("", 1)
    assert "tiny.safetensors" in done.stdout
    assert "untrained" in done.stdout
    config = load_checkpoint(tiny.checkpoint).model.config
    assert (config.backbone, config.input_size, config.width, config.bins) == ("squeezenet1_1", 65, 16, (9, 4))


def test_export_makes_a_bundle_of_that_checkpoint_and_tells_how_close_it_is(tiny: SimpleNamespace) -> None:
    assert tiny.exported.stderr == ""
    assert tiny.exported.stdout.startswith("fp32: logits within ")
    assert "wrote tiny.ntre (" in tiny.exported.stdout.splitlines()[-1]
    bundle = Bundle.open(tiny.bundle)
    assert bundle.manifest.model.config["bins"] == [9, 4]
    assert [case["kind"] for case in bundle.manifest.verification[0]["cases"]].count("random") == 2
    assert sorted(p.name for p in tiny.folder.iterdir()) == ["tiny.ntre", "tiny.safetensors"]


def test_segment_writes_a_mask_and_an_overlay_of_every_photo_at_its_size(
    two_way: SimpleNamespace, pictures: SimpleNamespace
) -> None:
    assert two_way.done.stdout == "wrote 3 masks and overlays to masks\nlook at masks/overview.html\n"
    engine, warning = two_way.done.stderr.splitlines()[-2:]
    assert engine.startswith("engine: onnx-cpu fp32")
    assert warning.startswith("warning: the head of this model is untrained")
    masks = two_way.folder / "masks"
    expected = {f"{stem}{end}" for stem in pictures.sizes for end in (".png", ".overlay.jpg")}
    assert {p.name for p in masks.iterdir()} == expected | {"overview.html"}
    for stem, size in pictures.sizes.items():
        mask, overlay = Image.open(masks / f"{stem}.png"), Image.open(masks / f"{stem}.overlay.jpg")
        assert (mask.height, mask.width) == (overlay.height, overlay.width) == size
        assert overlay.mode == "RGB"


def test_a_mask_holds_labels_and_a_palette_to_see_them(two_way: SimpleNamespace, pictures: SimpleNamespace) -> None:
    found = set()
    for stem in pictures.sizes:
        mask = Image.open(two_way.folder / "masks" / f"{stem}.png")
        assert mask.mode == "P"
        colours = mask.getpalette()
        assert colours is not None
        assert colours[:9] == palette(2).ravel().tolist()
        found |= set(np.unique(np.asarray(mask)).tolist())
    assert found <= {0, 1, 2}
    assert found > {0}


def test_saved_memories_give_the_same_masks_and_json_stands_alone_on_stdout(
    two_way: SimpleNamespace,
    tiny: SimpleNamespace,
    pictures: SimpleNamespace,
    without_torch: Path,
    ntre: Callable[..., Done],
) -> None:
    memories = [two_way.folder / "memory" / f"{name}.safetensors" for name in two_way.names]
    assert sorted(p.name for p in (two_way.folder / "memory").iterdir()) == sorted(m.name for m in memories)
    arguments = ["--memory", memories[0], "--memory", memories[1], "--out", "again", "--json"]
    done = ntre("segment", tiny.bundle, pictures.photos, *arguments, cwd=two_way.folder, blocked=without_torch)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["engine"].startswith("onnx-cpu fp32")
    assert {Path(r["image"]).stem for r in told["results"]} == set(pictures.sizes)
    for result in told["results"]:
        mask = two_way.folder / result["mask"]
        assert mask.read_bytes() == (two_way.folder / "masks" / mask.name).read_bytes()
        assert (two_way.folder / result["overlay"]).is_file()
        labels = np.asarray(Image.open(mask))
        for label, name in enumerate(two_way.names, 1):
            assert result["shares"][name] == pytest.approx((labels == label).mean(), abs=1e-6)


def test_a_second_run_replaces_the_masks_of_the_first(
    tiny: SimpleNamespace, pictures: SimpleNamespace, support: str, call: Callable[..., Done], here: Path
) -> None:
    for threads in ("1", "2"):
        done = call("segment", tiny.bundle, pictures.photo, "-s", support, "--out", "o", "--threads", threads)
        assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (here / "o").iterdir()) == ["overview.html", "wide.overlay.jpg", "wide.png"]


def test_segment_runs_episodes_of_a_dataset(
    tiny: SimpleNamespace, without_torch: Path, ntre: Callable[..., Done], tmp_path: Path
) -> None:
    arguments = ["--dataset", "procedural:3", "--count", "2", "--shots", "2", "--out", "episodes"]
    done = ntre("segment", tiny.bundle, *arguments, cwd=tmp_path, blocked=without_torch)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mIoU ")
    assert done.stdout.endswith("wrote 2 masks and overlays to episodes\n")
    written = sorted(p.name for p in (tmp_path / "episodes").iterdir())
    assert len(written) == 5
    assert written[-1] == "sheet.png"
    assert [name.partition("_")[0] for name in written[:4]] == ["000", "000", "001", "001"]


def test_the_dataset_run_gives_json_and_the_same_masks_for_the_same_seed(
    tiny: SimpleNamespace, call: Callable[..., Done], here: Path
) -> None:
    def masks(out: str, seed: str) -> list[Any]:
        draw = ["--dataset", "procedural:3", "--count", "2", "--seed", seed]
        done = call("segment", tiny.bundle, *draw, "--out", out, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        results = json.loads(done.stdout)["results"]
        return [(r["query"], r["class"], Path(r["mask"]).read_bytes()) for r in results]

    assert masks("a", "0") == masks("b", "0")
    assert masks("a", "0") != masks("c", "1")


def test_saving_memories_alone_tells_what_was_saved(
    tiny: SimpleNamespace, support: str, call: Callable[..., Done], here: Path
) -> None:
    done = call("segment", tiny.bundle, "--support", support, "--save-memory", "memory")
    assert done.returncode == 0, done.stderr
    assert [p.name for p in (here / "memory").iterdir()] == ["thing.safetensors"]
    assert "memory/thing.safetensors" in done.stdout + done.stderr


def test_two_memories_of_one_name_are_refused(
    tiny: SimpleNamespace, pictures: SimpleNamespace, support: str, call: Callable[..., Done]
) -> None:
    other = f"thing={pictures.supports[1][0]},{pictures.supports[1][1]}"
    assert call("segment", tiny.bundle, "-s", other, "--save-memory", "m", "--json").returncode == 0
    done = call("segment", tiny.bundle, pictures.photo, "-s", support, "--memory", "m/thing.safetensors", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "thing" in done.stderr


def test_the_same_import_gives_the_same_file(tiny: SimpleNamespace, call: Callable[..., Done], here: Path) -> None:
    config = ["--backbone", "squeezenet1_1", "--size", "65", "--width", "16", "--bins", "9,4"]
    done = call("import-weights", "random:0", "same.safetensors", *config, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["config"]["bins"] == [9, 4]
    assert told["origin"]["head"] == "untrained"
    assert (here / "same.safetensors").read_bytes() == tiny.checkpoint.read_bytes()


def test_export_gives_pure_json_and_leaves_the_bundle_alone_in_its_folder(
    call: Callable[..., Done], tiny: SimpleNamespace, exports_from: Callable[[Path], None], here: Path
) -> None:
    exports_from(tiny.bundle)
    done = call("export", tiny.checkpoint, "--json", "--out", "deep/down/copy.ntre")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["bundle"] == "deep/down/copy.ntre"
    assert told["model"] == Bundle.open(tiny.bundle).manifest.model.id
    assert told["verification"][0]["precision"] == "fp32"
    assert [p.name for p in (here / "deep" / "down").iterdir()] == ["copy.ntre"]
    assert Bundle.open(here / "deep" / "down" / "copy.ntre").manifest.name == "copy"
