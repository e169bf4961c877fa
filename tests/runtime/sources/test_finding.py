"""What the user names, and the files that are meant."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.sources.finding import find_sources
from ntre_deploy.runtime.videowriter import write_video


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.jpg", "a/2.PNG", "a/b/3.png", "single[1].png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10)).save(name)
    Path("a/notes.txt").write_text("words")
    Path("a/.png").mkdir()
    with write_video(Path("a/clip.MP4"), (16, 16), 10) as write:
        write(np.zeros((16, 16, 3), np.uint8))
    return tmp_path


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["a"], ["a/1.jpg", "a/2.PNG", "a/clip.MP4"]),
        (["a/2.PNG", "a"], ["a/2.PNG", "a/1.jpg", "a/clip.MP4"]),
        (["a/*.jpg"], ["a/1.jpg"]),
        (["a/**/*"], ["a/1.jpg", "a/2.PNG", "a/b/3.png", "a/clip.MP4"]),
        (["a/[12].*", "a/b"], ["a/1.jpg", "a/2.PNG", "a/b/3.png"]),
        (["single[1].png"], ["single[1].png"]),
        (["a/1.jpg", "./a/1.jpg", "a/b/../1.jpg"], ["a/1.jpg"]),
        ([], []),
    ],
)
def test_files_folders_and_patterns(files: Path, given: list[str], found: list[str]) -> None:
    sources, _ = find_sources([Path(g) for g in given])
    assert [str(s.path) for s in sources] == found
    assert [s.video is not None for s in sources] == [name.endswith("MP4") for name in found]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("nope.jpg", "nope.jpg does not exist"),
        ("nope.mp4", "nope.mp4 does not exist"),
        ("*.tiff", r"No photo or video fits the pattern \*.tiff"),
        ("a/.png", r"Folder a/.png holds no photos or videos \(.jpg"),
        ("a/notes.txt", "notes.txt is not an image"),
    ],
)
def test_what_is_not_there_is_named(files: Path, given: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        find_sources([Path("a/1.jpg"), Path(given)])
