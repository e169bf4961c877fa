"""`ntre sign`, and commands that demand a signed bundle."""

import json
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.signature import SIGNATURE

pytest.importorskip("cryptography", reason="signatures need it (extra [sign])")

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def own(tiny: SimpleNamespace, here: Path) -> Path:
    """A bundle of one's own, in the folder where the command runs."""
    return Path(shutil.copytree(tiny.bundle, here / "own.ntre"))


@pytest.fixture
def signed(own: Path, call: Callable[..., Done]) -> Path:
    """That bundle, signed with `release.pem`; `other.pem` is another key."""
    for name in ("release.pem", "other.pem"):
        assert call("sign", "--new-key", name).returncode == 0
    done = call("sign", "own.ntre", "--key", "release.pem")
    assert (done.returncode, done.stderr) == (0, "")
    return own


def test_keys_are_made_and_a_bundle_is_signed_with_them(own: Path, call: Callable[..., Done], here: Path) -> None:
    made = call("sign", "--new-key", "keys/release.pem")
    assert (made.returncode, made.stderr) == (0, "")
    assert stat.S_IMODE((here / "keys" / "release.pem").stat().st_mode) == 0o600
    printed = made.stdout.splitlines()[-1].removeprefix("fingerprint: ")
    done = call("sign", "own.ntre", "--key", "keys/release.pem", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"bundle": "own.ntre", "fingerprint": printed, "replaced": None}
    again = call("sign", "own.ntre", "--key", "keys/release.pem")
    assert "in the place of a signature by the same key" in again.stdout
    assert sorted(path.name for path in here.iterdir()) == ["keys", "own.ntre"]
    Bundle.open(own, trusted=here / "keys" / "release.pub.pem")


@pytest.mark.parametrize(
    "arguments",
    [
        ("sign",),
        ("sign", "own.ntre"),
        ("sign", "--key", "release.pem"),
        ("sign", "own.ntre", "--new-key", "k.pem"),
        ("sign", "--new-key", "release.pem"),
        ("sign", "own.ntre", "--key", "none.pem"),
        ("sign", "own.ntre", "--key", "release.pub.pem"),
        ("sign", "none.ntre", "--key", "release.pem"),
        ("segment", "own.ntre", "--memory", "m", "--save-memory", "x", "--trusted", "other.pub.pem"),
        ("doctor", "--trusted", "other.pub.pem"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments: tuple[str, ...], signed: Path, refused: Callable[..., str], here: Path
) -> None:
    before = sorted(path.name for path in here.rglob("*"))
    refused(*arguments)
    assert sorted(path.name for path in here.rglob("*")) == before


def test_segment_demands_the_signature(
    signed: Path, support: str, pictures: SimpleNamespace, call: Callable[..., Done], here: Path
) -> None:
    arguments = ["segment", "own.ntre", pictures.photo, "-s", support]
    done = call(*arguments, "--trusted", "other.pub.pem", "--trusted", "release.pub.pem", "--json")
    assert done.returncode == 0, done.stderr
    for wrong, words in (("other.pub.pem", "is not trusted"), ("release.pem", "is a private key")):
        done = call(*arguments, "--trusted", wrong, "--out", "none")
        assert done.returncode == 2
        assert words in done.stderr
        assert not (here / "none").exists()
    (signed / SIGNATURE).unlink()
    done = call(*arguments, "--trusted", "release.pub.pem", "--out", "none")
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not signed, and a signature is demanded" in done.stderr


def test_bench_demands_it_in_every_process(signed: Path, tiny: SimpleNamespace, call: Callable[..., Done]) -> None:
    arguments = ["bench", "own.ntre", "--checkpoint", tiny.checkpoint, "--engine", "onnx-cpu", "--count", "1"]
    arguments += ["--threads", "1", "--seconds", "0", "--workers", "0", "--json"]
    done = call(*arguments, "--trusted", "release.pub.pem")
    assert (done.returncode, done.stderr) == (0, "")
    assert [system["footprint_missing"] for system in json.loads(done.stdout)["systems"]] == [None] * 3
    done = call(*arguments, "--trusted", "other.pub.pem")
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not trusted" in done.stderr


def test_doctor_tells_who_signed(signed: Path, call: Callable[..., Done]) -> None:
    def found(*more: str) -> dict[str, dict[str, str]]:
        content = json.loads(call("doctor", "--bundle", "own.ntre", *more, "--json").stdout)
        return {f["subject"]: f for f in content["findings"] if f["group"] == "bundle"}

    signer = found()["bundle signature"]
    assert signer["status"] == "ok"
    assert "by the key " in signer["text"]
    trusted = found("--trusted", "release.pub.pem")
    assert trusted["bundle signature"]["text"].startswith("by the trusted key ")
    assert trusted["bundle on onnx-cpu fp32"]["status"] == "ok"
    refused = found("--trusted", "other.pub.pem")
    assert refused["bundle signature"]["status"] == "problem"
    assert refused["bundle"]["status"] == "absent"
    assert not any(subject.startswith("bundle on") for subject in refused), "nothing of it was opened"
    with (signed / "manifest.json").open("a") as file:
        file.write(" ")
    changed = found()["bundle signature"]
    assert changed["status"] == "problem"
    assert "is not of this manifest" in changed["text"]
    (signed / SIGNATURE).unlink()
    assert (found()["bundle signature"]["status"], found()["bundle signature"]["text"]) == ("absent", "not signed")


def test_without_cryptography_each_command_says_what_is_missing(
    signed: Path, ntre: Callable[..., Done], without: Callable[..., Path], here: Path
) -> None:
    blocked = without("cryptography")
    for arguments in (
        ("sign", "--new-key", "k.pem"),
        ("sign", "own.ntre", "--key", "release.pem"),
        ("bench", "own.ntre", "--trusted", "release.pub.pem"),
    ):
        done = ntre(*arguments, cwd=here, blocked=blocked)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "error: Signatures need cryptography: pip install 'ntre_deploy[sign]'.\n"
    assert not (here / "k.pem").exists()
