"""What docs/serve.md shows of a running server is run against one."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.serving.http.conftest import Server  # type: ignore[import-not-found]

PAGE = Path(__file__).parents[3] / "docs" / "serve.md"
_BLOCK = re.compile(r"<!-- skip: needs the server[^>]*-->\n```(\w+)\n(.*?)```", re.DOTALL)


@pytest.fixture
def reader(tmp_path: Path, files: list[SimpleNamespace], server: Server) -> Iterator[Path]:
    """A folder with the files that the page names."""
    for number, name in enumerate(("fork", "spoon")):
        (tmp_path / f"{name}.jpg").write_bytes(files[number].photo)
        (tmp_path / f"{name}_mask.png").write_bytes(files[number].mask)
    (tmp_path / "photo.jpg").write_bytes(files[2].photo)
    yield tmp_path
    server.ask("DELETE", "/memories/fork")


def test_the_page_is_true(reader: Path, server: Server) -> None:
    blocks = _BLOCK.findall(PAGE.read_text())
    assert [language for language, _ in blocks] == ["sh", "sh", "python"]
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    for language, text in blocks:
        code = text.replace("localhost:8378", f"127.0.0.1:{server.port}")
        if language == "sh":
            command = ["bash", "-euo", "pipefail", "-c", code]
            done = subprocess.run(command, cwd=reader, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stdout + done.stderr
        else:
            pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")
            names: dict[str, object] = {}
            with chdir(reader):
                exec(code.replace('"photos"', '"tiny"'), names)
            assert names["labels"].shape == (64, 200)  # type: ignore[attr-defined]
    assert (reader / "found.jpg").read_bytes().startswith(b"\xff\xd8")
