"""Inputs, plain-torch formulas and the error rule of the tests."""

from __future__ import annotations

import ctypes
import importlib
import math
import os
from collections.abc import Callable, Sequence
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sgr_kernels import verdicts
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


choosing = importlib.import_module("sgr_kernels.backends")  # the package has the function of this name


def begin_anew(monkeypatch) -> None:
    """Forget what calls of this process have found of backends, and nothing that is written down."""
    monkeypatch.setattr(choosing, "_choices", {})
    monkeypatch.setattr(choosing, "_warned", set())
    monkeypatch.setattr(verdicts, "_faults", {})


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


def layouts(tensor: Tensor) -> dict[str, Tensor]:
    """The same images in other layouts."""
    batch_last = tensor.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    wide = tensor.new_full((*tensor.shape[:-1], 2 * tensor.shape[-1]), 7.0)
    wide[..., ::2] = tensor
    rows = tensor.new_full((tensor.shape[0], tensor[0].numel() + 3), 7.0)
    rows[:, 3:] = tensor.flatten(1)
    return {
        "contiguous": tensor,
        "channels_last": tensor.contiguous(memory_format=torch.channels_last),
        "batch_last": batch_last,
        "strided": wide[..., ::2],
        "offset_rows": rows[:, 3:].unflatten(1, tensor.shape[1:]),
    }


def release_free_memory() -> None:
    """Give what the C library keeps for later back to the system, so that new tensors show in the resident set."""
    ctypes.CDLL(None).malloc_trim(0)


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


def assert_as_exact_as(result: Tensor, plain: Tensor, truth: np.ndarray, any_order: float = 0.0) -> None:
    """|result - truth| <= 2 |plain - truth| in the Euclidean norm.

    The result must be rounded to its dtype; plain torch may hit the truth by accident, which that rounding (at most one
    unit in the last place of everything) allows for. ``any_order`` is the norm of what the roundings of the sums, which
    have another order on every machine, may amount to: see ``any_order_errors`` and its like.
    """
    error = _norm(upcast(result) - truth)
    plain_error = _norm(upcast(plain) - truth)
    allowed = torch.finfo(result.dtype).eps * _norm(truth) + any_order
    assert error <= 2 * plain_error + allowed, f"error {error:.3e}, plain {plain_error:.3e}, allowed {allowed:.3e}"


def assert_lengths(lengths: Tensor, gradients: np.ndarray) -> None:
    """Those of the rows of ``gradients``. Of a cosine c, 1 - c has an error of some 1e-15 where it comes from products:
    where it is 5e-11, as of rows that differ by 1e-5, four digits are left.
    """
    expected = np.sqrt((gradients.reshape(len(gradients), -1) ** 2).sum(1)).astype(float)
    np.testing.assert_allclose(lengths.cpu().numpy(), expected, rtol=1e-4, atol=1e-12 * expected.max())


def gamma(count: int, dtype: torch.dtype = torch.float64) -> float:
    """What ``count`` roundings in a row amount to, relative to the exact value.

    A sum of n terms, added in any order, is off by at most gamma(n - 1) times the sum of their magnitudes (Higham,
    Accuracy and Stability of Numerical Algorithms, 4.2); n with the rounding of products. Fused operations round less.
    """
    rounding = count * torch.finfo(dtype).eps / 2
    return rounding / (1 - rounding)


def any_order_sum_error(terms: Tensor, dims: Sequence[int], dtype: torch.dtype = torch.float64) -> float:
    """Norm of the rounding errors of sums over ``dims`` that are accumulated in ``dtype``, in any order."""
    count = math.prod(terms.shape[dim] for dim in dims)
    return gamma(max(count - 1, 0), dtype) * _norm(np.abs(upcast(terms)).sum(tuple(dims)))


def assert_norms_are_exact(norms: Tensor, rows: Tensor) -> None:
    """Each row (B, n) by itself, relatively: a sum of n squares in float64, in any order, and its root.

    The root halves the relative error of the sum, and rounds.
    """
    truth = np.sqrt((upcast(rows) ** 2).sum(1))
    allowed = (gamma(rows.shape[1]) / 2 + gamma(2)) * truth
    assert norms.shape == truth.shape
    error = np.abs(upcast(norms) - truth)
    assert (error <= allowed).all(), f"errors {error}, allowed {allowed}"  # NaN is wrong


