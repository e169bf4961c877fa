"""Bodies with photos: multipart forms, and single files."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from ntre_deploy.errors import InputError, did_you_mean
from ntre_deploy.serving.http.answers import MediaTypeError
from ntre_deploy.serving.limits import Limits
from ntre_deploy.serving.supports import Shown, shown_together

# of one request
MOST_PHOTOS = 256
_FIELDS, _FIELD_BYTES = 512, 4096
BYTES, FORM = "application/octet-stream", "multipart/form-data"


@dataclass(frozen=True)
class File:
    """A part with a file: its bytes, and the name that the client gave it, without folders."""

    data: bytes
    name: str


@dataclass
class Form:
    """A body by the names of its parts, each in the order in which it came."""

    files: dict[str, list[File]] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)

    def shots(self, photo: str, mask: str) -> list[tuple[bytes, bytes]]:
        """Pairs of the files of two parts: the n-th photo with the n-th mask.

        Raises:
            InputError: there are not as many of both.
        """
        photos, masks = self.files.get(photo, []), self.files.get(mask, [])
        if len(photos) != len(masks):
            raise InputError(
                f"{len(photos)} parts `{photo}` and {len(masks)} parts `{mask}` were given; each one needs the other."
            )
        return [(one.data, other.data) for one, other in zip(photos, masks, strict=True)]


class _InMemory(MultiPartParser):
    # the limit of the body keeps it small; a temporary file would be written and read again for nothing
    spool_max_size = 1 << 40


def media_type(request: Request) -> str:
    """The type of a body, without its parameters; empty where none is told."""
    return parse_options_header(request.headers.get("content-type", ""))[0].decode("latin-1")


async def read_form(request: Request, limits: Limits, files: Sequence[str], texts: Sequence[str] = ()) -> Form:
    """A multipart body.

    Args:
        files, texts: names of the parts that are known, with files and without.

    Raises:
        MediaTypeError: it is of another type.
        InputError: it is no such body, or has other parts or too many.
    """
    kind = media_type(request)
    if kind != FORM:
        raise MediaTypeError(f"A body of type {FORM} is expected, not {kind or 'one of no type'}.")
    parser = _InMemory(
        request.headers,
        _stream(request),
        max_files=MOST_PHOTOS + 2 * limits.shots,
        max_fields=_FIELDS,
        max_part_size=_FIELD_BYTES,
    )
    try:
        parsed = await parser.parse()
    except (MultiPartException, FormParserError) as error:
        raise InputError(f"The form cannot be read: {getattr(error, 'message', error)}") from error
    return await _sorted(parsed, files, texts)


async def _stream(request: Request) -> AsyncGenerator[bytes, None]:
    async for part in request.stream():
        yield part


async def _sorted(parsed: FormData, files: Sequence[str], texts: Sequence[str]) -> Form:
    form = Form()
    for name, value in parsed.multi_items():
        if isinstance(value, UploadFile) and name in files:
            data = await value.read()
            await value.close()
            plain = (value.filename or "").replace("\\", "/").rpartition("/")[2]
            form.files.setdefault(name, []).append(File(data, plain[:100]))
        elif isinstance(value, str) and name in texts:
            form.texts.setdefault(name, []).append(value)
        elif name in files:
            raise InputError(f"The part `{name}` has to be a file: curl -F {name}=@FILE.")
        else:
            known = [*files, *texts]
            raise InputError(
                f"The part {name[:100]!r} is unknown; there is {', '.join(known)}.{did_you_mean(name[:100], known)}"
            )
    return form


def shown_classes(shots: Sequence[tuple[bytes, bytes]], names: Sequence[str]) -> list[Shown]:
    """Classes of annotated images; those of one name are shots of one class.

    Args:
        names: of each shot, one for all, or none.

    Raises:
        InputError: there are others.
    """
    if not shots:
        if names:
            raise InputError("Names of supports were given, but no supports.")
        return []
    if len(names) not in (0, 1, len(shots)):
        raise InputError(f"{len(shots)} supports and {len(names)} names were given; one name for each is expected.")
    each = list(names) if len(names) == len(shots) else [names[0] if names else "object"] * len(shots)
    if any(not name.strip() or len(name) > 100 or not name.isprintable() for name in each):
        raise InputError("A class needs a name of 1 to 100 characters that can be printed.")
    return shown_together(each, shots)
