"""In which precision the layers of a finished engine run, read from what TensorRT tells of them.

A GPU is needed to deserialise an engine and ask its inspector, which answers in JSON.  TensorRT for RTX also builds
without one; then the builder's own list of the layers of the engine that it has just finished is read, as text.
"""

import json
import re
from collections import Counter
from typing import Any, NamedTuple

# how versions spell a type, in `Datatype` and inside the older descriptions of a format
_TYPES = {
    "half": "fp16",
    "fp16": "fp16",
    "float": "fp32",
    "fp32": "fp32",
    "bfloat16": "bf16",
    "bf16": "bf16",
    "int8": "int8",
    "fp8": "fp8",
}
# what a quantised file has where nothing is quantised
UNQUANTISED = {"int8": "fp32", "fp8": "fp16"}
_CONVOLUTION = re.compile(r"conv|correlation", re.IGNORECASE)
_PRODUCT = re.compile(r"gemm|matmul|matrix", re.IGNORECASE)
_LINE = re.compile(r"Name: .*?, LayerType: (?P<kind>\w*), Inputs: \[(?P<inputs>.*?)\], Constants: \[")
_DATATYPE = re.compile(r"Data[Tt]ype: (\w+)")

Kernels = dict[str, dict[str, int]]


class _Layer(NamedTuple):
    kind: str
    type: str


def kernels(told: str) -> Kernels:
    """Kind of layer -> precision of its first input -> number of layers.

    Args:
        told: JSON of the engine inspector, or the builder's list.
    """
    counts: dict[str, Counter[str]] = {}
    for layer in _from_json(told) if told.lstrip().startswith(("{", "[")) else _from_text(told):
        counts.setdefault(layer.kind, Counter())[layer.type] += 1
    return {kind: dict(found) for kind, found in sorted(counts.items())}


def found_precision(counts: Kernels) -> str:
    """Precision of most convolutions (of most matrix products where there are none), or `unknown`.

    Some convolutions of an fp16 graph are meant to stay in fp32, so most decide; the counts tell the rest.  Any int8
    or fp8 convolution makes it so: what is not quantised is left so on purpose.
    """
    for pattern in (_CONVOLUTION, _PRODUCT):
        votes: Counter[str] = Counter()
        for kind, found in counts.items():
            if pattern.search(kind):
                votes.update(found)
        votes.pop("unknown", None)
        if votes:
            return next((kind for kind in UNQUANTISED if votes[kind]), votes.most_common(1)[0][0])
    return "unknown"


def _from_text(told: str) -> list[_Layer]:
    layers = []
    for line in told.splitlines():
        if match := _LINE.match(line):
            found = _DATATYPE.search(match["inputs"])
            layers.append(_Layer(match["kind"] or "unknown", _type(found[1] if found else "")))
    return layers


def _from_json(told: str) -> list[_Layer]:
    content: Any = json.loads(told)
    entries = content.get("Layers", []) if isinstance(content, dict) else content
    layers = []
    for entry in entries:
        # with less than every detail, a layer is its name alone
        if not isinstance(entry, dict):
            continue
        inputs = entry.get("Inputs") or [{}]
        first = inputs[0] if isinstance(inputs[0], dict) else {}
        text = str(first.get("Datatype") or first.get("Format/Datatype") or first.get("Format") or "")
        layers.append(_Layer(str(entry.get("LayerType") or "unknown"), _type(text)))
    return layers


def _type(text: str) -> str:
    for word in re.findall(r"[A-Za-z]+\d*", text):
        if found := _TYPES.get(word.lower()):
            return found
    return "unknown"
