"""The sizes at which operators are measured, as they are written on the command line: 128x4096."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Sizes:
    """Shapes, as words.

    Attributes:
        quick: measured always.
        full: not with --quick.
        gpu: not on a CPU.
        halves: those of the above that are measured in bfloat16 as well.
        once: those of the above that are not differentiated twice.
    """

    quick: str
    full: str = ""
    gpu: str = ""
    halves: str = ""
    once: str = ""


GRID = {
    # (B, n). One of the two grows while the other stays; n = 16384, 8192 and 4096 are the feature maps of a ResNet-32
    # on CIFAR, 200704 and 802816 those of a ResNet-50 on ImageNet; a single row is one very large sample.
    "sgr_loss": Sizes(
        quick="8x64 128x4096",
        full="128x256 128x1024 128x8192 128x16384 128x65536 8x4096 32x4096 512x4096 2048x4096"
        " 1024x256 64x200704 1x50000000",
        gpu="256x200704 256x802816",
        halves="128x4096 64x200704 256x200704",
        once="128x65536 2048x4096 64x200704 1x50000000 256x200704 256x802816",
    ),
    "sgr_residual": Sizes(
        quick="128x4096",
        full="8x64 128x1024 128x16384 512x4096 64x200704 1x50000000",
        gpu="256x200704 256x802816",
        halves="64x200704 256x200704",
    ),
    "sgr_shift": Sizes(
        quick="128x4096",
        full="8x64 128x16384 512x4096 64x200704",
        gpu="256x200704 256x802816",
        halves="64x200704 256x200704",
    ),
    # (B, n, m)
    "linear_relu": Sizes(
        quick="128x256x256",
        full="32x1024x1024 128x1024x1024 512x1024x1024 512x2048x2048",
        gpu="4096x4096x4096 8192x4096x4096",
        halves="128x256x256 4096x4096x4096 8192x4096x4096",
    ),
    "linear_relu_sgr": Sizes(
        quick="128x256x256",
        full="128x1024x1024 512x2048x2048",
        gpu="4096x4096x4096 8192x4096x4096",
        halves="128x256x256 4096x4096x4096 8192x4096x4096",
    ),
    "linear_relu_step": Sizes(
        quick="128x256x256",
        full="128x1024x1024 512x2048x2048",
        gpu="4096x4096x4096 8192x4096x4096",
        halves="4096x4096x4096 8192x4096x4096",
    ),
    # (B, C, H, W): the feature maps of a ResNet-32 on CIFAR, and the first ones of a ResNet-50 on ImageNet
    "conv2d_relu": Sizes(
        quick="128x64x8x8",
        full="128x32x16x16 128x16x32x32 8x64x56x56",
        gpu="256x64x56x56",
        halves="256x64x56x56",
    ),
    "conv2d_relu_sgr": Sizes(
        quick="128x64x8x8",
        full="128x32x16x16 128x16x32x32 8x64x56x56",
        gpu="256x64x56x56",
        halves="256x64x56x56",
    ),
    # (B, K)
    "cross_entropy": Sizes(
        quick="128x100",
        full="128x10 1024x10 256x1000 4096x1000",
        gpu="8192x1000",
        halves="256x1000 8192x1000",
    ),
    # as conv2d_relu, and the first activation of a ResNet-50
    "gate_bits": Sizes(
        quick="128x64x8x8",
        full="128x32x16x16 128x16x32x32 32x64x112x112",
        gpu="256x64x112x112",
        halves="32x64x112x112 256x64x112x112",
    ),
}


def sizes(op: str, device: str, quick: bool) -> Iterator[tuple[Shape, str]]:
    """Shapes with the names of their dtypes."""
    grid = GRID[op]
    shapes = grid.quick.split() + grid.full.split() * (not quick) + grid.gpu.split() * (device == "cuda")
    yield from ((parse(shape), "float32") for shape in shapes)
    yield from ((parse(shape), "bfloat16") for shape in shapes if shape in grid.halves.split())


def has_mode(op: str, mode: str, shape: Shape) -> bool:
    """The double backward of large residuals is out of reach: it takes a minute."""
    return mode != "double backward" or text(shape) not in GRID[op].once.split()


def parse(shape: str) -> Shape:
    return tuple(map(int, shape.split("x")))


def text(shape: Shape) -> str:
    return "x".join(map(str, shape))
