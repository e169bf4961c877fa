"""VOC 2012 and SBD from a server of our own: torchvision's real download, checksum and unpacking, on small archives."""

import hashlib
import io
import json
import os
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ntre_deploy.cli.main import run
from ntre_deploy.data.download import download_sbd, download_voc
from ntre_deploy.data.registry import open_dataset
from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.vision import torchvision

pytestmark = pytest.mark.torchvision
try:
    DATASETS = torchvision("datasets")
except EngineError as absent:
    pytest.skip(str(absent), allow_module_level=True)
scipy_io = pytest.importorskip("scipy.io")

TRAIN, VAL, DETECTION = "2007_000001", "2007_000010", "2008_000003"
# one that SBD has and VOC has for validation: it must not be trained on
SBD_VAL = "2008_000004"
SIDE = 50


def labels(value: int) -> NDArray[np.uint8]:
    found = np.full((SIDE, SIDE), value, np.uint8)
    found[0] = 255
    return found


def png(value: int) -> bytes:
    out = io.BytesIO()
    picture = Image.fromarray(labels(value)).convert("P")
    picture.save(out, "PNG")
    return out.getvalue()


def jpg() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (9, 9, 9)).save(out, "JPEG")
    return out.getvalue()


def mat(value: int) -> bytes:
    out = io.BytesIO()
    scipy_io.savemat(out, {"GTcls": {"Segmentation": labels(value)}})
    return out.getvalue()


