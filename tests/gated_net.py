"""A network around one function, and the gradient that an engine computes for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import sgr_kernels as sk


class Net(nn.Module):
    """Convolution, the function in question, a smooth mixing of what comes out."""

    def __init__(self, function) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.function(self.conv(x)))


def gradients(engine: str, function, **options) -> Tensor:
    torch.manual_seed(0)
    body = Net(function).double()
    x, delta_pre = torch.randn(2, 4, 6, 8, 8, dtype=torch.float64).unbind(0)

    def head(features, y):
        return (features - y).square().sum(tuple(range(1, features.dim()))).mean()

    sk.local_step(body, head, x, 0.3, delta_pre, weight=1e3, engine=engine, **options)
    total = body.conv.weight.grad.clone()
    body.zero_grad()
    sk.local_step(body, head, x, 0.3, None, weight=0.0, engine="autograd")
    return total - body.conv.weight.grad
