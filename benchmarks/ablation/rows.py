"""The rows of the paper's table 3: each adds one part of NTRENet to the row above it."""

from dataclasses import replace

from ntre_deploy.model.contrastive import ContrastiveConfig
from ntre_deploy.training.config import TrainConfig

# row -> (BGEM, DOEM, contrastive term)
PARTS = {
    "baseline": (False, False, False),
    "bgem": (True, False, False),
    "doem": (True, True, False),
    "pcl": (True, True, True),
}


def row_config(config: TrainConfig, row: str) -> TrainConfig:
    """`config` with the parts of a row and no others."""
    bgem, doem, contrastive = PARTS[row]
    model = replace(config.model, bgem=bgem, doem=doem)
    return replace(config, model=model, contrastive=ContrastiveConfig() if contrastive else None)
