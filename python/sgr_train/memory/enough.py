"""What does not fit into memory ends in one line that names the flags for its size."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from ..errors import UsageError, one_line

ON_CPU = ("can't allocate memory", "not enough memory", "Storage size calculation overflowed")  # plain RuntimeErrors


@contextlib.contextmanager
def enough_memory() -> Iterator[None]:
    """Raises UsageError in place of what Python, NumPy and PyTorch raise when memory is at its end."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        reason = one_line(error)
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and not any(w in reason for w in ON_CPU):
            raise
        flags = "lower --width, --depth, --batch-size or --image-size"
        raise UsageError(f"not enough memory ({reason}); {flags}") from error
