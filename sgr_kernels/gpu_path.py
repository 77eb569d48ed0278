"""Whether a tensor takes the path of a GPU, where the two paths differ."""

import contextlib
from collections.abc import Iterator

from torch import Tensor

_cpu_as_gpu = False


@contextlib.contextmanager
def cpu_as_gpu() -> Iterator[None]:
    """Tensors on the CPU take the path of those on a GPU: to tell what it needs with fake tensors, which run anywhere.

    Products of half precision matrices with a float32 result exist on a GPU alone; on the CPU they take fake tensors,
    or an implementation that the caller gives torch.
    """
    global _cpu_as_gpu
    before, _cpu_as_gpu = _cpu_as_gpu, True
    try:
        yield
    finally:
        _cpu_as_gpu = before


def as_on_gpu(tensor: Tensor) -> bool:
    return tensor.is_cuda or _cpu_as_gpu