def pack(path: Path, content: dict[str, bytes]) -> str:
    """Write a tar file (gzip if its name says so); its MD5."""
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
        for name, data in content.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return hashlib.md5(path.read_bytes()).hexdigest()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a server with both archives and the list, which torchvision takes for the real ones."""
    root = tmp_path / "server"
    root.mkdir()
    base = "VOCdevkit/VOC2012"
    voc = {
        f"{base}/ImageSets/Segmentation/train.txt": f"{TRAIN}\n".encode(),
        f"{base}/ImageSets/Segmentation/val.txt": f"{VAL}\n".encode(),
        f"{base}/ImageSets/Main/train.txt": f"{DETECTION}\n{TRAIN}\n2008_000009\n".encode(),
        f"{base}/SegmentationClass/{TRAIN}.png": png(1),
        f"{base}/SegmentationClass/{VAL}.png": png(2),
    } | {f"{base}/JPEGImages/{i}.jpg": jpg() for i in (TRAIN, VAL, DETECTION, SBD_VAL)}
    inner = "benchmark_RELEASE/dataset"
    # SBD's own lists are others, and its mask of VOC's image another one
    sbd = {f"{inner}/{name}.txt": f"{i}\n".encode() for name, i in (("train", SBD_VAL), ("val", TRAIN))}
    sbd |= {f"{inner}/cls/{i}.mat": mat(v) for i, v in ((TRAIN, 7), (DETECTION, 20), (SBD_VAL, 3))}
    sbd |= {f"{inner}/{folder}/x": b"" for folder in ("img", "inst")}
    noval = f"{TRAIN}\n{DETECTION}\n".encode()
    (root / "train_noval.txt").write_bytes(noval)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
    address = f"http://127.0.0.1:{httpd.server_port}"
    monkeypatch.setenv("no_proxy", "*")
    entry = torchvision("datasets.voc").DATASET_YEAR_DICT["2012"]
    monkeypatch.setitem(entry, "md5", pack(root / entry["filename"], voc))
    monkeypatch.setitem(entry, "url", f"{address}/{entry['filename']}")
    for name, value in {
        "md5": pack(root / "benchmark.tgz", sbd),
        "url": f"{address}/benchmark.tgz",
        "voc_train_url": f"{address}/train_noval.txt",
        "voc_split_md5": hashlib.md5(noval).hexdigest(),
    }.items():
        monkeypatch.setattr(DATASETS.SBDataset, name, value)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield root
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture
def ntre(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Any, str, str]]:
    """Run `ntre ARGUMENTS`: exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["ntre", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run()
        return ended.value.code, *capsys.readouterr()

    return call


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def joined(folder: Path) -> None:
    """Check what both downloads together must have given."""
    val, train = open_dataset(f"pascal:{folder}@val"), open_dataset(f"pascal:{folder}@train")
    assert {c: tuple(train.images(c)) for c in train.class_names if train.images(c)} == {
        0: (TRAIN,),
        19: (DETECTION,),
    }
    assert tuple(val.images(1)) == (VAL,)
    assert train.image(DETECTION).shape == (SIDE, SIDE, 3)
    assert np.array_equal(train.mask(DETECTION, 19)[1:], np.ones((SIDE - 1, SIDE)))
    masks = folder / "SegmentationClassAug"
    assert names(masks) == [f"{TRAIN}.png", f"{VAL}.png", f"{DETECTION}.png", "train_noval.txt"]


def test_both_downloads_give_what_pascal_opens(server: Path, tmp_path: Path, ntre: Callable[..., Any]) -> None:
    folder = tmp_path / "VOC2012"
    assert ntre("download", "voc", folder) == (0, f"wrote {folder}; use --dataset pascal:{folder}@val\n", "")
    assert names(folder) == ["ImageSets", "JPEGImages", "SegmentationClass"]
    assert tuple(open_dataset(f"pascal:{folder}@val").images(1)) == (VAL,)
    code, out, err = ntre("download", "sbd", folder, "--json")
    assert (code, json.loads(out), err) == (0, {"dataset": f"pascal:{folder}@train"}, "")
    joined(folder)
    assert names(tmp_path) == ["VOC2012", "server"]
    assert not [p for p in folder.rglob("*") if p.name.startswith(".")]


def test_archives_by_hand_need_no_network(server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = torchvision("datasets.voc").DATASET_YEAR_DICT["2012"]
    monkeypatch.setitem(entry, "url", "http://127.0.0.1:9/x")
    monkeypatch.setattr(DATASETS.SBDataset, "url", "http://127.0.0.1:9/x")
    monkeypatch.setattr(DATASETS.SBDataset, "voc_train_url", "http://127.0.0.1:9/x")
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(server)
    download_voc(folder, Path(entry["filename"]))
    download_sbd(folder, Path("benchmark.tgz"))
    joined(folder)
    assert names(server) == [entry["filename"], "benchmark.tgz", "train_noval.txt"]


def test_the_list_is_made_where_its_server_fails(server: Path, tmp_path: Path) -> None:
    (server / "train_noval.txt").unlink()
    download_voc(tmp_path / "VOC2012")
    download_sbd(tmp_path / "VOC2012")
    joined(tmp_path / "VOC2012")


def test_a_list_that_differs_from_the_published_one_is_not_used(
    server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DATASETS.SBDataset, "voc_split_md5", "0" * 32)
    folder = tmp_path / "VOC2012"
    download_voc(folder)
    before = names(folder)
    with pytest.raises(EngineError, match=r"SBD's list train_noval\.txt came damaged.*Put http.*--archive ARCHIVE"):
        download_sbd(folder)
    assert names(folder) == before


@pytest.mark.parametrize("failure", ["no server", "not found", "cut off", "no archive"])
@pytest.mark.parametrize("dataset", ["voc", "sbd"])
def test_a_download_that_fails_is_one_line_and_leaves_nothing(
    dataset: str, failure: str, server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ntre: Callable[..., Any]
) -> None:
    folder = tmp_path / "VOC2012"
    entry = torchvision("datasets.voc").DATASET_YEAR_DICT["2012"]
    archive = server / (entry["filename"] if dataset == "voc" else "benchmark.tgz")
    if dataset == "sbd":
        download_voc(folder)
    before = sorted(tmp_path.rglob("*"))
    if failure == "no server":
        monkeypatch.setitem(entry, "url", "http://127.0.0.1:9/voc.tar")
        monkeypatch.setattr(DATASETS.SBDataset, "url", "http://127.0.0.1:9/sbd.tgz")
    elif failure == "not found":
        archive.rename(archive.with_suffix(".away"))
    else:
        os.truncate(archive, archive.stat().st_size // 2 - 100)
    if failure == "no archive":  # the checksum is right, the content is not
        md5 = hashlib.md5(archive.read_bytes()).hexdigest()
        monkeypatch.setitem(entry, "md5", md5)
        monkeypatch.setattr(DATASETS.SBDataset, "md5", md5)
    code, out, err = ntre("download", dataset, folder)
    assert (code, out, err.count("\n")) == (3, "", 1)
    title = "VOC 2012" if dataset == "voc" else "SBD"
    assert err.startswith(f"error: {title} ca")
    assert f"by hand and run: ntre download {dataset} {folder} --archive FILE" in err
    if failure == "not found":
        archive.with_suffix(".away").rename(archive)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_wrong_archive_is_refused(server: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train_noval\.txt is not VOCtrainval_11-May-2012\.tar"):
        download_voc(tmp_path / "VOC2012", server / "train_noval.txt")
    with pytest.raises(InputError, match=r"nope\.tar does not exist"):
        download_voc(tmp_path / "VOC2012", tmp_path / "nope.tar")
    assert names(tmp_path) == ["server"]


def test_folders_that_hold_something_are_left_alone(server: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    for taken in (folder, folder / "thesis.txt"):
        with pytest.raises(InputError, match="exists already"):
            download_voc(taken)
    with pytest.raises(InputError, match="no VOC 2012 folder"):
        download_sbd(folder)
    assert names(folder) == ["thesis.txt"]
    download_voc(tmp_path / "VOC2012")
    (tmp_path / "VOC2012" / "SegmentationClassAug").mkdir()
    with pytest.raises(InputError, match="SegmentationClassAug exists already"):
        download_sbd(tmp_path / "VOC2012")
