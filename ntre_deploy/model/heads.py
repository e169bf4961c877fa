"""The heads by name: a config, a training graph and a module of deploy graphs each; nothing else knows which there are.

A new head is a file beside this one, a file in `export/`, an entry here and a class in `tests/test_heads.py`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ntre_deploy.errors import one_of
from ntre_deploy.model.config import MatcherConfig, ModelConfig, NTRENetConfig, RefinerConfig
from ntre_deploy.model.matcher import Matcher
from ntre_deploy.model.network import FewShotNetwork
from ntre_deploy.model.ntrenet import NTRENet
from ntre_deploy.model.refiner import Refiner


class Head(NamedTuple):
    """One kind of network.

    Attributes:
        config: class of its options.
        network: makes the training graph of a config, with random weights.
        graphs: module of its deploy graphs, with `SupportGraph` and `QueryGraph`.
    """

    config: type[ModelConfig]
    network: Callable[[Any], FewShotNetwork]
    graphs: str


# checkpoints from before there were several heads do not name theirs
_FIRST = NTRENetConfig.head
HEADS = {
    NTRENetConfig.head: Head(NTRENetConfig, NTRENet, "ntre_deploy.export.ntrenet"),
    MatcherConfig.head: Head(MatcherConfig, Matcher, "ntre_deploy.export.matcher"),
    RefinerConfig.head: Head(RefinerConfig, Refiner, "ntre_deploy.export.refiner"),
}


def find_head(name: str) -> Head:
    """The head of that name.

    Raises:
        InputError: there is none.
    """
    return HEADS[one_of(name, HEADS, "Head")]


def read_config(values: Mapping[str, Any]) -> ModelConfig:
    """Inverse of `ModelConfig.to_dict`.

    Raises:
        InputError: an unknown head, or an option that it does not have or whose value does not fit.
    """
    return find_head(str(values.get("head", _FIRST))).config.from_dict(values)


def build_network(config: ModelConfig) -> FewShotNetwork:
    """The training graph of `config`, with random weights."""
    return HEADS[config.head].network(config)
