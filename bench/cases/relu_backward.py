"""What relu_backward is checked, compiled and timed on."""

from __future__ import annotations

from collections.abc import Iterator

from sgr_kernels.operators.relu_backward import reference, relu_backward

from .case import Cases, Inputs, Size, against

# (R, C, S)
SIZES = (
    Size((7, 2, 1)),  # fewer columns than a pack has elements
    Size((150, 264, 1)),  # packs of columns, several blocks side by side
    Size((150, 264, 1), late=1),  # the same columns one by one
    Size((40, 7, 1)),
    Size((3, 5, 49)),  # several columns a channel
    Size((2, 3, 301)),  # slices that are worth a sweep, and begin anywhere
    Size((1101, 2, 257)),  # several slices a block
    Size((2, 3, 8193)),  # several segments a slice
    Size((3, 1, 5000)),  # a single channel is one long slice
    Size((128, 256, 1), timed="quick"),  # of a linear layer
    Size((512, 2048, 1), timed="full"),
    Size((128, 64, 64), timed="quick"),  # the feature maps of a ResNet-32 on CIFAR
    Size((128, 16, 1024), timed="full"),
    Size((8192, 4096, 1), timed="gpu", halves=True),
    Size((128, 64, 3136), timed="gpu", halves=True),  # of a ResNet-50 on ImageNet
    Size((50000, 10, 1)),  # few channels, unaligned
    Size((128, 2048, 49)),
    Size((300_000, 10_000, 1)),  # more than 2^31 elements
)


def _arguments(size: Size, inputs: Inputs) -> Iterator[tuple]:
    grad, output = inputs.normal(size.shape, late=size.late), inputs.normal(size.shape).relu()
    yield grad, output, True
    yield grad, output, False


CASES = {relu_backward: Cases(SIZES, _arguments, against(reference.relu_backward, "masked", "sums"))}
