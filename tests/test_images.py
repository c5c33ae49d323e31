from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edit_r1.images import (
    ImageError,
    Limits,
    bounded_size,
    decode_pil,
    decode_rgb,
    encode_png,
    encoded,
    from_tensor_CHW,
    judged_pictures,
    judged_sources,
    picture_mime,
    read_image_file,
    to_same_size,
)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def pattern(height: int = 12, width: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def test_png_round_trip_is_exact_and_deterministic() -> None:
    pixels = pattern()
    assert np.array_equal(decode_rgb(encode_png(pixels)), pixels)
    assert encode_png(pixels) == encode_png(np.asfortranarray(pixels)) == encode_png(Image.fromarray(pixels))
    assert decode_rgb(encode_png(pixels)).flags.writeable


@pytest.mark.parametrize("pixels", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3))])
def test_encode_png_refuses_other_arrays(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a PNG is made of uint8"):
        encode_png(pixels)


def test_empty_truncated_and_foreign_bytes_say_what_is_wrong() -> None:
    whole = encode_png(pattern(64, 64))
    with pytest.raises(ImageError, match="empty"):
        decode_rgb(b"")
    with pytest.raises(ImageError, match="damaged"):
        decode_rgb(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match="SVG or HTML"):
        decode_rgb(b"<svg xmlns='http://www.w3.org/2000/svg'></svg>")
    with pytest.raises(ImageError, match="SVG or HTML"):
        decode_rgb(b"\n <!DOCTYPE html><html></html>")
    with pytest.raises(ImageError, match="HEIC"):
        decode_rgb(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(ImageError, match="PDF"):
        decode_rgb(b"%PDF-1.7\n")
    with pytest.raises(ImageError, match="PNG, JPEG or WebP"):
        decode_rgb(b"\x00\x01\x02\x03 neither this nor that")


def test_every_truncation_of_a_jpeg_is_an_image_error() -> None:
    whole = saved(Image.fromarray(pattern(24, 24)), "JPEG")
    for length in range(0, len(whole) - 2, 7):
        with pytest.raises(ImageError):
            decode_rgb(whole[:length])


@given(
    st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0"])
)
def test_arbitrary_bytes_decode_or_raise_image_error(tail: bytes, head: bytes) -> None:
    try:
        assert decode_pil(head + tail).mode == "RGB"
    except ImageError as error:
        assert "\n" not in str(error)


def test_bomb_is_refused_from_its_header() -> None:
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"\0" * 100))
    with pytest.raises(ImageError, match=r"more than \d+ pixels"):
        decode_rgb(bomb)
    smaller = struct.pack(">IIBBBBB", 9500, 9500, 8, 2, 0, 0, 0)  # where Pillow itself would only warn
    with pytest.raises(ImageError, match="9500 x 9500"):
        decode_rgb(b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", smaller) + png_chunk(b"IDAT", b""))


def test_limits_are_the_callers() -> None:
    data = encode_png(pattern(20, 20))
    with pytest.raises(ImageError, match="20 x 20 is more than 100 pixels"):
        decode_rgb(data, Limits(max_pixels=100))
    with pytest.raises(ImageError, match="more than the 10 allowed"):
        decode_rgb(data, Limits(max_bytes=10))
    with pytest.raises(ImageError, match="at least 8"):
        decode_rgb(encode_png(pattern(7, 20)))


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode_rgb(data) == [255, 0, 0]).all()


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    levels = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    pixels = decode_rgb(saved(Image.fromarray(levels), "PNG"))
    assert np.array_equal(pixels[..., 0].ravel(), np.arange(256))
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


