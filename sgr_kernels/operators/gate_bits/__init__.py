"""gate_bits: the gates of a ReLU, one bit an element, recorded by one pass over a network and replayed by the next.

Operators see memory, not shapes: contiguous one-dimensional tensors. ``bits`` is uint8, (ceil(n / 8),); bit i % 8 of
byte i // 8 is 1 where x > 0 or NaN, and bits beyond n are 0. A closed gate gives slope * x, and with slope 0 plain 0
whatever x holds. Names ending in an underscore work in place.
Kernels: csrc/gate_bits/kernel.cuh (CUDA) and cpu.cpp, :mod:`.triton`, :mod:`.reference`.
"""

import torch

from ..common.comparison import numbers
from ..common.operator import Operator
from . import reference


def _kernels():
    from . import triton

    return triton


def _fake_bits(x):
    torch._check(x.dim() == 1, lambda: f"gate bits expect a one-dimensional tensor, got shape {tuple(x.shape)}")
    return x.new_empty((x.shape[0] + 7) // 8, dtype=torch.uint8)


def _example_record(dtype):
    for slope in 0.0, 0.01:
        yield numbers(20_011, dtype=dtype), slope


def _example_replay(dtype):
    """With gates that are not those of x."""
    for x, slope in _example_record(dtype):
        yield x, reference.pack_bits(numbers(len(x), dtype=dtype, seed=1) > 0), slope


# y = leaky ReLU of x, and its gates
record_relu = Operator(
    "record_relu(Tensor x, float slope) -> (Tensor y, Tensor bits)",
    fake=lambda x, slope: (x.new_empty(x.shape), _fake_bits(x)),
    reference=reference.record_relu,
    triton=lambda *args: _kernels().record_relu(*args),
    example=_example_record,
)
record_relu_ = Operator(
    "record_relu_(Tensor(a!) x, float slope) -> Tensor",
    fake=lambda x, slope: _fake_bits(x),
    reference=reference.record_relu_,
    triton=lambda *args: _kernels().record_relu_(*args),
    example=_example_record,
)
# the same with gates given; also its backward, with the gradient for x
replay_relu = Operator(
    "replay_relu(Tensor x, Tensor bits, float slope) -> Tensor",
    fake=lambda x, bits, slope: x.new_empty(x.shape),
    reference=reference.replay_relu,
    triton=lambda *args: _kernels().replay_relu(*args),
    example=_example_replay,
)
replay_relu_ = Operator(
    "replay_relu_(Tensor(a!) x, Tensor bits, float slope) -> ()",
    fake=lambda x, bits, slope: None,
    reference=reference.replay_relu_,
    triton=lambda *args: _kernels().replay_relu_(*args),
    example=_example_replay,
)
