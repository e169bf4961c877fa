"""The page `/docs`: what `/openapi.json` tells, for people; it loads nothing from elsewhere."""

import base64
import hashlib
from pathlib import Path

_FOLDER = Path(__file__).parent


def _allowed(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


_STYLE = (_FOLDER / "docs.css").read_text("utf-8")
_SCRIPT = (_FOLDER / "docs.js").read_text("utf-8")

CONTENT = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>ntre serve</title>
<style>{_STYLE}</style>
<main id="page"><p>Loading openapi.json ...</p></main>
<script type="module">{_SCRIPT}</script>
</html>
"""
# the page's own style and script alone, and requests to where it came from
POLICY = (
    f"default-src 'none'; style-src {_allowed(_STYLE)}; script-src {_allowed(_SCRIPT)}; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
