"""Addresses of clusters; it needs nothing, as the command line asks it before anything is known."""

import re

AUTO, LOCAL = "auto", "local"
_ADDRESS = re.compile(r"auto|local|(\[[0-9a-fA-F:]+\]|[\w.-]+):\d{1,5}")


def is_cluster(text: str) -> bool:
    """Whether a word is the address of a cluster, as `--ray` takes it."""
    return _ADDRESS.fullmatch(text) is not None
