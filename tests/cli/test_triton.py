"""`ntre triton`: a model repository from the command line."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

Done = subprocess.CompletedProcess[str]


def test_a_repository_is_written_and_told_of(tiny: SimpleNamespace, call: Callable[..., Done], here: Path) -> None:
    done = call("triton", tiny.bundle, "models", "--name", "fork", "--engine", "onnx-cpu:fp32", "--instances", "2")
    assert (done.returncode, done.stderr) == (0, "")
    wrote, serve = done.stdout.splitlines()
    assert wrote == "wrote models/fork, version 1 (python)"
    assert serve.startswith("serve it: tritonserver --model-repository models ")
    text = (here / "models" / "fork" / "config.pbtxt").read_text()
    for line in ('name: "fork"', "max_batch_size: 1", "count: 2", "kind: KIND_CPU", 'string_value: "fp32"'):
        assert line in text
    again = call("triton", tiny.bundle, "models", "--name", "fork", "--max-batch", "8", "--force", "--json")
    assert (again.returncode, again.stderr) == (0, "")
    assert json.loads(again.stdout) == {
        "repository": "models",
        "models": [{"name": "fork", "version": 1, "kind": "python", "folder": "models/fork", "memories": []}],
    }
    assert "max_batch_size: 8" in (here / "models" / "fork" / "config.pbtxt").read_text()


def test_every_option_reaches_the_configuration(tiny: SimpleNamespace, call: Callable[..., Done], here: Path) -> None:
    options = "--max-batch 8 --preferred 4,8 --delay 250 --queue 9 --timeout 1500 --priority 2 --keep 3 --threads 2"
    more = "--resource memory=2 --resource copy=1 --no-warmup --server http://10.0.0.1:80 --gpus 0,1 --version 7 --link"
    done = call("triton", tiny.bundle, "models", "--name", "m", *options.split(), *more.split())
    assert (done.returncode, done.stderr) == (0, "")
    text = (here / "models" / "m" / "config.pbtxt").read_text()
    for line in (
        "preferred_batch_size: 4",
        "preferred_batch_size: 8",
        "max_queue_delay_microseconds: 250",
        "max_queue_size: 9",
        "default_timeout_microseconds: 1500000",
        "priority: 2",
        "num_versions: 3",
        'name: "memory"',
        'name: "copy"',
        'string_value: "http://10.0.0.1:80"',
        'string_value: "2"',
        "gpus: 1",
        "kind: KIND_GPU",
    ):
        assert line in text
    assert "model_warmup" not in text
    assert not (here / "models" / "m" / "warmup").exists()
    linked = here / "models" / "m" / "7" / "bundle.ntre" / "manifest.json"
    assert linked.samefile(Path(tiny.bundle) / "manifest.json")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere.ntre", "models"), "nowhere.ntre does not exist"),
        (("BUNDLE", "models", "--name", "a/b"), "cannot name a model"),
        (("BUNDLE", "models", "--engine", "onx"), "Did you mean 'onnx'?"),
        (("BUNDLE", "models", "--preferred", "two"), "--preferred 'two'"),
        (("BUNDLE", "models", "--preferred", "9"), "--preferred 9"),
        (("BUNDLE", "models", "--gpus", "x"), "--gpus 'x'"),
        (("BUNDLE", "models", "--resource", "memory"), "NAME=COUNT"),
        (("BUNDLE", "models", "--resource", "memory=-1"), "NAME=COUNT"),
        (("BUNDLE", "models", "--max-batch", "1000"), "1 to 64"),
        (("BUNDLE", "models", "--queue", "0"), "--queue is 0"),
        (("BUNDLE", "models", "--server", "nowhere"), "--server nowhere"),
        (("BUNDLE", "models", "--memories", "none"), "holds no support memory"),
        (("BUNDLE", "models", "--trusted", "none.pem"), "none.pem"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_writes_nothing(
    arguments: tuple[str, ...], words: str, tiny: SimpleNamespace, call: Callable[..., Done], here: Path
) -> None:
    done = call("triton", *(tiny.bundle if word == "BUNDLE" else word for word in arguments))
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert list(here.iterdir()) == []
