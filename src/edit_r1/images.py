"""The only pixel conversions, and the only place where untrusted image bytes are opened.

Between stages an image is encoded bytes; inside a stage it is RGB, uint8, height x width x 3.
Whatever a file holds (palette, alpha, CMYK, 16 bits, EXIF rotation, several frames) is settled here
once, so that every model and every measure sees the same pixels. Colour profiles are not applied:
pixel values are read as sRGB, which is what the pipelines of transformers and diffusers do too.

Shapes: H height, W width, C = 3 channels in the order red, green, blue; a leading `...` is any batch.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    import torch

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""What is opened; every other decoder of Pillow stays shut to untrusted bytes."""

MAX_JUDGED_PIXELS = 1_048_576
"""Most pixels of a picture that a judge is shown (1024 x 1024), unless its caller says otherwise."""

_SAME_ASPECT = 0.02
"""Aspects this near count as equal: editors round sizes to multiples of their patch."""

_SHOWN_AS_THEY_ARE = ("PNG", "JPEG", "WEBP")
"""What every server reads."""
_HARMLESS = {
    "jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi", "progressive", "progression", "gamma", "srgb",
    "loop", "background", "timestamp", "duration",
}  # fmt: skip
"""Metadata that says nothing about the picture's owner and turns or colours no pixel."""

_WARNINGS_LOCK = threading.Lock()


Picture = bytes | Image.Image
"""An image as callers may give it: an encoded file's content, or Pillow's."""


class ImageError(ValueError):
    """Bytes that are not an image we read, with what is wrong and what to do."""


@dataclass(frozen=True)
class Limits:
    """Bounds checked before any pixel is decoded."""

    max_bytes: int = 64 * 2**20
    """Largest file, in bytes."""
    max_pixels: int = 50_000_000
    """Largest width x height, in pixels: at most 200 MB once decoded with alpha."""
    min_side: int = 8
    """Smallest width and height, in pixels: below it nothing can be judged."""


DEFAULT_LIMITS = Limits()


