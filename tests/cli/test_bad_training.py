"""`ntre train` on input that cannot be used, and runs that are stopped: one line, and nothing half-made."""

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from ntre_deploy.model.checkpoint import load_checkpoint

Done = subprocess.CompletedProcess[str]

NAMES = ("bowl", "cup", "fork", "knife")


@pytest.fixture
def pictures(here: Path) -> Path:
    """A folder of four classes with three annotated photos each."""
    for name in NAMES:
        for part in ("images", "masks"):
            (here / "pictures" / name / part).mkdir(parents=True)
        for k in range(3):
            pixels = np.random.default_rng(k).integers(0, 256, (80, 100, 3), np.uint8)
            mask = np.zeros((80, 100), np.uint8)
            mask[10:70, 10:70] = 255
            Image.fromarray(pixels).save(here / "pictures" / name / "images" / f"{k}.jpg")
            Image.fromarray(mask).save(here / "pictures" / name / "masks" / f"{k}.png")
    return here / "pictures"


@pytest.fixture
def coco(here: Path) -> Callable[[Callable[[dict[str, Any]], Any]], Path]:
    """Write a COCO file of four categories with three photos each, changed by a function (a string is raw text)."""

    def write(change: Callable[[dict[str, Any]], Any] = lambda content: None) -> Path:
        content: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
        for c, name in enumerate(NAMES):
            content["categories"].append({"id": c + 1, "name": name})
            for k in range(3):
                number = 3 * c + k
                content["images"].append({"id": number, "file_name": f"{number}.jpg", "width": 100, "height": 80})
                square = [[10, 10, 70, 10, 70, 70, 10, 70]]
                content["annotations"].append({"image_id": number, "category_id": c + 1, "segmentation": square})
                Image.new("RGB", (100, 80), (number, 9, 9)).save(here / f"{number}.jpg")
        changed = change(content)
        path = here / "instances.json"
        path.write_text(changed if isinstance(changed, str) else json.dumps(content if changed is None else changed))
        return path

    return write


