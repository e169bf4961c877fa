"""What the site adds to the pages: the repository's files that they link to, and why the tests do not run a block."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

# of the repository's files inside the site
FOLDER = "repository"
_LINK = re.compile(r"\]\(((?:\.\./)+[^)#\s]+)")
_SKIP = re.compile(r"^( *)<!-- skip: (.+?) -->$", re.MULTILINE)


def _outside(config: MkDocsConfig, page: str, target: str) -> str | None:
    """The path in the repository that a link of a page means; None where it stays among the pages."""
    docs = Path(config.docs_dir).name
    path = posixpath.normpath(posixpath.join(docs, posixpath.dirname(page), target))
    return None if path.startswith(f"{docs}/") else path


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what the pages link to outside of the folder of the pages."""
    root = Path(config.docs_dir).parent
    for page in list(files.documentation_pages()):
        for target in _LINK.findall(page.content_string):
            path = _outside(config, page.src_uri, target)
            name = f"{FOLDER}/{path}"
            if path is not None and files.get_file_from_path(name) is None and (root / path).is_file():
                files.append(File.generated(config, name, abs_src_path=str(root / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, **_: Any) -> str:
    """Turn links to the repository's files into links to those of the site, and marks into lines to read."""

    def link(found: re.Match[str]) -> str:
        path = _outside(config, page.file.src_uri, found[1])
        if path is None:
            return found[0]
        return "](" + posixpath.relpath(f"{FOLDER}/{path}", posixpath.dirname(page.file.src_uri) or ".")

    return _SKIP.sub(r"\1<small>Not run by the tests: \2.</small>\n", _LINK.sub(link, markdown))
