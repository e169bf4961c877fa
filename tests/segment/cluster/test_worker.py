"""A worker without a cluster: what it makes of parts, and what it refuses."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fsspec", reason="the extra ray is not installed")
pytest.importorskip("pyarrow", reason="the extra ray is not installed")

from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.segment.cluster import plan as plans
from ntre_deploy.segment.cluster.rows import failed_parts, failures, read_rows, tell
from ntre_deploy.segment.cluster.stores import Store
from ntre_deploy.segment.cluster.worker import Order, Worker, pack


@pytest.fixture
def paths(photos: Callable[[Path, int], list[Path]], tmp_path: Path) -> list[Path]:
    """Eleven photos: the fourth is damaged, the seventh missing, the ninth far too large."""
    made = photos(tmp_path / "photos", 11)
    made[3].write_bytes(made[3].read_bytes()[:900])
    made[6].unlink()
    made[8].write_bytes(b"P6\n20000 20000\n255\n")
    return made


@pytest.fixture
def order(exported: Path, memory: Path, paths: list[Path], tmp_path: Path) -> Order:
    store = Store(str(tmp_path / "out"))
    count = plans.write_photos(store, map(str, [*paths, *paths]))
    assert count == len(paths)
    model = Bundle.open(exported).manifest.model.id
    plan = plans.Plan(count, 8, ("thing",), ("0" * 64,), "1" * 64, model, "onnx-cpu", "fp32", {})
    return Order(store, plan, str(exported), "onnx-cpu", "fp32", 1, (), (memory.read_bytes(),), False)


def call(order: Order, *parts: int, files: Any = None) -> list[dict[str, Any]]:
    worker = Worker(order, pack(Path(order.bundle)) if files is None else files)
    done = worker({"part": np.array(parts)})
    return [dict(zip(done, values, strict=True)) for values in zip(*done.values(), strict=True)]


def test_each_photo_has_a_row_and_failures_are_told(
    order: Order, paths: list[Path], check: Callable[..., Any], tmp_path: Path
) -> None:
    first, last = call(order, 0, 1)
    assert first == {"part": 0, "photos": 8, "failed": 2, "error": "", "code": 0}
    assert last == {"part": 1, "photos": 3, "failed": 1, "error": "", "code": 0}
    rows = check(tmp_path / "out", paths, (paths[3], paths[6], paths[8]))
    assert [row["path"] for row in rows] == list(map(str, paths))
    errors = {row["path"]: row["error"] for row in rows}
    assert "damaged or cut off" in errors[str(paths[3])]
    assert errors[str(paths[6])] == "does not exist or is not a file"
    assert "20000 x 20000" in errors[str(paths[8])] or "too large" in errors[str(paths[8])]
    assert not any("\n" in error for error in errors.values() if error)
    told = tell(order.store, ["thing"])
    assert (told.photos, told.failed) == (11, 3)
    assert told.found["thing"] == sum(row["error"] is None and row["areas"][0] > 0 for row in rows)
    assert failed_parts(order.store) == {0: 2, 1: 1}
    assert list(failures(order.store, 1)) == [(str(paths[3]), errors[str(paths[3])])]


def test_a_part_that_is_done_is_left_alone_and_failures_are_tried_when_asked(
    order: Order, paths: list[Path], parts: Callable[[Path], dict[str, int]], tmp_path: Path
) -> None:
    call(order, 0, 1)
    before, masks = parts(tmp_path / "out"), (tmp_path / "out/masks").rglob("*.png")
    times = {path: path.stat().st_mtime_ns for path in masks}
    paths[3].write_bytes(paths[4].read_bytes())
    assert call(order, 0, 1)[0]["failed"] == 2
    assert parts(tmp_path / "out") == before
    assert call(replace(order, again=True), 0, 1)[0]["failed"] == 1
    assert {path: path.stat().st_mtime_ns for path in times} == times
    rows = read_rows(order.store, 0)
    assert [row["path"] for row in rows] == list(map(str, paths[:8]))
    assert [row["error"] is None for row in rows] == [True] * 6 + [False, True]


def test_a_photo_that_has_killed_workers_is_given_up(order: Order, paths: list[Path]) -> None:
    # as two workers leave it that died
    note = f"plan/trying/{plans.photo_id(str(paths[1]))}"
    order.store.write(note, b"..")
    order.store.write("plan/trying/part-0", b"")
    (done,) = call(order, 0)
    assert done["failed"] == 3
    row = read_rows(order.store, 0)[1]
    assert (row["path"], row["mask"]) == (str(paths[1]), None)
    assert row["error"] == "2 workers have died while they had it"
    assert order.store.names("plan/trying") == []
    # when it is asked for, it gets its chances again
    call(replace(order, again=True), 0)
    assert read_rows(order.store, 0)[1]["error"] is None


def test_a_bundle_travels_and_is_checked_on_arrival(order: Order, exported: Path, tmp_path: Path) -> None:
    elsewhere = replace(order, bundle=str(tmp_path / "not here/tiny.ntre"))
    files = pack(exported)
    assert call(elsewhere, 0, files=files)[0]["error"] == ""
    broken = {n: c[:-1] + bytes([c[-1] ^ 1]) if n.endswith(".onnx") else c for n, c in files.items()}
    (done,) = call(elsewhere, 1, files=broken)
    assert done["code"] == 2
    assert ".onnx" in done["error"]
    assert plans.done_parts(order.store) == {0}


def test_a_worker_that_cannot_begin_says_why(order: Order) -> None:
    (done,) = call(replace(order, version="0.0.0"), 0)
    assert (done["code"], done["photos"]) == (EngineError.exit_code, 0)
    assert "0.0.0" in done["error"]
    (done,) = call(replace(order, engine="onnx-cuda", precision="fp16"), 0)
    assert done["code"] == EngineError.exit_code
    assert plans.done_parts(order.store) == set()


def test_results_that_cannot_be_written_end_the_part(order: Order, tmp_path: Path) -> None:
    (tmp_path / "out/masks").touch()
    (done,) = call(order, 0)
    assert done["code"] == InputError.exit_code
    assert "masks" in done["error"]
    assert plans.done_parts(order.store) == set()


def test_the_plan_is_read_back_part_by_part(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    names = [f"/photos/{number}.jpg" for number in range(2500)]
    assert plans.write_photos(store, names) == 2500
    for size in (8, 64, 1024):
        plan = plans.Plan(2500, size, ("a",), ("",), "", "", "", None, {})
        read = [photo for part in range(plan.parts) for photo in plans.read_part(store, plan, part)]
        assert read == names
    assert [plans.part_size(n) for n in (1, 8000, 8001, 10**6, 10**8)] == [8, 8, 16, 1024, 1024]


def test_masks_of_photos_of_one_name_lie_apart() -> None:
    photos = ["/a/x.jpg", "/a/x.png", "/b/x.jpg", "s3://bucket/x.jpg", "https://host/x.jpg?width=3"]
    names = [plans.mask_name(photo) for photo in photos]
    assert len(set(names)) == len(photos)
    assert all("/x-" in name and name.endswith(".png") for name in names)
    assert "/" not in plans.mask_name("/a/" + "ü  ?*" * 50 + ".jpg").removeprefix("masks/")[4:]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format": "ntre-cluster-run", "version": 1}', b"\xff"])
def test_a_damaged_plan_is_refused(content: bytes, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write(plans.RUN, content)
    with pytest.raises(InputError, match=r"run\.json"):
        plans.read_plan(store)
