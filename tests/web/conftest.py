"""Node and Chromium for the web runtime; tests that need one that is missing are skipped and say which."""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
RUNTIME = REPOSITORY / "runtimes" / "web"

Node = Callable[..., Any]
Run = Callable[..., Any]

_PRELUDE = """
import {{ readFileSync, writeFileSync }} from "node:fs";
const load = (name) => import("{runtime}/src/" + name + ".js");
const read = (name) => new Uint8Array(readFileSync(name));
const write = (name, array) => writeFileSync(name, new Uint8Array(array.buffer, array.byteOffset, array.byteLength));
const given = JSON.parse(process.argv[1] ?? "null");
const outcome = async (make) => {{
  try {{ await make(); return ["nothing", ""]; }} catch (error) {{ return [error.name, error.message]; }}
}};
"""


def load_pages() -> ModuleType:
    path = REPOSITORY / "benchmarks" / "web" / "pages.py"
    spec = spec_from_file_location("ntre_web_pages", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def pages() -> ModuleType:
    """`benchmarks/web/pages.py`."""
    return load_pages()


@pytest.fixture(scope="session")
def packages(pages: ModuleType) -> Path:
    """The folder of the web runtime with its npm packages."""
    if reason := pages.packages_missing():
        pytest.skip(reason)
    return RUNTIME


@pytest.fixture
def node(packages: Path, tmp_path: Path) -> Node:
    """Run a module in Node, in a folder of its own; what it returns comes back through JSON."""

    def run(code: str, given: Any = None) -> Any:
        text = _PRELUDE.format(runtime=packages.as_uri()) + f"\nconst main = async () => {{ {code} }};\n"
        text += "console.log(JSON.stringify(await main() ?? null));"
        command = ["node", "--input-type=module", "-e", text, "--", json.dumps(given)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


# for a file alone: its event loop must not stand in the way of other tests
@pytest.fixture(scope="module")
def playwright(pages: ModuleType) -> Iterator[Any]:
    """Playwright, to launch more browsers than `chromium`."""
    if reason := pages.chromium_missing():
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def chromium(pages: ModuleType, playwright: Any) -> Iterator[Any]:
    """One Chromium for all tests of a file."""
    browser = pages.launch(playwright)
    yield browser
    browser.close()


@pytest.fixture
def run(chromium: Any, pages: ModuleType, exported: Path, tmp_path: Path) -> Iterator[Run]:
    """Run a function body in a page of its own; `/files` is the test's folder and `/tiny` the tiny bundle.

    Keyword arguments mount more folders, and `isolated` gives the page threads.  `run.site` and `run.page` are the last
    ones.
    """
    with ExitStack() as stack:

        def run(code: str, given: Any = None, *, isolated: bool = False, **mounts: Path) -> Any:
            all_mounts = {"files": tmp_path, "tiny": exported, **mounts}
            site = stack.enter_context(pages.serve(all_mounts, isolated=isolated))
            page = chromium.new_page()
            stack.callback(page.close)
            page.goto(site.address)
            run.site, run.page = site, page  # type: ignore[attr-defined]
            return page.evaluate(_BODY.replace("CODE", code), given)

        yield run


_BODY = """async (given) => {
  const ntre = await import("/src/index.js");
  const { Segmenter, WorkerSegmenter, SupportMemory, InputError, EngineError } = ntre;
  const ort = "/ort/";
  const read = async (name) => new Uint8Array(await (await fetch("/files/" + name)).arrayBuffer());
  const put = (name, body) => fetch("/" + name, { method: "PUT", body });
  const outcome = async (make) => {
    try { await make(); return ["nothing", ""]; } catch (error) { return [error.constructor.name, error.message]; }
  };
  CODE
}"""
