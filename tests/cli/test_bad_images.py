"""Photos, supports, masks and memories that cannot be used: one line, exit code 2, nothing written."""

import json
import struct
import subprocess
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ntre_deploy.runtime.support import SupportMemory

Done = subprocess.CompletedProcess[str]


def huge_png() -> bytes:
    """A PNG whose header declares 50,000 x 50,000 pixels, with hardly any data behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.fixture
def bad(here: Path, pictures: SimpleNamespace) -> dict[str, Path]:
    """Files that are no usable image, by what is wrong with them."""
    good = pictures.photo.read_bytes()
    contents = {
        "truncated": good[: len(good) // 2],
        "truncated in its header": good[:20],
        "no image": b"these are words\n" * 50,
        "empty": b"",
        "huge": huge_png(),
    }
    found = {"missing": here / "missing.png", "a folder": here / "empty folder"}
    found["a folder"].mkdir()
    for number, (kind, content) in enumerate(contents.items()):
        found[kind] = here / f"bad{number}.png"
        found[kind].write_bytes(content)
    return found


IMAGES = ("missing", "truncated", "truncated in its header", "no image", "empty", "huge")


# --json keeps the remark on the engine away from stderr, so that the error is all there is
@pytest.mark.parametrize("kind", IMAGES)
def test_a_bad_photo_is_refused(
    kind: str, bad: dict[str, Path], tiny: SimpleNamespace, support: str, refused: Callable[..., str]
) -> None:
    message = refused("segment", tiny.bundle, bad[kind], "--support", support, "--json")
    assert bad[kind].name in message
    if kind == "huge":
        assert "100,000,000" in message


@pytest.mark.parametrize("kind", [*IMAGES, "a folder"])
def test_a_bad_support_image_is_refused(
    kind: str, bad: dict[str, Path], tiny: SimpleNamespace, pictures: SimpleNamespace, refused: Callable[..., str]
) -> None:
    pair = f"x={bad[kind]},{pictures.supports[0][1]}"
    assert bad[kind].name in refused("segment", tiny.bundle, pictures.photo, "-s", pair, "--json")


@pytest.mark.parametrize("kind", [*IMAGES, "a folder"])
def test_a_bad_support_mask_is_refused(
    kind: str, bad: dict[str, Path], tiny: SimpleNamespace, pictures: SimpleNamespace, refused: Callable[..., str]
) -> None:
    pair = f"x={pictures.supports[0][0]},{bad[kind]}"
    message = refused("segment", tiny.bundle, pictures.photo, "-s", pair, "--json", "--save-memory", "memory")
    assert bad[kind].name in message


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("another size", ("'x'", "mask")),
        ("empty", ("'x'", "empty")),
        ("odd values", ("128", "mask.png")),
        ("colours", ("colour", "mask.png")),
        ("one pixel", ("'x'", "small")),
    ],
)
def test_a_mask_that_does_not_mark_the_target_is_refused(
    wrong: str,
    words: tuple[str, ...],
    here: Path,
    tiny: SimpleNamespace,
    pictures: SimpleNamespace,
    refused: Callable[..., str],
) -> None:
    image, good = pictures.supports[0]
    mask = (np.asarray(Image.open(good)) > 0).astype(np.uint8)
    if wrong == "another size":
        mask = mask[:-1]
    elif wrong == "empty":
        mask[:] = 0
    elif wrong == "odd values":
        mask[mask == 1] = 128
        mask[0, 0] = 64
    elif wrong == "colours":
        mask = np.stack([mask, 1 - mask, mask], -1) * 255
    elif wrong == "one pixel":
        mask[:] = 0
        mask[1, 1] = 1
    Image.fromarray(mask).save(here / "mask.png")
    message = refused("segment", tiny.bundle, pictures.photo, "-s", f"x={image},mask.png", "--json", "--out", "o")
    assert all(word in message for word in words), message


def test_a_bad_support_gives_one_line_without_json_too(
    tiny: SimpleNamespace, pictures: SimpleNamespace, refused: Callable[..., str]
) -> None:
    refused("segment", tiny.bundle, pictures.photo, "-s", f"x={pictures.photo},missing.png")


def test_supports_are_checked_before_the_engine_is_loaded(
    tiny: SimpleNamespace, pictures: SimpleNamespace, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr("ntre_deploy.runtime.segmenter.open_engine", lambda *a, **k: opened.append(a))
    refused("segment", tiny.bundle, pictures.photo, "-s", "only_an_image.png", "--json")
    assert opened == []


@pytest.mark.parametrize("text", ["a.png", "x=a.png", "x=a.png,", ",m.png", "=a.png,m.png"])
def test_a_support_of_another_form_is_shown_with_an_example(
    text: str, tiny: SimpleNamespace, pictures: SimpleNamespace, refused: Callable[..., str]
) -> None:
    message = refused("segment", tiny.bundle, pictures.photo, f"--support={text}", "--json")
    assert f"'{text}'" in message
    assert "[NAME=]IMAGE,MASK" in message


def test_a_class_name_with_a_slash_is_refused(
    tiny: SimpleNamespace, pictures: SimpleNamespace, refused: Callable[..., str]
) -> None:
    image, mask = pictures.supports[0]
    message = refused(
        "segment", tiny.bundle, pictures.photo, "-s", f"../up={image},{mask}", "--save-memory", "m", "--json"
    )
    assert "../up" in message


def test_photos_of_one_name_are_refused(
    tiny: SimpleNamespace, pictures: SimpleNamespace, support: str, here: Path, refused: Callable[..., str]
) -> None:
    Image.open(pictures.photo).save(here / "wide.bmp")
    assert "wide.png" in refused("segment", tiny.bundle, pictures.photo, "wide.bmp", "-s", support)


def test_a_photo_named_like_anothers_overlay_does_not_overwrite_it(
    tiny: SimpleNamespace, pictures: SimpleNamespace, support: str, here: Path, call: Callable[..., Done]
) -> None:
    for name in ("x.png", "x.overlay.jpg"):
        (here / name).write_bytes(pictures.photo.read_bytes())
    done = call("segment", tiny.bundle, "x.png", "x.overlay.jpg", "-s", support, "--out", "o", "--json")
    if done.returncode == 0:
        written = [result[kind] for result in json.loads(done.stdout)["results"] for kind in ("mask", "overlay")]
        assert len(set(written)) == 4
    else:
        assert (done.returncode, "x.overlay" in done.stderr) == (2, True)


@pytest.mark.parametrize("what", ["photo", "support", "mask"])
def test_the_users_own_pictures_are_never_overwritten(
    what: str, tiny: SimpleNamespace, pictures: SimpleNamespace, here: Path, call: Callable[..., Done]
) -> None:
    image, mask = pictures.supports[0]
    own = {"photo": here / "x.png", "support": here / "s.png", "mask": here / "m.png"}
    for path, source in zip(own.values(), (pictures.photo, image, mask), strict=True):
        path.write_bytes(source.read_bytes())
    photo = {"photo": "x.png", "support": "elsewhere/s.png", "mask": "elsewhere/m.png"}[what]
    (here / "elsewhere").mkdir()
    for name in ("s.png", "m.png"):
        (here / "elsewhere" / name).write_bytes(pictures.photo.read_bytes())
    before = {path: path.read_bytes() for path in own.values()}
    call("segment", tiny.bundle, photo, "--support", "thing=s.png,m.png", "--out", ".")
    assert [path.name for path, content in before.items() if path.read_bytes() != content] == []


def test_an_empty_folder_of_photos_is_refused(
    tiny: SimpleNamespace, support: str, here: Path, refused: Callable[..., str]
) -> None:
    (here / "photos").mkdir()
    assert "photos" in refused("segment", tiny.bundle, "photos", "-s", support)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("photo.png",), "--support"),
        (("--memory", "m.safetensors"), "photos"),
        (("photo.png", "--dataset", "procedural"), "--dataset"),
        (("--dataset", "procedural", "--support", "a,b"), "--dataset"),
    ],
)
def test_what_does_not_go_together_is_told_before_the_bundle_is_opened(
    arguments: tuple[str, ...], word: str, refused: Callable[..., str]
) -> None:
    assert word in refused("segment", "no_such.ntre", *arguments)


@pytest.fixture
def memory(tiny: SimpleNamespace) -> SupportMemory:
    """A memory of the tiny model, made without running it."""
    from ntre_deploy.runtime.bundle import Bundle

    model = Bundle.open(tiny.bundle).manifest.model
    keys = np.full((model.key_channels, 3), model.key_channels**-0.5, np.float32)
    return SupportMemory("thing", np.ones(model.prototype_channels, np.float32), (keys,), model.id)


@pytest.mark.parametrize("wrong", ["missing", "no memory", "truncated", "another model"])
def test_a_bad_memory_is_refused(
    wrong: str,
    memory: SupportMemory,
    tiny: SimpleNamespace,
    pictures: SimpleNamespace,
    here: Path,
    refused: Callable[..., str],
) -> None:
    path = here / "m.safetensors"
    if wrong == "another model":
        replace(memory, model="0" * 16).save(path)
    elif wrong == "truncated":
        memory.save(path)
        path.write_bytes(path.read_bytes()[:-5])
    elif wrong == "no memory":
        path = tiny.checkpoint
    message = refused("segment", tiny.bundle, pictures.photo, "--memory", path, "--json")
    assert ("'thing'" if wrong == "another model" else path.name) in message


def test_memories_of_other_shapes_are_refused_even_with_the_models_id(
    memory: SupportMemory, tiny: SimpleNamespace, pictures: SimpleNamespace, here: Path, refused: Callable[..., str]
) -> None:
    memory.save(here / "good.safetensors")
    replace(memory, prototype=memory.prototype[:4]).save(here / "short.safetensors")
    files = ["--memory", "good.safetensors", "--memory", "short.safetensors"]
    refused("segment", tiny.bundle, pictures.photo, *files, "--json")


def test_the_name_inside_a_memory_file_cannot_lead_out_of_the_folder(
    memory: SupportMemory,
    tiny: SimpleNamespace,
    pictures: SimpleNamespace,
    here: Path,
    call: Callable[..., Done],
) -> None:
    replace(memory, name="../../escaped").save(here / "evil.safetensors")
    call(
        "segment",
        tiny.bundle,
        pictures.photo,
        "--memory",
        "evil.safetensors",
        "--save-memory",
        "deep/down/m",
        "-o",
        "o",
    )
    outside = [p for p in here.rglob("*escaped*") if "m" not in p.parent.parts]
    assert outside == []


def test_a_class_name_of_a_dataset_cannot_lead_out_of_the_folder(
    tiny: SimpleNamespace, pictures: SimpleNamespace, here: Path, call: Callable[..., Done]
) -> None:
    pytest.importorskip("pycocotools")
    images, annotations = [], []
    for number, (image, mask) in enumerate(pictures.supports):
        height, width = np.asarray(Image.open(mask)).shape
        (here / "images").mkdir(exist_ok=True)
        (here / "images" / f"{number}.png").write_bytes(image.read_bytes())
        images.append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
        box = [0, 0, 99, 0, 99, 99, 0, 99]
        annotations.append({"image_id": number, "category_id": 1, "segmentation": [box], "iscrowd": 0})
    categories = [{"id": 1, "name": "x/../../../escaped"}]
    (here / "x.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    call("segment", tiny.bundle, "--dataset", "coco:x.json", "--count", "1", "--out", "deep/o")
    assert [p for p in here.parent.rglob("*escaped*") if "o" not in p.relative_to(here.parent).parts] == []


def test_one_line_stays_one_line_when_a_file_name_holds_several(
    tiny: SimpleNamespace, support: str, refused: Callable[..., str]
) -> None:
    refused("segment", tiny.bundle, "two\nlines.png", "-s", support)


LONG = "n" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", LONG),
        ("export", "{checkpoint}", "--out", f"{LONG}.ntre"),
        ("import-weights", LONG, "x.safetensors"),
        ("import-weights", "random:0", f"{LONG}.safetensors"),
        ("segment", "{bundle}", f"{LONG}.png", "-s", "{support}"),
        ("segment", "{bundle}", "{photo}", "-s", f"{LONG},m.png", "--json"),
        ("segment", "{bundle}", "{photo}", "--memory", LONG, "--json"),
        ("segment", LONG, "{photo}", "-s", "{support}"),
        ("bench", "{bundle}", "--episodes", LONG),
        ("bench", "{bundle}", "--checkpoint", LONG),
        ("bench", "{bundle}", "--dataset", f"folder:{LONG}"),
    ],
)
def test_a_name_too_long_for_the_system_is_the_users_error(
    arguments: tuple[str, ...],
    tiny: SimpleNamespace,
    pictures: SimpleNamespace,
    support: str,
    refused: Callable[..., str],
) -> None:
    # Path.is_file() and exists() raise OSError (ENAMETOOLONG) for these
    places = {"checkpoint": tiny.checkpoint, "bundle": tiny.bundle, "photo": pictures.photo, "support": support}
    refused(*(a.format(**places) for a in arguments))
