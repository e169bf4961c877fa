"""The config is checked, and survives JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntre_deploy.errors import InputError
from ntre_deploy.model.config import NTRENetConfig, check_input_size
from ntre_deploy.runtime.inputspec import IMAGENET_MEAN, IMAGENET_STD


def test_forms_differ_where_the_paper_and_the_released_code_do() -> None:
    released, paper = NTRENetConfig.released(), NTRENetConfig.paper()
    assert (released.bg_channels, released.bg_init, released.elimination) == (256, "zeros", "per_bin")
    assert (paper.bg_channels, paper.bg_init, paper.elimination) == (640, "normal", "once")
    assert (released.do_prototype, paper.do_prototype) == ("mean", "masked_mean")
    assert NTRENetConfig.paper(width=32).width == 32


@given(
    st.builds(
        NTRENetConfig,
        backbone=st.sampled_from(["resnet50", "vgg16_bn", "squeezenet1_1"]),
        width=st.integers(1, 512),
        bins=st.lists(st.integers(1, 60), min_size=1, max_size=5).map(tuple),
        bgem=st.booleans(),
        area_epsilon=st.floats(1e-9, 1),
        mean=st.tuples(*[st.floats(0, 255)] * 3),
        std=st.tuples(*[st.floats(1e-3, 255)] * 3),
        input_size=st.integers(4, 100).map(lambda k: 8 * k + 1),
    )
)
def test_a_config_survives_json(config: NTRENetConfig) -> None:
    assert NTRENetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"backbone": "resnet5"}, "Did you mean 'resnet50'"),
        ({"stem": "seven"}, "deep, torchvision"),
        ({"width": 0}, "width"),
        ({"shots": True}, "shots"),
        ({"bins": ()}, "bins"),
        ({"bins": (8, 0)}, "bins"),
        ({"width": 10**9}, "width"),
        ({"stride": 16}, "stride is 16; resnet50 has 8"),
        ({"backbone": "vgg16_bn", "stride": 8}, "stride is 8; vgg16_bn has 16"),
        ({"backbone": "efficientnet_lite0", "stride": 4}, "8 or 16 or 32"),
        ({"mean": (1.0, 2.0)}, "mean"),
        ({"mean": (1.0, 2.0, float("nan"))}, "mean"),
        ({"std": (1.0, 2.0, float("inf"))}, "std"),
        ({"std": (1.0, 0.0, 3.0)}, "std"),
        ({"std": (1.0, -1.0, 3.0)}, "std"),
        ({"input_size": 80001}, "4089 or 4097"),
        ({"input_size": 480}, "473 or 481"),
    ],
)
def test_a_value_that_does_not_fit_is_named(change: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words.replace("(", r"\(")):
        NTRENetConfig(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values",
    [
        {"withd": 3},
        {"width": "3"},
        {"width": True},
        {"bins": 3},
        {"bins": ["8"]},
        {"bgem": 1},
        {"area_epsilon": "x"},
        {"mean": [1, 2]},
        {"std": 3},
    ],
)
def test_from_dict_refuses_unknown_options_and_wrong_types(values: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(values))):
        NTRENetConfig.from_dict(values)


def test_a_config_from_before_mean_std_and_stride_is_imagenets() -> None:
    values = NTRENetConfig(backbone="vgg16_bn").to_dict()
    for name in ("mean", "std", "stride"):
        del values[name]
    assert NTRENetConfig.from_dict(values) == NTRENetConfig(backbone="vgg16_bn", mean=IMAGENET_MEAN, std=IMAGENET_STD)


@given(st.integers(-50, 5000))
def test_input_sizes_are_8k_plus_1(size: int) -> None:
    if 33 <= size <= 4097 and (size - 1) % 8 == 0:
        assert check_input_size(size) == size
    else:
        with pytest.raises(InputError, match="8k"):
            check_input_size(size)
