"""The gates of a ReLU, one bit an element: recorded by one pass over a network, replayed by the next.

Operators see memory, not shapes: contiguous one-dimensional tensors. ``bits`` is uint8, (ceil(n / 8),); bit i % 8 of
byte i // 8 is 1 where x > 0 or NaN, and bits beyond n are 0. A closed gate gives slope * x, and with slope 0 plain 0
whatever x holds. Names ending in an underscore work in place.
"""

from __future__ import annotations

import torch

from .registry import register


def _fake_bits(x):
    torch._check(x.dim() == 1, lambda: f"gate bits expect a one-dimensional tensor, got shape {tuple(x.shape)}")
    return x.new_empty((x.shape[0] + 7) // 8, dtype=torch.uint8)


def _fake_record(x, slope):
    return x.new_empty(x.shape), _fake_bits(x)


# y = leaky ReLU of x, and its gates
register("record_relu", "(Tensor x, float slope) -> (Tensor y, Tensor bits)", _fake_record, triton_file="gate_bits")
register(
    "record_relu_",
    "(Tensor(a!) x, float slope) -> Tensor",
    lambda x, slope: _fake_bits(x),
    triton_file="gate_bits",
)
# the same with gates given; also its backward, with the gradient for x
register(
    "replay_relu",
    "(Tensor x, Tensor bits, float slope) -> Tensor",
    lambda x, bits, slope: x.new_empty(x.shape),
    triton_file="gate_bits",
)
register(
    "replay_relu_",
    "(Tensor(a!) x, Tensor bits, float slope) -> ()",
    lambda x, bits, slope: None,
    triton_file="gate_bits",
)