def any_order_errors(
    delta: Tensor, target: Tensor, *, normalize: bool = True, reduction: str = "mean", floor: float = 0.0
) -> tuple[float, float, float]:
    """Norms of the rounding errors of the residual and of both its gradients, if computed in float64, in any order.

    u is one rounding and G = gamma(n + B + 10): the sums over a row and over rows, and all else that happens once.
    D = |d^ - g^| of a row, with unit vectors d^ and g^, and cosine c = 1 - D^2 / 2.

    Norms. |d| and |g| come out as |d| / (1 + a) and |g| / (1 + b), where a and b are at most G / 2: a root halves the
    relative error of a sum. Then |(1 + a) d^ - (1 + b) g^|^2 = (1 + a) (1 + b) D^2 + (a - b)^2: no part of the
    difference is lost but G D^2 + G^2.

    1 - c of float64 input is half the sum of (d^_i - g^_i)^2. Each d^_i and g^_i rounds by itself, which is a vector of
    length 2 u beside the difference of length D: 4 u D. With the norms, and G D^2 of the sum, the error of 1 - c is
    E = (4 u D + 2 G D^2 + G^2) / 2. Other input: sum delta target and the norms by themselves, E = 2 G.

    Loss s w (1 - c): E, and G D^2 / 2 for the weight w, which is the square of |d| / floor.

    Gradient (s w / |d|) (c d^ - g^), where c d^ - g^ has the length sin <= D: its coefficients are made of c and of the
    norms. In -beta = s w / (|d| |g|), a + b scale the whole gradient, as does w: 2 G D. In alpha = -beta c |g| / |d|,
    E and b - a do not, and alpha d and beta g cancel after that: E + G. Together G (1 + 2 D) + E, times s w / |d|. By
    autograd d^ - g^ is projected instead: b D from g^, (2 a + G) D^2 / 2 + G D from a projection that is not quite one,
    a D from 1 / |d|, which is less.

    Without normalize: loss s w |d - g|^2 / 2, G for the sum and G for w; gradient s w (d - g), of which d, g and their
    coefficients round six times at most, and w by G.
    """
    d, g = (upcast(t).reshape(len(t), -1) for t in (delta, target))
    batch, n = d.shape
    u, roundings = gamma(1), gamma(n + batch + 10)
    scale = 2 / np.longdouble({"mean": d.size, "batchmean": batch, "sum": 1}[reduction])
    norms = [np.sqrt((x * x).sum(1)) for x in (d, g)]
    scale = scale * (np.minimum(1, (norms[0] / floor) ** 2) if floor > 0 else np.ones_like(norms[0]))
    if normalize:
        distance = np.sqrt(((d / norms[0][:, None] - g / norms[1][:, None]) ** 2).sum(1))
        cosine = 2 * roundings
        if delta.dtype == torch.float64:
            cosine = (4 * u * distance + 2 * roundings * distance**2 + roundings**2) / 2
        loss = cosine + roundings * distance**2 / 2
        grads = [(roundings * (1 + 2 * distance) + cosine) / norm for norm in norms]
    else:
        distance = np.sqrt(((d - g) ** 2).sum(1))
        loss = roundings * distance**2
        grads = [6 * u * sum(norms) + (roundings * distance if floor > 0 else 0)] * 2
    return float((scale * loss).sum()), *(float(_norm(scale * grad)) for grad in grads)


def any_order_shift_error(
    x: Tensor, delta: Tensor, target: Tensor, alpha: Tensor, beta: Tensor, factor: float
) -> float:
    """Norm of the rounding errors of x + factor (alpha delta + beta target) in float64, however it is put together.

    Every term rounds four times at most: in factor alpha, in the product, in two additions.
    """
    x, delta, target, alpha, beta = (np.abs(upcast(t)) for t in (x, delta, target, alpha, beta))
    return gamma(4) * _norm(x + abs(factor) * (alpha[:, None] * delta + beta[:, None] * target))


def any_order_cross_entropy_errors(
    truth: tuple[np.ndarray, np.ndarray, np.ndarray], logits: Tensor, tangent: Tensor, origin: Tensor | None = None
) -> tuple[float, float, float]:
    """Norms of the rounding errors of the mean cross entropy, its gradient, and its Hessian times ``tangent``, in
    float64, in any order.

    exp(z_k - z_j) is off by u |z_k - z_j| for the difference and by 2 u for itself. p_k is a product of two such
    numbers over a sum of up to K that are products of two again: with S the largest difference, G = gamma(K + B + 4 S +
    20) covers p_k, the sum of all but the label's, and the loss, which grows no faster than the odds, relatively.
    The Hessian is p_k (t_k - t_o - sum_j p_j (t_j - t_o)), with the class ``origin`` as o, the likeliest if None: G for
    p_k, and 2 G for the terms in brackets, which may cancel.
    """
    z, t = upcast(logits), upcast(tangent)
    batch, classes = z.shape
    present = np.where(np.isfinite(z), z, np.nan)  # a class may be masked by -inf
    span = float((np.nanmax(present, 1) - np.nanmin(present, 1)).max())
    roundings = gamma(classes + batch + math.ceil(4 * span) + 20)
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    origin = p.argmax(1) if origin is None else origin.cpu().numpy()
    away = np.abs(t - np.take_along_axis(t, origin[:, None], 1))
    hvp = 3 * p * (away + (p * away).sum(1, keepdims=True)) / batch
    return tuple(float(roundings * _norm(values)) for values in (truth[0], truth[1], hvp))


def _norm(values: np.ndarray) -> float:
    return np.sqrt((values**2).sum())


def spoilt(operator: Operator, index: int | None, element: int = -1):
    """The kernel with another number in one of its results, or in its first argument."""
    right = operator.on("cpu")

    def call(*arguments):
        results = right(*arguments)
        tensor = arguments[0] if index is None else results[index] if isinstance(results, tuple) else results
        if tensor.numel() > 0:
            tensor.detach()[(element,) * tensor.dim()] += 1
        return results

    return call


class Products(TorchDispatchMode):
    """Shapes of the filters of all convolutions, and how many gradients of each kind are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.filters, self.of_inputs, self.of_weights = [], 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            self.filters.append(tuple(args[1].shape[2:]))
        elif func is torch.ops.aten.convolution_backward.default:
            self.of_inputs += args[-1][0]
            self.of_weights += args[-1][1]
        return func(*args, **(kwargs or {}))


class Widths(TorchDispatchMode):
    """Sizes of the float32 tensors that operators make."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        leaves = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.sizes += [leaf.numel() for leaf in leaves if leaf.dtype == torch.float32]
        return result
