"""Every code block of README.md and docs/ is run, or checked, or says why it is not.

A comment before a block tells what to do with it:

* `<!-- skip: REASON -->`: it is not run here.
* `<!-- file: NAME -->`: its text becomes that file of the reader's folder.
* `<!-- like: FILE -->`: JSON whose keys must be those of that file, which an earlier block may have written.
* `<!-- output -->`: every line of it was printed by the block before.
* `<!-- as: PAGE -->`: its lines are run on that page, which takes long enough once.

Blocks of a page run in its order and in one folder; a page begins with the files of `reader`.  JavaScript runs in
Chromium, with the blocks before it, and is skipped where that is missing.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tomllib
from markdown_it import MarkdownIt

from ntre_deploy.training.config import read_config

REPOSITORY = Path(__file__).parents[2]


def _load(path: Path) -> ModuleType:
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


web_pages = _load(REPOSITORY / "benchmarks" / "web" / "pages.py")
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
LANGUAGES = {"sh", "python", "toml", "json", "text", "js", "cmake", "cpp", "c"}
# run by tests of their own, which a skip names
_ELSEWHERE = {"cmake", "cpp", "c"}
ORDERS = {"skip", "file", "like", "output", "as"}
_ORDER = re.compile(r"\s*<!-- (\w+)(?:: (.+?))? -->\s*")
_SECONDS = 300


@dataclass(frozen=True)
class Block:
    """A fenced block; `order` and `value` are those of the comment before it."""

    page: Path
    line: int
    language: str
    text: str
    order: str
    value: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    found, order, value = [], "", ""
    for token in MarkdownIt().parse(page.read_text()):
        if token.type == "html_block":
            matched = _ORDER.fullmatch(token.content)
            order, value = (matched[1], matched[2] or "") if matched else ("", "")
            continue
        if token.type in ("fence", "code_block"):
            assert token.map is not None
            found.append(Block(page, token.map[0] + 1, token.info.strip(), token.content, order, value))
        order, value = "", ""
    return found


BLOCKS = [block for page in PAGES for block in blocks(page)]


@dataclass
class Session:
    """One reader with one page: what was run is kept, so that a later block finds it."""

    folder: Path
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__page__"})
    done: int = 0
    printed: str = ""

    def run(self, block: Block) -> None:
        """Run the page up to this block, if that has not happened."""
        page = [b for b in BLOCKS if b.page == block.page]
        while self.done <= page.index(block):
            self.done += 1  # a block that fails is not tried again
            current = page[self.done - 1]
            if current.order != "skip":
                self._run(current)

    def _run(self, block: Block) -> None:
        if block.order == "output":
            for line in block.text.splitlines():
                assert " ".join(line.split()) in self.printed, f"{block.name} shows a line that was not printed: {line}"
        elif block.order == "as":
            run = [b.text for b in BLOCKS if b.page == REPOSITORY / block.value and b.order == ""]
            assert any(block.text in text for text in run), f"{block.value} does not run what {block.name} shows"
        elif block.order == "file":
            (self.folder / block.value).write_text(block.text)
            if block.language == "toml":
                read_config(self.folder / block.value)
        elif block.language == "json":
            content = json.loads(block.text)
            if block.order == "like":
                check_like(content, json.loads((self.folder / block.value).read_text()), block.name)
        elif block.language == "toml":
            tomllib.loads(block.text)
        elif block.language == "python":
            self._python(block)
        elif block.language == "sh":
            self._shell(block)
        elif block.language == "js":
            self._script(block)

    def _python(self, block: Block) -> None:
        code = compile("\n" * block.line + block.text, block.page, "exec")
        with chdir(self.folder):
            exec(code, self.names)

    def _shell(self, block: Block) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        # wide enough for a table in one piece
        # and threads that wait for each other must not spin where other tests share the machine
        env = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "COLUMNS": "160"}
        command = ["bash", "-euo", "pipefail", "-c", block.text]
        pipe = subprocess.PIPE
        done = subprocess.run(
            command, cwd=self.folder, env=env, stdout=pipe, stderr=subprocess.STDOUT, text=True, timeout=_SECONDS
        )
        assert done.returncode == 0, f"{block.name} ended with {done.returncode}:\n{done.stdout}"
        self.printed = " ".join(done.stdout.split())

    def _script(self, block: Block) -> None:
        if reason := web_pages.chromium_missing():
            pytest.skip(reason)
        from playwright.sync_api import sync_playwright

        scripts = [b for b in BLOCKS if b.page == block.page and b.language == "js" and b.line <= block.line]
        (self.folder / "page.js").write_text("\n".join(b.text for b in scripts if b.order != "skip"))
        packages = self.folder / "node_modules"
        if not packages.exists():
            packages.mkdir()
            (packages / "ntre-deploy-runtime").symlink_to(web_pages.RUNTIME)
            (packages / "onnxruntime-web").symlink_to(web_pages.ORT.parent)
        with web_pages.serve({}, root=self.folder) as site, sync_playwright() as playwright:
            page = web_pages.launch(playwright).new_page()
            failed: list[str] = []
            page.on(
                "console", lambda message: failed.append(message.text) if message.type in ("assert", "error") else None
            )
            page.goto(site.address)
            page.evaluate("import('/page.js').then(() => {})")
            page.wait_for_timeout(50)
        assert failed == [], block.name


def check_like(shown: Any, real: Any, where: str) -> None:
    """Keys and kinds of values of an excerpt are those of the file that it is taken from."""
    if isinstance(shown, dict):
        assert isinstance(real, dict), where
        for key, value in shown.items():
            assert key in real, f"{where}: the file has no {key!r}, only {sorted(real)}"
            check_like(value, real[key], f"{where} {key}")
    elif isinstance(shown, list) and shown and isinstance(shown[0], dict):
        assert real, where
        for value in shown:
            check_like(value, real[0], where)
    elif shown is not None and real is not None:
        number = (int, float)
        same = isinstance(real, type(shown)) or (isinstance(real, number) and isinstance(shown, number))
        assert same, f"{where}: {shown!r} is shown for {real!r}"


@pytest.fixture(scope="module")
def session_of(reader: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Session]]:
    opened: dict[Path, Session] = {}

    def of(page: Path) -> Session:
        if page not in opened:
            folder = tmp_path_factory.mktemp("page") / page.stem
            opened[page] = Session(Path(shutil.copytree(reader, folder)))
        return opened[page]

    yield of
    for session in opened.values():
        shutil.rmtree(session.folder)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_block(block: Block, request: pytest.FixtureRequest) -> None:
    assert block.language in LANGUAGES, f"{block.name} names no language of {sorted(LANGUAGES)}"
    assert block.order in ORDERS | {""}, f"{block.name}: '{block.order}' is unknown; use one of {sorted(ORDERS)}"
    assert block.language not in _ELSEWHERE or block.order == "skip", f"{block.name}: nothing here runs it"
    if block.order == "skip":
        assert block.value, f"{block.name} is skipped without a reason"
        pytest.skip(block.value)
    request.getfixturevalue("session_of")(block.page).run(block)


def test_every_page_with_code_runs_some_of_it() -> None:
    for page in PAGES:
        mine = [b for b in blocks(page) if b.language in ("sh", "python", "js")]
        assert not mine or any(b.order != "skip" for b in mine), f"all of {page.name} is skipped"


def test_messages_that_troubleshooting_quotes_are_those_of_the_code() -> None:
    text = (REPOSITORY / "docs" / "troubleshooting.md").read_text()
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    sources = [*(REPOSITORY / "ntre_deploy").rglob("*.py"), *(REPOSITORY / "export").rglob("*.py")]
    # literals that are one message over several lines
    code = re.sub(r'"\s*\n\s*f?"', "", "\n".join(path.read_text() for path in sources))
    quoted = re.findall(r'"([^"\n]{6,})"', prose)
    assert len(quoted) > 8
    assert [words for words in quoted if words not in code] == []


def test_an_excerpt_with_a_key_that_is_not_there_is_found() -> None:
    real = {"name": "x", "files": [{"size": 1}]}
    check_like({"files": [{"size": 7}]}, real, "page")
    for wrong in ({"nam": "x"}, {"files": [{"bytes": 7}]}, {"name": 3}):
        with pytest.raises(AssertionError):
            check_like(wrong, real, "page")


def test_the_collector_sees_marks_lines_and_languages(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A\n\n<!-- skip: needs a GPU -->\n```sh\nfalse\n```\n\ntext\n\n```python\n1 / 0\n```\n")
    first, second = blocks(page)
    assert (first.order, first.value, first.language, first.line) == ("skip", "needs a GPU", "sh", 4)
    assert (second.order, second.language, second.text) == ("", "python", "1 / 0\n")


def test_blocks_that_fail_are_found(tmp_path: Path) -> None:
    for language, text in (("sh", "true\nfalse\ntrue"), ("python", "1 / 0"), ("json", "{"), ("toml", "a =")):
        block = Block(REPOSITORY / "page.md", 1, language, text, "", "")
        with pytest.raises((AssertionError, ZeroDivisionError, ValueError)):
            Session(tmp_path)._run(block)
