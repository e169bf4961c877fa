"""On a cluster of several nodes: kills in the middle lose nothing and double nothing."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is not installed")

Done = subprocess.CompletedProcess[str]
Begin = Callable[..., subprocess.Popen[str]]

MANY = 300


@pytest.fixture(scope="module")
def many(photos: Callable[[Path, int], list[Path]], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return photos(tmp_path_factory.mktemp("many"), MANY)


def test_a_worker_node_is_killed_in_the_middle(
    cluster: Any,
    many: list[Path],
    begin: Begin,
    parts: Callable[[Path], dict[str, int]],
    wait_for: Callable[..., None],
    check: Callable[..., Any],
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    process = begin(many[0].parent, "--out", out)
    wait_for(lambda: len(parts(out)) > 3 or process.poll() is not None)
    cluster.remove_node(cluster.nodes.pop(), allow_graceful=False)
    told = len(parts(out))
    assert 3 < told < MANY // 8, "it was over before the node could be killed"
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
    assert f"wrote {MANY} masks to {out}/masks" in stdout
    check(out, many)
    assert not (out / ".partial").exists()
    cluster.nodes.append(cluster.more())


def test_a_killed_command_goes_on_when_it_is_given_again(
    many: list[Path],
    begin: Begin,
    finish: Callable[..., Done],
    parts: Callable[[Path], dict[str, int]],
    wait_for: Callable[..., None],
    check: Callable[..., Any],
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    command = (many[0].parent, "--out", out)
    process = begin(*command)
    wait_for(lambda: len(parts(out)) > 3 or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # its workers may write what they have at hand
    there = parts(out)
    assert 3 < len(there) < MANY // 8, "it was over before it could be killed"
    done = finish(*command)
    assert done.returncode == 0, done.stderr
    assert "going on: " in done.stderr
    assert there.items() <= parts(out).items()
    check(out, many)
    again = finish(*command)
    assert again.returncode == 0, again.stderr
    assert f"going on: {MANY} of {MANY} photos are done" in again.stderr
    check(out, many)


def test_failures_are_recorded_and_tried_again_when_asked(
    photos: Callable[[Path, int], list[Path]], finish: Callable[..., Done], check: Callable[..., Any], tmp_path: Path
) -> None:
    out, folder = tmp_path / "out", tmp_path / "photos"
    paths = photos(folder, 12)
    missing = folder / "missing.jpg"
    (tmp_path / "list.txt").write_text(f"{missing}\n{paths[0]}\n")
    paths[5].write_bytes(b"no photo")
    command = (folder, f"@{tmp_path}/list.txt", folder, "--out", out)
    done = finish(*command)
    assert done.returncode == 0, done.stderr
    assert "wrote 11 masks" in done.stdout
    assert f"failed: {missing}: does not exist" in done.stderr
    assert f"failed: {paths[5]}: is not an image" in done.stderr
    assert "--retry-failed" in done.stderr
    check(out, [*paths, missing], (missing, paths[5]))
    paths[5].write_bytes(paths[6].read_bytes())
    # nothing is tried again by itself
    done = finish(*command, "--json")
    assert json.loads(done.stdout)["failed"] == 2
    done = finish(*command, "--json", "--retry-failed")
    told = json.loads(done.stdout)
    assert (told["photos"], told["failed"], told["done_before"]) == (13, 1, 11)
    assert [failure["path"] for failure in told["failures"]] == [str(missing)]
    check(out, [*paths, missing], (missing,))


@pytest.mark.parametrize(
    ("more", "word"),
    [
        (("--exact",), "--exact"),
        (("--recursive",), "--recursive"),
        (("--engine", "onnx-cpu"), "engine"),
        (("--precision", "fp16"), "precision"),
        (("EXTRA",), "sources"),
    ],
)
def test_another_command_is_refused_where_a_run_is(
    more: tuple[str, ...], word: str, done_run: Path, finish: Callable[..., Done], many: list[Path]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in done_run.rglob("*") if path.is_file()}
    extra = [str(many[1]) if one == "EXTRA" else one for one in more]
    refused = finish(many[0], *extra, "--out", done_run)
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.startswith(f"error: {done_run} holds a run with other {word} (")
    assert refused.stderr.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in done_run.rglob("*") if path.is_file()} == before


@pytest.fixture(scope="module")
def done_run(
    exported: Path, memory: Path, many: list[Path], cluster: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    from ntre_deploy.runtime.support import SupportMemory
    from ntre_deploy.segment.cluster.job import Job
    from ntre_deploy.segment.cluster.plan import part_name
    from ntre_deploy.segment.cluster.stores import Store

    out = tmp_path_factory.mktemp("done")
    Job(exported, str(out), [str(many[0])], memories=[SupportMemory.load(memory)]).prepare()
    assert Store(str(out)).read(part_name(0)) is None
    return out


def test_a_photo_that_kills_its_workers_stops_no_other(
    cluster: Any,
    exported: Path,
    memory: Path,
    photos: Callable[[Path, int], list[Path]],
    environment: dict[str, str],
    check: Callable[..., Any],
    tmp_path: Path,
) -> None:
    out, folder = tmp_path / "out", tmp_path / "photos"
    paths = photos(folder, 20)
    deadly = paths[10].rename(folder / "deadly.jpg")
    script = Path(__file__).with_name("deadly.py")
    command = [sys.executable, script, cluster.address, exported, memory, out, folder]
    done = subprocess.run(
        [*map(str, command)], env=environment, capture_output=True, text=True, timeout=240, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    # Ray may tell there of what has died
    assert done.stdout.splitlines()[-1] == "20 1"
    rows = check(out, [*paths[:10], deadly, *paths[11:]], (deadly,))
    assert [row["error"] for row in rows if row["error"]] == ["2 workers have died while they had it"]
    assert not list((out / "plan/trying").iterdir())


def test_photos_and_results_of_an_object_store(
    cluster: Any,
    objects: str | None,
    many: list[Path],
    finish: Callable[..., Done],
    check: Callable[..., Any],
    tmp_path: Path,
) -> None:
    if objects is None:
        pytest.skip("moto, whose server speaks S3, is not installed")
    import pyarrow as pa
    from pyarrow import parquet

    from ntre_deploy.segment.cluster.stores import Store
    from ntre_deploy.segment.cluster.tables import whole_table

    store, local = Store(objects), many[:10]
    names = [f"in/{path.name}" for path in local]
    for name, path in zip(names, local, strict=True):
        store.write(name, path.read_bytes())
    table = tmp_path / "list.parquet"
    parquet.write_table(pa.table({"photo": [f"{objects}/{name}" for name in [*names, "in/none.jpg"]]}), table)
    store.write("list.parquet", table.read_bytes())
    command = (f"{objects}/in/*.jpg", f"{objects}/list.parquet@photo", "--out", f"{objects}/out/")
    for _ in range(2):
        done = finish(*command)
        assert done.returncode == 0, done.stderr
        assert f"wrote 10 masks to {objects}/out/masks" in done.stdout
        assert f"failed: {objects}/in/none.jpg: does not exist" in done.stderr
    parts = [whole_table(store.open(f"out/results/{name}")) for name in store.names("out/results")]
    rows = [row for part in parts for row in part.to_pylist()]
    assert sorted(row["path"] for row in rows) == sorted([*(f"{objects}/{n}" for n in names), f"{objects}/in/none.jpg"])
    # here, they are to be what the runtime makes of the same photos
    here = Path(tmp_path, "copy")
    for row in rows:
        row["path"] = str(many[0].parent / Path(row["path"]).name)
        if row["mask"] is not None:
            (here / row["mask"]).parent.mkdir(parents=True, exist_ok=True)
            (here / row["mask"]).write_bytes(store.read(f"out/{row['mask']}") or b"")
    (here / "results").mkdir()
    parquet.write_table(pa.Table.from_pylist(rows), here / "results/part-0.parquet")
    check(here, [*local, many[0].parent / "none.jpg"], (many[0].parent / "none.jpg",))
