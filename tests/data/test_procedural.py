import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntre_deploy.data._shapes import SHAPES
from ntre_deploy.data._surfaces import SURFACES
from ntre_deploy.data.dataset import MIN_TARGET_PIXELS
from ntre_deploy.data.procedural import CLASSES, ProceduralDataset, render_scene, target_of
from ntre_deploy.errors import InputError


@settings(max_examples=60, deadline=None)
@given(index=st.integers(0, 2**31), seed=st.integers(0, 2**32 - 1))
def test_every_scene_keeps_its_promises(index: int, seed: int) -> None:
    scene = render_scene(index, seed)
    assert scene.image.dtype == np.uint8
    assert scene.labels.dtype == np.uint16
    assert scene.image.shape == (*scene.labels.shape, 3)
    assert scene.target == target_of(index)
    assert np.count_nonzero(scene.labels == scene.target + 1) >= MIN_TARGET_PIXELS
    present = set(np.unique(scene.labels)) - {0}
    assert max(present) <= len(CLASSES)
    assert 2 <= len(present) <= 5
    # Neither black nor blown out
    assert 25 < scene.image.mean() < 235
    assert scene.image.std() > 8


def test_same_bytes_on_every_call() -> None:
    for index in range(6):
        a, b = render_scene(index, 5), render_scene(index, 5)
        assert a.image.tobytes() == b.image.tobytes()
        assert a.labels.tobytes() == b.labels.tobytes()
    assert render_scene(0, 1).image.tobytes() != render_scene(0, 2).image.tobytes()


def test_sizes_vary() -> None:
    shapes = {render_scene(index).labels.shape for index in range(20)}
    assert len(shapes) > 10
    assert any(h > w for h, w in shapes)
    assert any(h < w for h, w in shapes)


def test_every_class_has_a_shape_and_a_surface() -> None:
    assert len(CLASSES) == 24
    assert list(SHAPES) == list(SURFACES) == list(CLASSES)


def test_dataset() -> None:
    dataset = ProceduralDataset(seed=3, length=50)
    assert dataset.name == "procedural:3"
    assert dict(dataset.class_names) == dict(enumerate(CLASSES))
    assert dataset.images(1) == ("1", "25", "49")
    assert dataset.images(2) == ("2", "26")
    scene = render_scene(25, 3)
    assert np.array_equal(dataset.image("25"), scene.image)
    for class_id in dataset.class_names:
        mask = dataset.mask("25", class_id)
        assert mask.dtype == np.uint8
        assert np.array_equal(mask, scene.labels == class_id + 1)
    assert len(ProceduralDataset().images(0)) == 40


def test_the_callers_array_is_its_own() -> None:
    dataset = ProceduralDataset()
    before = dataset.image("0")
    dataset.image("0")[:] = 0
    assert np.array_equal(dataset.image("0"), before)


@pytest.mark.parametrize("image_id", ["50", "-1", "x", "", "01", "1.0", "²", "9" * 5000])
def test_unknown_scenes(image_id: str) -> None:
    with pytest.raises(InputError, match="its scenes are 0 to 49"):
        ProceduralDataset(length=50).image(image_id)


def test_bad_arguments() -> None:
    for arguments in ((-1, 5), (0, 0), (2**32, 5)):
        with pytest.raises(InputError):
            ProceduralDataset(*arguments)
    for arguments in ((-1, 0), (0, -1), (0, 2**32)):
        with pytest.raises(InputError, match="does not exist"):
            render_scene(*arguments)
    with pytest.raises(InputError, match="no class 24"):
        ProceduralDataset().images(24)
    with pytest.raises(InputError, match="no class -1"):
        ProceduralDataset().mask("0", -1)