def step_of(out: Path) -> int:
    """The step of a run's state, which must be whole."""
    with safe_open(out / "state.safetensors", framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118
            file.get_tensor(name)
        return int(json.loads(file.metadata()["ntre"])["progress"]["step"])


def train(here: Path) -> tuple[str, ...]:
    return ("train", str(here / "small.toml"), "--out", str(here / "run"))


def test_a_folder_of_pictures_trains(config: Path, pictures: Path, call: Callable[..., Done]) -> None:
    """The good case, without which the refusals below prove nothing."""
    done = call("train", config, "--dataset", "folder:pictures", "--out", "run", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["steps"] == 4


def test_an_image_without_its_mask_is_named(config: Path, pictures: Path, refused: Callable[..., str]) -> None:
    (pictures / "fork" / "masks" / "1.png").unlink()
    message = refused("train", config, "--dataset", "folder:pictures", "--out", "run")
    assert "pictures/fork/images/1.jpg has no mask" in message


def test_a_mask_of_another_size_is_named(config: Path, pictures: Path, refused: Callable[..., str]) -> None:
    Image.new("L", (100, 79)).save(pictures / "fork" / "masks" / "1.png")
    message = refused("train", config, "--dataset", "folder:pictures", "--out", "run")
    assert "fork/masks/1.png is 100 x 79 pixels but its image 1.jpg is 100 x 80" in message


def test_a_class_with_too_few_images_is_named_unless_it_may_be_skipped(
    config: Path, pictures: Path, call: Callable[..., Done], refused: Callable[..., str]
) -> None:
    for k in (1, 2):
        (pictures / "fork" / "images" / f"{k}.jpg").unlink()
    arguments = ("train", config, "--dataset", "folder:pictures", "--out", "run")
    message = refused(*arguments)
    assert "have fewer than 2 images" in message
    assert "'fork' 1;" in message
    assert "--skip-small" in message
    assert "'bowl'" not in message, "the class that the fold holds back"
    assert call(*arguments, "--fold", "2", "--json").returncode == 0, "fork itself is held back"
    assert call(*arguments[:-1], "other", "--skip-small", "--json").returncode == 0


def test_classes_that_all_have_too_few_images_cannot_be_skipped(
    config: Path, pictures: Path, refused: Callable[..., str]
) -> None:
    for more in ((), ("--skip-small",)):
        message = refused("train", config, "--dataset", "folder:pictures", "--shots", "3", "--out", "run", *more)
        assert "No base class" in message


@pytest.mark.parametrize(
    ("where", "size", "words"),
    [("images", 700, ("fork/images/1.jpg", "damaged or cut off")), ("masks", 60, ("fork/masks/1.png", "damaged"))],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_cut_off_picture_is_named_in_the_middle_of_training(
    workers: int,
    where: str,
    size: int,
    words: tuple[str, ...],
    config: Path,
    pictures: Path,
    call: Callable[..., Done],
) -> None:
    config.write_text(config.read_text().replace("workers = 0", f"workers = {workers}"))
    path = next((pictures / "fork" / where).glob("1.*"))
    path.write_bytes(path.read_bytes()[:size])
    done = call("train", config, "--dataset", "folder:pictures", "--out", "run", "--steps", "60", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words)


def _set(*keys: Any) -> Callable[[dict[str, Any]], Any]:
    """Set the value behind a path of keys; the last of them is the value."""

    def change(content: dict[str, Any]) -> None:
        inner: Any = content
        for key in keys[:-2]:
            inner = inner[key]
        inner[keys[-2]] = keys[-1]

    return change


def _without(kind: str, key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content[kind][1].pop(key) and None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: [], "is not COCO"),
        (lambda content: "", "is not JSON"),
        (lambda content: json.dumps(content)[:-40], "is not JSON"),
        (lambda content: "[" * 100_000, "is not JSON"),
        (lambda content: '{"images": 1' + "0" * 5000 + "}", "is not JSON"),
        (lambda content: {"images": []}, "annotations, categories are missing"),
        (_set("annotations", {}), "annotations are missing"),
        (_set("categories", []), "no categories"),
        (_without("images", "file_name"), "images[1] has no 'file_name'"),
        (_without("annotations", "category_id"), "annotations[1] has no 'category_id'"),
        (_set("images", 0, "width", "100"), "'width' of images[0] is a str"),
        (_set("images", 0, "width", 10**300), "pixels are allowed"),
        (_set("images", 0, "file_name", "../../secret.jpg"), "leaves the images folder"),
        (_set("annotations", 0, "category_id", 10**300), "unknown category"),
        (_set("annotations", 0, "segmentation", "garbage"), "bad segmentation"),
        (_set("annotations", 0, "segmentation", [[1, 2, 3]]), "three points"),
        (_set("annotations", 0, "segmentation", [[0, 0, 10**400, 0, 9, 9]]), "bad segmentation"),
        (_set("annotations", 0, "segmentation", {"size": [80, 99], "counts": [7920]}), "[80, 100] is expected"),
        (_set("annotations", 0, "segmentation", {"size": [80, 100], "counts": [9000]}), "runs of 9000 pixels"),
        (_set("annotations", 0, "segmentation", {"size": [80, 100], "counts": "~~"}), "run-length string"),
        (_set("annotations", 0, "segmentation", {"size": [80, 100], "counts": [10**300]}), "bad segmentation"),
    ],
)
def test_an_annotation_file_that_is_not_coco_is_refused(
    change: Callable[[dict[str, Any]], Any],
    words: str,
    config: Path,
    coco: Callable[..., Path],
    refused: Callable[..., str],
) -> None:
    pytest.importorskip("pycocotools")
    coco(change)
    message = refused("train", config, "--dataset", "coco:instances.json", "--out", "run")
    assert "instances.json" in message
    assert words in message
    assert len(message) < 600, "what is wrong must not be repeated in full"


def test_a_coco_file_trains_and_a_photo_of_another_size_stops_it(
    config: Path, coco: Callable[..., Path], here: Path, call: Callable[..., Done]
) -> None:
    pytest.importorskip("pycocotools")
    coco()
    arguments = ("train", config, "--dataset", "coco:instances.json", "--steps", "40", "--json", "--out")
    assert call(*arguments, "run").returncode == 0
    Image.new("RGB", (90, 80)).save(here / "4.jpg")
    done = call(*arguments, "other")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "4.jpg is 90 x 80 pixels" in done.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[model", ("TOML",)),
        ("\x00", ("TOML",)),
        ("[optimizer]\nrate = 1", ("'optimizer'", "Did you mean 'optimiser'")),
        ("[optimiser]\nrat = 1", ("'rat'", "Did you mean 'rate'")),
        ("[optimiser]\nrate = 'fast'", ("'rate'", "'fast'", "wrong type")),
        ("[optimiser]\nkind = 'sdg'", ("Did you mean 'sgd'",)),
        ("[optimiser]\nbatch = 0", ("optimiser.batch", "1 or more")),
        ("[optimiser]\nrate = inf", ("optimiser.rate", "finite")),
        ("[optimiser]\nrate = 1e39", ("optimiser.rate", "at most")),
        ("[optimiser]\nmomentum = -1", ("optimiser.momentum", "0 or more")),
        ("[optimiser]\nmomentum = 1", ("optimiser.momentum", "below 1")),
        ("[optimiser]\nweight_decay = -1", ("optimiser.weight_decay",)),
        ("[optimiser]\npower = -1", ("optimiser.power",)),
        ("[optimiser]\nclip = 0", ("optimiser.clip", "above 0")),
        ("[loss]\nalpha = nan", ("loss.alpha", "finite")),
        ("[contrastive]\nsize = 0", ("contrastive.size",)),
        ("[run]\nvalidate_every = -1", ("run.validate_every",)),
        ("[run]\nseed = 4294967296", ("run.seed", "4294967295")),
        ("a = " + "[" * 100_000, ("TOML",)),
        ("[data]\nshots = true", ("'shots'", "wrong type")),
        ("[run]\nbackbone = 'finetune'\n[data]\nfold = 4", ("Fold 4", "0 to 3")),
        ("[run]\nbackbone = 'finetune'\n[data]\nfold = -1", ("Fold -1",)),
        ("[model]\nbackbone = 'resnet5'", ("Did you mean 'resnet50'",)),
        ("[model]\ninput_size = 64", ("64", "65")),
        ("run = 3", ("table",)),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(
    content: str, words: tuple[str, ...], here: Path, refused: Callable[..., str]
) -> None:
    (here / "c.toml").write_text(content)
    message = refused("train", "c.toml", "--out", "run")
    assert all(word in message for word in words), message


def test_a_config_that_is_no_text_or_a_folder_is_refused(here: Path, refused: Callable[..., str]) -> None:
    (here / "c.toml").write_bytes(b"\xff\xfe")
    (here / "d.toml").mkdir()
    for name in ("c.toml", "d.toml"):
        assert name in refused("train", name, "--out", "run")


@pytest.mark.parametrize("kind", ["folder", "coco", "pascal"])
def test_data_that_is_not_there_is_named(kind: str, config: Path, refused: Callable[..., str]) -> None:
    if kind == "coco":
        pytest.importorskip("pycocotools")
    assert "no/such" in refused("train", config, "--dataset", f"{kind}:no/such", "--out", "run")


@pytest.mark.parametrize("place", ["/proc/run", "small.toml/run", "small.toml"])
def test_an_out_folder_that_cannot_be_written_is_refused_before_training(
    place: str, config: Path, refused: Callable[..., str]
) -> None:
    assert place in refused("train", config, "--out", place)


def test_a_backbone_of_another_kind_or_no_checkpoint_is_refused(
    config: Path, tiny: SimpleNamespace, refused: Callable[..., str]
) -> None:
    config.write_text(config.read_text().replace("squeezenet1_1", "vgg16_bn"))
    message = refused("train", config, "--init", tiny.checkpoint, "--out", "run")
    assert "has the backbone squeezenet1_1" in message
    assert "vgg16_bn" in message
    assert "no.safetensors" in refused("train", config, "--init", "no.safetensors", "--out", "run")


def test_a_loss_that_becomes_nan_stops_the_run_and_keeps_the_last_good_checkpoint(
    config: Path, here: Path, call: Callable[..., Done]
) -> None:
    # the warm-up keeps the first steps harmless, so that there is something good to keep
    config.write_text(config.read_text().replace("steps = 4", "steps = 400\nrate = 1e9\nwarmup = 1000000000"))
    arguments = ("train", config, "--out", "run", "--steps")
    done = call(*arguments, "400", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    found = re.search(r"at step (\d+) \(episodes (\d+) to (\d+), the first with query \S+ and supports", done.stderr)
    assert found, done.stderr
    step, first, last = map(int, found.groups())
    assert (first, last) == (2 * (step - 1), 2 * step - 1)
    saved = step_of(here / "run")
    assert 0 < saved < step
    load_checkpoint(here / "run" / "last.safetensors")  # refuses NaN
    assert sorted(p.name for p in (here / "run").iterdir()) == ["last.safetensors", "log.csv", "state.safetensors"]


def test_weights_that_are_no_numbers_are_never_saved(config: Path, here: Path, call: Callable[..., Done]) -> None:
    # beyond what float32 holds, so the first step breaks the weights behind a loss that was finite
    config.write_text(
        config.read_text()
        .replace("steps = 4", "steps = 4\nrate = 1000\nweight_decay = 1e38")
        .replace("save_every = 2", "save_every = 1")
    )
    done = call("train", config, "--out", "run", "--json")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "weights became NaN or infinite by step 1 (episode 1); nothing was saved yet" in done.stderr
    assert [p.name for p in (here / "run").iterdir()] == ["log.csv"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--seed", "1"), "run.seed: 0 there, 1 here"),
        (("--shots", "2"), "data.shots: 1 there, 2 here"),
        (("--steps", "9"), "optimiser.steps: 4 there, 9 here"),
        (("--fold", "1"), "data.fold: 0 there, 1 here"),
    ],
)
def test_a_run_with_other_options_does_not_resume(
    options: tuple[str, ...], words: str, config: Path, here: Path, call: Callable[..., Done]
) -> None:
    assert call("train", config, "--out", "run", "--json").returncode == 0
    state = (here / "run" / "state.safetensors").read_bytes()
    done = call("train", config, "--out", "run", *options, "--json")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert words in done.stderr
    assert (here / "run" / "state.safetensors").read_bytes() == state


@pytest.mark.parametrize("damage", ["cut", "text", "checkpoint"])
def test_a_state_that_is_none_is_refused(damage: str, config: Path, here: Path, call: Callable[..., Done]) -> None:
    assert call("train", config, "--out", "run", "--json").returncode == 0
    state = here / "run" / "state.safetensors"
    if damage == "cut":
        state.write_bytes(state.read_bytes()[:-100])
    elif damage == "text":
        state.write_text("mine")
    else:
        shutil.copy(here / "run" / "last.safetensors", state)
    done = call("train", config, "--out", "run", "--json")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "state.safetensors is not" in done.stderr


def test_a_disk_that_fills_up_ends_the_run_and_leaves_nothing_half_written(
    config: Path, here: Path, call: Callable[..., Done], full_disk: Callable[[int], Any]
) -> None:
    with full_disk(100_000):
        done = call("train", config, "--out", "run", "--json")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: Cannot write run/state.safetensors")
    assert [p.name for p in (here / "run").iterdir()] == ["log.csv"]


def _until(ready: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 90
    while not ready():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "the run did not get there"


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stopped_run_says_how_to_go_on_and_goes_on(
    stop: signal.Signals, workers: int, config: Path, here: Path, start: Callable[..., Any]
) -> None:
    config.write_text(
        config.read_text().replace("workers = 0", f"workers = {workers}").replace("steps = 4", "steps = 100000")
    )
    process = start("train", config, "--out", "run", cwd=here)
    _until((here / "run" / "last.safetensors").exists, process)
    process.send_signal(stop)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    saved = step_of(here / "run")
    told = f"interrupted; run holds the state of step {saved}; go on from there with: ntre train {config} --out run"
    # a worker that was just starting may say behind it that its pipe broke
    assert told in err.splitlines()
    assert not list((here / "run").glob(".*"))
    process = start("train", config, "--out", "run", cwd=here)
    held_back, line = process.stderr.readline(), process.stderr.readline()
    process.kill()
    process.communicate()
    assert held_back.startswith("held back (fold 0, interleaved), new in evaluation: ")
    assert line.startswith(f"step {saved + 1}/100000  ")


def test_a_run_that_is_stopped_before_its_first_save_says_so(
    config: Path, here: Path, start: Callable[..., Any]
) -> None:
    config.write_text(
        config.read_text().replace("save_every = 2", "save_every = 90000").replace("steps = 4", "steps = 100000")
    )
    process = start("train", config, "--out", "run", "--json", cwd=here)
    _until((here / "run" / "log.csv").exists, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == f"interrupted; nothing was saved yet; start anew with: ntre train {config} --out run --json\n"


@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_save_leaves_the_state_before_it(
    config: Path, here: Path, start: Callable[..., Any]
) -> None:
    config.write_text(config.read_text().replace("save_every = 2", "save_every = 1"))
    caught = 0
    run = here / "run"
    for _ in range(12):
        process = start("train", config, "--out", "run", "--steps", "100000", cwd=here)
        known = set(run.glob(".state.safetensors.partial-*"))
        _until((run / "state.safetensors").exists, process)
        _until(lambda known=known: bool(set(run.glob(".state.safetensors.partial-*")) - known), process)
        process.kill()
        process.communicate()
        assert step_of(run) > 0
        caught += bool(list(run.glob(".state.safetensors.partial-*")))
        if caught == 2:
            break
    assert caught, "no kill hit a save"
    before = step_of(run)
    process = start("train", config, "--out", "run", "--steps", "100000", cwd=here)
    _until(lambda: step_of(run) > before, process)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[0] == ""
    assert not list(run.glob(".*")), "what the kills left is cleared away"
