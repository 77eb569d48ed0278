"""Image files: what is read from them, and what is said about those that cannot be read."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sgr_train.config import RunConfig
from sgr_train.data import image_files, splits
from sgr_train.errors import UsageError
from sgr_train.loader import load_data
from sgr_train.settings import make
from train_helpers import TINY_FLAGS

CPU = torch.device("cpu")
VALUES = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)  # 257 times 0 to 255


@pytest.fixture
def tree(tmp_path) -> Path:
    """An ImageFolder tree of 8 training and 8 test images in two classes."""
    root, rng = tmp_path / "images", np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(4):
                pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


@pytest.mark.parametrize("kind", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled(tmp_path, kind):
    path = tmp_path / f"image.{kind}"
    Image.fromarray(VALUES).save(path)
    pixels = np.asarray(image_files.read(str(path)))
    assert (pixels == np.arange(256, dtype=np.uint8).reshape(16, 16, 1)).all() and pixels.shape == (16, 16, 3)


def tiff(data: bytes, bits: int, photometric: int = 1, signed: bool = False) -> bytes:
    """A TIFF file of 16 x 16 gray pixels, packed."""
    tags = {256: 16, 257: 16, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: 16, 279: len(data)}
    tags |= {339: 2} if signed else {}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


def test_twelve_bits_are_scaled(tmp_path):
    path, values = tmp_path / "image.tif", 16 * np.arange(256) + np.arange(256) // 16
    pairs = [(int(a) << 12 | int(b)).to_bytes(3, "big") for a, b in values.reshape(-1, 2)]
    path.write_bytes(tiff(b"".join(pairs), 12))
    assert np.asarray(Image.open(path)).flatten().tolist() == values.tolist()
    pixels = np.asarray(image_files.read(str(path)))[..., 0].flatten()
    assert pixels.tolist() == np.rint(values / 4095 * 255).tolist() and pixels.max() == 255


@pytest.mark.parametrize(("photometric", "expected"), [(0, range(255, -1, -1)), (1, range(256))])
def test_sixteen_bits_of_which_zero_is_white(tmp_path, photometric, expected):
    path = tmp_path / "image.tif"
    path.write_bytes(tiff(VALUES.tobytes(), 16, photometric))
    assert np.asarray(image_files.read(str(path)))[..., 1].flatten().tolist() == list(expected)


def test_signed_pixels_are_refused(tmp_path):
    path = tmp_path / "image.tif"
    path.write_bytes(tiff(VALUES.tobytes(), 16, signed=True))
    with pytest.raises(UsageError, match=f"{path} .*32 bits or a sign .*use 8 or 16 bits without a sign; replace"):
        image_files.read(str(path))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_eight_bits_are_what_pillow_makes_of_them(tmp_path, mode):
    path = tmp_path / ("image.png" if mode not in ("CMYK", "YCbCr") else "image.jpg")
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert(mode).save(path)
    assert np.array_equal(np.asarray(image_files.read(str(path))), np.asarray(Image.open(path).convert("RGB")))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bits_are_refused(tree, dtype):
    path = tree / "train" / "cat" / "deep.tif"
    Image.fromarray(VALUES.astype(dtype)).save(path)
    with pytest.raises(UsageError, match="32 bits.*use 8 or 16 bits without a sign; replace or remove it") as caught:
        load_data(make(RunConfig, data=f"folder:{tree}", image_size=8), CPU)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def flip_in_the_middle(content: bytes) -> bytes:
    index = len(content) // 2
    return content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :]


def jpeg(_: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()[:2000]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    "damage", [lambda content: b"", lambda content: content[:-300], lambda content: b"text", flip_in_the_middle, jpeg]
)
def test_a_damaged_image_is_named_before_anything_is_trained(sgr_train, tree, tmp_path, split, damage):
    path, out = tree / split / "dog" / "2.png", tmp_path / "run"
    path.write_bytes(damage(path.read_bytes()))
    status, text, errors = sgr_train("run", *TINY_FLAGS, "--train-subset", 7, "--data", f"folder:{tree}", "--out", out)
    assert (status, text) == (2, "") and not out.exists()
    assert errors.startswith(f"sgr-train: {path} cannot be read as an image: ") and errors.count("\n") == 1
    assert errors.endswith("; replace or remove it\n") and "BytesIO" not in errors


def test_a_dangling_link_is_named(tree):
    path = tree / "test" / "cat" / "9.png"
    path.symlink_to(tree / "nowhere.png")
    with pytest.raises(UsageError, match=f"{path} cannot be read: No such file"):
        load_data(make(RunConfig, data=f"folder:{tree}", image_size=8), CPU)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_file_in_place_of_a_folder_is_named(tree, split):
    if (tree / split).exists():
        (tree / split).rename(tree / "elsewhere")
    (tree / split).write_text("")
    with pytest.raises(UsageError, match=f"needs {split}/CLASS/IMAGE files .*Not a directory") as caught:
        load_data(make(RunConfig, data=f"folder:{tree}", image_size=8), CPU)
    assert "\n" not in str(caught.value)


def test_an_image_that_goes_bad_meanwhile_is_named(tree):
    data = load_data(make(RunConfig, data=f"folder:{tree}", image_size=8), CPU)
    (tree / "test" / "cat" / "0.png").unlink()
    with pytest.raises(UsageError, match="cat/0.png cannot be read as an image: No such file or directory") as caught:
        list(data.ordered(data.test, 2))
    assert "\n" not in str(caught.value)


def test_the_fingerprint_is_of_names_contents_and_labels(tree):
    def fingerprint(**settings):
        return load_data(make(RunConfig, **{"data": f"folder:{tree}", "image_size": 8, **settings}), CPU).fingerprint

    first, image = fingerprint(), tree / "test" / "cat" / "0.png"
    assert fingerprint() == first
    content = image.read_bytes()
    image.write_bytes((tree / "test" / "cat" / "1.png").read_bytes())
    assert fingerprint() != first
    image.write_bytes(content)
    assert fingerprint() == first  # whenever the file was written
    moved = tree.rename(tree.with_name("moved"))
    assert fingerprint(data=f"folder:{moved}") == first
    (moved / "test" / "cat" / "0.png").rename(moved / "test" / "dog" / "9.png")
    assert fingerprint(data=f"folder:{moved}") != first


def test_files_are_read_once_for_all_runs_of_a_comparison(tree, monkeypatch):
    load_data(make(RunConfig, data=f"folder:{tree}", image_size=8), CPU)
    monkeypatch.setattr(splits.image_files, "_check", None)
    load_data(make(RunConfig, data=f"folder:{tree}", image_size=8, seed=1), CPU)
