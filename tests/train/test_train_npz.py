"""One .npz file: what is read from it, and what is said about one that is damaged or of another layout."""

from __future__ import annotations

import sys
import zipfile

import numpy as np
import pytest
import torch
from sgr_train.config import RunConfig
from sgr_train.errors import UsageError
from sgr_train.loader import load_data
from sgr_train.settings import make

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"train_images": None}, "lacks train_images"),
        ({"test_labels": None}, "lacks test_labels"),
        ({"val_images": np.zeros((5, 8, 8, 3), np.uint8)}, "lacks val_labels"),
        ({"train_images": np.zeros((60, 8, 8, 3))}, "uint8"),
        ({"train_images": np.zeros((60, 8, 8, 4), np.uint8)}, "(60, 8, 8, 4)"),
        ({"train_images": np.zeros((60, 28, 28, 28), np.uint8)}, "(60, 28, 28, 28)"),
        ({"train_labels": np.arange(59)}, "60 integers"),
        ({"train_labels": np.zeros((60, 14), int)}, "60 integers"),
        ({"train_labels": np.zeros(60)}, "float64"),
        ({"train_labels": np.arange(60) % 3 - (np.arange(60) == 6)}, "train_labels must be >= 0"),
        ({"train_labels": np.where(np.arange(60) == 7, -1, 0)}, "label 7 is -1"),
        (
            {"test_labels": np.where(np.arange(20) == 4, 1_000_000, 0)},
            "below 80, the images there are; label 4 is 1000",
        ),
        ({"train_labels": np.full(60, 2**64 - 1, np.uint64)}, "label 0 is 18446744073709551615"),
        ({"train_labels": np.full(60, 255, np.uint8)}, "label 0 is 255"),
        ({"train_images": np.zeros((60, 0, 8, 3), np.uint8)}, "W >= 1, got uint8 (60, 0, 8, 3)"),
        ({"test_images": np.zeros((20, 8, 0), np.uint8)}, "test_images must be uint8"),
        ({"test_labels": np.array([None])}, "cannot be read; is it a complete .npz file? (test_labels: Object arrays"),
        ({"test_images": np.zeros((20, 9, 9, 3), np.uint8)}, "one size"),
        ({"test_images": np.zeros((20, 8, 8), np.uint8)}, "number of channels"),
        ({"test_images": np.zeros((0, 8, 8, 3), np.uint8), "test_labels": np.zeros(0, int)}, "too few"),
        ({"train_images": np.zeros((0, 8, 8, 3), np.uint8), "train_labels": np.zeros(0, int)}, "too few"),
    ],
)
def test_bad_npz_contents(write_npz, changes, word):
    with pytest.raises(UsageError) as caught:
        load_data(make(RunConfig, data=f"npz:{write_npz(**changes)}"), CPU)
    assert word in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_truncated_npz(write_npz, keep):
    path = write_npz()
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
    with pytest.raises(UsageError, match="complete .npz"):
        load_data(make(RunConfig, data=f"npz:{path}"), CPU)


def test_damaged_npz(write_npz):
    path = write_npz()
    content = bytearray(path.read_bytes())
    content[3000:3100] = bytes(100)  # inside the pixels: the archive's checksum tells
    path.write_bytes(content)
    with pytest.raises(UsageError, match="complete .npz"):
        load_data(make(RunConfig, data=f"npz:{path}"), CPU)


def test_a_header_that_reads_too_little_is_found_by_the_checksum(write_npz):
    """NumPy stops before the end of the member, and the archive looks at its checksum there only."""
    labels = np.arange(20_000, dtype="<i8") % 3
    images = {"train_images": np.zeros((20_000, 1, 1), np.uint8), "test_images": np.zeros((20, 1, 1), np.uint8)}
    path = write_npz(train_labels=labels, **images)
    before, after = (f"'<i{size}', 'fortran_order': False, 'shape': (20000,)".encode() for size in (8, 4))
    content = path.read_bytes()
    assert content.count(before) == 1
    path.write_bytes(content.replace(before, after))
    with pytest.raises(UsageError, match="train_labels: Bad CRC-32"):
        load_data(make(RunConfig, data=f"npz:{path}"), CPU)


def test_a_member_that_is_no_array_is_named(write_npz):
    path = write_npz(train_labels=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("train_labels", b"0 1 2")
    with pytest.raises(UsageError, match="complete .npz file.*train_labels: ") as caught:
        load_data(make(RunConfig, data=f"npz:{path}"), CPU)
    assert "\n" not in str(caught.value)


def test_arrays_beside_the_layout_are_not_read(write_npz):
    path = write_npz(names=np.array(["cat", "dog", "bird"], object))
    assert len(load_data(make(RunConfig, data=f"npz:{path}"), CPU).test) == 20


@pytest.mark.parametrize(
    ("write", "word"),
    [
        (lambda path: np.save(path.open("wb"), np.zeros(3)), "it is a single array; np.savez writes"),
        (lambda path: path.write_text("text"), "complete .npz"),
        (lambda path: path.mkdir(), "Is a directory"),
    ],
)
def test_no_npz(tmp_path, write, word):
    path = tmp_path / "data.npz"
    write(path)
    with pytest.raises(UsageError) as caught:
        load_data(make(RunConfig, data=f"npz:{path}"), CPU)
    assert f"--data npz:{path} cannot be read" in str(caught.value) and word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_without_permission(write_npz, monkeypatch):
    path = write_npz()

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(sys.modules["sgr_train.data.npz"], "open", refuse, raising=False)
    with pytest.raises(UsageError, match=r"cannot be read.*\(Permission denied\)"):
        load_data(make(RunConfig, data=f"npz:{path}"), CPU)
