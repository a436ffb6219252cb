"""Photos in and out: samples unchanged, orientation and profile kept, the rest refused by name."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

import jaxcomp as jc
from jaxcomp.io.photo import image_bytes, read_photo

LIMIT = 1 << 20
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def picture(*shape):
    return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


def stored(image, kind="PNG", **options):
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, kind, **options)
    return out.getvalue()


def png(width, height, depth, colour, rows):
    """A PNG written by hand: Pillow cannot write the 16-bit RGB kind, or lie about a size."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_formats_come_through_unchanged(kind, channels):
    image = picture(7, 5, channels)
    photo = read_photo(stored(image.squeeze(), kind), max_pixels=LIMIT)
    assert photo.pixels.shape == (7, 5, channels) and photo.notes == ()
    np.testing.assert_array_equal(photo.pixels, image)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff", ".TIF", ".bmp", ".ppm"])
def test_written_images_hold_every_sample_and_the_profile(suffix):
    image = picture(7, 5, 3)
    photo = read_photo(image_bytes(image, suffix, icc=SRGB), max_pixels=LIMIT)
    np.testing.assert_array_equal(photo.pixels, image)
    assert photo.icc == (None if suffix in (".ppm", ".bmp") else SRGB)


def test_lossy_or_unknown_outputs_are_refused():
    for suffix in (".jpg", "", ".jxc"):
        with pytest.raises(jc.UnsupportedInput, match=r"\.png.*got"):
            image_bytes(picture(4, 4, 3), suffix)
    with pytest.raises(jc.UnsupportedInput, match="WebP holds at most 16383"):
        image_bytes(picture(1, 16384, 3), ".webp")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(orientation, kind):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255  # a white corner at the top left of a wide picture
    # How a camera stores it: the inverse of what a viewer must do.
    turn = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright),
        7: np.rot90(upright.swapaxes(0, 1), 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100}, "WEBP": {"lossless": True}}.get(kind, {})
    data = stored(np.ascontiguousarray(turn), kind, exif=exif.tobytes(), **options)
    pixels = read_photo(data, max_pixels=LIMIT).pixels
    assert pixels.shape == upright.shape
    assert abs(pixels.astype(int) - upright).max() < 40


def test_palette_and_one_bit_are_converted_exactly():
    image = picture(8, 8, 3) // 64 * 64
    quantized = Image.fromarray(image).quantize(256)
    photo = read_photo(stored(quantized), max_pixels=LIMIT)
    np.testing.assert_array_equal(photo.pixels, np.asarray(quantized.convert("RGB")))
    bits = Image.fromarray(picture(8, 8) > 128)
    photo = read_photo(stored(bits), max_pixels=LIMIT)
    np.testing.assert_array_equal(photo.pixels[..., 0], np.asarray(bits) * np.uint8(255))


def test_sixteen_bits_become_eight_and_say_so():
    deep = np.random.default_rng(1).integers(0, 65536, (6, 4), dtype=np.uint16)
    photo = read_photo(stored(deep), max_pixels=LIMIT)
    np.testing.assert_array_equal(photo.pixels[..., 0], deep >> 8)
    assert photo.notes == ("16-bit samples reduced to 8 bits",)
    rows = b"".join(b"\0" + bytes(range(i, i + 24)) for i in range(3))
    photo = read_photo(png(4, 3, 16, 2, rows), max_pixels=LIMIT)
    assert photo.pixels.shape == (3, 4, 3)
    np.testing.assert_array_equal(photo.pixels[0].ravel(), np.arange(0, 24, 2))
    assert photo.notes == ("16-bit samples reduced to 8 bits",)