def read_image_file(path: str | Path, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """The bytes of an image file, after they proved to decode.

    Raises:
        ImageError: naming the path, when it cannot be read, is no image, or is outside the limits.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if path.is_file() and size > limits.max_bytes:
            raise ImageError(f"{path}: {_too_many_bytes(size, limits)}")
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror or error}): check the path") from error
    try:
        decode_pil(data, limits)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    return data


def decode_pil(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Image.Image:
    """The image as Pillow RGB: first frame, upright by its EXIF orientation, alpha laid over white.

    Raises:
        ImageError: for bytes that are empty, no image, of an unread format, damaged or outside the limits.
    """
    with _image_errors(data, limits):
        image = _open_header(data)
        _check_size(image.width, image.height, limits)
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))


def image_size(data: bytes, limits: Limits = DEFAULT_LIMITS) -> tuple[int, int]:
    """(width, height) as the header says, before any EXIF rotation; no pixel is decoded.

    Raises:
        ImageError: for what `decode_pil` refuses by the header alone; pixels may still prove damaged.
    """
    with _image_errors(data, limits):
        image = _open_header(data)
        _check_size(image.width, image.height, limits)
        return image.width, image.height


def decode_rgb(data: bytes, limits: Limits = DEFAULT_LIMITS) -> np.ndarray:
    """Pixels of `decode_pil` as uint8 (H, W, 3), a writable copy.

    Raises:
        ImageError: as `decode_pil`.
    """
    return np.array(decode_pil(data, limits), dtype=np.uint8)


def encode_png(pixels: np.ndarray | Image.Image, compress_level: int = 6) -> bytes:
    """PNG of uint8 (H, W, 3) pixels, or of an RGB Pillow image: the same pixels give the same bytes.

    compress_level: 1 (about four times as fast, a tenth larger) to 9.

    Raises:
        ValueError: for another shape or dtype (convert floats by `from_tensor_CHW` first).
    """
    if isinstance(pixels, Image.Image):
        pixels = np.asarray(pixels.convert("RGB"))
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"pixels of {pixels.dtype} {pixels.shape}: a PNG is made of uint8 (height, width, 3)")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", compress_level=compress_level)
    return buffer.getvalue()


def encoded(picture: Picture) -> bytes:
    """Bytes as they are; a Pillow image as PNG, upright, 8-bit RGB, transparency laid over white.

    Raises:
        ImageError: for anything else.
    """
    if isinstance(picture, bytes):
        return picture
    if not isinstance(picture, Image.Image):
        raise ImageError(
            f"a picture is {type(picture).__name__}: give an image file's bytes, such as Path(name).read_bytes(), or a "
            "Pillow image"
        )
    try:
        return encode_png(_to_rgb(ImageOps.exif_transpose(picture)), compress_level=1)
    except OSError as error:  # of a file that Pillow reads only now
        raise ImageError(f"this Pillow image cannot be read ({error}): save the picture anew") from error


def from_tensor_CHW(tensor_CHW: torch.Tensor) -> np.ndarray:
    """Floats in [0, 1], (..., 3, H, W), of any dtype on any device, to uint8 (..., H, W, 3): clipped and rounded.

    Raises:
        ValueError: for another shape, or for values that are not finite (a diverged model).
    """
    if tensor_CHW.ndim < 3 or tensor_CHW.shape[-3] != 3:
        raise ValueError(f"floats of shape {tuple(tensor_CHW.shape)}: expected (..., 3, height, width)")
    floats_CHW = tensor_CHW.detach().float().cpu().numpy()
    if not np.isfinite(floats_CHW).all():
        raise ValueError("the image holds NaN or infinity: the model that made it has diverged")
    pixels_CHW = np.clip(np.rint(floats_CHW * 255), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(pixels_CHW, -3, -1))


def bounded_size(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """(width, height) scaled down to at most max_pixels with the aspect kept; unchanged when it fits.

    Raises:
        ValueError: when max_pixels is smaller than 1.
    """
    if max_pixels < 1:
        raise ValueError(f"max_pixels={max_pixels}: at least 1 is needed")
    scale = min(1.0, (max_pixels / (width * height)) ** 0.5)
    small_width = max(1, int(width * scale))
    # A very flat image cannot shrink below one pixel of height, so its length gives way instead.
    small_height = max(1, min(int(height * scale), max_pixels // small_width))
    return min(small_width, max_pixels), small_height


def thumbnail(data: bytes, max_pixels: int) -> bytes:
    """A PNG of at most so many pixels; smaller pictures keep their size. Raises ImageError for one that is none."""
    picture = decode_pil(data)
    size = bounded_size(*picture.size, max_pixels)
    return encode_png(picture.resize(size, Image.Resampling.LANCZOS) if size != picture.size else picture)


def to_same_size(a_HWC: np.ndarray, b_HWC: np.ndarray, max_pixels: int = 1_048_576) -> tuple[np.ndarray, np.ndarray]:
    """Both images at one size, to be compared pixel by pixel or shown side by side.

    The size is that of `a`, scaled down to max_pixels with its aspect kept. `b` keeps its own aspect
    too: it is scaled to fit and centred on mid grey, which no editor paints as a border by itself
    (white would read as the white-border defect). Aspects within 2 % count as equal and are stretched,
    because editors round sizes to multiples of their patch.

    Raises:
        ValueError: for arrays that are not uint8 (H, W, 3).
    """
    for pixels in (a_HWC, b_HWC):
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(f"pixels of {pixels.dtype} {pixels.shape}: expected uint8 (height, width, 3)")
    height, width = a_HWC.shape[:2]
    size = bounded_size(width, height, max_pixels)
    b_height, b_width = b_HWC.shape[:2]
    stretch = (b_width / b_height) / (size[0] / size[1])
    if abs(stretch - 1) <= _SAME_ASPECT:
        return _resize(a_HWC, size), _resize(b_HWC, size)
    scale = min(size[0] / b_width, size[1] / b_height)
    inner = (max(1, min(size[0], round(b_width * scale))), max(1, min(size[1], round(b_height * scale))))
    canvas = np.full((size[1], size[0], 3), 127, np.uint8)
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    canvas[top : top + inner[1], left : left + inner[0]] = _resize(b_HWC, inner)
    return _resize(a_HWC, size), canvas


def picture_mime(data: bytes) -> str:
    """The mime type of an encoded picture, from its content. Raises ImageError for bytes that are no image we read."""
    try:
        found = str(_open_header(data).format)
        # What phones write with a depth or brightness map behind the picture is JPEG to everybody but Pillow.
        return Image.MIME["JPEG" if found == "MPO" else found]
    except Exception as error:  # as in decode_pil: damaged headers raise nearly every type
        raise ImageError(f"not an image that can be read: {_guess(data)}; save it as PNG, JPEG or WebP") from error


def judged_sources(sources: Sequence[bytes], max_pixels: int = MAX_JUDGED_PIXELS) -> tuple[bytes, ...]:
    """The source pictures as every model is shown them: see `judged_pictures`. Raises ImageError as `decode_pil`."""
    return tuple(_judged_source(source, max_pixels)[0] for source in sources)


def judged_pictures(
    sources: Sequence[bytes], edited: bytes, max_pixels: int = MAX_JUDGED_PIXELS
) -> tuple[tuple[bytes, ...], bytes]:
    """Source pictures and edited picture as every model is shown them, whatever the backend.

    - Each is scaled down, aspect kept, to at most max_pixels; nothing is scaled up for its own sake.
    - An edited picture with the aspect of the (first) source, within 2 %, takes that source's size, up or down:
      so a pair differs by the edit alone, and the sources are the same for every candidate, which a server that
      caches prompts needs. One with another aspect is never distorted or padded: it keeps its own shape.
    - Bytes that need no change are passed on as they are. What is scaled, turned by its EXIF orientation, not
      plain 8-bit RGB or grey in PNG, JPEG or WebP, or carries metadata (a place, a profile, a comment) is written
      anew as PNG, which loses no pixel and holds no metadata.

    Raises:
        ImageError: as `decode_pil`.
        ValueError: for no source, or max_pixels smaller than 1.
    """
    if not sources:
        raise ValueError("no source picture: give at least one")
    shown = [_judged_source(source, max_pixels) for source in sources]
    image = decode_pil(edited)
    size = bounded_size(image.width, image.height, max_pixels)
    width, height = shown[0][1]
    if abs(image.width * height / (image.height * width) - 1) <= _SAME_ASPECT:
        size = (width, height)
    return tuple(data for data, _ in shown), _judged(edited, image, size)


def plain_picture(data: bytes) -> bytes:
    """The picture as every program shows it alike: upright, 8 bits, without metadata, at its own size.

    Bytes that are so already come back unchanged; others are written anew as PNG (see `judged_pictures`).
    Raises ImageError as `decode_pil`.
    """
    image = decode_pil(data)
    return _judged(data, image, image.size)


@lru_cache(maxsize=8)  # candidates of one context follow each other and share their sources
def _judged_source(data: bytes, max_pixels: int) -> tuple[bytes, tuple[int, int]]:
    image = decode_pil(data)
    size = bounded_size(image.width, image.height, max_pixels)
    return _judged(data, image, size), size


def _judged(data: bytes, image: Image.Image, size: tuple[int, int]) -> bytes:
    """`data`, which was decoded to `image`, at `size`: unchanged where possible, else as PNG."""
    if image.size != size:
        return encode_png(image.resize(size, Image.Resampling.BICUBIC), compress_level=1)
    header = _open_header(data)
    if header.format == "PNG":
        header.load()  # some of its metadata may stand behind the pixels
    plain = header.format in _SHOWN_AS_THEY_ARE and header.mode in ("RGB", "L") and header.info.keys() <= _HARMLESS
    return data if plain and getattr(header, "n_frames", 1) == 1 else encode_png(image, compress_level=1)


def _resize(pixels_HWC: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if (pixels_HWC.shape[1], pixels_HWC.shape[0]) == size:
        return pixels_HWC
    return np.array(Image.fromarray(pixels_HWC).resize(size, Image.Resampling.BICUBIC), dtype=np.uint8)


@contextmanager
def _image_errors(data: bytes, limits: Limits) -> Iterator[None]:
    """Checks the number of bytes, and turns whatever opening and decoding raise into `ImageError`."""
    if not data:
        raise ImageError("empty (0 bytes): the file was not written completely; save it again")
    if len(data) > limits.max_bytes:
        raise ImageError(_too_many_bytes(len(data), limits))
    try:
        yield
    except ImageError:
        raise
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"not an image that can be read: {_guess(data)}; save it as PNG, JPEG or WebP") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"more than {limits.max_pixels} pixels: resize the image first") from error
    except Exception as error:  # decoders raise nearly every type on damaged bytes
        raise ImageError(f"damaged image ({error}): save or download it again") from error


def _open_header(data: bytes) -> Image.Image:
    """Reads the header only. Pillow's own warning about large images is replaced by our limit."""
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(io.BytesIO(data), formats=FORMATS)


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        raise ImageError(f"{width} x {height} is more than {limits.max_pixels} pixels: resize the image first")
    if min(width, height) < limits.min_side:
        raise ImageError(
            f"{width} x {height} pixels: both sides must be at least {limits.min_side}; use a larger image"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of any mode that the opened formats can give."""
    if image.mode == "F" or image.mode == "I":
        values = np.asarray(image)
        # 32-bit and float files carry no agreed white; Pillow also uses mode I for 16-bit greys.
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ImageError(f"pixel format {image.mode} (32 bits a channel): save it as 8-bit PNG or JPEG")
        return _grey_16_bit(values)
    if image.mode.startswith("I;16"):
        return _grey_16_bit(np.asarray(image))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _grey_16_bit(values_HW: np.ndarray) -> Image.Image:
    """Scales 0..65535 to 0..255; Pillow's own conversion clips at 255 and gives white."""
    levels_HW = np.rint(values_HW.astype(np.float64) / 257).astype(np.uint8)
    return Image.fromarray(levels_HW).convert("RGB")


def _too_many_bytes(size: int, limits: Limits) -> str:
    return f"{size} bytes, more than the {limits.max_bytes} allowed: save it smaller or as JPEG"


def _guess(data: bytes) -> str:
    """What bytes that no decoder took seem to be, in words."""
    start = data[:512].lstrip()
    if start[:1] == b"<":
        return "it holds text such as SVG or HTML"
    if data[4:8] == b"ftyp":
        return "it looks like HEIC, AVIF or a video"
    if start.startswith(b"%PDF"):
        return "it is a PDF"
    if start[:1] in (b"{", b"["):
        return "it holds JSON"
    return f"it begins with {data[:8]!r}"
