"""Nobody but the page itself reaches the server, and the page reaches nobody but the server."""

import socket

import pytest

HERE = {"X-Studio-Token": None}


def test_the_page_comes_with_headers_that_bind_it(quiet) -> None:
    answer = quiet.ask("GET", "/", headers=HERE)
    assert answer.status == 200
    assert b"<title>ntre studio</title>" in answer.body
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe-inline" not in policy
    assert "http:" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-embedder-policy"] == "require-corp"
    assert "server" not in answer.headers


def test_the_page_holds_no_inline_script_or_style(quiet) -> None:
    page = quiet.ask("GET", "/", headers=HERE).body.decode()
    assert "<style" not in page
    assert " style=" not in page
    assert "onclick" not in page
    assert page.count("<script") == page.count('<script type="module" src="js/main.js"></script>') == 1
    assert "//" not in page.replace("<!doctype html>", "")


@pytest.mark.parametrize("path", ["/js/main.js", "/js/engine-server.js", "/css/parts.css", "/icons.svg"])
def test_files_of_the_page_are_served_with_their_type(path: str, quiet) -> None:
    answer = quiet.ask("GET", path, headers=HERE)
    assert answer.status == 200
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    assert answer.headers["content-type"].startswith(kinds[path.rpartition(".")[2]])


@pytest.mark.parametrize("given", [None, "", "wrong", "x" * 5000, "\xe9"])
def test_without_the_token_nothing_is_told(given: str | None, quiet) -> None:
    answer = quiet.ask("GET", "/api/state", headers={"X-Studio-Token": given})
    assert answer.status == 401
    assert "open the address" in answer.error
    assert "photos" not in answer.json


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost", "127.0.0.1.evil.example:{port}", "[::1]:{port}"]
)
def test_a_foreign_host_reaches_nothing(host: str, quiet) -> None:
    for path in ("/", "/api/state", "/js/main.js"):
        answer = quiet.ask("GET", path, headers={"Host": host.format(port=quiet.port)})
        assert answer.status == 421, path


def test_localhost_is_this_host(quiet) -> None:
    assert quiet.ask("GET", "/api/state", headers={"Host": f"localhost:{quiet.port}"}).status == 200


def test_two_hosts_are_refused(quiet) -> None:
    with socket.create_connection(("127.0.0.1", quiet.port)) as link:
        own = f"127.0.0.1:{quiet.port}"
        text = f"GET / HTTP/1.1\r\nHost: {own}\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
        link.sendall(text.encode())
        assert link.recv(100).split()[1] in (b"400", b"421")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:{port}", "http://127.0.0.1:1"])
def test_a_foreign_origin_is_refused_even_with_the_token(origin: str, quiet) -> None:
    headers = {"Origin": origin.format(port=quiet.port)}
    for method, path in (
        ("GET", "/api/state"),
        ("PUT", "/api/classes"),
        ("POST", "/api/export"),
        ("OPTIONS", "/api/state"),
    ):
        assert quiet.ask(method, path, b"[]", headers).status == 403, (method, path)


def test_the_own_origin_is_taken(quiet) -> None:
    headers = {"Origin": f"http://127.0.0.1:{quiet.port}", "Sec-Fetch-Site": "same-origin"}
    assert quiet.ask("GET", "/api/state", headers=headers).status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none"])
def test_what_a_browser_sends_for_another_page_is_refused(site: str, quiet) -> None:
    assert quiet.ask("GET", "/api/state", headers={"Sec-Fetch-Site": site}).status == 403


@pytest.mark.parametrize(
    "path",
    [
        "/../api.py", "/..%2fapi.py", "/%2e%2e/api.py", "/js/../../api.py", "//etc/passwd", "/js/%00", "/..\\api.py",
        "/js/..%5c..%5capi.py", "/.%2e/.%2e/.%2e/etc/passwd",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_page(path: str, quiet) -> None:
    answer = quiet.ask("GET", path, headers=HERE)
    assert answer.status == 404, answer.body[:80]
    assert b"root:" not in answer.body
    assert b"import" not in answer.body


@pytest.mark.parametrize("photo", ["..%2f..%2fetc%2fpasswd", "0" * 16, "%00", "key0.png", "a" * 3000])
def test_photos_have_ids_and_no_paths(photo: str, quiet) -> None:
    for end in ("image", "thumb", "marks", "labels"):
        assert quiet.ask("GET", f"/api/photos/{photo}/{end}").status in (400, 404), end


def test_the_server_listens_on_this_machine_alone(quiet) -> None:
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in others - {"127.0.0.1", "127.0.1.1"}:
        with socket.socket() as probe:
            probe.settimeout(2)
            assert probe.connect_ex((address, quiet.port)) != 0


def test_only_reading_is_known_of_the_page(quiet) -> None:
    assert quiet.ask("POST", "/").status == 405
    assert quiet.ask("PUT", "/js/main.js", b"x").status == 405
