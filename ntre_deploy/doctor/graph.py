"""A small ONNX graph that an engine must really run: y = r @ r, r = relu(conv(x, w)).

On a GPU, the convolution loads cuDNN and the product cuBLAS, which are what is missing there when something is.
"""

import base64
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# opset 13, which every engine in use reads
ONNX = base64.b64decode(
    "CAg6jAEKDwoBeAoBdxIBYyIEQ29udgoMCgFjEgFyIgRSZWx1ChEKAXIKAXISAXkiBk1hdE11bBIBZ1obCgF4EhYKFAgBEhAKAggBCgIIAgoCCAYKAggG"
    "WhsKAXcSFgoUCAESEAoCCAIKAggCCgIIAwoCCANiGwoBeRIWChQIARIQCgIIAQoCCAIKAggECgIIBEIECgAQDQ=="
)
# TF32 has ten bits of mantissa
_TOLERANCE = 1e-2


def inputs() -> "dict[str, NDArray[np.float32]]":
    """x float32 [1, 2, 6, 6] and w float32 [2, 2, 3, 3]."""
    import numpy as np

    x = np.linspace(-1, 1, 72, dtype=np.float32).reshape(1, 2, 6, 6)
    return {"x": x, "w": np.linspace(1, -0.5, 36, dtype=np.float32).reshape(2, 2, 3, 3)}


def off_by(y: "NDArray[np.float32]") -> str | None:
    """What is wrong with an engine's y float32 [1, 2, 4, 4], or None."""
    import numpy as np

    x, w = inputs().values()
    windows = np.lib.stride_tricks.sliding_window_view(x[0], (3, 3), axis=(1, 2))  # [2, 4, 4, 3, 3]
    r = np.maximum(np.einsum("chwij,ocij->ohw", windows, w), 0)
    wanted = (r @ r)[None]
    if y.shape != wanted.shape:
        return f"gives an array of shape {list(y.shape)} where {list(wanted.shape)} is right"
    error = float(np.abs(y - wanted).max() / np.abs(wanted).max())
    # written so that NaN fails
    return None if error <= _TOLERANCE else f"runs a small graph and is off by {error:.1e}"
