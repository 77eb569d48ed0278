"""Where derivatives written in Python are worth their time."""

from torch import Tensor

from ..gpu_path import as_on_gpu

LEAST = 2**17  # elements of a tensor on a CPU, below which kernels save less time than Python takes


def is_large(input: Tensor) -> bool:
    """Whether functions of ``input`` are; on a GPU all are, for their launches are fewer too."""
    return as_on_gpu(input) or input.numel() >= LEAST
