"""What every head must do: one class of tests, and a class with a config for each head."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ntre_deploy.errors import InputError
from ntre_deploy.export.bundle import ExportOptions, export_bundle
from ntre_deploy.export.fold import count_batchnorm
from ntre_deploy.export.graphs import query_graph, support_graph
from ntre_deploy.export.torch_engines import FullNetwork, as_tensors
from ntre_deploy.model.checkpoint import load_checkpoint, save_checkpoint
from ntre_deploy.model.config import MatcherConfig, ModelConfig, NTRENetConfig, RefinerConfig, input_spec
from ntre_deploy.model.heads import HEADS, find_head, read_config
from ntre_deploy.model.network import FewShotNetwork
from ntre_deploy.model.weights import import_weights
from ntre_deploy.runtime.labels import label_map
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.stacked import stack

SIZE = 65
Images = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def inputs(batch: int, classes: int, shots: int) -> Images:
    """Noise in letterboxes of different aspect ratios: images [B], supports [N, K] and masks."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(batch, 3, SIZE, SIZE, generator=generator)
    supports = torch.randn(classes, shots, 3, SIZE, SIZE, generator=generator)
    masks = torch.zeros(classes, shots, SIZE, SIZE)
    for c in range(classes):
        masks[c, :, 8 : 40 + 4 * c, 16 - 4 * c : 50] = 1
        supports[c, 0, :, 48 + c :] = 0
        supports[c, -1, :, :, 52:] = 0
    images[0, :, 50:] = 0
    return images, supports, masks


class HeadContract:
    """A head's class sets `config`, for seeded random weights."""

    config: ModelConfig
    weights = "random:2"

    @pytest.fixture
    def model(self) -> FewShotNetwork:
        model = import_weights(self.weights, self.config)[0]
        if (adapter := getattr(model, "adapter", None)) is not None:
            torch.nn.init.normal_(adapter.up.weight, std=0.1, generator=torch.Generator().manual_seed(1))
        return model

    def test_it_is_registered_under_its_name(self) -> None:
        assert HEADS[self.config.head].config is type(self.config)
        assert read_config(json.loads(json.dumps(self.config.to_dict()))) == self.config

    def test_a_checkpoint_keeps_config_and_weights(self, model: FewShotNetwork, tmp_path: Path) -> None:
        save_checkpoint(tmp_path / "a.safetensors", model, {"head": "untrained"})
        loaded = load_checkpoint(tmp_path / "a.safetensors").model
        assert loaded.config == model.config
        own, theirs = model.state_dict(), loaded.state_dict()
        assert own.keys() == theirs.keys()
        assert all(torch.equal(own[name], theirs[name]) for name in own)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_the_deployed_graphs_equal_the_training_graph(self, model: FewShotNetwork, dtype: torch.dtype) -> None:
        images, supports, masks = inputs(batch=2, classes=3, shots=2)
        support, query = support_graph(model, SIZE, dtype), query_graph(model, SIZE, dtype)
        assert count_batchnorm(support) == count_batchnorm(query) == 0
        allowed = {torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 2e-1}[dtype]
        with torch.inference_mode():
            prototypes, keys = support(supports.flatten(0, 1), masks.flatten(0, 1)[:, None])
            assert prototypes.shape == (6, model.prototype_channels)
            assert keys.shape[1] == model.key_channels
            stacked = stack(prototypes.view(3, 2, -1).mean(1).numpy(), keys.view(3, 2, *keys.shape[1:]).numpy())
            got = query(images, *as_tensors(stacked, torch.float16 if dtype == torch.bfloat16 else dtype))
            assert got.dtype == prototypes.dtype == keys.dtype == torch.float32
            assert got.shape[3:] == query.feature
            for b in range(2):
                for n in range(3):
                    wanted = model(images[b : b + 1], supports[n : n + 1], masks[n : n + 1]).logits[0]
                    assert (got[b, n] - wanted).abs().max() <= allowed * wanted.abs().max()

    def test_a_class_with_fewer_shots_is_padded_without_a_trace(self, model: FewShotNetwork) -> None:
        images, supports, masks = inputs(batch=1, classes=2, shots=2)
        query = query_graph(model, SIZE)
        with torch.inference_mode():
            prototypes, keys = support_graph(model, SIZE)(supports[:, 0], masks[:, :1])
            alone = stack(prototypes.numpy(), keys[:, None].numpy())
            both = stack(prototypes.numpy(), [[keys[0].numpy()], [keys[1].numpy(), keys[0].numpy()]])
            assert both.chunks.shape[:2] == (2, 2)
            wanted = query(images, *as_tensors(alone))
            torch.testing.assert_close(query(images, *as_tensors(both))[:, 0], wanted[:, 0], rtol=1e-5, atol=1e-5)

    def test_features_may_stand_in_for_pixels(self, model: FewShotNetwork) -> None:
        image, supports, masks = inputs(1, 1, 1)
        with torch.inference_mode():
            query = model.query_features(image)
            shot = model.support_features(supports[0], masks[0])
            got = model(query, type(shot)(*(f[:, None] for f in shot)), masks).logits
            torch.testing.assert_close(got, model(image, supports, masks).logits, rtol=1e-4, atol=1e-4)

    def test_gradients_reach_the_head(self, model: FewShotNetwork) -> None:
        model.train()
        model(*inputs(2, 2, 1)).logits.square().sum().backward()
        own = [p for name, p in model.named_parameters() if not name.startswith("backbone.")]
        assert own
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in own)

    def test_a_bundle_gives_the_masks_of_the_training_graph(self, model: FewShotNetwork, tmp_path: Path) -> None:
        save_checkpoint(tmp_path / "a.safetensors", model, {"head": "untrained"})
        export_bundle(tmp_path / "a.safetensors", tmp_path / "a.ntre", ExportOptions(precisions=("fp32", "fp16")))
        segmenter = Segmenter.load(tmp_path / "a.ntre", "onnx-cpu", precision="fp32")
        rng = np.random.default_rng(5)
        photo, other = (rng.integers(0, 256, (70 + 40 * i, 120, 3), dtype=np.uint8) for i in range(2))
        mask = np.zeros(other.shape[:2], np.uint8)
        mask[20:70, 30:90] = 1
        memories = [segmenter.encode_support([(other, mask)], "a"), segmenter.encode_support([(other, 1 - mask)], "b")]
        full = FullNetwork(model, input_spec(model.config))
        rows = [full.logits(photo, full.prepare([(other, m)])) for m in (mask, 1 - mask)]
        wanted = label_map(np.concatenate([logits for logits, _ in rows]), rows[0][1])
        assert (segmenter.segment(photo, memories) == wanted).mean() > 0.999
        assert len(np.unique(wanted)) > 1


