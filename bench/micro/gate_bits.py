"""The gates of a ReLU as bits: recorded by one pass, replayed by its backward pass and by later passes.

Against torch.relu and its backward, which keep no bits and read the output again.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from sgr_kernels.operators.gate_bits import record_relu, record_relu_, replay_relu, replay_relu_

from .. import reference
from .case import Case, Op, Results, Way, nbytes
from .providers import compiled, kernels

MODES = ("record", "replay")


class Pass(NamedTuple):
    x: Tensor
    gradient: Tensor


def inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Pass:
    return Pass(*(torch.randn(shape, device=device).to(dtype).flatten() for _ in Pass._fields))


def case(mode: str, inputs: Pass) -> Case:
    return {"record": _record, "replay": _replay}[mode](inputs)


def record(x: Tensor) -> Results:
    return torch.relu(x), reference.pack_bits(x > 0)


def replay(gradient: Tensor, bits: Tensor) -> Results:
    return (torch.where(reference.unpack_bits(bits, gradient.shape), gradient, 0.0),)


def _record(inputs: Pass) -> Case:
    x = inputs.x
    y, bits = record(x)
    truth = functools.partial(record, x.double())
    ways = {
        "reference": Way(lambda: lambda: record(x), truth),
        "torch.compile": Way(lambda: functools.partial(compiled(record), x), truth),
        "torch.relu": Way(lambda: lambda: (torch.relu(x),), lambda: (torch.relu(x.double()),)),
    }
    for name, kernel in kernels(record_relu, x.device.type).items():
        ways[name] = Way(lambda kernel=kernel: functools.partial(kernel, x, 0.0), truth)
    return Case(ways, "reference", nbytes(x, y, bits))


def _replay(inputs: Pass) -> Case:
    x, gradient = inputs
    y, bits = record(x)
    truth = functools.partial(replay, gradient.double(), bits)
    backward = torch.ops.aten.threshold_backward
    ways = {
        "reference": Way(lambda: lambda: replay(gradient, bits), truth),
        "torch.compile": Way(lambda: functools.partial(compiled(replay), gradient, bits), truth),
        "torch.relu": Way(lambda: lambda: (backward(gradient, y, 0),), truth),
    }
    for name, kernel in kernels(replay_relu, x.device.type).items():
        ways[name] = Way(lambda kernel=kernel: lambda: (kernel(gradient, bits, 0.0),), truth)
    return Case(ways, "reference", nbytes(gradient, bits, gradient))


OPS = {"gate_bits": Op(MODES, inputs, case, (record_relu, record_relu_, replay_relu, replay_relu_))}
