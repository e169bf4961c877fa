"""`ntre train` on a terminal: bars while lists are built and while it trains, and none where nobody looks."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Done = subprocess.CompletedProcess[str]


def train(here: Path) -> tuple[str, ...]:
    return ("train", str(here / "small.toml"), "--out", str(here / "run"))


@pytest.mark.slow
def test_a_terminal_gets_a_bar_and_a_pipe_gets_lines(
    config: Path, here: Path, on_a_terminal: Callable[..., tuple[int, str, str]], ntre: Callable[..., Done]
) -> None:
    config.write_text(config.read_text().replace("save_every", "validate_every = 2\nsave_every"))
    code, out, shown = on_a_terminal(*train(here), cwd=here)
    assert code == 0
    assert re.fullmatch(r"wrote .*last\.safetensors after 4 steps, best novel mIoU \d+\.\d\n", out)
    assert re.search(r"training ━+ +4/4 eta 0:00:00", shown)
    assert re.search(r"main [\d.]+  bg [\d.]+ .* rate [\d.e-]+ +novel_miou [\d.e-]+", " ".join(shown.split("\n")))
    shutil.rmtree(here / "run")
    done = ntre(*train(here), cwd=here)
    held_back, *lines = done.stderr.splitlines()
    assert held_back == ("held back (fold 0, interleaved), new in evaluation: star, moon, mushroom, bolt, button, tree")
    assert all(re.fullmatch(r"step \d/4  .*  eta \d:\d\d:\d\d", line) for line in lines), done.stderr
    assert [line.split()[1] for line in lines] == ["1/4", "2/4", "2/4", "3/4", "4/4", "4/4"]
    shutil.rmtree(here / "run")
    code, out, shown = on_a_terminal(*train(here), "--json", cwd=here)
    assert (code, json.loads(out)["steps"], shown) == (0, 4, "")


@pytest.mark.shared
@pytest.mark.slow
def test_the_lists_of_a_real_dataset_are_built_behind_a_bar_and_kept(
    config: Path,
    here: Path,
    on_a_terminal: Callable[..., tuple[int, str, str]],
    shared: Path,
    refused: Callable[..., str],
) -> None:
    """The masks of PASCAL's train split; its photos are not here, which ends the run behind the lists."""
    lists = here / "VOC2012" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    data = shared / "data" / "pascal"
    for source, name in {"voc2012_train": "train", "val_1449": "val", "sbd_train_noval": "train_noval"}.items():
        shutil.copyfile(data / "lists" / f"{source}.txt", lists / f"{name}.txt")
    arguments = (*train(here), "--dataset", f"pascal:VOC2012:{data / 'SegmentationClassAug'}@train")
    code, out, shown = on_a_terminal(*arguments, cwd=here)
    assert (code, out) == (2, "")
    assert re.search(r"reading masks ━+.* \d+/5953 ", shown)
    assert re.search(r"error: Photo VOC2012/JPEGImages/\d{4}_\d{6}\.jpg does not exist", shown)
    assert len(list((here / "VOC2012").glob("ntre-pascal-train-*.json"))) == 1
    code, out, shown = on_a_terminal(*arguments, cwd=here)
    assert "reading masks" not in shown
    assert "JPEGImages" in refused(*arguments), "one line and no bar where nobody looks"
