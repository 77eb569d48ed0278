"""Image files: decoded to 8-bit RGB, or refused by name."""

from __future__ import annotations

import hashlib
import io
import os
import sys
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..errors import UsageError, one_line

SIXTEEN_BITS = {"I;16", "I;16B", "I;16L", "I;16N"}
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # tags of TIFF files
WHITE_IS_ZERO = 0
SIXTEEN_BITS_IN_I = {"PNG", "PPM"}  # formats without 32-bit pixels, which Pillow may read as mode I

_known: dict[bytes, str] = {}  # fingerprints by names, sizes and times of the files: compare asks once for every run


def read(path: str) -> Image.Image:
    """An image file as 8-bit RGB; gray values of 12 and 16 bits are scaled to 8.

    Raises:
        UsageError: names the file, which cannot be read, is damaged, or has pixels of more than 16 bits or with a sign.
    """
    return _read(path)[0]


def fingerprint(root: Path, paths: Sequence[str], pool: Executor) -> str:
    """SHA-256 over the names below ``root`` and the contents of files, all of which are checked and decoded.

    Raises:
        UsageError: as in :func:`read`, for the first bad file.
    """
    names = [os.path.relpath(path, root) for path in paths]
    listing = hashlib.sha256(repr([(str(root), names)]).encode())
    for state in pool.map(_state, paths):
        listing.update(repr(state).encode())
    if listing.digest() not in _known:
        hidden = not sys.stderr.isatty()
        digests = tqdm(pool.map(_check, paths), "checking images", len(paths), leave=False, disable=hidden)
        _known[listing.digest()] = hashlib.sha256(repr(list(zip(names, digests, strict=True))).encode()).hexdigest()
    return _known[listing.digest()]


def _state(path: str) -> tuple[int, int]:
    try:
        state = os.stat(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; replace or remove it") from error
    return state.st_size, state.st_mtime_ns


def _check(path: str) -> str:
    """SHA-256 of a file that is an intact image."""
    _, content = _read(path, verify=True)
    return hashlib.sha256(content).hexdigest()


def _read(path: str, verify: bool = False) -> tuple[Image.Image, bytes]:
    """An image and the content of its file. ``verify`` looks at the checksums in it too, which PNG files have."""
    try:
        content = Path(path).read_bytes()
        if verify:
            Image.open(io.BytesIO(content)).verify()
        return _rgb(Image.open(io.BytesIO(content))), content
    except OSError as error:
        reason = error.strerror or one_line(error)
    except Exception as error:  # every format has its own
        reason = one_line(error)
    reason = reason.partition(" <_io.")[0]  # Pillow names the buffer
    raise UsageError(f"{path} cannot be read as an image: {reason}; replace or remove it")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in SIXTEEN_BITS or (image.mode == "I" and image.format in SIXTEEN_BITS_IN_I):
        image = _eight_bits(image)
    if image.mode in ("I", "F"):
        what = f"32 bits or a sign (mode {image.mode}), of a range that nobody knows"
        raise ValueError(f"its pixels have {what}; use 8 or 16 bits without a sign")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Gray values scaled from their range, 0 to 65535 but in TIFF files, which say how many bits they use."""
    tags = getattr(image, "tag_v2", {})
    largest = 2 ** tags.get(BITS_PER_SAMPLE, (16,))[0] - 1
    values = (np.asarray(image).astype(np.int64) * 255 + largest // 2) // largest
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # which Pillow heeds for 8 bits only
        values = 255 - values
    return Image.fromarray(values.astype(np.uint8))
