"""What a training step will take, before anything is allocated: on tensors that have sizes and no numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from .. import methods
from ..build import build, empty_batch, make_optimizers, sizes_of
from ..config import RunConfig
from ..networks.cuts import Cuts
from ..networks.network import Network
from .step import Sizes, step_peak_bytes, steps


class Cost(NamedTuple):
    """Of one training step.

    Attributes:
        network: without numbers.
        flops: of its products (matrices, convolutions), at most over the phases of the method.
        kept_bytes: see :func:`kept_bytes`.
        step_bytes: the peak of what the step makes beside these, see :func:`sgr_train.memory.step.step_peak_bytes`.
    """

    network: Network
    flops: int
    kept_bytes: int
    step_bytes: int

    @property
    def peak_bytes(self) -> int:
        """Of all that lives at once; scratch memory of operators is not among it."""
        return self.kept_bytes + self.step_bytes


def step_cost(config: RunConfig, num_classes: int, image_shape: tuple[int, int, int], found: Cuts = ()) -> Cost:
    """For images (C, H, W); ``found`` as of :func:`sgr_train.build.build`."""
    network, method, x, y = _ready(config, num_classes, image_shape, found)
    flops = _flops(network, method, x, y)
    return Cost(network, flops, kept_bytes(config, network), _peak_bytes(config, network, method, x, y))


def step_bytes(config: RunConfig, num_classes: int, image_shape: tuple[int, int, int], found: Cuts = ()) -> int:
    """``step_bytes`` of :func:`step_cost` alone."""
    return _peak_bytes(config, *_ready(config, num_classes, image_shape, found))


def _ready(
    config: RunConfig, num_classes: int, image_shape: tuple[int, int, int], found: Cuts
) -> tuple[Network, methods.Method, Tensor, Tensor]:
    with torch.device("meta"):
        return *build(config, num_classes, image_shape, found), *empty_batch(config, image_shape)


def _peak_bytes(config: RunConfig, network: Network, method: methods.Method, x: Tensor, y: Tensor) -> int:
    return step_peak_bytes(network, method, x, y, sizes_of(config), config.accumulate)


def kept_bytes(config: RunConfig, network: Network) -> int:
    """Of parameters, buffers, their average if there is one, and the state of the optimizers."""
    weights = _bytes([*network.state_dict().values()])
    return (1 if config.ema is None else 2) * weights + _bytes(_optimizer_state(config, network))


def _optimizer_state(config: RunConfig, network: nn.Module) -> list[Any]:
    state = []
    for optimizer in make_optimizers(config, network):
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            parameter.grad = torch.empty_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
        state += tree_leaves(dict(optimizer.state))
    return state


def _bytes(values: list[Any]) -> int:
    return sum(value.nbytes for value in values if isinstance(value, Tensor))


class _Products(TorchDispatchMode):
    """Counts as FlopCounterMode does, which hooks into modules: the directional engine refuses hooks."""

    flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            self.flops += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


def _flops(network: Network, method: methods.Method, x: Tensor, y: Tensor) -> int:
    """Attention counts by its products, which not every kernel of it tells."""
    sizes, most = Sizes(), 0
    network, method = sizes.copy((network, method), [network])
    with sizes.only(), sdpa_kernel(SDPBackend.MATH), _Products() as products:
        for _ in steps(network, method, sizes.tensor(x), sizes.tensor(y)):
            most, products.flops = max(most, products.flops), 0
    return most