def test_alpha_is_dropped_blended_or_refused():
    image = picture(6, 4, 4)
    image[..., 3] = 255
    photo = read_photo(stored(image), max_pixels=LIMIT)
    np.testing.assert_array_equal(photo.pixels, image[..., :3])
    assert "alpha" in photo.notes[0]
    image[0, 0] = (10, 20, 30, 0)
    for data in (stored(image), stored(image, "WEBP", lossless=True, exact=True)):
        with pytest.raises(jc.UnsupportedInput, match="alpha channel.*--background white"):
            read_photo(data, max_pixels=LIMIT)
        photo = read_photo(data, max_pixels=LIMIT, background="#ff8800")
        np.testing.assert_array_equal(photo.pixels[0, 0], (255, 136, 0))
        np.testing.assert_array_equal(photo.pixels[1:], image[1:, :, :3])
    keyed = stored(image[..., :3], transparency=(10, 20, 30))
    with pytest.raises(jc.UnsupportedInput, match="transparent"):
        read_photo(keyed, max_pixels=LIMIT)
    grey = stored(image[..., 2:])  # two channels: grey and alpha
    assert read_photo(grey, max_pixels=LIMIT, background="white").pixels.shape == (6, 4, 1)
    with pytest.raises(jc.UnsupportedInput, match="a colour such as white"):
        read_photo(grey, max_pixels=LIMIT, background="whitish")


def test_kinds_refused_by_name():
    frames = [Image.fromarray(picture(4, 4, 3)) for _ in range(3)]
    cases = {
        "CMYK": stored(Image.new("CMYK", (4, 4)), "JPEG"),
        "LAB": stored(Image.new("LAB", (4, 4)), "TIFF"),
        "floating-point": stored(Image.new("F", (4, 4)), "TIFF"),
        "32-bit integer": stored(Image.new("I", (4, 4)), "TIFF"),
        "3 frames or pages": stored(frames[0], "TIFF", save_all=True, append_images=frames[1:]),
        "got 3 frames": stored(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "something else": b"MZ" + bytes(1000),
    }
    for name, data in cases.items():
        with pytest.raises(jc.UnsupportedInput, match=name):
            read_photo(data, max_pixels=LIMIT)
    with pytest.raises(jc.UnsupportedInput, match="something else"):
        read_photo(b"", max_pixels=LIMIT)


def test_a_profile_of_another_colour_space_is_dropped():
    photo = read_photo(stored(picture(4, 4, 3), icc_profile=SRGB), max_pixels=LIMIT)
    assert photo.icc == SRGB
    photo = read_photo(stored(picture(4, 4), icc_profile=SRGB), max_pixels=LIMIT)
    assert photo.icc is None and "RGB" in photo.notes[0]


def test_bombs_are_refused_before_their_samples():
    bomb = png(60000, 60000, 8, 2, bytes(1000))
    with pytest.raises(jc.UnsupportedInput, match="at most 1048576 pixels, got 60000 x 60000"):
        read_photo(bomb, max_pixels=LIMIT)
    with pytest.raises(jc.UnsupportedInput, match="at most 3 pixels, got 2 x 2"):
        read_photo(stored(picture(2, 2, 3)), max_pixels=3)
    assert read_photo(stored(picture(2, 2, 3)), max_pixels=4).pixels.shape == (2, 2, 3)
    assert Image.MAX_IMAGE_PIXELS is not None  # Pillow's own guard is back in place


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000"])
def test_damaged_photos_raise_named_errors_only(kind):
    data = stored(picture(24, 20, 3), kind)
    random = np.random.default_rng(3)
    for cut in (len(data) - 1, len(data) // 2, 30, 4):
        try:
            read_photo(data[:cut], max_pixels=LIMIT)
        except (jc.CorruptStream, jc.UnsupportedInput):
            pass
    with pytest.raises((jc.CorruptStream, jc.UnsupportedInput)):
        read_photo(data[: len(data) // 2], max_pixels=LIMIT)
    for _ in range(40):
        damaged = bytearray(data)
        for place in random.integers(0, len(data), 3):
            damaged[place] = random.integers(0, 256)
        try:
            read_photo(bytes(damaged), max_pixels=LIMIT)
        except (jc.CorruptStream, jc.UnsupportedInput):
            pass


def test_missing_files_stay_os_errors(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_photo(tmp_path / "none.png", max_pixels=LIMIT)
