"""One self-contained HTML page: no script, nothing from the network, light and dark, from phone to desk."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ntre_deploy.bench.pytorch import repeats_reference
from ntre_deploy.bench.report import charts, tables
from ntre_deploy.bench.runner import Picture
from ntre_deploy.runtime.masks import IGNORE
from ntre_deploy.runtime.overlay import overlay

if TYPE_CHECKING:
    from jinja2 import Environment

Pixels = NDArray[np.uint8]
Report = Mapping[str, Any]

# longer side of a picture in the page, and the quality of its JPEG: some 20 kB each
_SIDE = 320
_QUALITY = 82
# pictures of a page are at most so many bytes as base64; what comes after is left to the sheet
_MAX_PICTURES = 2_200_000
# only the reference, only the engine (RGB), on the darkened grey query
ONLY_REFERENCE = (255, 150, 40)
ONLY_ENGINE = (70, 160, 255)


@dataclass(frozen=True)
class Card:
    """A bad episode of one engine; the images are data URLs."""

    class_name: str
    query_id: str
    engine: str
    differing: str
    support: str
    query: str
    truth: str
    reference: str
    mask: str
    difference: str


def render(report: Report, pictures: Sequence[Picture]) -> str:
    """The page's HTML.

    Args:
        report: from `build_report`.
        pictures: of the run, the worst first.
    """
    rows, axis = charts.distributions(report)
    points, x_ticks, y_ticks = charts.speed_accuracy(report)
    cards = _cards(report, pictures)
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            title=tables.title(report),
            failed=[check for check in report["gates"] if not check["passed"]],
            best=_best(report),
            latency=(tables.LATENCY, tables.latency_rows(report)),
            parity=(tables.PARITY, tables.parity_rows(report)),
            ways=(tables.WAYS, tables.ways_rows(report)),
            confusions=[
                (system["label"], *tables.confusion_rows(system["accuracy"]["ways"]["confusion"]))
                for system in report["systems"]
                if "ways" in system["accuracy"] and not repeats_reference(system["name"])
            ],
            costs=(tables.COSTS, tables.cost_rows(report)),
            distributions=rows,
            distribution_ticks=axis,
            points=points,
            x_ticks=x_ticks,
            y_ticks=y_ticks,
            splits=charts.cost_split(report),
            parts=charts.PART_NAMES,
            shown_parts={part for system in report["systems"] for part in system["latency_ms"]},
            cards=cards,
            more=len(pictures) - len(cards),
            tables=tables,
            colours={"reference": ONLY_REFERENCE, "engine": ONLY_ENGINE},
        )
    )


@lru_cache(maxsize=1)
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("ntre_deploy.bench.report"),
        autoescape=True,  # names of bundles, classes and images come from anywhere
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _best(report: Report) -> Mapping[str, Any] | None:
    """The fastest engine that gave finite logits."""
    engines = [s for s in report["systems"] if s["kind"] == "engine" and s["parity"]["finite"]]
    return min(engines, key=lambda s: float(s["latency_ms"]["total"]["p50"]), default=None)


def _cards(report: Report, pictures: Sequence[Picture]) -> list[Card]:
    """For each picture, the engine that differs most; as many as the page has room for."""
    reference_of = {s["label"]: s["parity"]["against"] for s in report["systems"]}
    engines = [s["label"] for s in report["systems"] if s["kind"] == "engine"]
    cards: list[Card] = []
    size = 0
    for picture in pictures:
        shown = [e for e in engines if e in picture.masks] or [n for n in picture.masks if repeats_reference(n)]
        if not shown:
            continue
        engine = max(shown, key=lambda name: picture.differing.get(name, 0.0))
        card = _card(picture, engine, reference_of[engine])
        size += sum(len(text) for text in vars(card).values())
        if size > _MAX_PICTURES:
            break
        cards.append(card)
    return cards


def _card(picture: Picture, engine: str, reference: str) -> Card:
    wanted, mask = picture.masks[reference], picture.masks[engine]
    return Card(
        class_name=picture.episode.class_name,
        query_id=picture.episode.query,
        engine=engine,
        differing=tables.share(picture.differing.get(engine, 0.0)),
        support=_jpeg(overlay(_small(picture.support), _small((picture.support_mask == 1).astype(np.uint8)))),
        query=_jpeg(_small(picture.query)),
        truth=_jpeg(
            overlay(_small(picture.query), _small(np.where(picture.truth == IGNORE, 0, picture.truth).astype(np.uint8)))
        ),
        reference=_jpeg(overlay(_small(picture.query), _small(wanted))),
        mask=_jpeg(overlay(_small(picture.query), _small(mask))),
        difference=_png(_difference(picture.query, wanted, mask, picture.truth)),
    )


def _difference(query: Pixels, reference: Pixels, mask: Pixels, truth: Pixels) -> Pixels:
    """The darkened query, with the pixels that only one of the two masks has; what is ignored stays grey."""
    grey = cv2.cvtColor(cv2.cvtColor(query, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    picture: Pixels = (grey * 0.35).astype(np.uint8)
    both = (reference > 0) & (mask == reference)
    picture[both] = (grey[both] * 0.5 + 70).astype(np.uint8)
    valid = truth != 255
    small = _small(picture)
    for colour, only in (
        (ONLY_REFERENCE, (reference > 0) & (mask != reference) & valid),
        (ONLY_ENGINE, (mask > 0) & (mask != reference) & valid),
    ):
        # one pixel of a large photo must not vanish when it is made smaller, nor be too small to be seen
        seen = _shrunk_any(only.astype(np.uint8), small.shape[:2])
        small[cv2.dilate(seen, np.ones((3, 3), np.uint8)) > 0] = colour
    return small


def _shrunk_any(mask: Pixels, size: tuple[int, ...]) -> Pixels:
    """A smaller mask that has every pixel in which something of the larger one lies."""
    small = np.zeros(size[:2], np.uint8)
    y, x = np.nonzero(mask)
    small[y * size[0] // mask.shape[0], x * size[1] // mask.shape[1]] = 1
    return small


def _small(picture: Pixels) -> Pixels:
    scale = _SIDE / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    method = cv2.INTER_NEAREST_EXACT if picture.ndim == 2 else cv2.INTER_AREA
    return np.asarray(cv2.resize(picture, size, interpolation=method), np.uint8)


def _jpeg(picture: Pixels) -> str:
    return _url(picture, "jpeg", [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])


def _png(picture: Pixels) -> str:
    # JPEG would smear single pixels
    return _url(picture, "png", [cv2.IMWRITE_PNG_COMPRESSION, 9])


def _url(picture: Pixels, kind: str, options: list[int]) -> str:
    done, content = cv2.imencode(f".{kind}", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    assert done
    return f"data:image/{kind};base64," + base64.b64encode(content.tobytes()).decode("ascii")
