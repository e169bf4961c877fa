"""The static site: it builds without a warning, its links lead somewhere, and it fetches nothing from elsewhere."""

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
NEEDED = ("mkdocs", "material", "mkdocstrings_handlers")


class _Page(HTMLParser):
    """Ids and references of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value for name, value in attrs if value}
        self.ids |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag in ("link", "script", "img"):
            self.loaded += [found[name] for name in ("href", "src") if name in found]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed (pip install 'ntre_deploy[docs]')")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return out


def test_every_link_of_the_site_leads_to_a_file_and_a_place_in_it(site: Path) -> None:
    pages = {path: _Page(path.read_text()) for path in site.rglob("*.html")}
    assert len(pages) > 12
    broken = []
    for path, page in pages.items():
        if path.name == "404.html":  # served from anywhere, so its links begin at the root
            continue
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            there = target.is_file() and (
                not parts.fragment or target not in pages or unquote(parts.fragment) in pages[target].ids
            )
            if not there:
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        for link in _Page(path.read_text()).loaded:
            assert not urlsplit(link).netloc, f"{path.name} loads {link}"


def test_files_of_the_repository_are_those_of_the_repository(site: Path) -> None:
    copied = [path for path in (site / "repository").rglob("*") if path.is_file()]
    assert any(path.name == "embed.py" for path in copied)
    for path in copied:
        assert path.read_bytes() == (REPOSITORY / path.relative_to(site / "repository")).read_bytes()


def test_a_block_that_is_not_run_says_so_on_the_site(site: Path) -> None:
    text = (site / "gpu-jetson" / "index.html").read_text()
    assert "Not run by the tests: needs a GPU." in text
    assert "<!-- skip" not in text


def test_the_reference_shows_signatures_and_docstrings(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "reference" / "runtime" / "index.html").read_text())
    for words in ("encode_support", "uint8 RGB [H, W, 3]", "EngineError", "label_map"):
        assert words in text, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_relative_link_of_a_page_leads_to_a_file(page: Path) -> None:
    for link in _links(page):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme == "https", link
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        assert target.exists(), f"{page.name} links to {link}"
        if parts.fragment and target.suffix == ".md":
            assert parts.fragment in _anchors(target), f"{page.name} links to {link}"


def _links(page: Path) -> list[str]:
    tokens = [child for token in MarkdownIt().parse(page.read_text()) for child in token.children or []]
    tables = MarkdownIt().enable("table").parse(page.read_text())
    tokens += [child for token in tables for child in token.children or []]
    return [str(token.attrs["href"]) for token in tokens if token.type == "link_open"]


def _anchors(page: Path) -> set[str]:
    tokens = MarkdownIt().parse(page.read_text())
    titles = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}
