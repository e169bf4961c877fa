"""The `released` protocol: the arithmetic of the released code's validation; needs no torch.

The released code is of the PFENet family, whose public code (`util/transform.py`, `util/dataset.py`, `test.py`) settles
what the paper leaves open; its configurations have `resized_val` and `ori_resize` on.  In the order in which data
meets it:

1. The longer side becomes the input's size and the other side is cut to whole pixels; then both are floored to
   multiples of 8 (473 becomes 472).  The image is resized as float32, bilinear with pixel centres aligned at every
   factor, and stands at the top left of zeros.
2. Normalisation comes after the padding, which so becomes -mean / std: black, and not the mean colour.
3. A support's mask is resized to the nearest pixel (OpenCV's, which starts at the pixels' corners) and padded with 255;
   only 1 is the target, so that any other padding is as good.  The shots reach the network in reverse.
4. The logits are resized to the input's size and from there to the square of the query's longer side, both with aligned
   corners and with the padding; argmax.  The floor of step 1 is not undone: at the far edge of the shorter side a mask
   lies up to 8 input pixels askew, too high or too far left.
5. The query's label is padded to that square with 255, which does not count: the query's own part of the square is all
   that is compared, and therefore all that is returned here.
6. The loop stops one episode late: `count` + 1 are run (`EXTRA_EPISODES`).

Three things are not the released code's.  Episodes come from an `EpisodeSet`, not from its loop over the list's images,
whose draws hang on the seeds of torch's worker processes.  Photos are decoded by the dataset, not by OpenCV.  Counts
are whole numbers and an empty union is no division: its float32 sums and the 1e-10 beside every union move nothing that
is printed, and the classes are those of the episodes, where its mean counts a class never drawn as 0.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.runtime.labels import linear_map
from ntre_deploy.runtime.letterbox import Letterbox, check_image
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.support import SupportMemory, compact_keys
from ntre_deploy.training.evaluator import Pixels, Run, Shots

Float = NDArray[np.float32]

# episodes beyond those asked for
EXTRA_EPISODES = 1
_MULTIPLE = 8


def fit(height: int, width: int, size: int) -> Letterbox:
    """Where an image of `height` x `width` pixels lies in the input; its inner sides are multiples of 8.

    Raises:
        InputError: the shorter side is floored to nothing.
    """
    ratio = size / max(height, width)
    inner_height = size if height >= width else int(height * ratio)
    inner_width = size if width > height else int(width * ratio)
    box = Letterbox(size, height, width, inner_height // _MULTIPLE * _MULTIPLE, inner_width // _MULTIPLE * _MULTIPLE)
    if min(box.inner_height, box.inner_width) == 0:
        raise InputError(
            f"An image of {width} x {height} pixels has a side below {_MULTIPLE} at the network's {size} pixels, "
            "which the released protocol floors to nothing; take --protocol exact."
        )
    return box


def prepare_image(image: Pixels, spec: InputSpec) -> tuple[Float, Letterbox]:
    """Letterbox, pad with zeros, then normalise one image.

    Args:
        image: uint8 RGB [H, W, 3].

    Returns:
        float32 [3, size, size], -mean / std outside the image, and the geometry for the way back.

    Raises:
        InputError: the array is no uint8 RGB image, or too narrow for `fit`.
    """
    image = check_image(image)
    box = fit(image.shape[0], image.shape[1], spec.size)
    padded = np.zeros((spec.size, spec.size, 3), np.float32)
    # float32 before the resize: uint8 would be rounded after it
    padded[: box.inner_height, : box.inner_width] = cv2.resize(
        image.astype(np.float32), (box.inner_width, box.inner_height), interpolation=cv2.INTER_LINEAR
    )
    padded -= np.asarray(spec.mean, np.float32)
    padded /= np.asarray(spec.std, np.float32)
    return np.ascontiguousarray(padded.transpose(2, 0, 1)), box


def prepare_mask(mask: Pixels, spec: InputSpec) -> Float:
    """Letterbox a support mask: uint8 [H, W], 1 is the target, anything else is not -> float32 [size, size] of 0, 1.

    Raises:
        InputError: the mask is too narrow for `fit`.
    """
    box = fit(mask.shape[0], mask.shape[1], spec.size)
    small = cv2.resize(mask.astype(np.float32), (box.inner_width, box.inner_height), interpolation=cv2.INTER_NEAREST)
    padded = np.zeros((spec.size, spec.size), np.float32)
    padded[: box.inner_height, : box.inner_width] = small == 1
    return padded


def label_map(logits: Float, box: Letterbox) -> Pixels:
    """Logits at feature resolution to the query's part of the label square.

    The two resizes are matrices here, in fp32 too but in another order than torch sums: `released_network.label_map` is
    the released code's to the last bit.

    Args:
        logits: [1, 2, h, w]; channel 1 is the class.

    Returns:
        uint8 [H, W]: 1 on the class.
    """
    side = max(box.height, box.width)
    margin = logits[0, 1] - logits[0, 0]  # the maps are linear, so the difference may go through them alone
    rows, columns = (linear_map(side, box.size) @ linear_map(box.size, features) for features in margin.shape)
    labels: Pixels = (rows[: box.height] @ margin @ columns[: box.width].T > 0).astype(np.uint8)
    return labels


def segmenter_run(segmenter: Segmenter) -> Run:
    """The released preparation and label map around a segmenter's engine, in place of its own; arrays as `Run` says.

    A support whose target vanishes at the network's resolution is run, as the released code does.
    """

    def finite(*arrays: Float) -> None:
        if not all(np.isfinite(a).all() for a in arrays):
            engine = segmenter.engine
            raise EngineError(f"{engine.name} {engine.precision} gave NaN or infinity; run `ntre bench`.")

    def encode(shots: Shots) -> SupportMemory:
        prototypes, keys = [], []
        for image, mask in reversed(shots):
            pixels, _ = prepare_image(image, segmenter.spec)
            prototype, found = segmenter.engine.support(pixels[None], prepare_mask(mask, segmenter.spec)[None, None])
            finite(prototype, found)
            prototypes.append(prototype[0])
            keys.append(compact_keys(found[0]))
        mean: Float = np.stack(prototypes).mean(axis=0, dtype=np.float32)
        return SupportMemory("support", mean, tuple(keys), segmenter.model.id)

    def run(query: Pixels, shots: Shots) -> Pixels:
        pixels, box = prepare_image(query, segmenter.spec)
        logits = segmenter.engine.query(pixels[None], segmenter.stack(encode(shots)))[0]
        finite(logits)
        return label_map(logits, box)

    return run
