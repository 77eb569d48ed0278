"""Inputs, plain-torch formulas and the error rule of the tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from sgr_kernels.operators import Operator, registered

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def device_of(backend: str) -> str:
    """Device of the tensors a backend works on in these tests."""
    on_gpu = backend == "cuda" or (backend == "triton" and os.environ.get("TRITON_INTERPRET") != "1")
    return "cuda" if on_gpu else "cpu"


def operators_on(backend: str) -> SimpleNamespace:
    """What torch knows the operators of a backend as, by name."""
    return SimpleNamespace(**{each.name: each.overload(backend) for each in registered() if each.has(backend)})


def replace_operator(monkeypatch, operator: Operator, function: Callable) -> None:
    """Call ``function`` in the place of the compiled operator."""
    monkeypatch.setitem(operator._calls, "sgr", function)


def plain_sgr_loss(delta: Tensor, target: Tensor, *, normalize: bool = True, reduction: str = "mean") -> Tensor:
    """The residual as a user of PyTorch writes it (Algorithm 1), in the dtype of the input."""
    d, g = delta.flatten(1), target.flatten(1)
    if normalize:
        d = d / torch.sqrt(torch.sum(d**2, dim=1, keepdim=True))
        g = g / torch.sqrt(torch.sum(g**2, dim=1, keepdim=True))
    loss = torch.nn.functional.mse_loss(d, g, reduction="mean" if reduction == "mean" else "sum")
    return loss / len(delta) if reduction == "batchmean" else loss


def value_and_grads(function, delta: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    delta, target = delta.detach().requires_grad_(), target.detach().requires_grad_()
    loss = function(delta, target)
    return loss.detach(), *torch.autograd.grad(loss, (delta, target))


def version_of(package: str) -> tuple[int, int]:
    """Major and minor."""
    major, minor = metadata.version(package).split(".")[:2]
    return int(major), int(minor)


def exact_value_and_grads(
    delta: Tensor, target: Tensor, *, normalize: bool = True, reduction: str = "mean"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Loss and both gradients from the formulas of the paper in extended precision: the truth for every dtype."""
    d, g = (t.detach().cpu().double().numpy().astype(np.longdouble).reshape(len(t), -1) for t in (delta, target))
    count = {"mean": d.size, "batchmean": len(d), "sum": 1}[reduction]
    if normalize:
        d_norm, g_norm = (np.sqrt((x * x).sum(1, keepdims=True)) for x in (d, g))
        difference = d / d_norm - g / g_norm
        grads = (_tangent(difference, d / d_norm) / d_norm, _tangent(-difference, g / g_norm) / g_norm)
    else:
        difference = d - g
        grads = (difference, -difference)
    loss = (difference * difference).sum() / count
    return np.asarray(loss), *(2 / np.longdouble(count) * grad.reshape(delta.shape) for grad in grads)


def _tangent(vectors: np.ndarray, unit: np.ndarray) -> np.ndarray:
    return vectors - (vectors * unit).sum(1, keepdims=True) * unit


def upcast(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy().astype(np.longdouble)


def assert_as_exact_as(result: Tensor, plain: Tensor, truth: np.ndarray, cancelling: float = 0.0) -> None:
    """|result - truth| <= 2 |plain - truth| in the Euclidean norm.

    The result must be rounded to its dtype; plain torch may hit the truth by accident, which that rounding (at most one
    unit in the last place of everything) allows for. ``cancelling`` is the norm of terms that were rounded to the same
    dtype before they cancelled in the result.
    """
    error = _norm(upcast(result) - truth)
    plain_error = _norm(upcast(plain) - truth)
    rounding = torch.finfo(result.dtype).eps * max(_norm(truth), cancelling)
    assert error <= 2 * plain_error + rounding, f"error {error:.3e}, plain {plain_error:.3e}, rounding {rounding:.3e}"


def _norm(values: np.ndarray) -> float:
    return np.sqrt((values**2).sum())
