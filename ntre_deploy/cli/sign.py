"""`ntre sign`: a pair of keys, and a signature by which a device knows who made a bundle."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ntre_deploy.cli.console import print_json
from ntre_deploy.errors import InputError


def command(
    bundle: Annotated[Path | None, typer.Argument(help="Bundle folder.", show_default=False)] = None,
    key: Annotated[
        Path | None, typer.Option("--key", metavar="KEY.pem", help="Private Ed25519 key to sign with.")
    ] = None,
    new_key: Annotated[
        Path | None,
        typer.Option("--new-key", metavar="KEY.pem", help="Make this private key, and the public KEY.pub.pem."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Sign a bundle, or make the keys for it.

    Example: ntre sign model.ntre --key release.pem
    """
    if new_key is not None:
        if bundle is not None or key is not None:
            raise InputError("--new-key makes keys and signs nothing; give it alone, then sign with --key.")
        _make(new_key, as_json)
        return
    if bundle is None or key is None:
        raise InputError(
            "A bundle and a key are needed: `ntre sign BUNDLE --key KEY.pem`; a key is made with "
            "`ntre sign --new-key KEY.pem`."
        )
    from ntre_deploy.signing import is_encrypted, read_private_key, sign_bundle, signer

    password = _password(key) if is_encrypted(key) else None
    private = read_private_key(key, password)
    before = signer(bundle)
    found = sign_bundle(bundle, private)
    if as_json:
        print_json({"bundle": str(bundle), "fingerprint": found, "replaced": before})
        return
    again = (
        "" if before is None else f", in the place of a signature by {before if before != found else 'the same key'}"
    )
    print(f"signed {bundle} with the key {found}{again}")


def _make(path: Path, as_json: bool) -> None:
    from ntre_deploy.signing import make_key

    made = make_key(path)
    if as_json:
        print_json({"private": str(made.private), "public": str(made.public), "fingerprint": made.fingerprint})
        return
    print(f"private key: {made.private} (signs; keep it to yourself)")
    print(f"public key: {made.public} (goes to the devices, for --trusted)")
    print(f"fingerprint: {made.fingerprint}")


def _password(key: Path) -> bytes | None:
    if not sys.stdin.isatty():
        return None
    given: str = typer.prompt(f"Password of {key}", hide_input=True, err=True)
    return given.encode()
