"""Signed bundles: what is demanded signed is checked before anything of the bundle is looked into."""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ntre_deploy import signing
from ntre_deploy.errors import InputError, NtreWarning
from ntre_deploy.runtime import bundle as bundle_module
from ntre_deploy.runtime.bundle import SELF_TEST, Bundle
from ntre_deploy.runtime.manifest import MANIFEST
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.signature import SIGNATURE, read_signature, trusted_keys
from ntre_deploy.signing import make_key, read_private_key, sign_bundle

pytest.importorskip("cryptography", reason="signatures need it (extra [sign])")
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Files of two pairs: `own` and `other`, and their public keys `own_public` and `other_public`."""
    folder = tmp_path_factory.mktemp("keys")
    own, other = make_key(folder / "own.pem"), make_key(folder / "other.pem")
    return SimpleNamespace(
        own=own.private, own_public=own.public, other=other.private, other_public=other.public, fingerprint=own[2]
    )


@pytest.fixture
def signed(bundle: Path, keys: SimpleNamespace) -> Path:
    """A copy of the tiny bundle, signed by `own`."""
    sign_bundle(bundle, read_private_key(keys.own))
    return bundle


def refused(bundle: Path, trusted: object, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        Bundle.open(bundle, trusted=trusted)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def public_pem(key: object) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]


# --- what is accepted


def test_a_signed_bundle_opens_with_the_key_in_each_of_its_forms(signed: Path, keys: SimpleNamespace) -> None:
    pem = keys.own_public.read_bytes()
    forms = [keys.own_public, str(keys.own_public), pem, load_pem_public_key(pem)]
    for one in [*forms, forms, (forms[0],), [keys.other_public, keys.own_public], iter(forms)]:
        opened = Bundle.open(signed, trusted=one)  # type: ignore[arg-type]
        assert opened.text == (signed / MANIFEST).read_bytes()
    assert Bundle.open(signed).manifest == opened.manifest, "who demands nothing needs no key"


def test_a_segmenter_loads_with_trust(signed: Path, keys: SimpleNamespace) -> None:
    pytest.importorskip("onnxruntime")
    assert Segmenter.load(signed, "onnx-cpu", trusted=keys.own_public).reason
    with pytest.raises(InputError, match="is not trusted"):
        Segmenter.load(signed, "onnx-cpu", trusted=keys.other_public)


def test_the_signature_is_one_that_openssl_knows(signed: Path, keys: SimpleNamespace, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    content = (signed / SIGNATURE).read_bytes()
    (tmp_path / "value").write_bytes(content[32:])
    told = ["-pubin", "-inkey", keys.own_public, "-rawin", "-in", signed / MANIFEST, "-sigfile", tmp_path / "value"]
    done = subprocess.run(["openssl", "pkeyutl", "-verify", *told], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "Signature Verified Successfully", done.stderr
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", keys.own_public, "-outform", "DER"], capture_output=True, check=True
    ).stdout
    assert der[-32:] == content[:32]
    assert hashlib.sha256(der).hexdigest() == keys.fingerprint


# --- what is not


def test_an_unsigned_bundle_is_refused_where_a_signature_is_demanded(exported: Path, keys: SimpleNamespace) -> None:
    refused(exported, keys.own_public, "is not signed, and a signature is demanded")


def test_another_key_is_refused_and_both_are_named(signed: Path, keys: SimpleNamespace) -> None:
    refused(signed, keys.other_public, f"signed with the key {keys.fingerprint}, which is not trusted")


def test_no_key_trusts_nobody(signed: Path) -> None:
    refused(signed, [], "no key is trusted")


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_of_manifest_or_signature_is_refused(
    data: st.DataObject, exported: Path, keys: SimpleNamespace, tmp_path: Path
) -> None:
    folder = tmp_path / "flipped.ntre"
    if not folder.exists():
        shutil.copytree(exported, folder)
        sign_bundle(folder, read_private_key(keys.own))
        for name in (MANIFEST, SIGNATURE):
            shutil.copy(folder / name, tmp_path / name)
    for name in (MANIFEST, SIGNATURE):
        content = bytearray((tmp_path / name).read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] ^= 1 << data.draw(st.integers(0, 7))
        (folder / name).write_bytes(content)
        refused(folder, keys.own_public, "has been changed|is not trusted")
        shutil.copy(tmp_path / name, folder / name)


def test_a_tampered_manifest_is_refused_before_it_is_parsed(
    signed: Path, keys: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_module, "parse_manifest", lambda *_: pytest.fail("parsed"))
    for text in (b"{", b"", (signed / MANIFEST).read_bytes() + b" "):
        (signed / MANIFEST).write_bytes(text)
        refused(signed, keys.own_public, "one of them has been changed")


def test_a_tampered_graph_is_refused_by_the_hash_that_is_signed(signed: Path, keys: SimpleNamespace) -> None:
    pytest.importorskip("onnxruntime")
    content = bytearray((signed / "query.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (signed / "query.onnx").write_bytes(content)
    with pytest.raises(InputError, match=r"query\.onnx has been changed"):
        Segmenter.load(signed, "onnx-cpu", precision="fp32", trusted=keys.own_public)
    # who tampers with the file and its hash has to sign again
    manifest = json.loads((signed / MANIFEST).read_text())
    for entry in manifest["files"]:
        entry["sha256"] = hashlib.sha256((signed / entry["name"]).read_bytes()).hexdigest()
    (signed / MANIFEST).write_text(json.dumps(manifest))
    refused(signed, keys.own_public, "one of them has been changed")


def test_the_signature_of_another_bundle_is_refused(signed: Path, keys: SimpleNamespace, tmp_path: Path) -> None:
    other = Path(shutil.copytree(signed, tmp_path / "other.ntre"))
    manifest = json.loads((other / MANIFEST).read_text())
    (other / MANIFEST).write_text(json.dumps(manifest | {"name": "other"}))
    sign_bundle(other, read_private_key(keys.own))
    shutil.copy(other / SIGNATURE, signed / SIGNATURE)
    refused(signed, keys.own_public, "one of them has been changed")


def test_the_name_of_a_trusted_key_on_the_signature_of_another_is_refused(signed: Path, keys: SimpleNamespace) -> None:
    mine = (signed / SIGNATURE).read_bytes()
    sign_bundle(signed, read_private_key(keys.other))
    theirs = (signed / SIGNATURE).read_bytes()
    (signed / SIGNATURE).write_bytes(mine[:32] + theirs[32:])
    refused(signed, keys.own_public, "one of them has been changed")


@pytest.mark.parametrize("size", [0, 1, 32, 64, 95, 97, 200_000])
def test_a_signature_of_another_size_is_refused_with_and_without_trust(
    size: int, signed: Path, keys: SimpleNamespace
) -> None:
    (signed / SIGNATURE).write_bytes(((signed / SIGNATURE).read_bytes() * 3000)[:size])
    for trusted in (keys.own_public, None):
        refused(signed, trusted, f"has {size} bytes where a signature has 96")


@pytest.mark.parametrize("kind", ["link", "dangling", "folder"])
def test_a_signature_that_is_no_plain_file_is_refused(
    kind: str, signed: Path, keys: SimpleNamespace, tmp_path: Path
) -> None:
    (signed / SIGNATURE).rename(tmp_path / "elsewhere")
    if kind == "folder":
        (signed / SIGNATURE).mkdir()
    else:
        (signed / SIGNATURE).symlink_to(tmp_path / ("elsewhere" if kind == "link" else "nothing"))
    for trusted in (keys.own_public, None):
        refused(signed, trusted, "is no plain file")


def test_no_file_of_a_bundle_may_have_the_name_of_the_signature(bundle: Path) -> None:
    for name in (SIGNATURE, "Manifest.SIG"):
        text = (bundle / MANIFEST).read_text().replace(f'"{SELF_TEST}"', f'"{name}"')
        with pytest.raises(InputError, match="not allowed"):
            bundle_module.parse_manifest(bundle / MANIFEST, text.encode())


# --- keys


def _kinds() -> dict[str, Callable[[], object]]:
    return {
        "RSA": lambda: rsa.generate_private_key(65537, 1024),
        "EC": lambda: ec.generate_private_key(ec.SECP256R1()),
        "Ed448": ed448.Ed448PrivateKey.generate,
    }


@pytest.mark.parametrize("kind", _kinds())
def test_keys_of_another_kind_are_refused(kind: str, exported: Path, tmp_path: Path) -> None:
    key = _kinds()[kind]()
    refused(exported, public_pem(key), "Ed25519 is expected")
    refused(exported, key, "Ed25519 is expected")
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())  # type: ignore[attr-defined]
    (tmp_path / "k.pem").write_bytes(private)
    with pytest.raises(InputError, match=f"is a key for {kind}.*, and Ed25519 is expected"):
        read_private_key(tmp_path / "k.pem")


def test_files_that_hold_no_public_key_are_refused(exported: Path, keys: SimpleNamespace, tmp_path: Path) -> None:
    own = keys.own_public.read_bytes()
    wrong = {
        "nothing": b"",
        "text": b"hello",
        "two": own + keys.other_public.read_bytes(),
        "large": own + b" " * (1 << 17),
        "cut": own[:-40],
        "broken": own.replace(b"MCow", b"MCox"),
        "certificate": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    }
    for name, content in wrong.items():
        (tmp_path / name).write_bytes(content)
        refused(exported, tmp_path / name, "PEM")
    refused(exported, tmp_path / "none", "does not exist or is not a file")
    refused(exported, tmp_path, "does not exist or is not a file")
    refused(exported, keys.own, "is a private key")
    refused(exported, 5, "Ed25519 is expected")
    with pytest.raises(InputError, match="is a public key, which signs nothing"):
        read_private_key(keys.own_public)


def test_a_pair_is_written_for_its_owner_and_never_over_another(tmp_path: Path) -> None:
    made = make_key(tmp_path / "release.pem")
    assert sorted(os.listdir(tmp_path)) == ["release.pem", "release.pub.pem"]
    assert stat.S_IMODE(made.private.stat().st_mode) == 0o600
    assert made.private.read_text().startswith("-----BEGIN PRIVATE KEY-----")
    assert made.public.read_text().startswith("-----BEGIN PUBLIC KEY-----")
    assert [*trusted_keys(made.public)] == [read_private_key(made.private).public_key().public_bytes_raw()]
    before = made.private.read_bytes()
    for gone in (None, made.public, made.private):
        if gone is not None:
            gone.rename(tmp_path / "aside")
        with pytest.raises(InputError, match="exists already"):
            make_key(tmp_path / "release.pem")
        if gone is not None:
            (tmp_path / "aside").rename(gone)
    assert made.private.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["release.pem", "release.pub.pem"]


def test_a_private_key_that_others_can_read_is_told(keys: SimpleNamespace, tmp_path: Path) -> None:
    shutil.copy(keys.own, tmp_path / "open.pem")
    (tmp_path / "open.pem").chmod(0o644)
    with pytest.warns(NtreWarning, match=r"can be read by others \(mode 644\).*chmod 600"):
        read_private_key(tmp_path / "open.pem")


def test_an_encrypted_key_wants_its_password(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    path = tmp_path / "k.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"right")))
    path.chmod(0o600)
    assert signing.is_encrypted(path)
    assert read_private_key(path, b"right").public_key() == key.public_key()
    for password, words in ((None, "no password was given"), (b"wrong", "with this password")):
        with pytest.raises(InputError, match=words):
            read_private_key(path, password)


# --- signing


def test_signing_again_takes_the_place_of_whatever_signature_was_there(signed: Path, keys: SimpleNamespace) -> None:
    first = (signed / SIGNATURE).read_bytes()
    sign_bundle(signed, read_private_key(keys.other))
    refused(signed, keys.own_public, "is not trusted")
    (signed / SIGNATURE).write_bytes(b"cut")
    sign_bundle(signed, read_private_key(keys.own))
    assert (signed / SIGNATURE).read_bytes() == first, "Ed25519 is deterministic"


def test_a_bundle_that_is_not_whole_is_not_signed(bundle: Path, keys: SimpleNamespace) -> None:
    content = bytearray((bundle / SELF_TEST).read_bytes())
    content[-1] ^= 1
    (bundle / SELF_TEST).write_bytes(content)
    with pytest.raises(InputError, match="has been changed"):
        sign_bundle(bundle, read_private_key(keys.own))
    assert read_signature(bundle) is None


def test_a_kill_while_signing_leaves_a_bundle_that_opens(bundle: Path, keys: SimpleNamespace, tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from ntre_deploy import files
from ntre_deploy.signing import read_private_key, sign_bundle
files._fsync = lambda path: os._exit(9)
sign_bundle(Path(sys.argv[1]), read_private_key(Path(sys.argv[2])))
"""
    command = [sys.executable, "-P", "-c", code, str(bundle), str(keys.own)]
    assert subprocess.run(command, check=False).returncode == 9
    assert any("partial" in name for name in os.listdir(bundle.parent)), "the kill came while the file was there"
    Bundle.open(bundle)
    sign_bundle(bundle, read_private_key(keys.own))
    Bundle.open(bundle, trusted=keys.own_public)


def test_a_bundle_that_cannot_be_written_is_an_input_error(bundle: Path, keys: SimpleNamespace) -> None:
    (bundle / SIGNATURE).mkdir()
    with pytest.raises(InputError, match="no plain file"):
        sign_bundle(bundle, read_private_key(keys.own))


# --- without `cryptography`


def test_without_cryptography_there_is_a_line_and_untrusting_users_notice_nothing(
    signed: Path, keys: SimpleNamespace
) -> None:
    code = """
import sys
sys.modules["cryptography"] = None
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.errors import InputError
print(len(Bundle.open(sys.argv[1]).manifest.files))
from pathlib import Path
from ntre_deploy.signing import make_key, read_private_key
for call in (lambda: Bundle.open(sys.argv[1], trusted=sys.argv[2]), lambda: make_key(Path("k.pem")),
             lambda: read_private_key(Path(sys.argv[2]))):
    try:
        call()
    except InputError as error:
        print(error)
"""
    command = [sys.executable, "-P", "-c", code, str(signed), str(keys.own_public)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first == "6"
    assert lines == ["Signatures need cryptography: pip install 'ntre_deploy[sign]'."] * 3
