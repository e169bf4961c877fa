"""Released state dicts and foreign backbones."""

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ntre_deploy.errors import InputError
from ntre_deploy.model.config import NTRENetConfig
from ntre_deploy.model.ntrenet import NTRENet
from ntre_deploy.model.weights import detect, import_weights, read_state_dict, released_name
from ntre_deploy.runtime.inputspec import IMAGENET_MEAN, IMAGENET_STD

SHAPES = json.loads((Path(__file__).parents[1] / "golden" / "state_dict_shapes.json").read_text())
HEAD = NTRENetConfig(width=8, bins=(4, 2), input_size=33)


@pytest.mark.parametrize(
    ("key", "backbone"), [("resnet50", "resnet50"), ("resnet101", "resnet101"), ("vgg16", "vgg16_bn")]
)
def test_every_released_tensor_has_exactly_one_place(key: str, backbone: str) -> None:
    with torch.device("meta"):
        own = {n: list(t.shape) for n, t in NTRENet(NTRENetConfig(backbone=backbone)).state_dict().items()}  # type: ignore[arg-type]
    mapped = {released_name(name, vgg=key == "vgg16"): shape for name, shape in SHAPES[key].items()}
    assert mapped == own


def squeezenet() -> dict[str, torch.Tensor]:
    model = NTRENet(NTRENetConfig(backbone="squeezenet1_1", width=4, bins=(2,), input_size=33))
    return {n: torch.randn_like(t) for n, t in model.backbone.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapped", [False, True])
def test_wrapper_and_prefix_are_taken_off(tmp_path: Path, prefix: str, wrapped: bool) -> None:
    weights = {prefix + name: tensor for name, tensor in squeezenet().items()}
    torch.save({"state_dict": weights, "epoch": 3} if wrapped else weights, tmp_path / "x.pth")
    model, origin = import_weights(str(tmp_path / "x.pth"), HEAD)
    assert origin == {"source": "x.pth", "backbone": "imported", "head": "untrained", "seed": 0}
    assert torch.equal(model.backbone.state_dict()["features.0.bias"], weights[prefix + "features.0.bias"])


def test_an_imagenet_classifier_is_left_out(tmp_path: Path) -> None:
    weights = squeezenet() | {"classifier.1.weight": torch.zeros(10, 512, 1, 1), "classifier.1.bias": torch.zeros(10)}
    torch.save(weights, tmp_path / "x.pth")
    assert import_weights(str(tmp_path / "x.pth"), HEAD)[0].config.backbone == "squeezenet1_1"


def test_stems_and_depths_are_told_apart() -> None:
    with torch.device("meta"):
        for backbone in ("resnet50", "resnet101"):
            for stem in ("deep", "torchvision"):
                config = NTRENetConfig(backbone=backbone, stem=stem)  # type: ignore[arg-type]
                names = NTRENet(config).backbone.state_dict()
                assert detect(names, "x") == {"backbone": backbone, "stem": stem}


def test_resnet18_is_told_from_its_names() -> None:
    with torch.device("meta"):
        names = NTRENet(NTRENetConfig(backbone="resnet18")).backbone.state_dict()
        assert detect(names, "x") == {"backbone": "resnet18"}
        deeper = names | {"layer3.2.conv1.weight": torch.empty(1)}
    with pytest.raises(InputError, match="resnet18, efficientnet_lite0"):
        detect(deeper, "x")


def test_mean_and_std_are_those_of_the_backbone(tmp_path: Path) -> None:
    other = replace(HEAD, mean=(1, 2, 3), std=(4, 5, 6))
    torch.save(squeezenet(), tmp_path / "x.pth")
    config = import_weights(str(tmp_path / "x.pth"), other)[0].config
    assert (config.mean, config.std) == (IMAGENET_MEAN, IMAGENET_STD)
    config = import_weights("random:1", replace(other, backbone="efficientnet_lite0"))[0].config
    assert (config.mean, config.std) == ((127, 127, 127), (128, 128, 128))


def test_a_stride_that_the_weights_backbone_lacks_is_refused(tmp_path: Path) -> None:
    torch.save(squeezenet(), tmp_path / "x.pth")
    with pytest.raises(InputError, match="stride is 16; squeezenet1_1 has 8"):
        import_weights(str(tmp_path / "x.pth"), HEAD, stride=16)


@pytest.mark.parametrize("source", ["package:", "package:resnet50"])
def test_a_backbone_without_a_package_is_refused(source: str) -> None:
    with pytest.raises(InputError, match="efficientnet_lite0"):
        import_weights(source, HEAD)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("features.4.squeeze.bias"), "missing features.4.squeeze.bias"),
        (lambda t: t.update({"ghost": torch.zeros(1)}), "extra ghost"),
        (lambda t: t.update({"features.0.bias": torch.zeros(3)}), r"features.0.bias has shape \[3\] where \[64\]"),
    ],
)
def test_missing_extra_and_misshapen_tensors_are_named(tmp_path: Path, change, words: str) -> None:  # type: ignore[no-untyped-def]
    weights = squeezenet()
    change(weights)
    torch.save(weights, tmp_path / "x.pth")
    with pytest.raises(InputError, match=words):
        import_weights(str(tmp_path / "x.pth"), HEAD)


