"""Which checkpoint a bench compares with."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ntre_deploy.bench.systems import find_checkpoint
from ntre_deploy.errors import InputError

CONTENT = b"the checkpoint"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def bundle(bundle_of: Callable[..., Any]) -> Any:
    return bundle_of(DIGEST)


def test_the_checkpoint_beside_the_bundle_is_found_by_its_content(bundle: Any) -> None:
    beside = bundle.folder.parent
    (beside / "a.safetensors").write_bytes(b"another one")
    (beside / "whatever.safetensors").write_bytes(CONTENT)
    (beside / "a.pth").write_bytes(CONTENT)
    assert find_checkpoint(bundle, None) == beside / "whatever.safetensors"


def test_a_checkpoint_that_is_not_beside_the_bundle_is_asked_for(bundle: Any) -> None:
    (bundle.folder / "inside.safetensors").write_bytes(CONTENT)
    (bundle.folder.parent / "other.safetensors").write_bytes(b"another one")
    with pytest.raises(InputError, match="--checkpoint FILE"):
        find_checkpoint(bundle, None)


def test_a_relative_bundle_is_looked_beside_too(bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from ntre_deploy.runtime.bundle import Bundle

    (bundle.folder.parent / "x.safetensors").write_bytes(CONTENT)
    monkeypatch.chdir(bundle.folder)
    found = find_checkpoint(Bundle(Path("."), bundle.manifest), None)
    assert found.read_bytes() == CONTENT


def test_the_checkpoint_given_must_be_the_bundles(bundle: Any, tmp_path: Path) -> None:
    (tmp_path / "right.safetensors").write_bytes(CONTENT)
    (tmp_path / "wrong.safetensors").write_bytes(CONTENT + b".")
    assert find_checkpoint(bundle, tmp_path / "right.safetensors") == tmp_path / "right.safetensors"
    with pytest.raises(InputError, match=r"wrong\.safetensors"):
        find_checkpoint(bundle, tmp_path / "wrong.safetensors")
    with pytest.raises(InputError, match=r"missing\.safetensors"):
        find_checkpoint(bundle, tmp_path / "missing.safetensors")


def test_the_one_given_wins_over_the_one_beside(bundle: Any, tmp_path: Path) -> None:
    (bundle.folder.parent / "beside.safetensors").write_bytes(CONTENT)
    (tmp_path / "given.safetensors").write_bytes(CONTENT)
    assert find_checkpoint(bundle, tmp_path / "given.safetensors").name == "given.safetensors"


@pytest.mark.parametrize("kind", ["folder", "dangling link"])
def test_what_is_no_file_beside_the_bundle_is_passed_over(kind: str, bundle: Any) -> None:
    odd = bundle.folder.parent / "a.safetensors"
    if kind == "folder":
        odd.mkdir()
    else:
        odd.symlink_to("nowhere")
    (bundle.folder.parent / "b.safetensors").write_bytes(CONTENT)
    assert find_checkpoint(bundle, None).name == "b.safetensors"
