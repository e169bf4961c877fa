"""`ntre import-weights` and damaged checkpoints: what cannot be read is named, and no pickle ever runs code."""

import json
import os
import pickle
import subprocess
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ntre_deploy.model.checkpoint import load_checkpoint

Done = subprocess.CompletedProcess[str]

HEAD = ("--size", "65", "--width", "16", "--bins", "9,4")
GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def backbone(tiny: SimpleNamespace) -> dict[str, Tensor]:
    """A SqueezeNet's weights under torchvision's names, classifier included."""
    model = load_checkpoint(tiny.checkpoint).model
    tensors = {k: v + 0.01 for k, v in model.backbone.state_dict().items()}
    return tensors | {"classifier.1.weight": torch.ones(3, 512, 1, 1), "classifier.1.bias": torch.ones(3)}


class Evil:
    """Unpickling one runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_backbone_is_imported_from_a_real_pth_file(
    prefix: str, wrapped: bool, backbone: dict[str, Tensor], here: Path, call: Callable[..., Done]
) -> None:
    state: dict[str, Any] = {prefix + name: tensor for name, tensor in backbone.items()}
    torch.save({"epoch": 3, "state_dict": state} if wrapped else state, here / "weights.pth")
    done = call("import-weights", "weights.pth", "out.safetensors", *HEAD, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["config"]["backbone"] == "squeezenet1_1"
    assert (told["origin"]["head"], told["origin"]["backbone"]) == ("untrained", "imported")
    loaded = load_checkpoint(here / "out.safetensors").model.backbone.state_dict()
    assert len(loaded) == len(backbone) - 2
    # layers 2 and 3 are rescaled, by way of these weights
    scaled = [f"features.{n}.expand" for n in (7, 10)] + [f"features.{n}.squeeze.weight" for n in (9, 11)]
    for name in loaded:
        expected = not name.startswith(tuple(scaled))
        assert torch.equal(loaded[name], backbone[name]) == expected, name


def test_a_backbone_is_imported_from_safetensors_and_the_seed_draws_the_head(
    backbone: dict[str, Tensor], here: Path, call: Callable[..., Done]
) -> None:
    save_file(backbone, here / "weights.safetensors")
    heads = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        done = call("import-weights", "weights.safetensors", f"{name}.safetensors", *HEAD, "--seed", seed)
        assert (done.returncode, done.stderr) == (0, "")
        heads.append(load_checkpoint(here / f"{name}.safetensors").model.head.state_dict())
    assert all(torch.equal(heads[0][k], heads[1][k]) for k in heads[0])
    assert not all(torch.equal(heads[0][k], heads[2][k]) for k in heads[0])


@pytest.mark.parametrize("protocol", [None, 0, 2, 4])
def test_a_pickle_that_runs_code_does_not_run_it(
    protocol: int | None, here: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    trace = tmp_path / "it ran"
    content = {"state_dict": {"features.0.weight": Evil(f"touch '{trace}'")}}
    if protocol is None:
        torch.save(content, here / "evil.pth")
    else:
        (here / "evil.pth").write_bytes(pickle.dumps(content, protocol))
    message = refused("import-weights", "evil.pth", "out.safetensors", *HEAD)
    assert not trace.exists()
    assert "evil.pth" in message
    pickle.loads(pickle.dumps(content))  # the same content does run where it is loaded carelessly
    assert trace.exists()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ([torch.ones(2)], "list"),
        ({}, "dict"),
        (torch.ones(2), "Tensor"),
        ({"state_dict": {"a": torch.ones(2), "epoch": 3}}, "'epoch'"),
        ({1: torch.ones(2)}, "1"),
        ({"epoch": 3, "model": {"a": torch.ones(1)}}, "'epoch'"),
        (None, "NoneType"),
    ],
)
def test_a_pickle_that_is_no_state_dict_is_refused(
    content: Any, word: str, here: Path, refused: Callable[..., str]
) -> None:
    torch.save(content, here / "odd.pth")
    message = refused("import-weights", "odd.pth", "out.safetensors", *HEAD)
    assert "odd.pth" in message
    assert word in message


def test_files_that_are_no_weights_are_refused(
    backbone: dict[str, Tensor], here: Path, refused: Callable[..., str]
) -> None:
    torch.save(backbone, here / "good.pth")
    save_file(backbone, here / "good.safetensors")
    for name, content in {
        "cut.pth": (here / "good.pth").read_bytes()[:-1000],
        "start.pth": (here / "good.pth").read_bytes()[:30],
        "empty.pth": b"",
        "words.pth": b"hello\nworld\n",
        "cut.safetensors": (here / "good.safetensors").read_bytes()[:-1000],
        "empty.safetensors": b"",
        "words.safetensors": b"hello world, this is no header",
        "pickle.safetensors": (here / "good.pth").read_bytes(),
    }.items():
        (here / name).write_bytes(content)
        assert name in refused("import-weights", name, "out.safetensors", *HEAD)
    for name in ("missing.pth", "."):
        assert name in refused("import-weights", name, "out.safetensors", *HEAD)


def test_weights_of_an_unknown_network_are_refused(here: Path, refused: Callable[..., str]) -> None:
    torch.save({"encoder.weight": torch.ones(2, 2)}, here / "other.pth")
    message = refused("import-weights", "other.pth", "out.safetensors", *HEAD)
    assert "encoder.weight" in message
    assert "squeezenet1_1" in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("missing", ("missing", "features.4.squeeze.bias")),
        ("extra", ("extra", "features.99.weight")),
        ("misshapen", ("features.4.squeeze.bias", "[5]", "[16]")),
    ],
)
def test_a_missing_extra_or_misshapen_tensor_is_named(
    change: str, words: tuple[str, ...], backbone: dict[str, Tensor], here: Path, refused: Callable[..., str]
) -> None:
    tensors = dict(backbone)
    if change == "missing":
        del tensors["features.4.squeeze.bias"]
    elif change == "extra":
        tensors["features.99.weight"] = torch.ones(1)
    else:
        tensors["features.4.squeeze.bias"] = torch.ones(5)
    torch.save(tensors, here / "weights.pth")
    message = refused("import-weights", "weights.pth", "out.safetensors", *HEAD)
    assert all(word in message for word in words), message


@pytest.fixture(scope="module")
def released() -> dict[str, Tensor]:
    """A whole released state dict, made by the recipe of the golden files."""
    spec = spec_from_file_location("recipe", GOLDEN / "recipe.py")
    assert spec is not None
    assert spec.loader is not None
    recipe = module_from_spec(spec)
    spec.loader.exec_module(recipe)
    shapes = json.loads((GOLDEN / "state_dict_shapes.json").read_text())["vgg16"]
    return {name: torch.from_numpy(recipe.weight(name, tuple(shape))) for name, shape in shapes.items()}


def test_a_released_network_is_imported_tensor_by_tensor(
    released: dict[str, Tensor], here: Path, call: Callable[..., Done]
) -> None:
    torch.save({"epoch": 150, "state_dict": {f"module.{k}": v for k, v in released.items()}}, here / "train.pth")
    done = call("import-weights", "train.pth", "released.safetensors")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "wrote released.safetensors (vgg16_bn, 473 pixels, trained head)\n"
    ours = load_file(here / "released.safetensors")
    counters = [name for name in released if name.endswith("num_batches_tracked")]
    assert len(ours) == len(released) - len(counters)
    for theirs, name in {
        "bg_prototype": "bgmm.prototype",
        "layer0.0.weight": "backbone.features.0.weight",
        "layer1.0.weight": "backbone.features.7.weight",
        "layer4.1.running_var": "backbone.features.35.running_var",
        "down_supp.0.weight": "down_support.0.weight",
        "init_merge1.2.0.weight": "stages.2.bgem.0.weight",
        "init_merge3.3.0.weight": "stages.3.doem.0.weight",
        "inital_inner_cls.0.3.bias": "stages.0.initial.3.bias",
        "cls.3.weight": "head.classifier.3.weight",
    }.items():
        assert torch.equal(ours[name], released[theirs]), name


def test_a_released_network_that_lacks_a_tensor_is_refused_by_our_or_its_name(
    released: dict[str, Tensor], here: Path, refused: Callable[..., str]
) -> None:
    tensors = {k: v for k, v in released.items() if k != "res1.0.weight"}
    torch.save(tensors, here / "train.pth")
    message = refused("import-weights", "train.pth", "released.safetensors")
    assert "missing" in message
    assert "head.merge.0.weight" in message or "res1.0.weight" in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("random:", "x.safetensors"), ("'random:'", "random:0")),
        (("random:one", "x.safetensors"), ("random:one",)),
        (("random:-1", "x.safetensors"), ("random:-1",)),
        (("random:0", "x.pth"), ("x.pth", ".safetensors")),
        (("random:0", "x.safetensors", "--form", "relased"), ("'relased'", "'released'")),
        (("random:0", "x.safetensors", "--backbone", "resnet5"), ("'resnet5'", "'resnet50'")),
        (("random:0", "x.safetensors", "--size", "64"), ("64", "65")),
        (("random:0", "x.safetensors", "--width", "0"), ("width", "0")),
        (("random:0", "x.safetensors", "--bins", "9;4"), ("'9;4'", "60,30,15,8")),
        (("random:0", "x.safetensors", "--bins", ""), ("''",)),
        (("random:0", "x.safetensors", "--bins", "4,0"), ("0",)),
    ],
)
def test_wrong_options_of_import_weights_are_refused(
    arguments: tuple[str, ...], words: tuple[str, ...], refused: Callable[..., str]
) -> None:
    message = refused("import-weights", *arguments)
    assert all(word in message for word in words), message


@pytest.mark.parametrize("arguments", [("random:99999999999999999999999", "x.safetensors", *HEAD)])
def test_a_seed_beyond_64_bits_is_refused(arguments: tuple[str, ...], refused: Callable[..., str]) -> None:
    refused("import-weights", *arguments, "--backbone", "squeezenet1_1")


def test_a_seed_beyond_64_bits_is_refused_for_a_backbone(
    backbone: dict[str, Tensor], here: Path, refused: Callable[..., str]
) -> None:
    save_file(backbone, here / "weights.safetensors")
    refused("import-weights", "weights.safetensors", "x.safetensors", *HEAD, "--seed", "99999999999999999999999")


def test_a_checkpoint_that_is_there_is_kept_without_force(here: Path, call: Callable[..., Done]) -> None:
    (here / "x.safetensors").write_text("mine")
    arguments = ["import-weights", "random:0", "x.safetensors", "--backbone", "squeezenet1_1", *HEAD]
    done = call(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--force" in done.stderr
    assert (here / "x.safetensors").read_text() == "mine"
    assert call(*arguments, "--force").returncode == 0
    assert load_checkpoint(here / "x.safetensors").model.config.width == 16


@pytest.mark.parametrize("place", ["/proc/x.safetensors", "a_file/x.safetensors"])
def test_a_checkpoint_cannot_be_written_there(place: str, here: Path, refused: Callable[..., str]) -> None:
    (here / "a_file").write_text("mine")
    assert place in refused("import-weights", "random:0", place, "--backbone", "squeezenet1_1", *HEAD)


def test_a_disk_that_fills_up_leaves_no_checkpoint(
    full_disk: Callable[[int], Any], refused: Callable[..., str]
) -> None:
    with full_disk(100_000):
        message = refused("import-weights", "random:0", "x.safetensors", "--backbone", "squeezenet1_1", *HEAD)
    assert "x.safetensors" in message


def damaged(kind: str, checkpoint: Path, path: Path) -> None:
    """Write a checkpoint of which one thing is wrong."""
    if kind == "truncated":
        path.write_bytes(checkpoint.read_bytes()[:-100])
    elif kind == "truncated in its header":
        path.write_bytes(checkpoint.read_bytes()[:100])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "words":
        path.write_text("this is not the file that you are looking for")
    else:
        from safetensors import safe_open

        with safe_open(checkpoint, framework="pt") as file:
            metadata = dict(file.metadata())
        tensors = load_file(checkpoint)
        content = json.loads(metadata["ntre"])
        if kind == "another version":
            content["version"] = 99
        elif kind == "no config":
            del content["config"]
        elif kind == "config is a list":
            content["config"] = []
        elif kind == "config with an unknown option":
            content["config"]["widht"] = 3
        elif kind == "config of another width":
            content["config"]["width"] = 24
        elif kind == "a tensor is missing":
            del tensors["head.classifier.3.bias"]
        text = "{" if kind == "metadata is no JSON" else json.dumps(content)
        save_file(tensors, path, None if kind == "weights alone" else {"ntre": text})


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("truncated", ("bad.safetensors",)),
        ("truncated in its header", ("bad.safetensors",)),
        ("empty", ("bad.safetensors",)),
        ("words", ("bad.safetensors", "safetensors")),
        ("weights alone", ("bad.safetensors", "import-weights")),
        ("another version", ("99", "1")),
        ("no config", ("config",)),
        ("metadata is no JSON", ("metadata",)),
        ("config is a list", ("config",)),
        ("config with an unknown option", ("'widht'", "'width'")),
        ("config of another width", ("shape", "bad.safetensors")),
        ("a tensor is missing", ("missing", "head.classifier.3.bias")),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_leaves_no_bundle(
    kind: str, words: tuple[str, ...], tiny: SimpleNamespace, here: Path, refused: Callable[..., str]
) -> None:
    damaged(kind, tiny.checkpoint, here / "bad.safetensors")
    message = refused("export", "bad.safetensors")
    assert all(word in message for word in words), message


def test_a_pth_file_is_sent_to_import_weights(
    backbone: dict[str, Tensor], here: Path, refused: Callable[..., str]
) -> None:
    torch.save(backbone, here / "weights.pth")
    assert "ntre import-weights" in refused("export", "weights.pth")