def test_32_bit_float_is_refused() -> None:
    with pytest.raises(ImageError, match="32 bits"):
        decode_rgb(saved(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"))


def test_cmyk_jpeg_becomes_rgb() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    pixels = decode_rgb(saved(red, "JPEG", quality=95)).astype(int)
    assert np.abs(pixels - [255, 0, 0]).max() < 12


def test_alpha_is_laid_over_white() -> None:
    half = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    half.paste((0, 0, 255, 255), (0, 0, 8, 16))
    pixels = decode_rgb(saved(half, "PNG"))
    assert (pixels[:, :8] == [0, 0, 255]).all()
    assert (pixels[:, 8:] == 255).all()
    grey = decode_rgb(saved(Image.new("LA", (16, 16), (0, 128)), "PNG"))
    assert np.abs(grey.astype(int) - 127).max() <= 1


def test_palette_with_transparency() -> None:
    image = Image.new("P", (16, 16), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(1, (0, 0, 8, 16))
    pixels = decode_rgb(saved(image, "PNG", transparency=0))
    assert (pixels[:, :8] == [200, 100, 50]).all()
    assert (pixels[:, 8:] == 255).all()


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (24, 16), "white")
    image.paste((255, 0, 0), (0, 0, 8, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    pixels = decode_rgb(saved(image, "JPEG", exif=exif.tobytes(), quality=95))
    assert pixels.shape == (24, 16, 3)
    assert pixels[2, 8, 1] < 60
    assert pixels[20, 8, 1] > 200


def test_pillow_images_are_encoded_as_files_are_decoded(tmp_path: Path) -> None:
    pixels = pattern(12, 20)
    assert encoded(b"bytes, whatever they are") == b"bytes, whatever they are"
    assert (decode_rgb(encoded(Image.fromarray(pixels))) == pixels).all()
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, clear = tmp_path / "turned.png", tmp_path / "clear.png"
    Image.fromarray(pixels).save(turned, exif=exif)
    Image.fromarray(np.dstack([pixels, pixels[..., :1]])).save(clear)
    for path in (turned, clear):
        with Image.open(path) as opened:
            assert (decode_rgb(encoded(opened)) == decode_rgb(path.read_bytes())).all()
    turned.write_bytes(turned.read_bytes()[:-40])
    with Image.open(turned) as torn, pytest.raises(ImageError, match="cannot be read"):
        encoded(torn)
    for other in (pixels, str(clear), None):
        with pytest.raises(ImageError, match=f"a picture is {type(other).__name__}: give an image file's bytes"):
            encoded(other)


def test_read_image_file_names_the_path(tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    good.write_bytes(encode_png(pattern()))
    assert read_image_file(good) == good.read_bytes()
    page = tmp_path / "page.png"
    page.write_text("<html>404</html>")
    with pytest.raises(ImageError, match=r"page\.png: .*HTML"):
        read_image_file(str(page))
    for bad in (tmp_path / "missing.png", tmp_path):
        with pytest.raises(ImageError, match="cannot be read"):
            read_image_file(bad)
    with pytest.raises(ImageError, match=r"good\.png: .* allowed"):
        read_image_file(good, Limits(max_bytes=3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_level_comes_back_from_a_tensor(dtype: torch.dtype) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    assert np.array_equal(from_tensor_CHW(torch.from_numpy(pixels).movedim(-1, -3).to(dtype) / 255), pixels)


def test_a_tensor_is_clipped_and_rounded_and_nan_is_refused() -> None:
    floats = torch.full((3, 8, 8), 1.5, requires_grad=True).clone()
    floats[1] = -0.5
    floats[2] = 100.4 / 255
    assert from_tensor_CHW(floats)[0, 0].tolist() == [255, 0, 100]
    floats[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="diverged"):
        from_tensor_CHW(floats)
    with pytest.raises(ValueError, match="expected"):
        from_tensor_CHW(torch.zeros(8, 8, 3))


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 2_000_000))
def test_bounded_size_keeps_bound_and_aspect(width: int, height: int, max_pixels: int) -> None:
    small_width, small_height = bounded_size(width, height, max_pixels)
    assert 1 <= small_width <= width
    assert 1 <= small_height <= height
    assert small_width * small_height <= max_pixels
    if width * height <= max_pixels:
        assert (small_width, small_height) == (width, height)
    elif min(small_width, small_height) > 20:
        assert abs(small_width / small_height / (width / height) - 1) < 0.06


def test_same_size_policy() -> None:
    a, b = pattern(40, 60), pattern(40, 60, seed=1)
    same_a, same_b = to_same_size(a, b)
    assert np.array_equal(same_a, a)
    assert np.array_equal(same_b, b)
    small, other = to_same_size(a, pattern(80, 120), max_pixels=600)
    assert small.shape == other.shape == (20, 30, 3)
    red = np.full((60, 20, 3), [255, 0, 0], np.uint8)
    _, boxed = to_same_size(a, red)
    assert boxed.shape == (40, 60, 3)
    assert (boxed[:, :20] == 127).all()
    assert (boxed[:, 25:35] == [255, 0, 0]).all()
    with pytest.raises(ValueError, match="expected uint8"):
        to_same_size(a, red[..., 0])


def test_opening_a_package_stays_light() -> None:
    program = "import sys, edit_r1, edit_r1.images; edit_r1.Sample; sys.exit(int('torch' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def size_of(data: bytes) -> tuple[int, int]:
    return decode_pil(data).size


def test_judged_pictures_that_fit_are_passed_on_bit_for_bit() -> None:
    source, edited = encode_png(pattern(64, 64)), encode_png(pattern(64, 64, 1))
    assert judged_pictures([source], edited) == ((source,), edited)
    assert judged_sources([source, edited]) == (source, edited)
    for format in ("JPEG", "WEBP"):
        photo = saved(Image.fromarray(pattern(40, 60)), format)
        assert judged_pictures([photo], photo) == ((photo,), photo)


@pytest.mark.parametrize(
    ("source", "edited", "shown"),
    [
        ((64, 64), (64, 64), ((64, 64), (64, 64))),
        ((200, 100), (200, 100), ((100, 50), (100, 50))),  # both bounded
        ((80, 40), (40, 20), ((80, 40), (80, 40))),  # the same aspect: the edit takes the source's size, up
        ((40, 20), (80, 40), ((40, 20), (40, 20))),  # and down
        ((64, 60), (64, 61), ((64, 60), (64, 60))),  # editors round to their patch
        ((80, 40), (40, 40), ((80, 40), (40, 40))),  # another aspect: neither distorted nor scaled up
        ((60, 60), (300, 100), ((60, 60), (122, 40))),  # but bounded, with its own aspect
    ],
)
def test_judged_pictures_have_one_size_where_their_shapes_agree(
    source: tuple[int, int], edited: tuple[int, int], shown: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    a, b = (encode_png(pattern(height, width)) for width, height in (source, edited))
    sources, image = judged_pictures([a, b], a, 5000)
    assert len(sources) == 2 and image == sources[0]
    (first,), image = judged_pictures([a], b, 5000)
    assert (size_of(first), size_of(image)) == shown


@given(st.integers(8, 400), st.integers(8, 400), st.integers(64, 20_000))
def test_judged_pictures_keep_bound_and_aspect(width: int, height: int, bound: int) -> None:
    data = encode_png(np.zeros((height, width, 3), np.uint8))
    ((shown,), edited) = judged_pictures([data], data, bound)
    small_width, small_height = Image.open(io.BytesIO(shown)).size
    assert edited == shown and small_width * small_height <= bound
    assert (shown == data) == (width * height <= bound)
    scale = min(1.0, (bound / (width * height)) ** 0.5)
    assert abs(small_width - width * scale) <= 1 and abs(small_height - height * scale) <= 1


def test_judged_pictures_are_upright_plain_and_without_metadata() -> None:
    sideways = Image.fromarray(pattern(40, 60))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = saved(sideways, "PNG", exif=exif)
    odd = [
        turned,
        saved(sideways, "PNG", pnginfo=_note()),
        saved(sideways, "JPEG", comment=b"made by me"),
        saved(sideways.convert("RGBA"), "PNG"),
        saved(sideways.convert("P"), "PNG"),
        saved(sideways.convert("CMYK"), "JPEG"),
        saved(sideways, "BMP"),
        saved(sideways, "GIF"),
        saved(sideways, "WEBP", save_all=True, append_images=[sideways.transpose(Image.Transpose.ROTATE_180)]),
    ]
    for data in odd:
        (shown,) = judged_sources([data])
        assert shown != data and picture_mime(shown) == "image/png"
        assert np.array_equal(decode_rgb(shown), decode_rgb(data))  # no pixel is changed
        assert not Image.open(io.BytesIO(shown)).info
    assert size_of(judged_sources([turned])[0]) == (40, 60)


def _note() -> object:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Author", "me")
    return info


def test_judged_pictures_refuse_what_cannot_be_read() -> None:
    good = encode_png(pattern())
    for sources, edited in (([b""], good), ([good], b"<svg/>"), ([good[:50]], good)):
        with pytest.raises(ImageError):
            judged_pictures(sources, edited)
    with pytest.raises(ValueError, match="no source"):
        judged_pictures([], good)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_the_mime_type_comes_from_the_content(format: str) -> None:
    assert picture_mime(saved(Image.fromarray(pattern()), format)) == f"image/{format.lower()}"


def test_a_photograph_with_a_second_picture_behind_it_is_jpeg() -> None:
    """Phones store a depth or brightness map so; Pillow calls the format MPO, and no server knows image/mpo."""
    image = Image.fromarray(pattern())
    data = saved(image, "MPO", save_all=True, append_images=[image])
    assert picture_mime(data) == "image/jpeg" and decode_rgb(data).shape == pattern().shape


@given(st.binary(max_size=60))
def test_bytes_without_a_mime_type(data: bytes) -> None:
    with pytest.raises(ImageError):
        picture_mime(b"\0" + data)
