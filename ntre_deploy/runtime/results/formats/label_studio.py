"""Label Studio: tasks with predictions, as brush strokes, which know holes and give every pixel.

The labelling interface of the project must have a `BrushLabels` of the name `label` on an `Image` of the name `image`:
`labelling_config` is one.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.runtime.overlay import palette
from ntre_deploy.runtime.rle import run_lengths

if TYPE_CHECKING:
    from ntre_deploy.runtime.results.result import Result

_FROM, _TO = "label", "image"
# Label Studio's pictures are RGBA, one after the other in the code
_CHANNELS = 4
# bits of a run's length, of which each run names one
_SIZES = (3, 4, 8, 16)
_LONGEST = 1 << _SIZES[-1]
_WORD = 8


def label_studio(result: "Result", image: str | None = None, min_area: int = 1) -> dict[str, Any]:
    """One task; see `Result.to_label_studio`."""
    height, width = result.size
    found = []
    for number, instance in enumerate(result.instances(min_area), 1):
        value = {
            "format": "rle",
            "rle": brush_rle(instance.mask, result.size, *instance.box[:2]),
            "brushlabels": [instance.name],
        }
        stroke: dict[str, Any] = {"id": f"region{number}", "type": "brushlabels", "from_name": _FROM, "to_name": _TO}
        stroke |= {"original_width": width, "original_height": height, "image_rotation": 0, "value": value}
        if instance.score is not None:
            stroke["score"] = round(instance.score, 6)
        found.append(stroke)
    prediction: dict[str, Any] = {"model_version": "ntre_deploy", "result": found}
    scores = [stroke["score"] for stroke in found if "score" in stroke]
    if scores:
        # of the whole task: Label Studio sorts by it what a person should see first
        prediction["score"] = round(sum(scores) / len(scores), 6)
    address = image or (result.path.name if result.path is not None else "image")
    return {"data": {"image": address}, "predictions": [prediction]}


def labelling_config(names: Sequence[str]) -> str:
    """The labelling interface for these classes, in the colours of overlays: for the project's settings."""
    colours = palette(len(names))[1:].tolist()
    labels = "".join(
        f'    <Label value={quoteattr(name)} background="#{r:02x}{g:02x}{b:02x}"/>\n'
        for name, (r, g, b) in zip(names, colours, strict=True)
    )
    picture = f'  <Image name="{_TO}" value="$image" zoom="true" zoomControl="true"/>\n'
    return f'<View>\n{picture}  <BrushLabels name="{_FROM}" toName="{_TO}">\n{labels}  </BrushLabels>\n</View>\n'


def brush_rle(mask: NDArray[np.generic], size: tuple[int, int], left: int = 0, top: int = 0) -> list[int]:
    """The run-length code of a brush stroke (`rle-pack` of thi.ng/umbrella), as bytes.

    Args:
        mask: [h, w], anything but 0 is painted; a part of an image of `size` (H, W).
        left, top: where the part lies.
    """
    pixels = size[0] * size[1] * _CHANNELS
    bits = [f"{pixels:032b}", f"{_WORD - 1:05b}", *(f"{length - 1:04b}" for length in _SIZES)]
    for number, length in enumerate(run_lengths(mask, size, left, top)):
        for at in range(0, length * _CHANNELS, _LONGEST):
            bits.append(_run(min(length * _CHANNELS - at, _LONGEST) - 1, 255 * (number % 2)))
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def _run(more: int, value: int) -> str:
    """A run of `more` + 1 equal values: a bit that says so, which size its length has, the length, the value."""
    kind = next(number for number, size in enumerate(_SIZES) if more < 1 << size)
    return f"1{kind:02b}{more:0{_SIZES[kind]}b}{value:0{_WORD}b}"
