"""Autograd Functions whose backward pass is, and is not, the derivative of their forward pass."""

from __future__ import annotations

import torch


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


class _Same(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)


class Reversal(_Same):
    """Gradient reversal."""

    @staticmethod
    def backward(ctx, grad):
        return -grad


class Clipped(_Same):
    @staticmethod
    def backward(ctx, grad):
        return grad.clamp(-1e-3, 1e-3)


class StraightThrough(torch.autograd.Function):
    """Rounds forward, the identity backward."""

    @staticmethod
    def forward(ctx, x):
        return (4 * x).round() / 4

    @staticmethod
    def backward(ctx, grad):
        return grad
