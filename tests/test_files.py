"""Files and folders that are there whole or not at all, whatever happens in between."""

import contextlib
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ntre_deploy.errors import InputError
from ntre_deploy.files import atomic_file, atomic_folder, sha256


def run(code: str, *arguments: object, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, where limits, kills and mounts hurt nobody."""
    command = [*prefix, sys.executable, "-c", _HEAD + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


_HEAD = """
import os, resource, signal, sys
from pathlib import Path
from ntre_deploy.errors import InputError
from ntre_deploy.files import atomic_file, atomic_folder
target = Path(sys.argv[1])
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def without_exchange():
    import ntre_deploy.files
    ntre_deploy.files._exchange = lambda one, other: False
def at_rename(number, action):
    seen = [0]
    def hook(event, arguments):
        if event == "os.rename":
            seen[0] += 1
            if seen[0] == number:
                action()
    sys.addaudithook(hook)
"""


def old_folder(path: Path) -> Path:
    path.mkdir()
    (path / "a").write_text("old")
    return path


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# --- one file


def test_a_file_appears_when_the_block_ends_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "out.json"
    with atomic_file(path) as temporary:
        assert temporary.parent == path.parent
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(path.parent) == ["out.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failing_block_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "out"

    def fail_half_way() -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            raise error

    for before in ([], ["out"]):
        with pytest.raises(error):
            fail_half_way()
        assert names(tmp_path) == before
        path.write_text("old")
    assert path.read_text() == "old"


def test_a_file_is_replaced_and_follows_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    path.chmod(0o600)
    before = os.umask(0o027)
    try:
        with atomic_file(path) as temporary:
            temporary.write_text("new")
        assert os.umask(0o027) == 0o027  # and leaves the umask as it was
    finally:
        os.umask(before)
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_reader_of_the_old_file_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    with path.open() as reader:
        with atomic_file(path) as temporary:
            temporary.write_text("new")
        assert reader.read() == "old"


def test_a_link_is_replaced_and_what_it_points_to_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_file(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "real").read_text() == "old"
    assert (tmp_path / "link").read_text() == "new"


def test_a_pipe_or_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with contextlib.suppress(InputError), atomic_file(tmp_path / "pipe") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "pipe").is_fifo()
    assert names(tmp_path) == ["pipe"]


def cannot_write(path: Path) -> str:
    with pytest.raises(InputError, match=r"^Cannot write") as caught, atomic_file(path) as temporary:
        temporary.write_text("new")
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_places_where_no_file_can_be_are_input_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    cannot_write(tmp_path / "file" / "out")
    cannot_write(tmp_path / "file" / "deep" / "out")
    cannot_write(tmp_path / "folder")
    cannot_write(Path("/proc/ntre/out"))
    assert "too long" in cannot_write(tmp_path / ("x" * 300))
    assert names(tmp_path) == ["file", "folder"]
    assert names(tmp_path / "folder") == []


def test_a_kill_while_a_file_is_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "out"
    for before in ([], ["out"]):
        done = run('with atomic_file(target) as t:\n t.write_text("half")\n die()', path)
        assert done.returncode == -signal.SIGKILL
        assert [n for n in names(tmp_path) if not n.startswith(".out.partial-")] == before
        path.write_text("old")
    assert path.read_text() == "old"


# --- a folder


def test_a_folder_appears_whole_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out"
    with atomic_folder(path) as temporary:
        (temporary / "a").write_text("new")
        (temporary / "sub").mkdir()
        (temporary / "sub" / "b").write_text("new")
        assert not path.exists()
    assert names(path) == ["a", "sub"]
    assert names(path / "sub") == ["b"]
    assert names(path.parent) == ["out"]


def test_a_folder_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_folder(tmp_path / "out"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o750


def test_a_relative_folder_stays_where_it_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with atomic_folder(Path("out")):
        os.chdir("elsewhere")
    assert names(tmp_path) == ["elsewhere", "out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("replace", [False, True])
def test_a_failing_block_leaves_the_old_folder_and_nothing_else(
    tmp_path: Path, error: type[BaseException], replace: bool
) -> None:
    path = tmp_path / "out"
    if replace:
        old_folder(path)

    def fail_half_way() -> None:
        with atomic_folder(path, replace=replace) as temporary:
            (temporary / "a").write_text("half")
            raise error

    with pytest.raises(error):
        fail_half_way()
    assert names(tmp_path) == (["out"] if replace else [])
    assert not replace or (path / "a").read_text() == "old"


def test_a_folder_that_exists_is_refused_before_the_block_runs(tmp_path: Path) -> None:
    path = old_folder(tmp_path / "out")
    ran = False
    with pytest.raises(InputError, match=r"out exists already; .*--force"), atomic_folder(path):
        ran = True
    assert not ran
    assert (path / "a").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_replacing_a_folder_leaves_only_the_new_one(tmp_path: Path) -> None:
    path = old_folder(tmp_path / "out")
    (path / "gone").write_text("old")
    with atomic_folder(path, replace=True) as temporary:
        (temporary / "a").write_text("new")
        assert (path / "a").read_text() == "old"
    assert names(tmp_path) == ["out"]
    assert names(path) == ["a"]
    assert (path / "a").read_text() == "new"


@pytest.mark.parametrize("kind", ["file", "link"])
def test_replacing_a_file_or_a_link_leaves_nothing_behind(tmp_path: Path, kind: str) -> None:
    real = old_folder(tmp_path / "real")
    if kind == "file":
        (tmp_path / "out").write_text("old")
    else:
        (tmp_path / "out").symlink_to(real)
    with contextlib.suppress(InputError), atomic_folder(tmp_path / "out", replace=True) as temporary:
        (temporary / "a").write_text("new")
    assert names(tmp_path) == ["out", "real"]
    assert (real / "a").read_text() == "old"


@pytest.mark.parametrize("replace", [False, True])
def test_places_where_no_folder_can_be_are_input_errors(tmp_path: Path, replace: bool) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "out", tmp_path / "file" / "deep" / "out", Path("/proc/ntre/out")):
        with pytest.raises(InputError, match=r"^Cannot write"), atomic_folder(path, replace=replace):
            pytest.fail("the block must not run")
    assert names(tmp_path) == ["file"]


def test_a_folder_name_that_the_system_cannot_hold_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError), atomic_folder(tmp_path / ("x" * 300)):
        pass


def test_a_kill_while_a_folder_is_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "out"
    code = 'with atomic_folder(target, replace=True) as t:\n (t / "a").write_text("half")\n die()'
    for before in ([], ["out"]):
        assert run(code, path).returncode == -signal.SIGKILL
        assert [n for n in names(tmp_path) if not n.startswith(".out.partial-")] == before
        if not before:
            old_folder(path)
    assert (path / "a").read_text() == "old"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system has no exchange of names")
@pytest.mark.parametrize("after", [False, True])
def test_the_name_of_a_folder_that_is_replaced_is_never_without_one(tmp_path: Path, after: bool) -> None:
    path = old_folder(tmp_path / "out")
    code = """
import ntre_deploy.files
exchange = ntre_deploy.files._exchange
def killed(one, other):
    if sys.argv[2] == "True":
        assert exchange(one, other)
    die()
ntre_deploy.files._exchange = killed
with atomic_folder(target, replace=True) as t: (t / "a").write_text("new")
"""
    assert run(code, path, after).returncode == -signal.SIGKILL
    assert (path / "a").read_text() == ("new" if after else "old")
    # what the kill has left is swept by the next try, once it is no longer fresh
    for left in tmp_path.glob(".out.partial-*"):
        os.utime(left, (0, 0))
    with atomic_folder(path, replace=True) as temporary:
        (temporary / "a").write_text("newer")
    assert names(tmp_path) == ["out"]
    assert (path / "a").read_text() == "newer"


@pytest.mark.parametrize("rename", [1, 2])
def test_a_kill_while_folders_are_exchanged_loses_neither(tmp_path: Path, rename: int) -> None:
    path = old_folder(tmp_path / "out")
    code = (
        "without_exchange()\nat_rename(int(sys.argv[2]), die)\n"
        'with atomic_folder(target, replace=True) as t: (t / "a").write_text("new")'
    )
    assert run(code, path, rename).returncode == -signal.SIGKILL
    assert sorted(p.read_text() for p in tmp_path.glob("*/a")) == ["new", "old"]
    if rename == 1:
        assert (path / "a").read_text() == "old"


def test_an_exchange_that_fails_half_way_puts_the_old_folder_back(tmp_path: Path) -> None:
    path = old_folder(tmp_path / "out")
    code = """
without_exchange()
def fail():
    raise OSError(5, "Input/output error")
at_rename(2, fail)
try:
    with atomic_folder(target, replace=True) as t:
        (t / "a").write_text("new")
except InputError as error:
    print(error)
"""
    done = run(code, path)
    assert done.returncode == 0, done.stderr
    assert "Cannot write" in done.stdout
    assert names(tmp_path) == ["out"]
    assert (path / "a").read_text() == "old"


# --- no space

_WRITERS = {
    "file": "with atomic_file(target) as t: t.write_bytes(bytes(4 << 20))",
    "folder": 'with atomic_folder(target, replace=True) as t: (t / "a").write_bytes(bytes(4 << 20))',
    "memory": (
        "import numpy as np\nfrom ntre_deploy import SupportMemory\n"
        " SupportMemory('n', np.ones(4, np.float32), (np.ones((1 << 10, 1 << 10), np.float32),), 'm').save(target)"
    ),
}


def writer(kind: str) -> str:
    lines = _WRITERS[kind].split("\n")
    imports, last = lines[:-1], lines[-1].strip()
    return "\n".join([*imports, "try:", f"    {last}", "except InputError as error:", "    print(error)"])


def out_of_space(done: subprocess.CompletedProcess[str], reason: str) -> None:
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Cannot write")
    assert reason in done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("kind", _WRITERS)
def test_a_file_size_limit_is_an_input_error_and_leaves_the_old_one(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    if kind == "folder":
        old_folder(path)
    else:
        path.write_text("old")
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n"
    out_of_space(run(limit + writer(kind), path), "File too large")
    assert names(tmp_path) == ["out"]
    assert (path / "a" if kind == "folder" else path).read_text() == "old"


def _can_mount() -> bool:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    command = ["unshare", "-m", "sh", "-c", 'd=$(mktemp -d) && mount -t tmpfs tmpfs "$d" && umount "$d"; rmdir "$d"']
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("kind", _WRITERS)
def test_a_full_disk_is_an_input_error_and_leaves_nothing(tmp_path: Path, kind: str) -> None:
    if not _can_mount():
        pytest.skip("a small file system can be mounted only as root, in a namespace of its own")
    script = f"{writer(kind)}\nassert os.listdir(target.parent) == [], os.listdir(target.parent)"
    mount = f'mount -t tmpfs -o size=1m tmpfs "{tmp_path}" && exec "$@"'
    out_of_space(run(script, tmp_path / "out", prefix=("unshare", "-m", "sh", "-c", mount, "sh")), "No space left")


# --- hashes


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_the_hash_of_a_file_is_that_of_its_content(tmp_path: Path, size: int) -> None:
    content = (bytes(range(251)) * (size // 251 + 1))[:size]
    (tmp_path / "f").write_bytes(content)
    assert sha256(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def left_behind(target: Path, name: str, age: float = 3600.0) -> Path:
    folder = target.with_name(f".{target.name}.partial-{name}")
    folder.mkdir()
    (folder / "half").write_text("of it")
    then = time.time() - age
    os.utime(folder, (then, then))
    return folder


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "x.ntre"
    gone = [left_behind(target, f"{n}.ntre") for n in range(2)]
    stays = [
        left_behind(target, "0.ntre.old"),  # may be the only copy of what stood there
        left_behind(target, "2.ntre", age=1.0),  # its maker may be about to lock it
        left_behind(tmp_path / "y.ntre", "0.ntre"),
    ]
    with atomic_folder(target) as folder:
        (folder / "a").write_text("b")
    assert not any(path.exists() for path in gone)
    assert all((path / "half").exists() for path in stays)
    assert (target / "a").read_text() == "b"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="locks are of other kinds elsewhere")
def test_what_a_living_process_works_on_is_left_to_it(tmp_path: Path) -> None:
    target = tmp_path / "x.ntre"
    code = (
        "import sys, time; from pathlib import Path; from ntre_deploy.files import atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1])) as folder:\n"
        "    print(folder, flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-P", "-c", code, str(target)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        theirs = Path(process.stdout.readline().strip())
        os.utime(theirs, (0, 0))
        with atomic_folder(target):
            pass
        assert theirs.is_dir()
    finally:
        process.kill()
        process.wait()
    with atomic_folder(target, replace=True):
        pass
    assert not theirs.exists(), "its owner is dead"
    assert [path.name for path in tmp_path.iterdir()] == ["x.ntre"]


# --- files that are not to be replaced, or not to be read by others


def test_a_file_that_is_there_is_not_replaced_where_that_is_asked(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    for name in ("a", "dangling"):
        with pytest.raises(InputError, match="exists already"), atomic_file(tmp_path / name, replace=False):
            pytest.fail("it began")
    assert (tmp_path / "a").read_text() == "old"

    def second() -> None:
        with atomic_file(tmp_path / "b", replace=False) as temporary:
            temporary.write_text("new")
            (tmp_path / "b").write_text("theirs")  # another process comes first, while the block runs

    with pytest.raises(InputError, match="Cannot write"):
        second()
    assert (tmp_path / "b").read_text() == "theirs"
    assert names(tmp_path) == ["a", "b", "dangling"]


def test_where_links_cannot_be_made_a_new_file_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with atomic_file(tmp_path / "a", replace=False) as temporary:
        temporary.write_text("new")
    assert (names(tmp_path), (tmp_path / "a").read_text()) == (["a"], "new")


def test_a_private_file_is_private_from_the_beginning(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "key", mode=0o600) as temporary:
        assert temporary.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_the_temporary_file_lies_where_it_is_told_to(tmp_path: Path) -> None:
    folder = tmp_path / "strict"
    folder.mkdir()
    with atomic_file(folder / "a", scratch=tmp_path) as temporary:
        assert temporary.parent == tmp_path
        assert names(folder) == []
    assert (names(folder), names(tmp_path)) == (["a"], ["strict"])
