"""`ntre import-weights torchvision:...` and `ntre download` as a user meets them, with torchvision and without."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ntre_deploy.errors import EngineError
from ntre_deploy.model.checkpoint import load_checkpoint
from ntre_deploy.vision import PAIR, torchvision

Done = subprocess.CompletedProcess[str]

HEAD = ("--size", "65", "--width", "16", "--bins", "9,4")
NEED_TORCHVISION = [
    ("import-weights", "torchvision:resnet50", "out.safetensors", *HEAD),
    ("download", "voc", "VOC2012"),
]


@pytest.fixture
def models() -> Any:
    try:
        return torchvision("models")
    except EngineError as absent:
        pytest.skip(str(absent))


@pytest.fixture
def failed(ntre: Callable[..., Done], here: Path) -> Callable[..., str]:
    """Run `ntre` in a process of its own, which must end with code 3, one line and nothing written."""

    def call(*arguments: str, blocked: Path) -> str:
        done = ntre(*arguments, cwd=here, blocked=blocked)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1), done.stderr
        assert list(here.iterdir()) == []
        return done.stderr

    return call


@pytest.mark.parametrize("arguments", NEED_TORCHVISION)
def test_without_torchvision_the_command_that_brings_it_is_told(
    arguments: tuple[str, ...], failed: Callable[..., str], without: Callable[..., Path]
) -> None:
    message = failed(*arguments, blocked=without("torchvision"))
    assert message.startswith("error: This needs torchvision, which is not installed")
    assert f"pip install {PAIR}" in message


@pytest.mark.parametrize("arguments", NEED_TORCHVISION)
def test_a_torchvision_of_another_torch_is_told_with_the_command_that_mends_it(
    arguments: tuple[str, ...], failed: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "import torch\ntorch.library.register_fake('torchvision::nms')(lambda: None)\n"
    )
    message = failed(*arguments, blocked=tmp_path)
    assert f"does not import beside torch {torch.__version__} (operator torchvision::nms does not exist)" in message
    assert f"pip install {PAIR}" in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("import-weights", "torchvision:resnet5", "out.safetensors"), ("'resnet5'", "'resnet50'")),
        (("import-weights", "torchvision:", "out.safetensors"), ("squeezenet1_1",)),
        (("download", "voc2012", "VOC2012"), ("'voc2012'", "voc, sbd")),
        (("download", "sbd", "."), (". is no VOC 2012 folder",)),
    ],
)
def test_bad_input_needs_no_torchvision_to_be_refused(
    arguments: tuple[str, ...], words: tuple[str, ...], refused: Callable[..., str]
) -> None:
    message = refused(*arguments)
    assert all(word in message for word in words), message


@pytest.mark.torchvision
def test_a_run_starts_from_a_backbone_by_name(
    models: Any, config: Path, here: Path, tmp_path: Path, call: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    theirs = models.squeezenet1_1(weights=None).state_dict()
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(theirs, tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth")
    done = call("import-weights", "torchvision:squeezenet1_1", "start.safetensors", *HEAD, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["origin"]["source"] == "torchvision:squeezenet1_1:IMAGENET1K_V1"
    frozen = here / "frozen.toml"
    frozen.write_text(config.read_text().replace('backbone = "finetune"', 'backbone = "frozen"'))
    done = call("train", frozen, "--init", "start.safetensors", "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    # the trainer freezes the backbone, so torchvision's weights are still there (layers 2 and 3 rescaled on import)
    trained = load_checkpoint(here / "run" / "last.safetensors").model.backbone.state_dict()
    imported = load_checkpoint(here / "start.safetensors").model.backbone.state_dict()
    assert all(torch.equal(tensor, imported[name]) for name, tensor in trained.items())
    for name in ("features.0.weight", "features.12.expand3x3.weight"):
        assert torch.equal(trained[name], theirs[name])


@pytest.mark.torchvision
def test_without_a_network_an_import_is_one_line(
    models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = models.ResNet50_Weights.IMAGENET1K_V1
    monkeypatch.setattr(weights.value, "url", "http://127.0.0.1:9/resnet50-0676ba61.pth")
    message = refused("import-weights", "torchvision:resnet50", "out.safetensors", *HEAD, code=3)
    assert "Connection refused" in message
    assert "ntre import-weights resnet50-0676ba61.pth OUT" in message
