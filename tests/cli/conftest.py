"""Fixtures of the command-line tests: a real `ntre` process, the same call in this process, a user's first files."""

import json
import os
import pty
import re
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ntre_deploy.cli.main import run
from ntre_deploy.data.procedural import render_scene

Done = subprocess.CompletedProcess[str]

TINY = ("--backbone", "squeezenet1_1", "--size", "65", "--width", "16", "--bins", "9,4")
# what Python itself does not show
_HIDDEN = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


# a run of four steps that takes a second
TOML = """
[model]
backbone = "squeezenet1_1"
width = 8
bg_channels = 4
bins = [5, 2]
input_size = 33
[data]
dataset = "procedural:3"
workers = 0
[optimiser]
batch = 2
steps = 4
[run]
backbone = "finetune"
log_every = 1
save_every = 2
validate_episodes = 2
"""


def environment(blocked: Path | None = None) -> dict[str, str]:
    # one thread: two would wait for each other where a test machine is shared
    env = {k: v for k, v in os.environ.items() if k != "NTRE_DEBUG"} | {"OMP_NUM_THREADS": "1"}
    return env if blocked is None else env | {"PYTHONPATH": str(blocked)}


@pytest.fixture(scope="session")
def script() -> Path:
    """The console script that installing the package made."""
    path = Path(sys.executable).with_name("ntre")
    assert path.is_file(), f"{path} is missing: install the package first"
    return path


@pytest.fixture(scope="session")
def ntre(script: Path) -> Callable[..., Done]:
    """Run `ntre ARGUMENTS` in a process of its own."""

    def call(*arguments: str | Path, cwd: Path, blocked: Path | None = None, **options: Any) -> Done:
        command = [script, *arguments]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 120} | options
        return subprocess.run(command, text=True, cwd=cwd, env=environment(blocked), check=False, **options)

    return call


@pytest.fixture(scope="session")
def on_a_terminal(script: Path) -> Callable[..., tuple[int, str, str]]:
    """Run `ntre ARGUMENTS`: exit code, stdout, and what a terminal shows of stderr, without its control codes."""

    def call(*arguments: str | Path, cwd: Path) -> tuple[int, str, str]:
        master, slave = pty.openpty()
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "160", "OMP_NUM_THREADS": "1"}
        command = [script, *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave, cwd=cwd, env=environment, text=True)
        os.close(slave)
        shown = b""
        while True:
            try:
                part = os.read(master, 4096)
            except OSError:  # how Linux says that the other side has closed
                break
            if not part:
                break
            shown += part
        os.close(master)
        out, _ = process.communicate(timeout=60)
        return process.returncode, out, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())

    return call


@pytest.fixture(scope="session")
def start(script: Path) -> Callable[..., "subprocess.Popen[str]"]:
    """Start `ntre ARGUMENTS` and leave it running."""

    def call(*arguments: str | Path, cwd: Path) -> "subprocess.Popen[str]":
        pipe = subprocess.PIPE
        return subprocess.Popen([script, *arguments], text=True, cwd=cwd, env=environment(), stdout=pipe, stderr=pipe)

    return call


