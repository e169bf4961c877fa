"""The programs of examples/, run as a user runs them; what they give is compared with the scenes' true masks."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from ntre_deploy.runtime.masks import mask_iou
from ntre_deploy.runtime.support import SupportMemory

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAMS = sorted(EXAMPLES.glob("*.py"))
# measured: 0.94 and 0.86; another processor may round pixels otherwise
LEAST_IOU = 0.7

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def example(tmp_path: Path) -> Callable[..., Done]:
    """Run an example in an empty folder; it must succeed unless a code is given."""

    def call(name: str, *arguments: object, code: int = 0) -> Done:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(EXAMPLES / name), *(str(a) for a in arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return call


def labels_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_embed_finds_the_object(
    example: Callable[..., Done], demo_bundle: Path, scenes: SimpleNamespace, tmp_path: Path
) -> None:
    done = example("embed.py", demo_bundle, *scenes.support["ladybird"], scenes.photo, "mask.png")
    mask = labels_of(tmp_path / "mask.png")
    assert mask_iou(mask, scenes.truth["ladybird"]) > LEAST_IOU
    assert f"{(mask == 1).mean():.1%} of the photo" in done.stdout


def test_embed_is_twenty_lines_of_code() -> None:
    tree = ast.parse((EXAMPLES / "embed.py").read_text())
    body = tree.body[1:]  # without the docstring
    lines = {line for node in body for line in range(node.lineno, (node.end_lineno or 0) + 1)}
    assert len(lines) <= 20


def test_camera_finds_the_object_in_every_frame_of_a_clip(
    example: Callable[..., Done], demo_bundle: Path, scenes: SimpleNamespace, tmp_path: Path
) -> None:
    done = example("camera.py", demo_bundle, scenes.clip, *scenes.support["ladybird"], "--out", "seen.mp4")
    assert done.stdout.startswith("wrote seen.mp4: 8 frames, ")
    before, after = (_frames(path) for path in (scenes.clip, tmp_path / "seen.mp4"))
    assert len(after) == len(before) == 8
    for plain, tinted, truth in zip(before, after, scenes.frames_truth["ladybird"], strict=True):
        assert tinted.shape == plain.shape
        # the overlay tints the mask and leaves the rest, apart from what JPEG does to both
        changed = (np.abs(tinted.astype(int) - plain.astype(int)).max(axis=2) > 40).astype(np.uint8)
        changed = cv2.morphologyEx(changed, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
        assert mask_iou(changed, truth) > 0.6


def test_camera_stops_after_the_frames_that_were_asked_for_and_writes_mp4(
    example: Callable[..., Done], demo_bundle: Path, scenes: SimpleNamespace, tmp_path: Path
) -> None:
    example("camera.py", demo_bundle, scenes.clip, *scenes.support["orange"], "--out", "seen.mp4", "--frames", "3")
    assert len(_frames(tmp_path / "seen.mp4")) == 3


def test_n_way_gives_each_class_its_label(
    example: Callable[..., Done], demo_bundle: Path, scenes: SimpleNamespace, tmp_path: Path
) -> None:
    supports = [f"{name}={image},{mask}" for name, (image, mask) in scenes.support.items()]
    done = example("n_way.py", demo_bundle, scenes.photo, "labels.png", *supports)
    labels = labels_of(tmp_path / "labels.png")
    for number, name in enumerate(scenes.support, 1):
        assert mask_iou((labels == number).astype(np.uint8), scenes.truth[name]) > LEAST_IOU
        assert f"{number} {name}: {(labels == number).mean():.1%} of the photo, from 1 shots" in done.stdout


def test_memories_are_saved_by_one_process_and_used_by_another(
    example: Callable[..., Done], demo_bundle: Path, scenes: SimpleNamespace, tmp_path: Path
) -> None:
    for name, (image, mask) in scenes.support.items():
        example("memories.py", "save", demo_bundle, f"{name}.safetensors", f"{image},{mask}", f"{image},{mask}")
        assert SupportMemory.load(tmp_path / f"{name}.safetensors").shots == 2
    files = [f"{name}.safetensors" for name in scenes.support]
    example("memories.py", "use", demo_bundle, scenes.photo, "labels.png", *files)
    labels = labels_of(tmp_path / "labels.png")
    for number, name in enumerate(scenes.support, 1):
        assert mask_iou((labels == number).astype(np.uint8), scenes.truth[name]) > LEAST_IOU


@pytest.mark.parametrize("name", [path.name for path in PROGRAMS])
def test_a_bad_call_ends_in_one_line(name: str, example: Callable[..., Done], scenes: SimpleNamespace) -> None:
    image, mask = scenes.support["orange"]
    wrong = {
        "embed.py": ("nope.ntre", image, mask, scenes.photo, "o.png"),
        "camera.py": ("nope.ntre", scenes.clip, image, mask),
        "n_way.py": ("nope.ntre", scenes.photo, "o.png", f"orange={image},{mask}"),
        "memories.py": ("save", "nope.ntre", "m.safetensors", f"{image},{mask}"),
    }
    done = example(name, *wrong[name], code=1)
    assert done.stderr.startswith("error: Bundle nope.ntre does not exist")
    assert done.stderr.count("\n") == 1


def test_every_example_is_run_here() -> None:
    text = Path(__file__).read_text()
    assert PROGRAMS
    assert all(f'"{path.name}"' in text for path in PROGRAMS)


def _frames(path: Path) -> list[np.ndarray]:
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(read[1])
    capture.release()
    return frames
