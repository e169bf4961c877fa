"""`ntre segment --ray` on the command line: its address may be left out, and what is not for it is refused."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from ntre_deploy.cli import cluster
from ntre_deploy.cli.cluster import Asked

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def asked(call: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Asked]:
    """What a command line asks for."""

    def inner(*arguments: str) -> Asked:
        given: list[Asked] = []
        monkeypatch.setattr(cluster, "segment_on_ray", given.append)
        done = call("segment", "x.ntre", *arguments, "-s", "a=a.jpg,b.png")
        assert done.returncode == 0, done.stderr
        return given[0]

    return inner


@pytest.mark.parametrize(
    ("arguments", "address", "sources"),
    [
        (("--ray", "photos/"), "auto", ["photos/"]),
        (("photos/", "--ray"), "auto", ["photos/"]),
        (("photos/", "--ray", "--out", "s3://bucket/x"), "auto", ["photos/"]),
        (("--ray", "local", "photos/"), "local", ["photos/"]),
        (("--ray", "./local"), "auto", ["./local"]),
        (("--ray", "head.cluster:6379", "s3://bucket/photos"), "head.cluster:6379", ["s3://bucket/photos"]),
        (("--ray", "[::1]:6379", "@list.txt"), "[::1]:6379", ["@list.txt"]),
        (("a.jpg", "--ray", "auto", "b.parquet@path"), "auto", ["a.jpg", "b.parquet@path"]),
        (("--ray=local", "a.jpg"), "local", ["a.jpg"]),
    ],
)
def test_the_address_may_be_left_out(
    arguments: tuple[str, ...], address: str, sources: list[str], asked: Callable[..., Asked]
) -> None:
    found = asked(*arguments)
    assert (found.address, found.sources) == (address, sources)
    assert found.out == ("s3://bucket/x" if "--out" in arguments else "segmented")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--ray", "--every", "2"), ("--every", "--ray")),
        (("--ray", "--write", "page"), ("--write",)),
        (("--ray", "--save-memory", "x"), ("--save-memory",)),
        (("--ray", "--device", "1"), ("--device",)),
        (("--ray", "--ray-workers", "0"), ("--ray-workers", "'0'")),
        (("--ray-workers", "2"), ("--ray-workers", "add it")),
        (("--retry-failed",), ("--retry-failed", "add it")),
        (("--out", "s3://bucket/x"), ("s3://bucket/x", "--ray")),
    ],
)
def test_what_is_not_for_a_cluster_is_refused(
    arguments: tuple[str, ...], words: tuple[str, ...], refused: Callable[..., str]
) -> None:
    message = refused("segment", "x.ntre", "photos", "-s", "a=a.jpg,b.png", *arguments)
    assert all(word in message for word in words), message


def test_ray_needs_photos_and_supports(refused: Callable[..., str]) -> None:
    assert "--support" in refused("segment", "x.ntre", "photos", "--ray")
    assert "No photos" in refused("segment", "x.ntre", "--ray", "-s", "a=a.jpg,b.png")


def test_a_missing_package_is_told_with_the_extra(
    tiny: SimpleNamespace,
    pictures: SimpleNamespace,
    support: str,
    ntre: Callable[..., Done],
    without: Callable[..., Path],
    tmp_path: Path,
) -> None:
    command = ("segment", tiny.bundle, pictures.photos, "-s", support, "--ray", "local")
    done = ntre(*command, cwd=tmp_path, blocked=without("ray"))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "error: Clusters need ray, which is not installed: pip install 'ntre_deploy[ray]'\n"
    assert not list(tmp_path.iterdir())


def test_addresses_where_no_cluster_is(
    tiny: SimpleNamespace,
    pictures: SimpleNamespace,
    support: str,
    ntre: Callable[..., Done],
    tmp_path: Path,
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    command = ("segment", tiny.bundle, pictures.photos, "-s", support, "--out", "out")
    done = ntre(*command, "--ray", "127.0.0.1:1", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("error: No Ray cluster answers at 127.0.0.1:1: ")
    assert done.stderr.count("\n") == 1
    done = ntre(*command, "--ray", "ray://head:10001", cwd=tmp_path)
    assert done.returncode == 2
    assert "ray job submit" in done.stderr


def test_a_cluster_of_this_machine_alone_gives_the_same_files(
    tiny: SimpleNamespace,
    pictures: SimpleNamespace,
    support: str,
    ntre: Callable[..., Done],
    tmp_path: Path,
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    photos = sorted(pictures.photos.iterdir())
    (tmp_path / "list.txt").write_text("".join(f"{os.path.relpath(path, tmp_path)}\n" for path in photos))
    more = ("-s", support, "-s", f"box={pictures.photo},box=20%,20%,80%,80%", "--exact", "--threads", "1")
    asked = ("@list.txt", *more, "--ray", "local", "--out", "on ray")
    done = ntre("segment", tiny.bundle, *asked, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    alone = ntre("segment", tiny.bundle, pictures.photos, *more, "--write", "mask", "--out", "alone", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    from pyarrow import dataset

    rows = dataset.dataset(tmp_path / "on ray/results").to_table().to_pylist()
    assert len(rows) == len(list(pictures.photos.iterdir()))
    for row in rows:
        mask = tmp_path / "alone" / f"{Path(row['path']).stem}.png"
        assert (tmp_path / "on ray" / row["mask"]).read_bytes() == mask.read_bytes()
    assert {path.name for path in (tmp_path / "on ray/supports").iterdir()} == {"box_1_mask.png", "box_1_overlay.png"}
    # only what concerns a user is told
    assert "ray" not in done.stderr.replace("on ray", "").lower()
