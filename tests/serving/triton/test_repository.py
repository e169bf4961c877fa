"""What is written, replaced and refused; no server is needed for it."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntre_deploy.errors import InputError, NtreWarning
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.support import SupportMemory
from ntre_deploy.serving.triton.options import Options, Sources
from ntre_deploy.serving.triton.repository import write_repository


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def memory_names(version: Path) -> list[str]:
    return sorted(path.name for path in (version / "memories").iterdir())


def test_a_model_has_what_triton_looks_for(exported: Path, memories: Path, tmp_path: Path) -> None:
    (written,) = write_repository(exported, tmp_path / "models", sources=Sources(memories))
    assert (written.name, written.version, written.kind) == ("tiny", 1, "python")
    assert written.memories == ("disc", "other")
    assert written.folder == tmp_path / "models" / "tiny"
    found = {name for name in tree(written.folder) if not name.startswith("1/bundle.ntre/")}
    assert found == {
        "config.pbtxt",
        "1/model.py",
        "1/memories/disc.safetensors",
        "1/memories/other.safetensors",
        *(f"warmup/{name}" for name in ("image", "support_images", "support_masks", "support_names")),
    }
    assert tree(written.folder / "1" / "bundle.ntre") == tree(exported)
    Bundle.open(written.folder / "1" / "bundle.ntre")
    assert len((written.folder / "1" / "model.py").read_text().splitlines()) < 10
    # a server of another user has to read it
    assert stat.S_IMODE((written.folder / "config.pbtxt").stat().st_mode) == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_the_warm_up_is_the_bundles_own_episode(exported: Path, tmp_path: Path) -> None:
    from ntre_deploy.runtime.imagefile import decode_image, decode_mask

    (written,) = write_repository(exported, tmp_path)
    test = Bundle.open(exported).self_test()
    folder = written.folder / "warmup"
    pixels = np.frombuffer((folder / "image").read_bytes(), np.uint8).reshape(test.image.shape)
    np.testing.assert_array_equal(pixels, test.image)
    content = {name: (folder / name).read_bytes() for name in ("support_images", "support_masks")}
    assert all(int.from_bytes(c[:4], "little") == len(c) - 4 for c in content.values())
    np.testing.assert_array_equal(decode_image(content["support_images"][4:]), test.support_image)
    np.testing.assert_array_equal(decode_mask(content["support_masks"][4:]) != 0, test.support_mask == 1)


def test_an_existing_model_is_replaced_only_by_force(exported: Path, memories: Path, tmp_path: Path) -> None:
    (written,) = write_repository(exported, tmp_path, sources=Sources(memories))
    before = tree(tmp_path)
    with pytest.raises(InputError, match=r"exists already; .*--force"):
        write_repository(exported, tmp_path)
    # the second of several models refuses before the first is written
    (tmp_path / "other_query").mkdir()
    with pytest.raises(InputError, match="exists already"):
        write_repository(exported, tmp_path, Options(name="other"), graphs=True)
    (tmp_path / "other_query").rmdir()
    assert tree(tmp_path) == before
    write_repository(exported, tmp_path, Options(max_batch=2), force=True)
    assert "max_batch_size: 2" in (written.folder / "config.pbtxt").read_text()
    # those that clients may have put there
    assert memory_names(written.folder / "1") == ["disc.safetensors", "other.safetensors"]


def test_other_versions_stay(exported: Path, memories: Path, tmp_path: Path) -> None:
    write_repository(exported, tmp_path, sources=Sources(memories))
    first = tree(tmp_path / "tiny" / "1")
    write_repository(exported, tmp_path, Options(version=2, keep=2), force=True)
    assert tree(tmp_path / "tiny" / "1") == first
    assert memory_names(tmp_path / "tiny" / "2") == []
    assert "num_versions: 2" in (tmp_path / "tiny" / "config.pbtxt").read_text()


def test_memories_of_another_model_are_left_out_and_named(
    exported: Path, demo_bundle: Path, memories: Path, tmp_path: Path
) -> None:
    write_repository(exported, tmp_path, Options(name="m"), Sources(memories))
    (tmp_path / "m" / "1" / "memories" / "broken.safetensors").write_bytes(b"nothing")
    with pytest.warns(NtreWarning, match="3 memories of .* are left out"):
        write_repository(demo_bundle, tmp_path, Options(name="m"), force=True)
    assert memory_names(tmp_path / "m" / "1") == []


def test_links_share_the_bundles_files_and_leave_their_modes(bundle: Path, tmp_path: Path) -> None:
    for path in bundle.iterdir():
        path.chmod(0o600)
    write_repository(bundle, tmp_path / "models", sources=Sources(link=True))
    for path in bundle.iterdir():
        other = tmp_path / "models" / "tiny" / "1" / "bundle.ntre" / path.name
        assert other.samefile(path)
        assert stat.S_IMODE(other.stat().st_mode) == 0o600
    write_repository(bundle, tmp_path / "copies")
    assert not (tmp_path / "copies" / "tiny" / "1" / "bundle.ntre" / "query.onnx").samefile(bundle / "query.onnx")


@pytest.mark.parametrize("graphs", [False, True])
def test_a_damaged_bundle_is_refused_and_nothing_is_written(bundle: Path, graphs: bool, tmp_path: Path) -> None:
    with (bundle / "support.onnx").open("r+b") as file:
        file.write(b"\x00")
    with pytest.raises(InputError, match=r"support.onnx has been changed"):
        write_repository(bundle, tmp_path / "models", graphs=graphs)
    assert not (tmp_path / "models").exists()


def test_memories_that_cannot_be_used_are_refused(
    exported: Path, segmenter: Segmenter, shots: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "memories"
    folder.mkdir()

    def refused(words: str) -> None:
        with pytest.raises(InputError, match=words):
            write_repository(exported, tmp_path / "models", sources=Sources(folder))
        assert not (tmp_path / "models").exists()

    refused("holds no support memory")
    memory = segmenter.encode_support(shots[:1], "disc")
    replace(memory, model="0123456789abcdef").save(folder / "disc.safetensors")
    refused("another model")
    (folder / "disc.safetensors").write_bytes(b"nothing")
    refused("support memory")
    (folder / "disc.safetensors").unlink()
    memory.save(folder / "a b.safetensors")
    refused("cannot name a memory")
    shutil.rmtree(folder)
    refused("holds no support memory")


def test_a_bundle_whose_name_no_model_can_have_needs_one(exported: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(exported, tmp_path / "my löffel.ntre"))
    with pytest.raises(InputError, match="pass --name"):
        write_repository(other, tmp_path / "models")
    (written,) = write_repository(other, tmp_path / "models", Options(name="spoon"))
    assert written.folder.name == "spoon"


def test_a_signature_is_demanded_and_goes_with_the_bundle(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="signatures need it (extra [sign])")
    from ntre_deploy.signing import make_key, read_private_key, sign_bundle

    keys = [make_key(tmp_path / f"{name}.pem") for name in ("release", "other")]
    with pytest.raises(InputError, match="is not signed"):
        write_repository(bundle, tmp_path / "models", sources=Sources(trusted=(keys[0].public,)))
    sign_bundle(bundle, read_private_key(keys[0].private, None))
    with pytest.raises(InputError, match="is not trusted"):
        write_repository(bundle, tmp_path / "models", sources=Sources(trusted=(keys[1].public,)))
    assert not (tmp_path / "models").exists()
    write_repository(bundle, tmp_path / "models", sources=Sources(trusted=(keys[1].public, keys[0].public)))
    version = tmp_path / "models" / "tiny" / "1"
    trusted = sorted((version / "trusted").iterdir())
    Bundle.open(version / "bundle.ntre", trusted=trusted)
    assert [path.read_bytes() for path in trusted] == [keys[1].public.read_bytes(), keys[0].public.read_bytes()]


def test_a_kill_in_the_middle_leaves_the_old_model_whole(exported: Path, tmp_path: Path) -> None:
    write_repository(exported, tmp_path / "models")
    before = tree(tmp_path / "models" / "tiny")
    code = f"""
import sys, time
from pathlib import Path
from ntre_deploy.serving.triton import repository
def slow(bundle, folder):
    print("there", flush=True)
    time.sleep(600)
repository.write_warmup = slow
repository.write_repository(Path({str(exported)!r}), Path({str(tmp_path / "models")!r}), force=True)
"""
    process = subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, cwd=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == b"there\n"
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert tree(tmp_path / "models" / "tiny") == before
    # Triton passes over hidden folders, and the next try removes what is left
    (left,) = [path for path in (tmp_path / "models").iterdir() if path.name != "tiny"]
    assert left.name.startswith(".")
    os.utime(left, (time.time() - 3600,) * 2)
    write_repository(exported, tmp_path / "models", force=True)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["tiny"]


def test_a_full_or_closed_folder_is_one_line(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file, not a folder"):
        write_repository(exported, tmp_path / "file")


def test_memories_are_written_as_they_were(exported: Path, memories: Path, tmp_path: Path) -> None:
    write_repository(exported, tmp_path, sources=Sources(memories))
    for path in memories.iterdir():
        assert (tmp_path / "tiny" / "1" / "memories" / path.name).read_bytes() == path.read_bytes()
        assert SupportMemory.load(path).calibration is not None
