"""What the user names, and the files that are meant."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ntre_deploy.errors import InputError, NtreWarning
from ntre_deploy.runtime.sources.finding import find_sources
from ntre_deploy.runtime.sources.opening import open_source
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


def test_what_a_folder_holds_beside_pictures_is_named(files: Path) -> None:
    Path("a/cut.jpg").write_bytes(Path("a/1.jpg").read_bytes()[:20])
    Path("a/words.mp4").write_text("words\n" * 100)
    Path("a/.hidden.txt").write_text("no one's picture")
    sources, skipped = find_sources(["a"])
    assert [s.path.name for s in sources] == ["1.jpg", "2.PNG", "clip.MP4"]
    assert all(s.found for s in sources)
    told = {s.path.name: s.reason for s in skipped}
    assert set(told) == {"b", "notes.txt", "cut.jpg", "words.mp4"}
    assert told["notes.txt"] == "no image or video"
    assert told["b"] == "a folder inside; --recursive takes it"
    assert told["cut.jpg"].startswith("is not an image that can be read")
    assert told["words.mp4"].startswith("cannot be opened")
    # what is named itself is an error, also where its folder is named too
    for given in (["a/cut.jpg"], ["a", "a/cut.jpg"], ["a/1.jpg", "a/words.mp4"]):
        with pytest.raises(InputError, match=Path(given[-1]).name):
            find_sources(given)


def test_folders_inside_folders_keep_their_place(files: Path) -> None:
    Path("a/b/c").mkdir()
    Image.new("RGB", (8, 8)).save("a/b/c/1.jpg")
    Path("a/b/loop").symlink_to(files / "a", target_is_directory=True)
    sources, skipped = find_sources(["a"], recursive=True)
    assert [(s.path.as_posix(), s.place.as_posix()) for s in sources] == [
        ("a/1.jpg", "."),
        ("a/2.PNG", "."),
        ("a/clip.MP4", "."),
        ("a/b/3.png", "b"),
        ("a/b/c/1.jpg", "b/c"),
    ]
    assert [s.path.name for s in skipped] == ["notes.txt"]
    by_pattern, _ = find_sources(["a/**/*.jpg"])
    assert [s.place.as_posix() for s in by_pattern] == [".", "b/c"]


def test_a_folder_of_folders_points_to_the_option(files: Path) -> None:
    Path("deep/er").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save("deep/er/1.jpg")
    with pytest.raises(InputError, match="--recursive takes the folders inside"):
        find_sources(["deep"])
    assert len(find_sources(["deep"], recursive=True).sources) == 1


def test_a_list_names_files_and_what_is_wrong_in_it_is_skipped(files: Path) -> None:
    listed = ["a/1.jpg\n", "\n", "nope.png\r\n", "a/notes.txt\n", "a/1.jpg\n", "single[1].png"]
    sources, skipped = find_sources(["-"], listed=listed)
    assert [str(s.path) for s in sources] == ["a/1.jpg", "single[1].png"]
    assert [str(s.path) for s in skipped] == ["nope.png", "a/notes.txt"]
    with pytest.raises(InputError, match="names no file"):
        find_sources(["-"], listed=["\n", "nope.png\n"])


def test_nothing_usable_is_an_error(files: Path) -> None:
    Path("bad").mkdir()
    Path("bad/x.jpg").write_text("words")
    with pytest.raises(InputError, match=r"None of the inputs can be used; bad/x.jpg: is not an image"):
        find_sources(["bad"])


def test_frames_of_a_folder_come_one_by_one_and_damage_is_told(files: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save("a/0.jpg")
    Path("a/0cut.jpg").write_bytes(Path("a/0.jpg").read_bytes()[:20_000])
    told: list[str] = []
    frames = list(open_source("a", least=100, tell=told.append))
    assert [f.name for f in frames] == ["0.jpg", "1.jpg", "2.PNG", "clip.MP4"]
    assert frames[0].size == (300, 400)
    assert frames[0].pixels.shape == (75, 100, 3)
    assert any(line.startswith("skipped a/0cut.jpg: is damaged or cut off") for line in told)
    assert "skipped a/notes.txt: no image or video" in told
    with pytest.warns(NtreWarning, match=r"skipped a/notes\.txt"):
        assert len(list(open_source(Path("a")))) == 4
    with pytest.raises(InputError, match=r"0cut\.jpg is damaged"):
        list(open_source("a/0cut.jpg"))
