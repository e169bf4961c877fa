"""A kept graph is the one that would be traced: everything that its file depends on is in its name."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from google.protobuf.message import DecodeError
from torch import nn

from ntre_deploy.errors import InputError
from ntre_deploy.export import graph_cache, onnx
from ntre_deploy.export.graph_cache import GraphCache
from ntre_deploy.export.graphs import support_graph
from ntre_deploy.model.config import NTRENetConfig
from ntre_deploy.model.heads import HEADS
from ntre_deploy.model.network import FewShotNetwork
from ntre_deploy.model.weights import import_weights

CONFIG = NTRENetConfig(backbone="squeezenet1_1", width=16, bg_channels=8, bins=(9, 4, 2), input_size=65)


@pytest.fixture(scope="module")
def model() -> FewShotNetwork:
    return import_weights("random:3", CONFIG)[0]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(graph_cache.VARIABLE, str(tmp_path / "kept"))
    return tmp_path / "kept"


def write(model: FewShotNetwork, path: Path, opset: int = 18, size: int = 65) -> bytes:
    onnx.write_onnx(support_graph(model, size), onnx.support_signature(size), path, opset)
    return path.read_bytes()


def test_the_second_time_nothing_is_traced(
    model: FewShotNetwork, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write(model, tmp_path / "a.onnx")
    assert [path.read_bytes() for path in folder.iterdir()] == [first]
    monkeypatch.setattr(onnx, "_trace", lambda *_: pytest.fail("it was traced again"))
    # the same weights in a network that was built anew
    again = import_weights("random:3", CONFIG)[0]
    assert write(again, tmp_path / "b.onnx") == first
    # what is taken passes the checks of a fresh file
    (kept,) = folder.iterdir()
    kept.write_bytes(first[:-1000])
    with pytest.raises((InputError, RuntimeError, DecodeError)):
        write(again, tmp_path / "c.onnx")


def test_what_changes_the_file_changes_its_name(model: FewShotNetwork, folder: Path) -> None:
    def name(*settings: object, graph: nn.Module | None = None) -> Path | None:
        return GraphCache(graph or support_graph(model, 65), *settings)._path

    other = support_graph(model, 65)
    with torch.no_grad():
        next(other.parameters())[0] += 1e-6
    mode = support_graph(model, 65).train()
    wider = import_weights("random:3", dataclasses.replace(CONFIG, bins=(9, 4, 3)))[0]
    names = [
        name(18),
        name(19),
        name(18, graph=other),
        name(18, graph=mode),
        name(18, graph=support_graph(model, 65, torch.float16)),
        name(18, graph=support_graph(model, 97)),
        name(18, graph=onnx_query(model)),
        name(18, graph=onnx_query(wider)),
    ]
    assert None not in names
    assert len(set(names)) == len(names)
    assert name(18) == names[0]


def onnx_query(model: FewShotNetwork) -> nn.Module:
    from ntre_deploy.export.graphs import query_graph

    return query_graph(model, 65)


def test_all_that_makes_a_graph_lies_in_the_rooms_whose_sources_count() -> None:
    heads = "".join(f"import {head.graphs}, {head.network.__module__}\n" for head in HEADS.values())
    backbones = "import ntre_deploy.model.backbones as b, pkgutil, importlib, sys\n"
    backbones += "[importlib.import_module(f'{b.__name__}.{m.name}') for m in pkgutil.iter_modules(b.__path__)]\n"
    code = f"{heads}{backbones}import ntre_deploy.export.onnx\nprint(*sys.modules)"
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    ours = [name.split(".") for name in done.stdout.split() if name.startswith("ntre_deploy.")]
    assert {parts[1] for parts in ours if len(parts) > 2} <= set(graph_cache.ROOMS)


def test_without_a_folder_nothing_is_kept(
    model: FewShotNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(graph_cache.VARIABLE)
    assert GraphCache(support_graph(model, 65))._path is None
    assert not GraphCache(support_graph(model, 65)).take(tmp_path / "a.onnx")


def test_a_graph_that_cannot_be_told_apart_is_not_kept(folder: Path) -> None:
    graph = nn.Identity()
    graph.rule = lambda x: x
    assert GraphCache(graph)._path is None
