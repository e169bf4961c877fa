"""Invented classes: the same for a seed, different from one another, and seen in their scenes."""

import numpy as np
import pytest

from ntre_deploy.data.dataset import MIN_TARGET_PIXELS
from ntre_deploy.data.invented import CLASSES, catalogue, invented_scenes
from ntre_deploy.data.procedural import render_scene
from ntre_deploy.data.registry import open_dataset
from ntre_deploy.errors import InputError


def test_a_class_does_not_depend_on_how_many_there_are() -> None:
    few, many = catalogue(3, 12), catalogue(3, 30)
    for a, b in zip(few, many, strict=False):
        assert (a.name, a.area, a.colours) == (b.name, b.area, b.colours)
        assert all(np.array_equal(p, q) for p, q in zip(a.shape.parts, b.shape.parts, strict=True))
    assert catalogue(4, 1)[0].colours != few[0].colours


def test_outlines_reach_their_box_and_fill_it() -> None:
    for kind in catalogue(0, 200):
        points = np.concatenate(kind.shape.parts)
        assert np.abs(points).max() == pytest.approx(1, abs=0.01)
        assert 0.7 <= kind.area <= 4


def test_classes_look_different() -> None:
    """Painted on the same square, no two of fifty have nearly the same picture."""
    x, y = np.meshgrid(*[np.linspace(-1, 1, 24, dtype=np.float32)] * 2)
    pictures = []
    for kind in catalogue(1, 50):
        colours = tuple(np.array([h / 360, s, v], np.float32) for h, s, v in kind.colours)
        pictures.append(np.asarray(kind.surface(x, y, 0.05, colours)).ravel())
        assert pictures[-1].shape == (24 * 24 * 3,)
        assert np.isfinite(pictures[-1]).all()
    differences = np.abs(np.stack(pictures)[:, None] - np.stack(pictures)[None]).mean(-1)
    assert differences[~np.eye(50, dtype=bool)].min() > 0.01


def test_scenes_show_their_target_and_label_every_object() -> None:
    data = open_dataset("invented:5")
    assert data.name == "invented:5"
    assert len(data.class_names) == CLASSES
    for class_id in (0, 300, CLASSES - 1):  # ids beyond a byte too
        first = data.images(class_id)[0]
        assert np.count_nonzero(data.mask(first, class_id)) >= MIN_TARGET_PIXELS
        labels = invented_scenes(5).labels(first)
        assert labels.dtype == np.uint16
        assert np.array_equal(labels == class_id + 1, data.mask(first, class_id) == 1)
        assert 3 <= len(np.unique(labels[labels > 0])) <= 5


def test_named_scenes_do_not_depend_on_the_catalogues() -> None:
    again = render_scene(7, 1)
    render_scene(7, 1, catalogue(0, 30))
    assert np.array_equal(again.image, render_scene(7, 1).image)


@pytest.mark.parametrize("spec", ["invented:-1", "invented:x", "invented:99999999999"])
def test_a_seed_that_cannot_be_is_named(spec: str) -> None:
    with pytest.raises(InputError, match=r"as in invented:7"):
        open_dataset(spec)
