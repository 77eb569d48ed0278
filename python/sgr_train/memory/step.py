"""Peak memory of a training step by tensors that have sizes and no numbers: neither a GPU nor the memory is needed."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sgr_kernels.gpu_path import cpu_as_gpu

from .. import methods
from ..networks.network import Network
from .live import peak_live_bytes_below

Thing = TypeVar("Thing")


class Sizes:
    """Where tensors have sizes and no numbers.

    Args:
        gpu: they take the path of tensors on a GPU.
        autocast: the dtype of autocast; None: without it.
    """

    def __init__(self, *, gpu: bool = False, autocast: torch.dtype | None = None) -> None:
        self.gpu, self.autocast, self._mode = gpu, autocast, FakeTensorMode(allow_non_fake_inputs=True)

    @contextlib.contextmanager
    def only(self) -> Iterator[None]:
        """What is inside takes and makes such tensors, on the CPU."""
        with contextlib.ExitStack() as inside:
            inside.enter_context(self._mode)
            if self.gpu:
                inside.enter_context(cpu_as_gpu())
            if self.autocast is not None:
                inside.enter_context(torch.autocast("cpu", self.autocast))
            yield

    def tensor(self, like: Tensor) -> Tensor:
        with self._mode:
            return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype)

    def copy(self, things: Thing, modules: Iterable[nn.Module]) -> Thing:
        """A copy of ``things`` in which the parameters and buffers of ``modules`` have no numbers; it costs nothing."""
        memo: dict[int, object] = {}
        for module in modules:
            for each in module.parameters():
                memo[id(each)] = nn.Parameter(self.tensor(each), requires_grad=each.requires_grad)
            for each in module.buffers():
                memo[id(each)] = self.tensor(each)
        return copy.deepcopy(things, memo)


def step_peak_bytes(
    network: Network, method: methods.Method, x: Tensor, y: Tensor, sizes: Sizes | None = None, batches: int = 1
) -> int:
    """Peak of the tensors that one training step makes.

    Gradients are among them, until ``update`` says that they are complete and an optimizer may take them; parameters,
    optimizers and scratch memory inside of operators are not. Of a method with phases, the largest of all phases.
    Network and method stay as they are.

    Args:
        network: on any device, "meta" too.
        method: one that was prepared for the network.
        x, y: inputs (B, C, H, W) and labels (B,), of which only shapes, strides and dtypes count; on any device.
        sizes: the path of a GPU, and autocast. None: the CPU's.
        batches: in a row, whose gradients an update takes together.

    Returns:
        bytes.
    """
    sizes = sizes or Sizes()
    made = sizes.copy((network, method), [network])
    return int(peak_below(math.inf, *made, sizes.tensor(x), sizes.tensor(y), sizes, batches))


def peak_below(
    limit: float, network: Network, method: methods.Method, x: Tensor, y: Tensor, sizes: Sizes, batches: int = 1
) -> float:
    """The same of what has no numbers, or infinity where it is not below the limit."""

    with sizes.only():
        return peak_live_bytes_below(limit, lambda: list(steps(network, method, x, y, batches)))


def steps(network: Network, method: methods.Method, x: Tensor, y: Tensor, batches: int = 1) -> Iterator[None]:
    """Takes those of one update in every phase; gradients go as soon as they are complete.

    More than two batches in a row take no more memory than two.
    """
    for phase in range(methods.phases(method, network)):
        methods.begin_epoch(method, phase, 1)
        network.train()
        if batches > 1:
            method.step(network, x, y)
        method.step(network, x, y, lambda k: network[k].zero_grad())
        yield
