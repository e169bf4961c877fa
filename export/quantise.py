"""int8 by post-training quantisation (NNCF) of the ONNX files, and the search that fp8 (`fp8.py`) shares.

One QDQ file is for several engines.  Convolutions are quantised, weights per channel.  Every matrix product stays in
floating point: the similarity product and the BG and DO pooling have no fast int8 kernel (they fell to fp32 and to
reference kernels), and the rest of them are resizes by small constant matrices.  Which groups of convolutions stay too
is found by measurement: `search`.  Activations behind a ReLU are unsigned, with 255 steps, which OpenVINO and ONNX
Runtime read.  TensorRT takes signed ones only, whose 127 steps cost more pixels, so the search leaves more groups in
floating point for it.
"""

import ast
import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from ntre_deploy.data.dataset import Dataset
from ntre_deploy.data.episodes import Episode, EpisodeSet, sample_episodes, usable_classes
from ntre_deploy.errors import GateError, InputError
from ntre_deploy.runtime.engines import Engine
from ntre_deploy.runtime.letterbox import prepare_image, prepare_mask
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.training.metrics import Score

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Inputs = list[dict[str, Float]]

_CALIBRATE, _HELD_OUT = 48, 32
# below this the ranges of the activations are those of a few photos
_LEAST_IMAGES, _LEAST_HELD_OUT = 16, 8
_SEED = 2022
_CONVOLUTION = "Conv"
# they hand on the values of quantised operators
_HANDS_ON = {"Relu", "MaxPool", "AveragePool", "Concat", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Identity"}
_SCOPES = "pkg.torch.onnx.name_scopes"


Contents = dict[str, bytes]
# ONNX file, its calibration inputs, groups that stay as they are -> QDQ file
Quantiser = Callable[[bytes, Inputs, Collection[str]], bytes]
MakeEngine = Callable[[str, bytes, bytes], Engine]


class Cost(NamedTuple):
    """What a quantisation costs on the held-out episodes, against the fp32 graphs on the same engine."""

    agreement: float  # mean share of equal pixels
    miou_drop: float  # may be below zero


# what int8 and fp8 may cost on the held-out episodes
ALLOWED = Cost(agreement=0.985, miou_drop=0.005)


@dataclass(frozen=True)
class CalibrationSet:
    """Episodes whose photos set the ranges, and others, with no image in common, that judge the result."""

    calibrate: EpisodeSet
    held_out: EpisodeSet

    def describe(self) -> dict[str, Any]:
        """What identifies the set, as JSON values."""
        return {"calibrate": self.calibrate.describe(), "held_out": self.held_out.describe()}


def draw_calibration(dataset: Dataset, calibrate: int = _CALIBRATE, held_out: int = _HELD_OUT) -> CalibrationSet:
    """Draw both sets of 1-shot episodes.

    Raises:
        InputError: fewer than two classes, or too few images.
    """
    classes = usable_classes(dataset, dataset.class_names, 1)
    if len(classes) < 2:
        raise InputError(
            f"{dataset.name} has {len(classes)} class{'' if len(classes) == 1 else 'es'} with two images; calibration "
            "needs two classes or more, or int8 fits one object only. Name another dataset with --calibrate-on."
        )
    first = sample_episodes(dataset, classes, 1, calibrate, _SEED)
    used = {image for e in first.episodes for image in (e.query, *e.supports)}
    drawn = sample_episodes(dataset, classes, 1, 8 * held_out, _SEED + 1)
    apart = [e for e in drawn.episodes if used.isdisjoint((e.query, *e.supports))][:held_out]
    if len(used) < _LEAST_IMAGES or len(apart) < _LEAST_HELD_OUT:
        raise InputError(
            f"{dataset.name} is too small for calibration: {len(used)} images to calibrate on and {len(apart)} other "
            f"episodes to judge by, where {_LEAST_IMAGES} and {_LEAST_HELD_OUT} are needed. "
            "Name a larger dataset with --calibrate-on."
        )
    rest = EpisodeSet(drawn.dataset, drawn.split, drawn.fold, drawn.shots, drawn.seed, tuple(apart))
    return CalibrationSet(first, rest)


def unavailable() -> str | None:
    """Why NNCF cannot quantise here, or None."""
    try:
        _nncf()
    except Exception as error:
        return f"nncf does not import ({type(error).__name__}: {error}) (pip install 'ntre_deploy[int8]')"
    return None


def calibration_inputs(dataset: Dataset, episodes: Sequence[Episode], segmenter: Segmenter) -> dict[str, Inputs]:
    """What the two graphs take on those episodes: `support` (image, mask) and `query` (image, supports).

    Shapes are those of `Engine.support` and `Engine.query`, with one image each.

    Args:
        segmenter: on the fp32 graphs.
    """
    inputs: dict[str, Inputs] = {"support": [], "query": []}
    for episode in episodes:
        shots = [(dataset.image(i), dataset.mask(i, episode.class_id)) for i in episode.supports]
        for image, mask in shots:
            pixels, _ = prepare_image(image, segmenter.spec)
            inputs["support"].append({"image": pixels[None], "mask": prepare_mask(mask, segmenter.spec)[None, None]})
        supports = segmenter.stack(segmenter.encode_episode(shots))
        pixels, _ = prepare_image(dataset.image(episode.query), segmenter.spec)
        inputs["query"].append({"image": pixels[None], **supports._asdict()})
    return inputs


def groups(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Names of the convolutions that may be quantised, by the part of the network that they belong to."""
    found: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type == _CONVOLUTION:
            found.setdefault(_group(node), []).append(node.name)
    return found


def _group(node: onnx.NodeProto) -> str:
    scopes = {p.key: p.value for p in node.metadata_props}.get(_SCOPES)
    path = [scope for scope in ast.literal_eval(scopes or "[]") if scope]
    top = path[0] if path else "other"
    if any(".initial" in scope for scope in path):
        return "initial"  # its sign decides the DO mask
    if found := re.match(r"backbone\.\w+(\.\d+)?", top):
        # a stage of a ResNet is one group, a layer of the others too
        return found[0] if "layer" not in top else re.sub(r"(layer\d+).*", r"\1", top)
    for prefix in ("bg_margin", "bg", "head_last", "head", "alpha", "beta"):
        if top.startswith(prefix):
            return {"alpha": "pyramid", "beta": "pyramid"}.get(prefix, prefix)
    return top


def quantise(content: bytes, inputs: Inputs, keep: Collection[str] = (), *, signed: bool = False) -> bytes:
    """An fp32 ONNX file to a QDQ file.

    Args:
        inputs: calibration inputs of this graph.
        keep: groups (see `groups`) that stay in floating point.
        signed: every activation is int8, which TensorRT demands, and none uint8.

    Raises:
        EngineError: NNCF is missing.
    """
    model = onnx.load_model_from_string(content)
    quantisable = {name for group, members in groups(model).items() if group not in keep for name in members}
    if not quantisable:
        return content
    stays = []
    made = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if (
            node.name not in quantisable
            and node.op_type not in _HANDS_ON
            and not _residual(node, made, keep, quantisable)
        ):
            stays.append(node.name)
    nncf = _nncf()
    with _silent():
        quantised = nncf.quantize(
            model,
            nncf.Dataset(inputs),
            # no zero points: as exact here as with them, and kernels run faster without
            preset=nncf.QuantizationPreset.PERFORMANCE,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(inputs),
            fast_bias_correction=True,
            ignored_scope=nncf.IgnoredScope(names=stays),
        )
    _close_concatenations(quantised)
    if signed:
        _sign(quantised)
    result: bytes = quantised.SerializeToString()
    return result


def _residual(
    node: onnx.NodeProto, made: Mapping[str, onnx.NodeProto], keep: Collection[str], quantisable: Collection[str]
) -> bool:
    """Whether a node is the sum of a residual block, which engines fuse into the convolution before it.

    ONNX Runtime has no int8 convolution with an output in floating point: where such a sum is not quantised, the
    convolution before it is not either, and its weights are dequantised in every run.
    """
    if node.op_type != "Add":
        return False
    if _group(node).startswith("backbone"):
        return _group(node) not in keep
    before = [made[name] for name in node.input if name in made]
    behind = [made[relu.input[0]].name for relu in before if relu.op_type == "Relu" and relu.input[0] in made]
    return any(name in quantisable for name in behind)


def _close_concatenations(model: onnx.ModelProto) -> None:
    """Quantise what a concatenation of quantised values gives, without which ONNX Runtime concatenates floats.

    Its scale is the largest of the inputs': where they share one, as NNCF makes it, no value changes.
    """
    graph = model.graph
    made = {name: node for node in graph.node for name in node.output}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type != "Concat" or any(
            name not in made or made[name].op_type != "DequantizeLinear" for name in node.input
        ):
            continue
        pairs = [tuple(made[name].input[1:3]) for name in node.input]
        if len({tensors[zero].data_type for _, zero in pairs}) > 1:
            continue  # signed beside unsigned values have no common type
        scale, zero = max(pairs, key=lambda pair: float(numpy_helper.to_array(tensors[pair[0]]).max()))
        (output,) = node.output
        node.output[0] = f"{output}_float"
        between = f"{output}_quantised"
        names = [scale, zero]
        first = onnx.helper.make_node("QuantizeLinear", [node.output[0], *names], [between], f"Quantize_{output}")
        second = onnx.helper.make_node("DequantizeLinear", [between, *names], [output], f"Dequantize_{output}")
        nodes += [first, second]
    del graph.node[:]
    graph.node.extend(nodes)


def _sign(model: onnx.ModelProto) -> None:
    """Turn uint8 activations into int8 ones of the same range: 0 to 255 steps become 0 to 127.

    NNCF's scheme for CPUs, whose choice of layers fits here, has no signed activations behind a ReLU.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    scales, zeros = set(), set()
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero = node.input[1:3]
            if tensors[zero].data_type == onnx.TensorProto.UINT8:
                scales.add(scale)
                zeros.add(zero)
    for name in scales:
        widened = numpy_helper.to_array(tensors[name]) * np.float32(255 / 127)
        tensors[name].CopyFrom(numpy_helper.from_array(widened, name))
    for name in zeros:
        zero = numpy_helper.to_array(tensors[name])
        if zero.any():
            raise RuntimeError(f"The symmetric scheme gave {name} a zero point of {zero}.")
        tensors[name].CopyFrom(numpy_helper.from_array(zero.astype(np.int8), name))
    for value in model.graph.value_info:  # quantised values are all that a graph has in bytes
        if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8:
            value.type.tensor_type.elem_type = onnx.TensorProto.INT8


class Judge:
    """Runs the held-out episodes and compares with the fp32 graphs on the same engine.

    Args:
        make: (precision, support, query) -> engine.
        fp32: segmenter of the fp32 graphs.
        precision: of what is judged.
    """

    def __init__(
        self, dataset: Dataset, episodes: Sequence[Episode], fp32: Segmenter, make: MakeEngine, precision: str = "int8"
    ) -> None:
        self._dataset, self._episodes, self._fp32, self._make = dataset, episodes, fp32, make
        self._precision = precision
        self._wanted = self._masks(fp32)
        self._miou = self._score(self._wanted).miou

    def __call__(self, contents: Contents) -> Cost:
        """What these files cost.

        Raises:
            EngineError: the engine cannot run them.
        """
        engine = self._make(self._precision, contents["support"], contents["query"])
        masks = self._masks(Segmenter(engine, self._fp32.spec, self._fp32.model))
        equal = [float((a == b).mean()) for a, b in zip(masks, self._wanted, strict=True)]
        return Cost(float(np.mean(equal)), self._miou - self._score(masks).miou)

    def _masks(self, segmenter: Segmenter) -> list[Pixels]:
        masks = []
        for e in self._episodes:
            shots = [(self._dataset.image(i), self._dataset.mask(i, e.class_id)) for i in e.supports]
            masks.append(segmenter.segment(self._dataset.image(e.query), segmenter.encode_episode(shots)))
        return masks

    def _score(self, masks: Sequence[Pixels]) -> Score:
        score = Score()
        for e, mask in zip(self._episodes, masks, strict=True):
            score.add(e.class_id, mask, self._dataset.mask(e.query, e.class_id))
        return score


@dataclass(frozen=True)
class Quantised:
    """The result of `search`.

    Attributes:
        contents: QDQ files; one of which nothing was quantised is as it was.
        cost: of them, on the held-out episodes.
        keep: groups that stay in floating point.
        alone: cost of each group where it alone is quantised; empty where nothing had to stay.
    """

    contents: Contents
    cost: Cost
    keep: tuple[str, ...]
    alone: dict[str, Cost]

    def describe(self) -> dict[str, Any]:
        """JSON values for the manifest."""
        return {
            "cost": self.cost._asdict(),
            "kept_in_floating_point": list(self.keep),
            "cost_of_groups_alone": {group: cost._asdict() for group, cost in self.alone.items()},
        }


def search(
    contents: Contents,
    inputs: Mapping[str, Inputs],
    judge: Callable[[Contents], Cost],
    progress: Callable[[str], None] = lambda step: None,
    allowed: Cost = ALLOWED,
    *,
    quantiser: Quantiser = quantise,
    precision: str = "int8",
) -> Quantised:
    """Quantise as many groups of convolutions as the allowed cost lets.

    Where everything quantised costs too much, each group is quantised alone and judged; then the groups stay in
    floating point one after the other, the one that costs most pixels first, until the rest costs little enough.

    Args:
        contents: ONNX files `support` and `query` that `quantiser` takes; a group of one name is the same part of both.
        inputs: calibration inputs of each, as `calibration_inputs` gives them.
        precision: that `quantiser` makes.

    Raises:
        GateError: nothing is left that could be quantised.
        EngineError: NNCF is missing, or the engine cannot run a graph.
    """
    parts = {role: groups(onnx.load_model_from_string(content)) for role, content in contents.items()}
    names = list(dict.fromkeys(name for found in parts.values() for name in found))

    def attempt(keep: Collection[str]) -> Contents:
        return {role: quantiser(contents[role], inputs[role], keep) for role in contents}

    progress("quantising everything")
    found = attempt(())
    cost = judge(found)
    if _allows(allowed, cost):
        return Quantised(found, cost, (), {})
    alone = {}
    for number, name in enumerate(names, 1):
        progress(f"quantising {name} alone ({number} of {len(names)})")
        found = attempt([other for other in names if other != name])
        # a group may have nothing for the quantiser
        if found != contents:
            alone[name] = judge(found)
    order = sorted(alone, key=lambda name: alone[name].agreement)
    for number in range(1, len(order)):
        keep = tuple(order[:number])
        found = attempt(keep)
        if found["query"] == contents["query"]:
            break
        progress(f"quantising without {', '.join(keep)}")
        cost = judge(found)
        if _allows(allowed, cost):
            return Quantised(found, cost, keep, alone)
    raise GateError(
        f"{precision} costs too much in every group of layers: at best {cost.agreement:.2%} equal pixels "
        f"({allowed.agreement:.1%} demanded) and {cost.miou_drop:.4f} of mIoU ({allowed.miou_drop} allowed). "
        "No bundle was written; take another precision, or calibrate on photos like those to come."
    )


def _allows(allowed: Cost, cost: Cost) -> bool:
    return cost.agreement >= allowed.agreement and cost.miou_drop <= allowed.miou_drop


def build_int8(
    contents: Contents,
    dataset: Dataset,
    fp32: Segmenter,
    make: MakeEngine,
    progress: Callable[[str], None] = lambda step: None,
    *,
    signed: bool = False,
) -> tuple[Contents, dict[str, Any]]:
    """The fp32 files of a bundle to int8 QDQ files, `signed` as in `quantise`, and what the manifest tells of it.

    Raises:
        InputError, GateError, EngineError: as `build_quantised`.
    """
    found, told = build_quantised(contents, dataset, fp32, make, partial(quantise, signed=signed), "int8", progress)
    activations = "int8" if signed else "uint8 where they are not negative"
    return found, {"quantiser": f"nncf {_nncf().__version__}", "activations": activations, **told}


def build_quantised(
    contents: Contents,
    dataset: Dataset,
    fp32: Segmenter,
    make: MakeEngine,
    quantiser: Quantiser,
    precision: str,
    progress: Callable[[str], None] = lambda step: None,
) -> tuple[Contents, dict[str, Any]]:
    """ONNX files to QDQ files as `search` finds them, and what the manifest tells of it.

    Args:
        contents: by role, in the precision that `quantiser` takes.
        fp32: segmenter of the fp32 graphs, with which the result is compared.
        make: as of `Judge`.

    Raises:
        InputError: the calibration set is too small or of one class.
        GateError, EngineError: as `search`.
    """
    drawn = draw_calibration(dataset)
    progress("encoding the calibration photos")
    inputs = calibration_inputs(dataset, drawn.calibrate.episodes, fp32)
    judge = Judge(dataset, drawn.held_out.episodes, fp32, make, precision)
    result = search(contents, inputs, judge, progress, quantiser=quantiser, precision=precision)
    told = {"calibration": drawn.describe(), "judged_on": fp32.engine.name}
    return result.contents, told | result.describe()


def _nncf() -> Any:
    # it would report its use over the network
    os.environ.setdefault("NNCF_CI", "1")
    import nncf

    return nncf


@contextmanager
def _silent() -> Iterator[None]:
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        logger.setLevel(level)
