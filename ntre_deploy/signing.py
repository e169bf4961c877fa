"""Making keys and signing bundles; `ntre_deploy.runtime.signature` checks what is made here."""

import os
import stat
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ntre_deploy.errors import InputError, NtreWarning
from ntre_deploy.files import atomic_file
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.manifest import manifest_bytes
from ntre_deploy.runtime.signature import (
    SIGNATURE,
    expected_ed25519,
    fingerprint,
    need_cryptography,
    read_pem,
    read_signature,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class NewKey(NamedTuple):
    """A pair that was made.

    Attributes:
        private, public: its files.
        fingerprint: of the public key, as messages name it.
    """

    private: Path
    public: Path
    fingerprint: str


def public_file(private: Path) -> Path:
    """Where the public key of a private key's file goes: `KEY.pem` -> `KEY.pub.pem`."""
    return private.with_name(f"{private.name.removesuffix('.pem')}.pub.pem")


def make_key(path: Path) -> NewKey:
    """Make an Ed25519 pair: the private key as PKCS #8 for its owner alone, the public one beside it, both as PEM.

    Raises:
        InputError: `cryptography` is not installed, one of the files exists, or they cannot be written.
    """
    need_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key, public = Ed25519PrivateKey.generate(), public_file(path)
    # the private key takes its name last: without it, the other file is only in the way
    with (
        atomic_file(path, mode=0o600, replace=False) as secret,
        atomic_file(public, replace=False) as open_to_all,
    ):
        secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        open_to_all.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return NewKey(path, public, fingerprint(key.public_key().public_bytes_raw()))


def read_private_key(path: Path, password: bytes | None = None) -> "Ed25519PrivateKey":
    """Read a private Ed25519 key; one that others can read gives an `NtreWarning`.

    Args:
        path: PEM file.
        password: of an encrypted one.

    Raises:
        InputError: `cryptography` is not installed, the file cannot be read or holds another key, or the password is
            missing or wrong.
    """
    need_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = read_pem(path)
    if b"PUBLIC KEY" in content:
        raise InputError(f"{path} is a public key, which signs nothing; give the private one that belongs to it.")
    try:
        key = load_pem_private_key(content, password)
    except TypeError as error:
        needed = "is encrypted, and no password was given" if password is None else "is not encrypted"
        raise InputError(f"{path} {needed}.") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        wrong = " with this password" if password is not None else ""
        raise InputError(f"{path} is no private key that can be read{wrong}; PKCS #8 as PEM is expected.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise expected_ed25519(key, str(path))
    mode = stat.S_IMODE(path.stat().st_mode)
    if os.name == "posix" and mode & 0o077:
        warnings.warn(
            f"{path} can be read by others (mode {mode:o}); keep it to yourself: chmod 600 {path}.",
            NtreWarning,
            stacklevel=2,
        )
    return key


def is_encrypted(path: Path) -> bool:
    """Whether a private key's file asks for a password.

    Raises:
        InputError: it cannot be read, or holds no single PEM.
    """
    return b"ENCRYPTED" in read_pem(path)


def sign_bundle(folder: Path, key: "Ed25519PrivateKey") -> str:
    """Sign the manifest of a bundle whose files are all as it lists them; returns the fingerprint of the key.

    The signature comes into the folder whole or not at all, in the place of an earlier one.

    Raises:
        InputError: no bundle, a file of it was changed, or the folder cannot be written.
    """
    # whatever is there in place of a signature
    bundle = Bundle.of(folder, manifest_bytes(folder))
    for entry in bundle.manifest.files:
        bundle.read(entry)
    public = key.public_key().public_bytes_raw()
    # beside the bundle: a file that a kill left inside would be one that the manifest does not list
    with atomic_file(folder / SIGNATURE, scratch=folder.absolute().parent) as temporary:
        temporary.write_bytes(public + key.sign(bundle.text))
    return fingerprint(public)


def signer(folder: Path) -> str | None:
    """Fingerprint of the key that a bundle's signature names; None where there is no signature that can be read."""
    try:
        signature = read_signature(folder)
    except InputError:
        return None
    return None if signature is None else signature.fingerprint