class TestNTRENet(HeadContract):
    # the tiny network of the other tests, whose graphs are traced once in a run
    config = NTRENetConfig(backbone="squeezenet1_1", width=16, bg_channels=8, bins=(9, 4, 2), input_size=SIZE)
    weights = "random:3"


class TestMatcher(HeadContract):
    config = MatcherConfig(backbone="squeezenet1_1", input_size=SIZE)


class TestMatcherOfLayer4(HeadContract):
    config = MatcherConfig(backbone="squeezenet1_1", input_size=SIZE, fine=0)


class TestRefiner(HeadContract):
    config = RefinerConfig(backbone="efficientnet_lite0", input_size=SIZE, width=8, guide=4)


class TestMatcherWithKeys(HeadContract):
    config = MatcherConfig(backbone="squeezenet1_1", input_size=SIZE, nearest=0.5, adapter=8)


def test_a_size_that_a_head_does_not_take_is_refused_at_export_too(tmp_path: Path) -> None:
    model, origin = import_weights("random:1", TestRefiner.config)
    save_checkpoint(tmp_path / "a.safetensors", model, origin)
    with pytest.raises(InputError, match=r"Input size 89 does not fit the head refiner.*such as 65 or 97"):
        export_bundle(tmp_path / "a.safetensors", tmp_path / "a.ntre", ExportOptions(input_size=89))
    assert not (tmp_path / "a.ntre").exists()


def test_every_head_has_its_tests() -> None:
    tested = {kind.config.head for kind in HeadContract.__subclasses__()}
    assert tested == set(HEADS)


def test_an_unknown_head_is_named_with_the_closest_one() -> None:
    with pytest.raises(InputError, match="Did you mean 'matcher'"):
        find_head("macher")
    with pytest.raises(InputError, match="'width' is unknown"):
        read_config({"head": "matcher", "width": 3})


def test_a_config_without_a_head_is_ntrenets() -> None:
    assert read_config({"width": 8}) == NTRENetConfig(width=8)
