"""Reading pictures and masks: right colours, right labels, or an error that names the file and the fault."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from trainer.data.dataset import Pixels
from trainer.data.files import array_read, file_hash, inside, listed_pictures, orientation, pixel_hash, read_image
from trainer.data.masks import coding_from
from trainer.data.reading import PLAIN, Reading
from trainer.errors import DataError


def picture(height: int = 24, width: int = 36) -> Pixels:
    """Three different gradients, so that a swap of channels or axes shows."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 250 // height, columns * 250 // width, np.full_like(rows, 30)], axis=2).astype(np.uint8)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "tiff", "PNG"])
def test_lossless_formats_give_the_same_pixels(tmp_path: Path, ending: str) -> None:
    """RGB in, the same RGB out."""
    path = tmp_path / f"a.{ending}"
    Image.fromarray(picture()).save(path)
    assert np.array_equal(read_image(path), picture())


def test_jpeg_is_close(tmp_path: Path) -> None:
    """A JPEG keeps its colours in their channels."""
    Image.fromarray(picture()).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - picture()).mean() < 6


def test_tif_that_claims_to_be_grey_keeps_its_colours(tmp_path: Path) -> None:
    """Photometric 1 (black is zero) with three samples, as CVC-ClinicDB ships: others refuse it or see grey."""
    path = tmp_path / "frame.tif"
    tifffile.imwrite(path, picture(), photometric="minisblack", planarconfig="contig", metadata=None)
    with tifffile.TiffFile(path) as file:
        assert file.pages.first.photometric == tifffile.PHOTOMETRIC.MINISBLACK
    assert np.array_equal(read_image(path), picture())


def test_planar_tif_is_read(tmp_path: Path) -> None:
    """Channels one after another instead of side by side."""
    planes = np.moveaxis(picture(), 2, 0)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate", metadata=None)
    assert np.array_equal(read_image(tmp_path / "a.tif"), picture())


@pytest.mark.parametrize("packing", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_packed_tif_is_read(tmp_path: Path, packing: str) -> None:
    """Common lossless compressions."""
    Image.fromarray(picture()).save(tmp_path / "a.tif", compression=packing)
    assert np.array_equal(read_image(tmp_path / "a.tif"), picture())


def test_grey_image_gets_three_equal_channels(tmp_path: Path) -> None:
    """Networks always see RGB."""
    Image.fromarray(picture()[..., 0]).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), np.repeat(picture()[..., :1], 3, axis=2))


def test_palette_image_is_expanded(tmp_path: Path) -> None:
    """A palette is a way to store colours, not a label map."""
    flat = np.zeros((8, 8, 3), np.uint8)
    flat[2:6, 2:6] = (200, 100, 50)
    Image.fromarray(flat).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), flat)


def test_jpeg_in_the_place_of_a_png_is_read_by_its_content(tmp_path: Path) -> None:
    """Endings lie; content does not."""
    Image.fromarray(picture()).save(tmp_path / "a.png", format="JPEG")
    assert read_image(tmp_path / "a.png").shape == (24, 36, 3)


def test_opaque_alpha_is_dropped_and_a_see_through_one_refused(tmp_path: Path) -> None:
    """Hidden pixels would be seen by the network alone."""
    alpha = np.full((24, 36, 1), 255, np.uint8)
    Image.fromarray(np.concatenate([picture(), alpha], axis=2)).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), picture())
    alpha[3, 3] = 0
    Image.fromarray(np.concatenate([picture(), alpha], axis=2)).save(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"b\.png: parts of the picture are see-through"):
        read_image(tmp_path / "b.png")


def deep_colour_png(path: Path) -> None:
    cv2.imwrite(str(path), picture().astype(np.uint16) * 257)


def deep_grey_png(path: Path) -> None:
    Image.fromarray(picture()[..., 0].astype(np.uint16) * 257).save(path)


def deep_tif(path: Path) -> None:
    tifffile.imwrite(path, picture().astype(np.uint16) * 257)


