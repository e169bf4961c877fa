"""Who may ask: keys, and what keeps pages of other sites from a server without any."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from starlette.datastructures import Headers

from ntre_deploy.errors import InputError
from ntre_deploy.serving.http.access import refusal
from ntre_deploy.serving.http.settings import LOOPBACK_NAMES, Keys, Settings, is_loopback, read_keys
from tests.serving.http.conftest import Server  # type: ignore[import-not-found]

KEY = "a-key-of-more-than-16-characters"


@pytest.mark.parametrize("host", ["127.0.0.1:{}", "localhost:{}", "LOCALHOST:{}", "[::1]:{}", "localhost"])
def test_this_machine_may_ask(host: str, server: Server) -> None:
    assert server.ask("GET", "/bundles", headers={"Host": host.format(server.port)}).status == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost@evil", ""])
def test_a_foreign_name_of_127_0_0_1_reaches_nothing(host: str, server: Server) -> None:
    assert server.ask("GET", "/memories", headers={"Host": host}).status == 421
    assert server.ask("DELETE", "/memories/disc", headers={"Host": host}).status == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_pages_of_other_sites_may_not_ask(headers: dict[str, str], server: Server) -> None:
    assert server.ask("GET", "/memories", headers=headers).status == 403
    assert server.ask("DELETE", "/memories/disc", headers=headers).status == 403
    assert server.ask("GET", "/memories").status == 200


def test_its_own_page_may_ask(server: Server) -> None:
    headers = {"Origin": f"http://127.0.0.1:{server.port}", "Sec-Fetch-Site": "same-origin"}
    assert server.ask("GET", "/openapi.json", headers=headers).status == 200


def test_a_key_is_demanded_of_all_but_probes(serve, tmp_path: Path, files: list[SimpleNamespace]) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\nanother-key-of-16-or-more\n")
    server = serve("--api-key-file", str(file), "--host", "0.0.0.0").ready()
    for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json"):
        assert server.ask("GET", path).status == 200
    for method, path in (
        ("GET", "/bundles"),
        ("GET", "/metrics"),
        ("GET", "/memories"),
        ("PUT", "/memories/x"),
        ("POST", "/segment"),
        ("GET", "/v2"),
        ("GET", "/v2/models/tiny"),
        ("POST", "/v2/models/tiny/infer"),
        ("POST", "/v2/repository/index"),
        ("GET", "/nothing"),
    ):
        bare = server.ask(method, path)
        assert (bare.status, "X-Api-Key" in bare.error) == (401, True)
        assert bare.headers["www-authenticate"] == "Bearer"
        for wrong in ("", KEY[:-1], KEY + "x", KEY.upper(), "é" * 20):
            answer = server.ask(method, path, headers={"X-Api-Key": wrong})
            assert answer.status == 401
    for headers in (
        {"X-Api-Key": KEY},
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer  {KEY}"},
        {"X-Api-Key": "another-key-of-16-or-more", "Host": "any.example"},
    ):
        assert server.ask("GET", "/metrics", headers=headers).status == 200
    shown = [("photo", files[1].photo), ("support", files[0].photo), ("mask", files[0].mask)]
    assert server.ask("POST", "/segment", headers={"X-Api-Key": KEY}, parts=shown).status == 200
    assert server.end() == 0
    assert KEY not in "".join(server.said)


def test_a_key_of_the_environment(serve) -> None:
    server = serve(env={"NTRE_API_KEY": KEY}).ready()
    assert server.ask("GET", "/bundles").status == 401
    assert server.ask("GET", "/bundles", headers={"X-Api-Key": KEY}).status == 200


def test_keys_are_hashed_and_not_shown() -> None:
    keys = Keys((KEY, "another-key-of-16-or-more"))
    assert keys.known(KEY)
    assert not keys.known("")
    assert KEY not in repr(Settings(keys=keys))
    assert KEY not in str(vars(keys))


@pytest.mark.parametrize("key", ["", "short", "x" * 15, "ü" * 20, "a key with spaces in it", "new\nline-new-line-new"])
def test_a_key_that_is_too_simple_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(InputError, match="openssl rand -hex 32") as refused:
        Keys((key,))
    assert not key or key not in str(refused.value)


def test_files_of_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("")
    with pytest.raises(InputError, match="is empty"):
        read_keys(None, file)
    file.write_bytes(b"\xff\xfe" * 20)
    with pytest.raises(InputError, match="is no text"):
        read_keys(None, file)
    with pytest.raises(InputError, match="cannot be read"):
        read_keys(None, tmp_path / "none")
    with pytest.raises(InputError, match="leave one out"):
        read_keys(KEY, file)
    assert not read_keys(None, None)


def test_addresses_of_this_machine() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.8.9.1", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", "")] == [False] * 5


def test_two_hosts_are_one_too_many() -> None:
    settings = Settings(hosts=LOOPBACK_NAMES)
    twice = Headers(raw=[(b"host", b"localhost"), (b"host", b"localhost")])
    assert refusal(twice, "/bundles", settings) is not None
    assert refusal(Headers(raw=[(b"host", b"localhost")]), "/bundles", settings) is None
