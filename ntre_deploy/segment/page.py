"""One HTML file with a picture of every result; it needs no network, and follows dark and light."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

import cv2
import numpy as np
from numpy.typing import NDArray

from ntre_deploy.files import atomic_file
from ntre_deploy.runtime.overlay import palette

# pixels of a picture's longer side
THUMBNAIL, _QUALITY = 420, 80
# each has some 20 kB of picture
_MOST = 500

_STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 1400px; padding: 0 1rem; }
h1 { font-size: 1.3rem; margin: 0 0 .3rem; }
p { margin: .2rem 0; opacity: .75; }
ul { list-style: none; display: flex; flex-wrap: wrap; gap: .4rem 1.2rem; margin: .8rem 0 1.2rem; padding: 0; }
i { display: inline-block; width: .85em; height: .85em; border-radius: .2em; margin-right: .4em; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(300px, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: .5rem; overflow: hidden; }
figure.video { grid-column: 1 / -1; }
video { display: block; width: 100%; max-height: 70vh; background: #8882; }
figure.video video + .strip img { height: 120px; }
.strip { display: flex; gap: 2px; overflow-x: auto; background: #8882; justify-content: center; }
.strip img { display: block; max-width: 100%; height: 240px; object-fit: contain; min-width: 0; flex: 0 1 auto; }
figcaption { padding: .5rem .8rem .7rem; overflow-wrap: anywhere; }
figcaption ul { margin: .3rem 0 0; gap: .1rem 1rem; font-size: .9em; }
.none { opacity: .45; }
"""


@dataclass(frozen=True)
class Card:
    """One result: its input's name, pictures as data URLs, links beside the page, classes with their share of pixels.

    `frames` is 0 for a photo; `video` is the link of a video that is played on the page.
    """

    name: str
    pictures: Sequence[str]
    links: Sequence[str]
    shares: Mapping[str, float]
    frames: int = 0
    video: str = ""


def thumbnail(picture: NDArray[np.uint8]) -> str:
    """A small JPEG of uint8 RGB [H, W, 3], as a data URL."""
    scale = min(THUMBNAIL / max(picture.shape[:2]), 1.0)
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def write_page(path: Path, cards: Sequence[Card], names: Sequence[str], engine: str) -> None:
    """Write the page, whole or not at all.

    Args:
        names: of the classes; their order gives the colours.

    Raises:
        InputError: it cannot be written.
    """
    drawn = palette(len(names))[1:]
    colours = {name: "#{:02x}{:02x}{:02x}".format(*colour) for name, colour in zip(names, drawn, strict=True)}
    videos = sum(card.frames > 0 for card in cards)
    counts = {"photo": len(cards) - videos, "video": videos}
    title = ", ".join(_count(number, what) for what, number in counts.items() if number)
    found = {name: sum(card.shares[name] > 0 for card in cards) for name in names}
    legend = "".join(
        f'<li><i style="background:{colours[name]}"></i>{escape(name)}: in {found[name]} of {len(cards)}</li>'
        for name in names
    )
    rest = f"<p>and {len(cards) - _MOST} more, which are not shown</p>" if len(cards) > _MOST else ""
    body = "\n".join(_figure(card, colours) for card in cards[:_MOST])
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Segmented: {title}</title>\n<style>{_STYLE}</style></head>\n<body>\n"
        f"<h1>{title}</h1>\n<p>{escape(engine)}</p>\n<ul>{legend}</ul>\n<main>\n{body}\n</main>\n{rest}</body></html>\n"
    )
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _figure(card: Card, colours: Mapping[str, str]) -> str:
    alt = escape(card.name, quote=True)
    pictures = "".join(f'<img src="{picture}" alt="{alt}">' for picture in card.pictures)
    if card.links:
        pictures = f'<a class="strip" href="{quote(card.links[0])}">{pictures}</a>'
    else:
        pictures = f'<div class="strip">{pictures}</div>'
    if card.video:
        # its first bytes alone, as a page may hold many
        player = f'<video controls muted loop playsinline preload="metadata" src="{quote(card.video)}"></video>'
        pictures = player + pictures
    links = " ".join(f'<a href="{quote(link)}">{escape(link)}</a>' for link in card.links)
    shares = "".join(
        f'<li{"" if share else " class=none"}><i style="background:{colours[name]}"></i>{escape(name)} {share:.1%}</li>'
        for name, share in card.shares.items()
    )
    frames = f", {_count(card.frames, 'frame')}" if card.frames else ""
    kind = ' class="video"' if card.frames else ""
    return (
        f"<figure{kind}>{pictures}<figcaption><b>{escape(card.name)}</b>{frames}<br>{links}<ul>{shares}</ul>"
        "</figcaption></figure>"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