@pytest.mark.parametrize(("name", "write"), [("a.png", deep_colour_png), ("b.png", deep_grey_png), ("c.tif", deep_tif)])
def test_more_than_eight_bits_are_refused(tmp_path: Path, name: str, write: object) -> None:
    """Pillow would silently drop the lower byte of deep colours; windowing is the user's choice."""
    assert callable(write)
    write(tmp_path / name)
    with pytest.raises(DataError, match=rf"{name}: more than 8 bits a channel; how to window them is your choice"):
        read_image(tmp_path / name)
    with pytest.raises(DataError, match=rf"{name}: more than 8 bits a value; a mask holds labels from 0 to 255"):
        PLAIN.mask(tmp_path / name)


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "bmp"])
@pytest.mark.parametrize("keep", [0.5, 0.02, 0.0])
def test_cut_off_files_are_named(tmp_path: Path, ending: str, keep: float) -> None:
    """Half a file, a scrap of its header, nothing: never half a picture."""
    path = tmp_path / f"cut.{ending}"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(DataError, match=rf"cut\.{ending}: (damaged|the file is empty)"):
        read_image(path)


def test_text_missing_files_and_unknown_endings_are_named(tmp_path: Path) -> None:
    """Whatever is no picture says so, with the name."""
    (tmp_path / "a.png").write_text("this is no picture")
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(DataError, match=r"a\.png: damaged or no picture"):
        read_image(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"gone\.png: cannot be read"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"folder\.png: cannot be read"):
        read_image(tmp_path / "folder.png")
    with pytest.raises(DataError, match=r"a\.gif: unknown kind of file '\.gif'; known: \.bmp"):
        read_image(tmp_path / "a.gif")


def test_cmyk_and_several_pages_are_refused(tmp_path: Path) -> None:
    """No guess at what the colours mean, or which page is meant."""
    Image.fromarray(picture()).convert("CMYK").save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="stored as CMYK"):
        read_image(tmp_path / "a.jpg")
    tifffile.imwrite(tmp_path / "a.tif", np.stack([picture()] * 2), photometric="rgb")
    with pytest.raises(DataError, match="holds 2 pages"):
        read_image(tmp_path / "a.tif")


def test_jpeg_mask_keeps_its_shape(tmp_path: Path) -> None:
    """A compressed disc is the disc, but for few pixels; thresholding at 0 would add a wide rim."""
    rows, columns = np.mgrid[0:100, 0:100]
    disc = ((rows - 50) ** 2 + (columns - 50) ** 2 < 30**2).astype(np.uint8)
    Image.fromarray(disc * 255).convert("RGB").save(tmp_path / "a.jpg", quality=75)
    assert (PLAIN.mask(tmp_path / "a.jpg") != disc).sum() <= 4
    assert (read_image(tmp_path / "a.jpg")[..., 0] > 0).sum() > disc.sum() + 50


def test_one_bit_masks_are_read(tmp_path: Path) -> None:
    """Black and white with a bit a pixel."""
    disc = np.eye(9, dtype=np.uint8)
    for name in ("a.png", "a.tif", "a.bmp"):
        Image.fromarray(disc * 255).convert("1").save(tmp_path / name)
        assert np.array_equal(PLAIN.mask(tmp_path / name), disc)


