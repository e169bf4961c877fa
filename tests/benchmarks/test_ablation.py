"""The ablation: what it tests on was never shown in training, and its figures follow from the counts."""

from typing import Any

import numpy as np
import pytest

FOLDER = "ablation"


class Photos:
    """Two classes of eight in each photo."""

    def __init__(self, name: str, holders: dict[str, tuple[int, ...]]) -> None:
        self.name, self.holders = name, holders
        self.class_names = {c: str(c) for c in range(8)}

    def images(self, class_id: int) -> list[str]:
        return sorted(image for image, classes in self.holders.items() if class_id in classes)

    def image(self, image_id: str) -> str:
        return f"{self.name} {image_id}"

    def mask(self, image_id: str, class_id: int) -> str:
        return f"{self.name} {image_id} {class_id}"


def test_no_photo_with_a_base_class_is_tested_on() -> None:
    from photos import held_out

    training: Any = Photos("train", {"a": (0, 4), "b": (0, 1), "c": (4,), "d": (2, 3)})
    validation: Any = Photos("val", {"e": (0, 1), "f": (4,)})
    test = held_out(validation, training, 0, "interleaved")  # novel are 0 and 4
    assert test.images(0) == ["a", "e"], "b shows a base class too, so it was a training photo"
    assert test.images(4) == ["a", "c", "f"]
    assert test.image("a") == "train a"
    assert test.mask("e", 0) == "val e 0"


def test_the_rows_add_one_part_each() -> None:
    from rows import PARTS, row_config

    from ntre_deploy.training.config import TrainConfig

    configs = [row_config(TrainConfig(), row) for row in PARTS]
    assert [(c.model.bgem, c.model.doem, c.contrastive is not None) for c in configs] == [
        (False, False, False),
        (True, False, False),
        (True, True, False),
        (True, True, True),
    ]


def found(fold: int, seed: int, counts: list[list[int]]) -> dict[str, Any]:
    from ntre_deploy.training.evaluator import Evaluation

    evaluation = Evaluation(np.array([3, 3, 7], np.int64), np.array(counts, np.int64), {3: "a", 7: "b"})
    part = {
        "episodes": {"count": 3},
        "classes": [3, 3, 7],
        "names": {"3": "a", "7": "b"},
        "counts": counts,
        "miou": evaluation.miou,
        "fb_iou": evaluation.fb_iou,
        "precision": evaluation.precision,
        "all_foreground_miou": 0.25,
    }
    return {"row": "x", "fold": fold, "seed": seed, "train_seconds": 1.0, "shots": {"1": part}}


def test_the_summary_by_hand() -> None:
    from summary import packed, summarise, unpacked

    # IoU of class 3: 10 / 20 and 5 / 20, of class 7: 1 / 4 and 3 / 4
    one = found(0, 0, [[5, 5, 0, 10], [5, 0, 5, 10], [1, 3, 0, 16]])
    two = found(0, 1, [[5, 5, 5, 5], [0, 5, 0, 15], [3, 1, 0, 16]])
    table = summarise([one, two])["shots"]["1"]
    assert table["mean_miou"]["seeds"] == pytest.approx([0.375, 0.5])
    assert table["mean_miou"]["value"] == pytest.approx(0.4375)
    assert table["mean_miou"]["seed_std"] == pytest.approx(0.0884, abs=1e-4)
    assert table["mean_miou"]["low"] <= table["mean_miou"]["high"]
    fold = table["folds"][0]
    assert fold["counts"] == ["3 10 10 5 15", "3 5 5 5 25", "7 4 4 0 32"]
    again = unpacked(fold["counts"])
    assert packed(again) == fold["counts"]
    assert again.score.class_iou == pytest.approx({3: 15 / 40, 7: 0.5})


def test_a_row_does_not_differ_from_itself_and_does_from_a_worse_one() -> None:
    from summary import mean_interval, unpacked

    good = unpacked([f"1 {n} 0 10 5" for n in range(60, 80)])
    bad = unpacked([f"1 {n - 20} 0 30 5" for n in range(60, 80)])
    assert mean_interval([good], [good]) == (0.0, 0.0)
    low, high = mean_interval([good], [bad])
    assert 0.1 < low <= high < 0.4


def test_the_table_has_every_row_and_its_difference() -> None:
    from summary import summarise
    from table import table

    counts = [[5, 5, 0, 10], [5, 0, 5, 10], [1, 3, 0, 16]]
    rows = {row: summarise([found(f, 0, counts) for f in range(4)])["shots"]["1"] for row in ("baseline", "pcl")}
    lines = table(rows, "1")
    assert len(lines) == 5
    assert lines[2].startswith("| all foreground | 25.0 |")
    assert "+0.0 (+0.0 to +0.0)" in lines[4]


def test_the_matcher_takes_the_nearer_of_two_prototypes() -> None:
    """Red on blue: it is right about the support itself, and what it finds turns round with the mask."""
    from matcher import prototype_matcher

    from ntre_deploy.model.config import NTRENetConfig
    from ntre_deploy.model.weights import import_weights

    config = NTRENetConfig(backbone="squeezenet1_1", width=4, bg_channels=4, bins=(4,), input_size=129)
    run = prototype_matcher(import_weights("random:3", config)[0])
    image = np.full((128, 128, 3), (30, 60, 200), np.uint8)
    image[24:104, 40:110] = (220, 30, 20)
    mask = np.zeros((128, 128), np.uint8)
    mask[24:104, 40:110] = 1
    labels = run(image, [(image, mask), (image[::-1], mask[::-1])])
    assert labels.shape == mask.shape
    assert (labels & mask).sum() / (labels | mask).sum() > 0.5 > mask.mean()
    turned = run(image, [(image, 1 - mask)])
    assert (turned == 1 - run(image, [(image, mask)])).mean() > 0.99
