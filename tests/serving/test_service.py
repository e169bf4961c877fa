"""What every server shares: the runtime's own masks, supports of every kind, and one line for what cannot be used."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.serving.limits import ClosedError, Limits, MissingError
from ntre_deploy.serving.service import Service, bundle_name
from ntre_deploy.serving.supports import Named, Shown, Stored

Shots = list[tuple[np.ndarray, np.ndarray]]
Files = list[SimpleNamespace]


def test_every_kind_of_support_gives_the_runtimes_mask(
    service: Service, segmenter: Segmenter, shots: Shots, files: Files
) -> None:
    memory = segmenter.encode_support([shots[0]], "disc")
    wanted = segmenter.segment_result(shots[1][0], memory)
    service.remember("disc", [shots[0]]).result(60)
    kinds = [
        Named("disc"),
        Stored(memory.to_bytes()),
        Shown("disc", (shots[0],)),
        Shown("disc", ((files[0].photo, files[0].mask),)),
    ]
    for kind in kinds:
        for photo in (shots[1][0], files[1].photo):
            found = service.segment(photo, [kind])
            np.testing.assert_array_equal(found.labels, wanted.labels)
            assert found.scores == pytest.approx(wanted.scores)
            assert found.names == ("disc",)


def test_several_classes_that_are_shown_are_calibrated_together(
    service: Service, segmenter: Segmenter, shots: Shots, files: Files
) -> None:
    memories = segmenter.encode_supports({"one": shots[:2], "two": [shots[2]]}, leave_one_out=False)
    wanted = segmenter.segment(shots[3][0], memories)
    given = [
        Shown("one", tuple((file.photo, file.mask) for file in files[:2])),
        Shown("two", ((files[2].photo, files[2].mask),)),
    ]
    found = service.segment(files[3].photo, given)
    np.testing.assert_array_equal(found.labels, wanted)
    # kinds side by side, in the order in which they are given
    mixed = service.segment(shots[3][0], [given[1], Stored(replace(memories[0], name="stored").to_bytes()), given[0]])
    assert mixed.names == ("two", "stored", "one")


def test_equal_supports_are_encoded_once(service: Service, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    encode = Segmenter.encode_supports

    def counting(self: Segmenter, classes: Any, **options: Any) -> Any:
        counted.append(len(classes))
        return encode(self, classes, **options)

    monkeypatch.setattr(Segmenter, "encode_supports", counting)
    for photo in (1, 2, 3):
        service.segment(files[photo].photo, [Shown("disc", ((files[0].photo, files[0].mask),))])
    assert counted == [1]
    service.segment(files[1].photo, [Shown("other", ((files[0].photo, files[0].mask),))])
    service.segment(files[1].photo, [Shown("disc", ((files[1].photo, files[1].mask),))])
    assert counted == [1, 1, 1]


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_many_photos_and_the_fault_of_one_stays_its_own(
    batch: int, service: Service, segmenter: Segmenter, shots: Shots, files: Files
) -> None:
    service._batch = batch
    memory = segmenter.encode_support([shots[0]], "disc")
    photos = [files[1].photo, b"no image", shots[2][0], files[3].photo, shots[4][0]]
    found = service.segment_many(photos, [Stored(memory.to_bytes())])
    assert len(found) == 5
    assert isinstance(found[1], InputError)
    assert "is not an image that can be read" in str(found[1])
    for index, shot in ((0, 1), (2, 2), (3, 3), (4, 4)):
        result = found[index]
        assert not isinstance(result, Exception)
        wanted = segmenter.segment(shots[shot][0], memory)
        # a batch sums in another order, so that a tied pixel may fall the other way
        assert (result.labels == wanted).mean() > 0.999
        if batch == 1:
            np.testing.assert_array_equal(result.labels, wanted)
    assert service.segment_many([], [Stored(memory.to_bytes())]) == []


def test_where_the_time_went_is_told(service: Service, files: Files) -> None:
    answer = service.submit(files[1].photo, [Shown("disc", ((files[0].photo, files[0].mask),))]).result(60)
    assert set(answer.seconds) == {"queue", "decode", "support", "engine", "encode"}
    assert all(seconds >= 0 for seconds in answer.seconds.values())


def test_what_cannot_be_used_is_one_line(
    service: Service, segmenter: Segmenter, shots: Shots, files: Files, as_png: Callable[[np.ndarray], bytes]
) -> None:
    service.limits = Limits(pixels=8_500, classes=2, shots=3)
    service._supports._limits = service.limits
    shot = (files[1].photo, files[1].mask)
    stored = Stored(segmenter.encode_support([shots[1]], "disc").to_bytes())
    foreign = Stored(replace(segmenter.encode_support([shots[1]], "disc"), model="0" * 64).to_bytes())
    bad: list[tuple[Any, list[Any], str]] = [
        (files[1].photo, [], "No support was given"),
        (files[1].photo, [Named("fork")], "There is no memory 'fork'; there is none"),
        (files[1].photo, [Named("../fork")], "There is no memory"),
        (files[1].photo, [Stored(b"")], "not a readable support memory"),
        (files[1].photo, [Stored(stored.data[:-1])], "not a readable support memory"),
        (files[1].photo, [foreign], "made by another model"),
        (files[1].photo, [stored] * 3, "3 classes were given; this server takes up to 2"),
        (files[1].photo, [Shown("disc", (shot,) * 4)], "4 annotated images were given; this server takes up to 3"),
        (files[1].photo, [Shown("disc", ())], "No support"),
        (files[1].photo, [Shown("disc", (shot,)), Shown("disc", (shot,))], "Two classes of this request have one name"),
        (files[1].photo, [Shown("disc", ((b"x", files[1].mask),))], "Image 1 of 'disc' is not an image"),
        (files[1].photo, [Shown("disc", ((files[1].photo, b"x"),))], "Mask 1 of 'disc' is not an image"),
        (files[1].photo, [Shown("disc", ((files[1].photo, files[4].mask),))], "must be equal"),
        (files[1].photo, [Shown("disc", ((files[1].photo, as_png(shots[1][1] * 0)),))], "is empty"),
        (b"", [stored], "is not an image that can be read"),
        (files[1].photo[:200], [stored], "is damaged or cut off"),
        (files[0].photo, [stored], "declares 120 x 90 pixels; at most 8,500 are read"),
        (shots[0][0], [stored], "has 10,800 pixels"),
        (shots[1][0].astype(np.float32) * 7, [stored], "The image holds floats"),
        (shots[1][0][:0], [stored], "The image has 70 x 0 pixels"),
    ]
    for image, supports, line in bad:
        with pytest.raises(InputError) as refused:
            service.segment(image, supports)
        assert line in str(refused.value)
        assert "\n" not in str(refused.value)
    assert service.segment(files[1].photo, [stored]).labels.shape == (70, 70)


def test_memories_survive_a_restart(exported: Path, service: Service, shots: Shots, tmp_path: Path) -> None:
    memory = service.remember("disc", shots[:2]).result(60)
    assert len(memory.shot_scores or ()) == 2
    before = service.segment(shots[3][0], [Named("disc")])
    assert service.close() == 0
    with pytest.raises(ClosedError):
        service.segment(shots[3][0], [Named("disc")])
    again = Service.open(exported, engine="onnx-cpu", workers=1, memories=tmp_path / "memories")
    np.testing.assert_array_equal(again.segment(shots[3][0], [Named("disc")]).labels, before.labels)
    again.memories.delete("disc")
    with pytest.raises(MissingError):
        again.segment(shots[3][0], [Named("disc")])
    again.close()


def test_a_bundle_is_called_as_its_folder() -> None:
    assert bundle_name("somewhere/photos.ntre") == "photos"
    assert bundle_name("photos") == "photos"


@pytest.mark.parametrize(
    "wrong", [{"pixels": 0}, {"seconds": float("nan")}, {"waiting": -1}, {"classes": 300}, {"pixels": 200_000_000}]
)
def test_limits_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="The limit"):
        Limits(**wrong)


def test_no_workers_are_refused(exported: Path) -> None:
    with pytest.raises(InputError, match="0 workers were asked for"):
        Service.open(exported, workers=0)
