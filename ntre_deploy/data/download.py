"""VOC 2012 and SBD by torchvision's downloads, as folders that `pascal:` opens as they are.

torchvision knows the addresses and checksums; here is what it leaves to do: the folders, the joined masks, and the
list of images to train on.
"""

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ntre_deploy.data.pascal import TRAIN_LISTS, _read_labels, _read_list, _voc_folder
from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.files import atomic_folder
from ntre_deploy.runtime.imagefile import write_png
from ntre_deploy.vision import downloading, torchvision

Step = Callable[[str], None]

_LIST = TRAIN_LISTS[0]


def download_voc(folder: Path, archive: Path | None = None, step: Step = lambda text: None) -> str:
    """Make `folder` the folder VOC2012, of which `pascal:FOLDER@val` needs no more (2 GB, 4 GB while it works).

    Args:
        folder: a new or an empty folder.
        archive: the tar file, where it is here already; it is left as it is.
        step: called with what is done next.

    Returns:
        The dataset's spec.

    Raises:
        InputError: `folder` holds something, it cannot be written, or `archive` is another file.
        EngineError: torchvision is not there, or the download fails; nothing is left of it.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists already and is no empty folder; name a new one.")
    datasets = torchvision("datasets")
    source = torchvision("datasets.voc").DATASET_YEAR_DICT["2012"]
    with atomic_folder(folder, replace=folder.exists()) as root:
        work = root / "download"
        work.mkdir()
        _place(archive, work, source["filename"], source["md5"])
        step("VOC 2012: download, check and unpack 2 GB")
        with downloading("VOC 2012", _by_hand(source["url"], f"ntre download voc {folder}")):
            datasets.VOCSegmentation(work, "2012", "train", download=True)
        for part in (work / source["base_dir"]).iterdir():
            part.rename(root / part.name)
        shutil.rmtree(work)
    return f"pascal:{folder}@val"


def download_sbd(voc: Path, archive: Path | None = None, step: Step = lambda text: None) -> str:
    """Join SBD's masks with VOC's as `voc`/SegmentationClassAug, which `pascal:FOLDER@train` trains on.

    Where both have a mask it is VOC's, as in the masks that the field shares.  SBD's photos are VOC's.

    Args:
        voc: the folder VOC2012, as `download_voc` makes it.
        archive: SBD's tar file, where it is here already; `train_noval.txt` beside it is used too.
        step: called with what is done next.

    Returns:
        The dataset's spec.

    Raises:
        InputError: `voc` is no such folder or has joined masks already, or `archive` is another file.
        EngineError: torchvision or scipy is not there, or the download fails; nothing is left of it.
    """
    voc = _voc_folder(voc)
    joined = voc / "SegmentationClassAug"
    if joined.exists():
        raise InputError(f"{joined} exists already; pascal:{voc}@train uses it.")
    datasets = torchvision("datasets")
    if importlib.util.find_spec("scipy") is None:
        raise EngineError("SBD's .mat masks need scipy: pip install 'ntre_deploy[train]'")
    sbd = datasets.SBDataset
    again = f"ntre download sbd {voc}"
    with atomic_folder(joined) as root:
        work = root / "download"
        work.mkdir()
        _place(archive, work, sbd.filename, sbd.md5)
        step("SBD: download, check and unpack 1.4 GB")
        with downloading("SBD", _by_hand(sbd.url, again)):
            datasets.SBDataset(work, "train", "segmentation", download=True)
        if archive is not None and (beside := archive.with_name(_LIST)).is_file():
            shutil.copyfile(beside, work / _LIST)
        _train_list(work, voc, sbd, again)
        step("joining the masks of SBD and VOC 2012")
        for name in ("train", "val"):
            for image_id in _read_list(voc / "ImageSets" / "Segmentation" / f"{name}.txt"):
                shutil.copyfile(voc / "SegmentationClass" / f"{image_id}.png", root / f"{image_id}.png")
        for image_id in _read_list(work / _LIST):
            if not (root / f"{image_id}.png").exists():
                write_png(root / f"{image_id}.png", _read_labels(work / "cls" / f"{image_id}.mat"))
        (work / _LIST).rename(root / _LIST)
        shutil.rmtree(work)
    return f"pascal:{voc}@train"


def _place(archive: Path | None, folder: Path, name: str, md5: str) -> None:
    """Put a file that the user has where torchvision looks before it downloads."""
    if archive is None:
        return
    if not archive.is_file():
        raise InputError(f"Archive {archive} does not exist or is not a file.")
    if not _utils().check_integrity(archive, md5):
        raise InputError(f"Archive {archive} is not {name} (MD5 {md5}); it may be cut off: download it again.")
    (folder / name).symlink_to(archive.resolve())


def _train_list(work: Path, voc: Path, sbd: Any, again: str) -> None:
    """Put SBD's list `train_noval.txt` into `work`: the user's, the server's, or the same list made here.

    Its server has failed for months before.  The list holds the images of VOC's detection set `train` that SBD
    annotates; what this rule gives is taken only if it has the published checksum.
    """
    url, md5 = sbd.voc_train_url, sbd.voc_split_md5
    advice = f"Put {url} beside the archive and run: {again} --archive ARCHIVE"
    try:
        with downloading(f"SBD's list {_LIST}", advice):
            _utils().download_url(url, work, _LIST, md5)
    except EngineError:
        detection = voc / "ImageSets" / "Main" / "train.txt"
        ids = _read_list(detection) if detection.is_file() else []
        kept = [i for i in sorted(ids) if (work / "cls" / f"{i}.mat").is_file()]
        (work / _LIST).write_text("".join(f"{i}\n" for i in kept))
        if not _utils().check_integrity(work / _LIST, md5):
            raise


def _by_hand(url: str, command: str) -> str:
    return f"Without a network here, download {url} by hand and run: {command} --archive FILE"


def _utils() -> ModuleType:
    return torchvision("datasets.utils")