def turned(path: Path, pixels: Pixels, how: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = how
    Image.fromarray(pixels).save(path, exif=exif, quality=95)


@pytest.mark.parametrize("how", [3, 6])
def test_an_exif_orientation_turns_neither_image_nor_mask(tmp_path: Path, how: int) -> None:
    """The stored grids stay on one another."""
    turned(tmp_path / "a.jpg", picture(), how)
    Image.fromarray((picture()[..., 0] > 127).astype(np.uint8) * 255).save(tmp_path / "m.png")
    image, mask = PLAIN.pair(tmp_path / "a.jpg", tmp_path / "m.png")
    assert image.shape == (24, 36, 3)
    assert orientation(tmp_path / "a.jpg") == how
    assert image[mask == 1][:, 0].mean() > image[mask == 0][:, 0].mean() + 50


def test_a_mask_of_another_size_is_named_with_both_sizes(tmp_path: Path) -> None:
    """And a mask drawn on the turned picture gets the reason."""
    turned(tmp_path / "a.jpg", picture(), 6)
    Image.fromarray(np.zeros((36, 24), np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(DataError, match=r"a\.jpg is 36 x 24, its mask m\.png is 24 x 36, .*EXIF orientation 6"):
        PLAIN.pair(tmp_path / "a.jpg", tmp_path / "m.png")
    Image.fromarray(np.zeros((24, 35), np.uint8)).save(tmp_path / "n.png")
    with pytest.raises(DataError, match=r"mask n\.png is 35 x 24, width x height\)$"):
        PLAIN.pair(tmp_path / "a.jpg", tmp_path / "n.png")


def test_paths_stay_below_the_root(tmp_path: Path) -> None:
    """Absolute paths, `..` and links that lead out are refused; links inside are fine."""
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (tmp_path / "out.png").write_bytes(b"x")
    (root / "a" / "in.png").write_bytes(b"x")
    (root / "link.png").symlink_to(root / "a" / "in.png")
    (root / "bad.png").symlink_to(tmp_path / "out.png")
    (root / "badfolder").symlink_to(tmp_path)
    assert inside(root, "a/in.png") == root / "a" / "in.png"
    assert inside(root, "link.png") == root / "link.png"
    for bad in ("../out.png", "a/../../out.png", str(tmp_path / "out.png"), ""):
        with pytest.raises(DataError, match="expected a path below the data root"):
            inside(root, bad)
    for bad in ("bad.png", "badfolder/out.png"):
        with pytest.raises(DataError, match="a link leads out of the data root"):
            inside(root, bad)


def test_hashes_are_of_bytes_and_of_pixels(tmp_path: Path) -> None:
    """The same picture in two formats differs as a file and is one as a picture."""
    for name in ("a.png", "a.bmp"):
        Image.fromarray(picture()).save(tmp_path / name)
    assert file_hash(tmp_path / "a.png") != file_hash(tmp_path / "a.bmp")
    assert pixel_hash(read_image(tmp_path / "a.png")) == pixel_hash(read_image(tmp_path / "a.bmp"))
    assert pixel_hash(picture()) != pixel_hash(np.ascontiguousarray(picture().reshape(36, 24, 3)))
    with pytest.raises(DataError, match=r"gone\.png: cannot be read"):
        file_hash(tmp_path / "gone.png")


def test_shipped_clinicdb_frames_equal_their_lossless_copies(real_data: Path) -> None:
    """The wrong photometric tag costs neither the colours nor a single grey level; masks' greys have to be named."""
    coding = coding_from("0-127: background, 128-255: object", "labels")
    frames = sorted((real_data / "as-shipped" / "CVC-ClinicDB" / "Original").glob("*.tif"))
    assert len(frames) == 3
    for frame in frames:
        copy = next((real_data / "CVC-ClinicDB").glob(f"*/images/{frame.stem}.png"))
        assert np.array_equal(read_image(frame), read_image(copy))
        mask = frame.parent.parent / "Ground Truth" / frame.name
        assert np.array_equal(Reading(coding).mask(mask), PLAIN.mask(copy.parent.parent / "masks" / copy.name))


def test_shipped_kvasir_masks_equal_their_thresholded_copies(real_data: Path) -> None:
    """JPEG masks with grey rims: 127 is the line."""
    for mask in sorted((real_data / "as-shipped" / "Kvasir-SEG" / "masks").glob("*.jpg")):
        copy = next((real_data / "Kvasir-SEG").glob(f"*/masks/{mask.stem}.png"))
        assert np.array_equal(PLAIN.mask(mask), PLAIN.mask(copy))
        assert (read_image(mask)[..., 0] > 0).sum() > PLAIN.mask(mask).sum()


def test_a_link_to_nothing_and_a_name_that_is_no_text_are_named(tmp_path):
    for name, what in ((b"a.png", "a link that leads to no file"), (b"\xff.png", "name is no UTF-8")):
        folder = tmp_path / what
        folder.mkdir()
        target = b"a.png" if "link" in what else os.fsencode(__file__)
        os.symlink(target, os.fsencode(folder) + b"/" + name)
        with pytest.raises(DataError, match=what):
            listed_pictures(folder)


def test_an_array_is_read_again_where_the_parser_of_its_header_fails(tmp_path: Path) -> None:
    """As it does now and then in Python 3.11 where another thread parses, too."""
    np.save(tmp_path / "array.npy", np.arange(3))
    load, fails = np.load, [True, True, False]

    def unlucky(path: Path) -> Pixels:
        if fails.pop(0):
            raise SystemError("AST constructor recursion depth mismatch (before=42, after=39)")
        return load(path)

    assert array_read(lambda: unlucky(tmp_path / "array.npy")).tolist() == [0, 1, 2]
    assert fails == []
    with pytest.raises(SystemError):
        array_read(unlucky_always)


def unlucky_always() -> Pixels:
    raise SystemError("AST constructor recursion depth mismatch (before=42, after=39)")
