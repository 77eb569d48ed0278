"""gate_bits: the gates of a ReLU, one bit an element, recorded by one pass over a network and replayed by the next.

Operators see memory, not shapes: contiguous one-dimensional tensors. ``bits`` is uint8, (ceil(n / 8),); bit i % 8 of
byte i // 8 is 1 where x > 0 or NaN, and bits beyond n are 0. A closed gate gives slope * x, and with slope 0 plain 0
whatever x holds. Names ending in an underscore work in place.
Kernels: csrc/gate_bits/cpu.cpp and cuda.cu, :mod:`.triton`, :mod:`.reference`.
"""

import torch

from ..common.operator import Operator
from . import reference


def _triton_record(*args):
    from .triton import record_relu

    return record_relu(*args)


def _triton_record_(*args):
    from .triton import record_relu_

    return record_relu_(*args)


def _triton_replay(*args):
    from .triton import replay_relu

    return replay_relu(*args)


def _triton_replay_(*args):
    from .triton import replay_relu_

    return replay_relu_(*args)


def _fake_bits(x):
    torch._check(x.dim() == 1, lambda: f"gate bits expect a one-dimensional tensor, got shape {tuple(x.shape)}")
    return x.new_empty((x.shape[0] + 7) // 8, dtype=torch.uint8)


# y = leaky ReLU of x, and its gates
record_relu = Operator(
    "record_relu(Tensor x, float slope) -> (Tensor y, Tensor bits)",
    fake=lambda x, slope: (x.new_empty(x.shape), _fake_bits(x)),
    reference=reference.record_relu,
    triton=_triton_record,
)
record_relu_ = Operator(
    "record_relu_(Tensor(a!) x, float slope) -> Tensor",
    fake=lambda x, slope: _fake_bits(x),
    reference=reference.record_relu_,
    triton=_triton_record_,
)
# the same with gates given; also its backward, with the gradient for x
replay_relu = Operator(
    "replay_relu(Tensor x, Tensor bits, float slope) -> Tensor",
    fake=lambda x, bits, slope: x.new_empty(x.shape),
    reference=reference.replay_relu,
    triton=_triton_replay,
)
replay_relu_ = Operator(
    "replay_relu_(Tensor(a!) x, Tensor bits, float slope) -> ()",
    fake=lambda x, bits, slope: None,
    reference=reference.replay_relu_,
    triton=_triton_replay_,
)
