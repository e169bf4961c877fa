"""torchvision that is absent or broken, and downloads that fail, each in one line."""

import errno
import socket
import sys
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest

from ntre_deploy.errors import EngineError
from ntre_deploy.vision import PAIR, downloading, torchvision

REPOSITORY = Path(__file__).parents[1]


def test_the_pair_is_the_one_that_ci_runs_with() -> None:
    lines = (REPOSITORY / "constraints-torchvision.txt").read_text().splitlines()
    assert " ".join(line for line in lines if not line.startswith("#")) == PAIR


def test_an_absent_torchvision_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(EngineError, match=r"needs torchvision, which is not installed.*pip install torch=="):
        torchvision()


@pytest.mark.parametrize(
    "failure",
    [
        "RuntimeError('operator torchvision::nms does not exist')",
        "OSError('undefined symbol: x')",
        "ImportError('cut')",
    ],
)
def test_a_torchvision_of_another_torch_is_told(failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(f"raise {failure}\n")
    for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineError, match=r"does not import beside torch \d") as told:
        torchvision("datasets")
    assert failure.split("'")[1] in str(told.value)
    assert PAIR in str(told.value)


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (
            URLError(socket.gaierror(-2, "Name or service not known")),
            "cannot be downloaded: Name or service not known. Do",
        ),
        (HTTPError("http://x", 404, "Not Found", None, None), "HTTP Error 404: Not Found. Do"),  # type: ignore[arg-type]
        (TimeoutError("timed out"), "cannot be downloaded: timed out. Do"),
        (RuntimeError("File not found or corrupted."), "damaged or cut off: File not found or corrupted. Do"),
        (EOFError(), "damaged or cut off: EOFError. Do"),
    ],
)
def test_a_download_that_fails_is_one_line_with_the_advice(failure: Exception, words: str) -> None:
    with pytest.raises(EngineError) as told, downloading("Weights", "Do it by hand"):
        raise failure
    assert str(told.value).startswith("Weights c")
    assert words in str(told.value)


def test_a_full_disk_is_no_failure_of_the_network() -> None:
    with pytest.raises(OSError, match="No space"), downloading("Weights", "Do it by hand"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_progress_is_for_terminals_and_stdout_for_results(capsys: pytest.CaptureFixture[str]) -> None:
    before = socket.getdefaulttimeout()
    with downloading("Weights", "Do it by hand"):
        print("Downloading: ...")
        print("50 %", file=sys.stderr)
        assert socket.getdefaulttimeout() == 60
    assert capsys.readouterr() == ("", "")
    assert socket.getdefaulttimeout() == before
