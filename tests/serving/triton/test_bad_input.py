"""Whatever a request holds, it gets one clear line, and the server goes on."""

import http.client
import io
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.support import SupportMemory

InferenceServerException = pytest.importorskip("tritonclient.utils").InferenceServerException

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def server(start: Callable[..., Any], write: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("repository")
    write(folder, max_batch=4, server="", warmup=False)
    return start(folder, "--model-control-mode=explicit", "--load-model=*")


@pytest.fixture(scope="module")
def foreign(segmenter: Segmenter, shots: Any, server: Any) -> bytes:
    """A memory of another model; it lies in the server's folder too, as `foreign`."""
    memory = segmenter.encode_support(shots[:1], "foreign")
    memory = replace(memory, model="0123456789abcdef")
    memory.save(server.repository / "tiny" / "1" / "memories" / "foreign.safetensors")
    return memory.to_bytes()


def _bomb() -> bytes:
    """A PNG of a few bytes whose header declares 2.5 billion pixels."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "PNG")
    content = bytearray(file.getvalue())
    content[16:24] = struct.pack(">II", 50_000, 50_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def _saved(pixels: np.ndarray, form: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def _strings(*values: bytes | str) -> np.ndarray:
    return np.array([[v.encode() if isinstance(v, str) else v for v in values]], np.object_)


class Given:
    """What bad requests are made of."""

    def __init__(self, shots: Any, files: list[SimpleNamespace], known: SupportMemory, foreign: bytes) -> None:
        self.image: Arrays = {"image": shots[0][0][None]}
        self.memory: Arrays = {"memories": _strings("disc")}
        self.pixels, self.photo, self.mask, self.other_mask = shots[0][0], files[0].photo, files[0].mask, files[1].mask
        self.known, self.foreign = known, foreign

    def shown(self, **changed: np.ndarray) -> Arrays:
        shown = {"support_images": _strings(self.photo), "support_masks": _strings(self.mask)}
        return self.image | shown | changed

    def stored(self, memory: bytes) -> Arrays:
        return self.image | {"support_memories": _strings(memory)}

    def named(self, *names: bytes | str) -> Arrays:
        return self.image | {"memories": _strings(*names)}

    def file(self, *content: bytes) -> Arrays:
        return {"image_bytes": _strings(*content)} | self.memory

    def array(self, *shape: int, kind: type = np.uint8) -> Arrays:
        return {"image": np.zeros(shape, kind)} | self.memory

    @property
    def not_a_number(self) -> bytes:
        prototype = self.known.prototype.copy()
        prototype[0] = np.nan
        return replace(self.known, prototype=prototype).to_bytes()


# what is sent, and what the error has to say
CASES: dict[str, tuple[Callable[[Given], Arrays], str]] = {
    "no image": (lambda g: g.memory, "Either 'image'"),
    "two images": (lambda g: g.image | g.file(g.photo), "Either 'image'"),
    "no support": (lambda g: g.image, "No support was given"),
    "no class": (lambda g: g.image | {"memories": np.empty((1, 0), np.object_)}, "No support was given"),
    "two kinds of support": (lambda g: g.memory | g.shown(), "Both 'memories' and 'support_images'"),
    "an unknown memory": (lambda g: g.named("dics"), "Did you mean 'disc'?"),
    "a name that leaves the folder": (lambda g: g.named("../../model"), "There is no memory '../../model'"),
    "a name of two lines": (lambda g: g.named("a\nb"), "There is no memory"),
    "a name that is no text": (lambda g: g.named(b"\xff\xfe"), "no UTF-8"),
    "a memory of another model, by name": (lambda g: g.named("foreign"), "was made by another model"),
    "a memory of another model": (lambda g: g.stored(g.foreign), "was made by another model"),
    "a memory that is none": (lambda g: g.stored(b"\x00" * 100), "not a readable support memory"),
    "a memory without its end": (lambda g: g.stored(g.known.to_bytes()[:-4]), "not a readable support memory"),
    "a memory that was changed": (lambda g: g.stored(g.known.to_bytes()[:-1] + b"\x01"), "has been changed"),
    "a memory with NaN": (lambda g: g.stored(g.not_a_number), "does not hold the arrays of a support memory"),
    "an empty file": (lambda g: g.file(b""), "not an image that can be read"),
    "bytes of no image": (lambda g: g.file(b"GIF is not here"), "not an image that can be read"),
    "a damaged JPEG": (lambda g: g.file(_saved(g.pixels, "JPEG")[:-2000]), "damaged or cut off"),
    "a bomb": (lambda g: g.file(_bomb()), "at most 50,000,000 pixels are read"),
    "two files of one image": (lambda g: g.file(g.photo, g.photo), "unexpected shape for input 'image_bytes'"),
    "an empty image": (lambda g: g.array(1, 0, 0, 3), "image"),
    "an image of one channel": (lambda g: g.array(1, 9, 9, 1), "unexpected shape for input 'image'"),
    "an image of two axes": (lambda g: g.array(1, 9), "unexpected shape for input 'image'"),
    "an image of floats": (lambda g: g.array(1, 9, 9, 3, kind=np.float32), "data-type"),
    "an image as bytes": (lambda g: {"image": _strings(g.photo)} | g.memory, "image"),
    "too many images": (lambda g: g.array(5, 9, 9, 3) | {"memories": _strings("disc").repeat(5, 0)}, "<= 4"),
    "rows that do not pair": (lambda g: g.array(2, 9, 9, 3), "batch"),
    "an input that is none": (lambda g: g.named("disc") | {"imgae": np.zeros((1, 1), np.uint8)}, "imgae"),
    "too many classes": (lambda g: g.named(*["disc"] * 40), "40 classes were given; this server takes up to 32"),
    "too many shots": (
        lambda g: g.shown(support_images=_strings(*[g.photo] * 70), support_masks=_strings(*[g.mask] * 70)),
        "70 annotated images were given",
    ),
    "a mask without its image": (lambda g: g.named("disc") | {"support_masks": _strings(g.mask)}, "without 'support_i"),
    "an image without its mask": (lambda g: g.image | {"support_images": _strings(g.photo)}, "0 'support_masks'"),
    "a name too many": (lambda g: g.shown(support_names=_strings("a", "b")), "2 'support_names'"),
    "a mask of another size": (lambda g: g.shown(support_masks=_strings(g.other_mask)), "mask"),
    "an empty mask": (lambda g: g.shown(support_masks=_strings(_saved(np.zeros((90, 120), np.uint8), "PNG"))), "mask"),
    "a damaged mask": (lambda g: g.shown(support_masks=_strings(g.mask[:60])), "Mask 1 of 'support' is damaged"),
}


@pytest.fixture(scope="module")
def given(shots: Any, files: list[SimpleNamespace], memories: Path, foreign: bytes) -> Given:
    return Given(shots, files, SupportMemory.load(memories / "disc.safetensors"), foreign)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_clear_line(
    case: str, protocol: str, server: Any, client: Callable[..., Any], given: Given
) -> None:
    make, words = CASES[case]
    triton = client(protocol, server)
    before = server.backends()
    with pytest.raises(InferenceServerException) as caught:
        triton.infer(**make(given))
    message = caught.value.message()
    assert words in message
    assert "\n" not in message.strip()
    assert "Traceback" not in message
    assert "internal error" not in message
    wanted = ("404", "NOT_FOUND") if "There is no memory" in message else ("400", "INVALID_ARGUMENT")
    assert str(caught.value.status()).removeprefix("StatusCode.") in wanted
    goes_on(server, triton, given, before)


def goes_on(server: Any, triton: Any, given: Given, before: list[int]) -> None:
    """The processes are the same, and answer."""
    assert server.backends() == before
    assert triton.infer(**given.image, **given.memory)["labels"].shape == (1, 90, 120)


def _binary(content: bytes, size: int | None = None, shape: tuple[int, ...] = (1, 1)) -> tuple[bytes, int]:
    """A request of HTTP's binary extension with `image_bytes` as they are, and the length of its JSON."""
    told = {
        "inputs": [
            {"name": "memories", "datatype": "BYTES", "shape": [1, 1], "data": [["disc"]]},
            {
                "name": "image_bytes",
                "datatype": "BYTES",
                "shape": shape,
                "parameters": {"binary_data_size": len(content) if size is None else size},
            },
        ]
    }
    head = json.dumps(told).encode()
    return head + content, len(head)


@pytest.mark.parametrize(
    ("body", "length"),
    [
        # lengths of strings that are not those of what follows: nothing may read past it
        _binary(struct.pack("<I", 1 << 30) + b"photo"),
        _binary(struct.pack("<I", 2) + b"photo"),
        _binary(b"\x01\x00"),
        _binary(b""),
        _binary(struct.pack("<I", 5) + b"photo", size=1 << 20),
        _binary(struct.pack("<I", 5) + b"photo", shape=(1, -1)),
        _binary(struct.pack("<I", 5) + b"photo", shape=(1 << 31, 1 << 31)),
        (b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [NaN]}]}', None),
        (b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [-1, 256]}]}', None),
        (b'{"inputs": [{"name": "image", "datatype": "UINT9", "shape": [1, 2, 2, 3], "data": []}]}', None),
        (b'{"inputs": {}}', None),
        (b"{" * 5000, None),
        (b"\x00\xff", None),
        (b"", None),
    ],
)
def test_bytes_that_are_no_request(
    body: bytes, length: int | None, server: Any, client: Callable[..., Any], given: Given
) -> None:
    before = server.backends()
    connection = http.client.HTTPConnection(server.http, timeout=60)
    headers = {} if length is None else {"Inference-Header-Content-Length": str(length)}
    connection.request("POST", "/v2/models/tiny/infer", body, headers)
    response = connection.getresponse()
    # Triton's own parser calls some of them an error inside
    assert response.status in (400, 500)
    assert list(json.loads(response.read())) == ["error"]
    goes_on(server, client("http", server), given, before)
