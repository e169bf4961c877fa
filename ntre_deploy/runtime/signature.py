"""Signatures of bundles: who made the manifest, which has the SHA-256 of every other file.

`manifest.sig` is 96 bytes: the public key of the signer (32) and its Ed25519 signature (64; RFC 8032) of the bytes of
`manifest.json` as they are.  The key in the file only tells which one to look for: what counts is that it is trusted.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Union, cast

from ntre_deploy.errors import InputError
from ntre_deploy.files import reading

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SIGNATURE = "manifest.sig"
_KEY_BYTES, _SIGNATURE_BYTES = 32, 64
# what stands before the key in an Ed25519 SubjectPublicKeyInfo (RFC 8410), of which fingerprints are made
_DER = bytes.fromhex("302a300506032b6570032100")
_MAX_PEM_BYTES = 1 << 16
_NEW_KEY = "make a pair with `ntre sign --new-key KEY.pem`"

# a file, its content (PEM), or a key of `cryptography`
Key = Union[str, Path, bytes, "Ed25519PublicKey"]
Trusted = Key | Iterable[Key]


class Signature(NamedTuple):
    """What `manifest.sig` holds.

    Attributes:
        key: the public key that it says it is made with, 32 bytes.
        value: the signature, 64 bytes.
    """

    key: bytes
    value: bytes

    @property
    def fingerprint(self) -> str:
        """Of the key; see `fingerprint`."""
        return fingerprint(self.key)


def fingerprint(key: bytes) -> str:
    """SHA-256 of a public key (32 bytes) as SubjectPublicKeyInfo in DER, hexadecimal."""
    return hashlib.sha256(_DER + key).hexdigest()


def read_signature(folder: Path) -> Signature | None:
    """The signature in a bundle's folder, which nothing has been compared with yet; None without one.

    Raises:
        InputError: it is no plain file, or not of its size.
    """
    path = folder / SIGNATURE
    with reading(path, "Signature"):
        if not path.exists() and not path.is_symlink():
            return None
        if not path.is_file() or path.is_symlink():
            raise InputError(f"{path} is no plain file, as a signature is; copy the bundle again or sign it again.")
        size = path.stat().st_size
        content = path.read_bytes() if size == _KEY_BYTES + _SIGNATURE_BYTES else b""
    if len(content) != _KEY_BYTES + _SIGNATURE_BYTES:
        raise InputError(
            f"{path} has {size} bytes where a signature has {_KEY_BYTES + _SIGNATURE_BYTES}; copy the bundle again or "
            "sign it again."
        )
    return Signature(content[:_KEY_BYTES], content[_KEY_BYTES:])


def trusted_keys(trusted: Trusted) -> "dict[bytes, Ed25519PublicKey]":
    """Public keys by their 32 bytes.

    Args:
        trusted: one or several of: a PEM file, its content as bytes, a key of `cryptography`.

    Raises:
        InputError: there is none, `cryptography` is not installed, or one is no public Ed25519 key.
    """
    several = isinstance(trusted, Iterable) and not isinstance(trusted, (str, bytes))
    given = cast(Iterable[Key], trusted) if several else [cast(Key, trusted)]
    keys = [_public_key(key) for key in given]
    if not keys:
        raise InputError("A signature is demanded, and no key is trusted; name the public key of who signs.")
    return {key.public_bytes_raw(): key for key in keys}


def check_signature(folder: Path, manifest: bytes, trusted: Trusted) -> str:
    """Demand that a trusted key has signed a manifest; returns the key's fingerprint.

    Args:
        folder: of the bundle, where the signature lies.
        manifest: the bytes that the signature must be of.
        trusted: see `trusted_keys`.

    Raises:
        InputError: there is no signature, it is another key's or of other bytes, or as `trusted_keys`.
    """
    keys = trusted_keys(trusted)
    signature = read_signature(folder)
    if signature is None:
        raise InputError(
            f"Bundle {folder} is not signed, and a signature is demanded; take it from who made it, or sign it with "
            f"`ntre sign {folder} --key KEY.pem`."
        )
    if signature.key not in keys:
        known = ", ".join(fingerprint(key) for key in keys)
        raise InputError(
            f"Bundle {folder} is signed with the key {signature.fingerprint}, which is not trusted ({known} is)."
        )
    if not is_signed(manifest, signature.value, keys[signature.key]):
        raise InputError(
            f"The signature of {folder} is not of its manifest: one of them has been changed; take the bundle again "
            "from who made it."
        )
    return signature.fingerprint


def is_signed(content: bytes, value: bytes, key: "Ed25519PublicKey") -> bool:
    """Whether `value` (64 bytes) is the signature of `content` by a key."""
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(value, content)
    except InvalidSignature:
        return False
    return True


def holds(signature: Signature, content: bytes) -> bool:
    """Whether a signature is of `content` by the key that it names, whoever's that is.

    Raises:
        InputError: `cryptography` is not installed.
    """
    need_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return is_signed(content, signature.value, Ed25519PublicKey.from_public_bytes(signature.key))


def need_cryptography() -> None:
    """See that there is what signatures are made and checked with.

    Raises:
        InputError: `cryptography` is not installed, or does not import.
    """
    try:
        import cryptography.hazmat.primitives.serialization  # noqa: F401
    except ImportError as error:
        raise InputError("Signatures need cryptography: pip install 'ntre_deploy[sign]'.") from error


def read_pem(path: Path) -> bytes:
    """The content of a key file.

    Raises:
        InputError: it cannot be read, or holds no single PEM.
    """
    with reading(path, "Key"):
        if not path.is_file():
            raise InputError(f"Key {path} does not exist or is not a file; {_NEW_KEY}.")
        with path.open("rb") as file:
            content = file.read(_MAX_PEM_BYTES + 1)
    if len(content) > _MAX_PEM_BYTES or content.count(b"-----BEGIN ") != 1:
        raise InputError(f"{path} does not hold one key as PEM; {_NEW_KEY}.")
    return content


def expected_ed25519(key: object, what: str) -> InputError:
    """The error for a key of another kind."""
    kind = type(key).__name__.lstrip("_").removesuffix("PublicKey").removesuffix("PrivateKey")
    return InputError(f"{what} is a key for {kind}, and Ed25519 is expected; {_NEW_KEY}.")


def _public_key(given: Key) -> "Ed25519PublicKey":
    need_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if isinstance(given, Ed25519PublicKey):
        return given
    if isinstance(given, (str, Path)):
        what, content = str(given), read_pem(Path(given))
    elif isinstance(given, bytes):
        what, content = "The trusted key", given
    else:
        raise expected_ed25519(given, "A trusted key")
    if b"PRIVATE KEY" in content:
        raise InputError(f"{what} is a private key, which signs; trust the public one, such as KEY.pub.pem.")
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError(f"{what} is no public key as PEM; {_NEW_KEY}.") from error
    if not isinstance(key, Ed25519PublicKey):
        raise expected_ed25519(key, what)
    return key
