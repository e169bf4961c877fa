"""Image and mask files in, arrays out; everything hostile stops here.

EXIF orientation is applied: an array always stands as a viewer shows the photo, and masks and results are in that
orientation too.
"""

import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

from ntre_deploy.errors import InputError, NtreWarning, TooLargeError
from ntre_deploy.files import atomic_file
from ntre_deploy.runtime.masks import HALF, chosen, halved, mask_choice

# 100 megapixels: beyond every camera this is made for, and 300 MB as RGB
MAX_PIXELS = 100_000_000

_HEIF_SUFFIXES = (".heic", ".heif", ".hif")
_AVIF_BRANDS = (b"avif", b"avis")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", *_HEIF_SUFFIXES, ".avif")
# Pillow's modes of more than 8 bits
_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_MAX_16 = 65_535
# formats that blur, and by how much the channels of what was grey may differ then
_LOSSY, _NOISE = ("JPEG", "MPO", "WEBP"), 12
_SHOWN = 4
# what holds shapes and no pixels
_ANNOTATIONS = (".json", ".txt", ".xml")
# Pillow's decoders raise all of these on damaged files
_DAMAGE = (OSError, ValueError, SyntaxError, IndexError, TypeError, EOFError)

Pixels = NDArray[np.uint8]


def _open(path: Path, what: str) -> Image.Image:
    if not path.is_file():
        raise InputError(f"{what} {path} does not exist or is not a file.")
    suffix = path.suffix.lower()
    return _opened(path, str(path), what, heif=suffix in _HEIF_SUFFIXES, avif=suffix == ".avif")


def _opened(
    file: Path | io.BytesIO, name: str, what: str, *, heif: bool, avif: bool, most: int = MAX_PIXELS
) -> Image.Image:
    if heif:
        _read_heif(name, what)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file)
    except Image.DecompressionBombError as error:
        raise TooLargeError(f"{what} {name} is too large: {error}; at most {most:,} pixels are read.") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        if avif and not features.check("avif"):
            raise InputError(
                f"{what} {name} needs a Pillow that reads AVIF: pip install 'ntre_deploy[heic]'"
            ) from error
        raise InputError(
            f"{what} {name} is not an image that can be read; PNG, JPEG, WebP, BMP, TIFF, HEIC and AVIF are."
        ) from error
    width, height = image.size
    if width * height > most:
        raise TooLargeError(f"{what} {name} declares {width} x {height} pixels; at most {most:,} are read.")
    if width * height == 0:
        raise InputError(f"{what} {name} has no pixels.")
    return image


def _open_bytes(data: bytes, name: str, what: str, most: int) -> Image.Image:
    # files of HEIF and AVIF begin with a box `ftyp`, which tells their brand
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    heif, avif = bool(brand) and brand not in _AVIF_BRANDS, brand in _AVIF_BRANDS
    return _opened(io.BytesIO(data), name, what, heif=heif, avif=avif, most=most)


