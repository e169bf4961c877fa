"""What is set when an application is made."""

import hashlib
import hmac
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ntre_deploy.errors import InputError
from ntre_deploy.files import reading
from ntre_deploy.serving.limits import Limits

LEAST_KEY = 16
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


class Keys:
    """API keys, of which only hashes are kept.

    Args:
        keys: each of 16 printable ASCII characters or more.

    Raises:
        InputError: one that is shorter, or has other characters; it is not shown.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        for key in keys:
            if len(key) < LEAST_KEY or not key.isascii() or not key.isprintable() or " " in key:
                raise InputError(
                    f"An API key of {len(key)} characters was given; {LEAST_KEY} or more letters, digits and signs are "
                    "expected. `openssl rand -hex 32` makes one."
                )
        self._hashes = [_hashed(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def __repr__(self) -> str:
        return f"Keys({len(self._hashes)})"

    def known(self, key: str) -> bool:
        """Whether it is one of them, in a time that does not tell how much of it is right."""
        given = _hashed(key)
        found = [hmac.compare_digest(given, known) for known in self._hashes]
        return any(found)


@dataclass(frozen=True)
class Settings:
    """How an application treats requests.

    Attributes:
        limits: what the bundles' services were opened with; the body and the time are kept to here.
        keys: one of them is demanded, where there are any; never of probes.
        hosts: names by which requests may call the server; () takes any.  Without keys it is what keeps pages of other
            sites from a server on 127.0.0.1.
        log_requests: log each one; those of probes only where they fail.
    """

    limits: Limits = field(default_factory=Limits)
    keys: Keys = field(default_factory=lambda: Keys(()))
    hosts: tuple[str, ...] = ()
    log_requests: bool = True


def is_loopback(host: str) -> bool:
    """Whether an address or name is that of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_keys(key: str | None, file: Path | None) -> Keys:
    """The keys of a command line: one, or those of a file with one on each line.

    Raises:
        InputError: both are given, the file cannot be read or holds none, or as `Keys`.
    """
    if file is None:
        return Keys(()) if key is None else Keys((key,))
    if key is not None:
        raise InputError("An API key and a file of keys were given; leave one out (NTRE_API_KEY counts as a key).")
    with reading(file, "The file of API keys"):
        try:
            lines = file.read_text("utf-8").split()
        except UnicodeDecodeError as error:
            raise InputError(f"The file of API keys {file} is no text; a key on each line is expected.") from error
    if not lines:
        raise InputError(f"The file of API keys {file} is empty; a key on each line is expected.")
    return Keys(lines)


def _hashed(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
