"""What the reader of a page has at hand: a checkpoint and its bundle, photos with masks, a clip, COCO annotations."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ntre_deploy.data.procedural import CLASSES, KINDS, render_scene

REPOSITORY = Path(__file__).parents[2]
# rendered classes that stand for the ones that the pages name
_THINGS = {"fork": "key", "spoon": "leaf"}


def _scene_of(name: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Photo and 0/255 mask of the `number`-th scene of a rendered class."""
    scene = render_scene(CLASSES.index(_THINGS[name]) + number * len(KINDS), seed=11)
    return scene.image, np.where(scene.labels == scene.target + 1, 255, 0).astype(np.uint8)


def _photos(folder: Path) -> None:
    (folder / "photos").mkdir()
    for name in _THINGS:
        image, mask = _scene_of(name, 0)
        Image.fromarray(image).save(folder / f"{name}.jpg", quality=95)
        Image.fromarray(mask).save(folder / f"{name}_mask.png")
        Image.fromarray(_scene_of(name, 1)[0]).save(folder / "photos" / f"{name}s.jpg", quality=95)
    shutil.copy(folder / "photos" / "forks.jpg", folder / "photo.jpg")
    writer = cv2.VideoWriter(str(folder / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (320, 240))
    for number in range(4):
        writer.write(cv2.resize(_scene_of("fork", number)[0], (320, 240))[..., ::-1])
    writer.release()


def _class_folders(folder: Path) -> None:
    for name in _THINGS:
        for kind in ("images", "masks"):
            (folder / "cutlery" / name / kind).mkdir(parents=True)
        for number in range(3):
            image, mask = _scene_of(name, number)
            Image.fromarray(image).save(folder / "cutlery" / name / "images" / f"{number}.jpg", quality=95)
            Image.fromarray(mask).save(folder / "cutlery" / name / "masks" / f"{number}.png")


def _coco(folder: Path) -> None:
    (folder / "images").mkdir()
    images, annotations = [], []
    for category, name in enumerate(_THINGS, 1):
        for number in range(6):
            image, mask = _scene_of(name, number)
            height, width = mask.shape
            key = len(images) + 1
            Image.fromarray(image).save(folder / "images" / f"{key}.jpg", quality=95)
            images.append({"id": key, "file_name": f"{key}.jpg", "height": height, "width": width})
            outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            polygons = [line.ravel().tolist() for line in outlines if len(line) >= 3]
            area = int(np.count_nonzero(mask))
            shape = {"segmentation": polygons, "area": area, "bbox": list(cv2.boundingRect(mask)), "iscrowd": 0}
            annotations.append({"id": key, "image_id": key, "category_id": category, **shape})
    categories = [{"id": category, "name": name} for category, name in enumerate(_THINGS, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances_val.json").write_text(json.dumps(content))


@pytest.fixture(scope="session")
def reader(tiny_checkpoint: Path, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that every page begins with; a page works on a copy of it."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copy(tiny_checkpoint, folder / "ntrenet.safetensors")
    shutil.copytree(exported, folder / "ntrenet.ntre")
    for name in ("configs", "examples"):
        shutil.copytree(REPOSITORY / name, folder / name)
    _photos(folder)
    _class_folders(folder)
    _coco(folder)
    return folder