def _read_heif(name: str, what: str) -> None:
    """Let Pillow read what iPhones write."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise InputError(f"{what} {name} needs pillow-heif: pip install 'ntre_deploy[heic]'") from error
    register_heif_opener()


def _decode(image: Image.Image, path: str | Path, what: str, mode: str | None) -> Image.Image:
    try:
        image.load()
        # both would copy where nothing is to be changed, which takes longer than reading a JPEG
        turned = image.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
        upright = ImageOps.exif_transpose(image) if turned else image
        return upright if mode in (None, upright.mode) else upright.convert(mode)
    except _DAMAGE as error:
        raise InputError(f"{what} {path} is damaged or cut off: {error}.") from error


def read_image(path: str | Path) -> Pixels:
    """Read a photo as RGB.

    Returns:
        uint8 [H, W, 3], EXIF orientation applied; transparency is dropped, grey is repeated, 16 bits become 8.

    Raises:
        InputError: the file is missing, is no image, is damaged, has floating-point values, or declares more than
            `MAX_PIXELS` pixels.
    """
    return read_reduced(path)[0]


def decode_image(data: bytes, name: str = "of this request", *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """A photo that came as bytes, as `read_image` gives that of a file.

    Args:
        data: content of an image file.
        name: what to call it in messages, behind "Image".
        max_pixels: more are refused, by the header alone; at most `MAX_PIXELS`.

    Returns:
        uint8 RGB [H, W, 3].

    Raises:
        InputError: as `read_image`.
    """
    with _open_bytes(data, name, "Image", min(max_pixels, MAX_PIXELS)) as image:
        return rgb_pixels(image, name)


def read_reduced(path: str | Path, least: int | None = None) -> tuple[Pixels, tuple[int, int]]:
    """As `read_image`, but a JPEG is decoded at a half, a quarter or an eighth where that is enough, which is faster.

    Args:
        least: pixels of the longer side that are enough; None takes all.

    Returns:
        uint8 [h, w, 3], and (H, W) of the photo itself.

    Raises:
        InputError: as `read_image`.
    """
    path = Path(path)
    with _open(path, "Image") as image:
        width, height = image.size
        if least is not None:
            # the longer side decides, so the shorter one is asked for no more than that leaves of it
            shorter = max(1, min(image.size) * least // max(image.size))
            image.draft(None, (least, shorter) if width >= height else (shorter, least))
        pixels = rgb_pixels(image, path)
        # after decoding: a PNG keeps its EXIF data behind the pixels
        return pixels, (width, height) if _sideways(image, path) else (height, width)


def rgb_pixels(image: Image.Image, name: str | Path) -> Pixels:
    """A PIL image as `read_image` gives it: uint8 RGB [H, W, 3], upright.

    Args:
        name: what to call it in messages.

    Raises:
        InputError: it is damaged or closed, or has floating-point values.
    """
    if image.mode in _DEEP:
        grey = np.asarray(_decode(image, name, "Image", None))
        if grey.min() < 0 or grey.max() > _MAX_16:
            raise InputError(f"Image {name} has values outside 16 bits; save it with 8 or 16 bits a channel.")
        # Pillow's own conversion would cut everything above 255
        eight = (grey.astype(np.uint32) * 255 + _MAX_16 // 2) // _MAX_16
        return np.repeat(eight.astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == "F":
        raise InputError(f"Image {name} holds floating-point values, whose range is unknown; save it with 8 bits.")
    return np.asarray(_decode(image, name, "Image", "RGB"), dtype=np.uint8)


def _sideways(image: Image.Image, path: Path) -> bool:
    try:
        return image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    except _DAMAGE as error:
        raise InputError(f"Image {path} is damaged or cut off: {error}.") from error


def image_size(path: str | Path) -> tuple[int, int]:
    """(H, W) that `read_image` will give, from the file's header alone.

    Raises:
        InputError: as `read_image`, but damage behind the header is not seen.
    """
    path = Path(path)
    with _open(path, "Image") as image:
        width, height = image.size
        return (width, height) if _sideways(image, path) else (height, width)


def read_mask(path: str | Path, choose: int | None = None) -> Pixels:
    """Read a one-class mask: uint8 [H, W] with 1 for the target, 0 for the rest and 255 for ignored pixels.

    A file that holds only 0 and 255 is a black-and-white mask, so its 255 is the target; where 1 occurs, 255 is
    "ignore" as in the VOC convention.  Palette images give their indices.  Of other files, what can only mean one thing
    is taken, and said in an `NtreWarning`: a photo that is cut out by transparency; soft edges and the noise of JPEG,
    halved; one value beside 0 (and 255, to be ignored, in a palette image).

    Args:
        path: of the file; `@VALUE` or `@any` behind it is another spelling of `choose`.
        choose: the value that is the target, of class or instance masks; `ANY` takes all but 0 (and 255, to be ignored,
            beside others).

    Raises:
        InputError: not a readable image, colours that are not grey, values that can mean several things, or none of the
            value that was chosen.
    """
    path = Path(path)
    if choose is None and not path.is_file():
        name, _, choice = path.name.rpartition("@")
        if name and (file := path.with_name(name)).is_file():
            choose, path = mask_choice(str(file), choice), file
    if path.suffix.lower() in _ANNOTATIONS and path.is_file():
        raise InputError(f"Mask {path} is an annotation file and no image; `ntre segment --support` reads such files.")
    with _open(path, "Mask") as image:
        return _mask(image, str(path), choose)


def decode_mask(
    data: bytes, name: str = "of this request", choose: int | None = None, *, max_pixels: int = MAX_PIXELS
) -> Pixels:
    """A mask that came as bytes, as `read_mask` gives that of a file.

    Args:
        data: content of an image file.
        name: what to call it in messages, behind "Mask".
        choose: see `read_mask`.
        max_pixels: more are refused, by the header alone; at most `MAX_PIXELS`.

    Returns:
        uint8 [H, W] with 1 for the target, 0 for the rest and 255 for ignored pixels.

    Raises:
        InputError: as `read_mask`.
    """
    with _open_bytes(data, name, "Mask", min(max_pixels, MAX_PIXELS)) as image:
        return _mask(image, name, choose)


def _mask(image: Image.Image, path: str, choose: int | None) -> Pixels:
    if choose is None and (cut := _cut_out(image, path)) is not None:
        return cut
    kind, palette = image.format, image.mode == "P"
    if image.mode == "F":
        raise InputError(f"Mask {path} holds floating-point values; save it with 8 or 16 bits.")
    values = np.asarray(_decode(image, path, "Mask", None if image.mode in ("1", "L", "P", *_DEEP) else "RGB"))
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    if values.ndim == 3:
        if (values != values[..., :1]).any() and not (kind in _LOSSY and np.ptp(values, axis=2).max() <= _NOISE):
            packed = np.unique(values.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32))
            more = ", ..." if packed.size > _SHOWN else ""
            shown = ", ".join(f"#{colour:06x}" for colour in packed[:_SHOWN].tolist())
            raise InputError(
                f"Mask {path} is a colour picture of {packed.size:,} colours ({shown}{more}); a mask is one channel "
                "with 0, 1 and 255, or a photo that is cut out by transparency."
            )
        values = values[..., 0]
    if kind in ("JPEG", "MPO"):
        if choose is not None:
            raise InputError(
                f"Mask {path} is a JPEG, which keeps no values to choose from; save it as PNG, or leave out the choice "
                "behind @ if it is black and white."
            )
        return halved(values, f"Mask {path}")
    return chosen(values, choose, f"Mask {path}", ignores=palette)


def _cut_out(image: Image.Image, path: str) -> Pixels | None:
    """The mask of a photo whose background is transparent; None for other images."""
    if "A" not in image.getbands() and "transparency" not in image.info:
        return None
    alpha = np.asarray(_decode(image, path, "Mask", "RGBA"))[..., 3]
    opaque = alpha >= HALF
    if opaque.all() or not opaque.any():
        return None
    warnings.warn(f"Mask {path}: what is not transparent is the target", NtreWarning, stacklevel=4)
    return opaque.astype(np.uint8)


def write_png(path: str | Path, pixels: Pixels, palette: Pixels | None = None) -> None:
    """Write an image, as `png_bytes` takes it, as a file, whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    with atomic_file(Path(path)) as temporary:
        temporary.write_bytes(png_bytes(pixels, palette))


def png_bytes(pixels: Pixels, palette: Pixels | None = None, level: int = 6) -> bytes:
    """uint8 [H, W] or [H, W, 3] as a PNG file.

    With a `palette` (uint8 [n, 3] RGB), [H, W] is written as indices into it: labels that a person can see too.

    Args:
        level: of zlib, 0 to 9; 1 takes a third of the time of 6.
    """
    picture = Image.fromarray(pixels)
    if palette is not None:
        picture.putpalette(palette.tobytes())
    file = io.BytesIO()
    picture.save(file, format="PNG", compress_level=level)
    return file.getvalue()


def write_jpeg(path: str | Path, pixels: Pixels, quality: int = 90) -> None:
    """Write uint8 RGB [H, W, 3] as JPEG, whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    with atomic_file(Path(path)) as temporary:
        Image.fromarray(pixels).save(temporary, format="JPEG", quality=quality)