@pytest.fixture(scope="session")
def without(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A PYTHONPATH folder that makes the named packages impossible to import."""

    def block(*names: str) -> Path:
        folder = tmp_path_factory.mktemp("blocked")
        lines = ["import sys", *(f"sys.modules[{name!r}] = None" for name in names)]
        (folder / "sitecustomize.py").write_text("\n".join(lines) + "\n")
        return folder

    return block


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def call(
    here: Path, _one_thread: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Run `ntre ARGUMENTS` in this process, in the folder `here`; warnings that a user would see count as stderr."""

    def inner(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["ntre", *(str(a) for a in arguments)])
        monkeypatch.setenv("NTRE_DEBUG", "")
        capsys.readouterr()
        with warnings.catch_warnings(record=True, action="default") as caught, pytest.raises(SystemExit) as ended:
            run()
        out, err = capsys.readouterr()
        shown = "".join(f"{w.category.__name__}: {w.message}\n" for w in caught if not issubclass(w.category, _HIDDEN))
        code = ended.value.code
        assert isinstance(code, int)
        return subprocess.CompletedProcess(list(arguments), code, out, shown + err)

    return inner


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything under a folder, hidden files too, with size and time of change."""
    found = {}
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        found[str(path.relative_to(folder))] = (0 if path.is_dir() else stat.st_size, stat.st_mtime_ns)
    return found


@pytest.fixture(scope="session")
def listing() -> Callable[[Path], dict[str, tuple[int, int]]]:
    return tree


@pytest.fixture
def refused(call: Callable[..., Done], here: Path) -> Callable[..., str]:
    """Call `ntre`, which must fail with that exit code, one line on stderr, nothing on stdout and nothing written."""

    def inner(*arguments: str | Path, code: int = 2) -> str:
        before = tree(here)
        done = call(*arguments)
        assert done.returncode == code, done.stderr
        assert done.stdout == ""
        assert done.stderr.startswith("error: "), done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.endswith("\n")
        assert tree(here) == before
        return done.stderr.rstrip("\n")

    return inner


@pytest.fixture(scope="session")
def full_disk() -> Callable[[int], Any]:
    """In its block, no file grows beyond so many bytes: writing fails as on a full disk."""

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


@pytest.fixture(scope="session")
def tiny(ntre: Callable[..., Done], once: Callable[..., Path]) -> SimpleNamespace:
    """What a user has after two commands: `checkpoint` and `bundle` in `folder`, and what the commands said."""

    def fill(folder: Path) -> None:
        user = folder / "user"
        user.mkdir()
        imported = ntre("import-weights", "random:0", "tiny.safetensors", *TINY, cwd=user)
        assert imported.returncode == 0, imported.stderr
        # it traces its graphs, which takes minutes beside other work
        exported = ntre("export", "tiny.safetensors", cwd=user, timeout=600)
        assert exported.returncode == 0, exported.stderr
        said = {name: (done.stdout, done.stderr) for name, done in (("imported", imported), ("exported", exported))}
        (folder / "said.json").write_text(json.dumps(said))

    made = once("user", fill)
    folder = made / "user"
    said = json.loads((made / "said.json").read_text())
    return SimpleNamespace(
        folder=folder,
        checkpoint=folder / "tiny.safetensors",
        bundle=folder / "tiny.ntre",
        **{name: subprocess.CompletedProcess(["ntre"], 0, *texts) for name, texts in said.items()},
    )


@pytest.fixture(scope="session")
def exported(tiny: SimpleNamespace) -> Path:
    """Takes the place of the wider fixture, so that `bundle` copies what the command line has made."""
    return Path(tiny.bundle)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Two annotated scenes as `supports` (image, mask) and three `photos`, with (H, W) of each in `sizes`."""
    folder = tmp_path_factory.mktemp("pictures")
    supports = []
    for index in (0, 1):
        scene = render_scene(index, seed=5)
        image, mask = folder / f"support{index}.png", folder / f"support{index}_mask.png"
        Image.fromarray(scene.image).save(image)
        Image.fromarray((scene.labels == scene.target + 1).astype(np.uint8) * 255).save(mask)
        supports.append((image, mask))
    photos = folder / "photos"
    photos.mkdir()
    wide, upright = render_scene(24, seed=5).image, render_scene(25, seed=5).image
    Image.fromarray(wide).save(photos / "wide.png")
    orientation = Image.Exif()
    orientation[0x0112] = 6  # the camera was held sideways
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(photos / "phone.jpg", exif=orientation)
    Image.fromarray(wide[:20, :37]).convert("L").save(photos / "small grey.png")
    sizes = {"wide": wide.shape[:2], "phone": upright.shape[:2], "small grey": (20, 37)}
    return SimpleNamespace(folder=folder, supports=supports, photos=photos, photo=photos / "wide.png", sizes=sizes)


@pytest.fixture(scope="session")
def support(pictures: SimpleNamespace) -> str:
    """A good value of --support."""
    image, mask = pictures.supports[0]
    return f"thing={image},{mask}"


@pytest.fixture
def exports_from(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Let `ntre export` take its graphs from an exported bundle: PyTorch's exporter alone takes seconds.

    Everything after it (verification, self-test, manifest, the folder) is real.
    """

    def patch(bundle: Path) -> None:
        def copy(graph: object, signature: object, path: Path, opset: int = 18) -> None:
            path.write_bytes((bundle / path.name).read_bytes())

        monkeypatch.setattr("ntre_deploy.export.bundle.write_onnx", copy)

    return patch


@pytest.fixture
def config(here: Path) -> Path:
    """A small training run, as `small.toml` in the folder of the test."""
    path = here / "small.toml"
    path.write_text(TOML)
    return path