class Trap:
    """Unpickling this would run a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("save", [torch.save, lambda x, p: Path(p).write_bytes(pickle.dumps(x))])
def test_a_pickle_that_runs_code_does_not_run_it(tmp_path: Path, save) -> None:  # type: ignore[no-untyped-def]
    sprung = tmp_path / "sprung"
    save({"state_dict": Trap(sprung)}, tmp_path / "x.pth")
    with pytest.raises(InputError, match="not loaded because"):
        read_state_dict(tmp_path / "x.pth")
    assert not sprung.exists()


@pytest.mark.parametrize("content", [[1, 2], {"a": 3}, {}, {"state_dict": {"a": [1]}}, {3: torch.zeros(1)}])
def test_a_pickle_that_is_no_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(InputError, match="not a state dict"):
        read_state_dict(tmp_path / "x.pth")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04broken", b"\x80\x02."])
def test_a_file_that_is_no_weight_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.pth"):
        read_state_dict(tmp_path / "x.pth")


def test_weights_of_another_network_are_refused_with_their_first_names(tmp_path: Path) -> None:
    torch.save({"encoder.0": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"encoder\.0"):
        import_weights(str(tmp_path / "x.pth"), HEAD)


@pytest.mark.parametrize("source", ["random:", "random:x", "random:-1"])
def test_a_random_source_needs_a_seed(source: str) -> None:
    with pytest.raises(InputError, match="random:SEED"):
        import_weights(source, HEAD)


def test_random_weights_depend_on_the_seed_alone() -> None:
    config = NTRENetConfig(backbone="squeezenet1_1", width=8, bins=(4,), input_size=33)
    torch.manual_seed(1)
    a = import_weights("random:4", config)[0].state_dict()
    torch.manual_seed(2)
    b = import_weights("random:4", config)[0].state_dict()
    c = import_weights("random:5", config)[0].state_dict()
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert not torch.equal(a["backbone.features.0.weight"], c["backbone.features.0.weight"])


def test_squeezenet_is_scaled_to_what_a_head_can_learn_from(tmp_path: Path) -> None:
    """Layers 2 and 3 by powers of two, which round nothing, and layer 4 not at all."""
    from ntre_deploy.model.weights import SQUEEZENET_SCALES

    weights = squeezenet()
    torch.save(weights, tmp_path / "x.pth")
    scaled = import_weights(str(tmp_path / "x.pth"), HEAD)[0].backbone
    plain = NTRENet(NTRENetConfig(backbone="squeezenet1_1", width=4, bins=(2,), input_size=33)).backbone
    plain.load_state_dict(weights)
    with torch.no_grad():
        image = torch.randn(1, 3, 65, 65)
        ours, theirs = scaled.lower(image), plain.lower(image)
        for a, b, factor in zip(ours, theirs, SQUEEZENET_SCALES, strict=True):
            torch.testing.assert_close(a, b * factor)
        torch.testing.assert_close(scaled.upper(ours[1]), plain.upper(theirs[1]))
