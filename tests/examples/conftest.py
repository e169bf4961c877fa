"""A clip with two classes that it has never seen."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from ntre_deploy.data.procedural import render_scene

SEED = 2022
# classes of the supports, and a scene that shows both
THINGS = {"ladybird": 17, "orange": 18}
SCENE = 41


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Files: `support` (image, mask) by name, `photo`, `clip` of 8 frames; masks by name: `truth`, `frames_truth`."""
    folder = tmp_path_factory.mktemp("scenes")
    support = {}
    for name, class_id in THINGS.items():
        scene = render_scene(class_id, SEED)
        image, mask = folder / f"{name}.png", folder / f"{name}_mask.png"
        Image.fromarray(scene.image).save(image)
        Image.fromarray(np.where(scene.labels == class_id + 1, 255, 0).astype(np.uint8)).save(mask)
        support[name] = (image, mask)
    scene = render_scene(SCENE, SEED)
    photo = folder / "photo.png"
    Image.fromarray(scene.image).save(photo)
    truth = {name: (scene.labels == class_id + 1).astype(np.uint8) for name, class_id in THINGS.items()}
    height, width = (side // 2 * 2 for side in scene.labels.shape)  # video codecs cut odd sides
    clip = folder / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (width, height))
    moved: dict[str, list[np.ndarray]] = {name: [] for name in THINGS}
    for number in range(8):  # the camera moves sideways
        shift = np.array([[1, 0, 3 * number - 12], [0, 1, 0]], np.float32)
        frame = cv2.warpAffine(scene.image, shift, (width, height), borderMode=cv2.BORDER_REFLECT)
        writer.write(frame[..., ::-1])
        for name, mask in truth.items():
            moved[name].append(cv2.warpAffine(mask, shift, (width, height), flags=cv2.INTER_NEAREST))
    writer.release()
    return SimpleNamespace(folder=folder, support=support, photo=photo, clip=clip, truth=truth, frames_truth=moved)
