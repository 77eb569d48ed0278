"""Every registered operator of a backend, on small inputs that reach each of its kernels, against float64.

For a first look at a new device, and for memory checkers, which are too slow for the tests. It is an error if a result
is wrong, and also if an operator of the registry is not called: whoever adds one must say here how it is checked.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import sgr_kernels as sk
from sgr_kernels import ops, reference

from .checks import relative_error

BACKENDS = {"cpu": ("cpu",), "cuda": ("cuda", "triton")}
DTYPES = ("float64", "float32", "bfloat16", "float16")
# Largest relative error, by the dtype to which a result is rounded on the way. Products add up many rounding errors.
LIMITS = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}

EPS = 1e-12
SLOPES = (0.0, 0.01)


class Rows(NamedTuple):
    """Size and place in memory of (rows, columns) arguments of the residual."""

    rows: int
    kib: int  # of a row
    more: int  # elements of a row beside them
    late: int = 0  # elements between an aligned address and the first of delta; its rows lie apart then

    def columns(self, dtype: torch.dtype) -> int:
        return self.kib * 1024 // dtype.itemsize + self.more


# What a row takes decides how many processors keep it on chip: one, or a cluster (of those that have 228 KiB).
ROWS = (
    Rows(2051, 0, 33),  # more rows than one block, or one Triton program, adds up the losses of in one go
    Rows(3, 16, 0),  # nothing but aligned packs of 16 bytes
    Rows(3, 16, 5),  # rows that begin anywhere: single elements on both sides of the packs
    Rows(3, 16, 5, late=1),  # delta and target never aligned together: no packs
    Rows(3, 60, 5),  # a cluster of 2, several segments; Triton: the last one that stays in registers, in float32
    Rows(2, 120, 5),  # a cluster of 4
    Rows(2, 240, 5),  # of 8
    Rows(2, 1400, 5),  # of 16
    Rows(2, 2000, 5),  # does not fit on chip: two sweeps
)
# (R, C, S) of relu_backward, and by how many elements the gradient begins late.
GATES = (
    ((7, 2, 1), 0),  # fewer columns than a pack has elements
    ((150, 264, 1), 0),  # packs of columns, several blocks side by side
    ((150, 264, 1), 1),  # the same columns one by one
    ((40, 7, 1), 0),
    ((3, 5, 49), 0),  # several columns a channel
    ((2, 3, 301), 0),  # slices that are worth a sweep, and begin anywhere
    ((1101, 2, 257), 0),  # several slices a block
    ((2, 3, 8193), 0),  # several segments a slice
    ((3, 1, 5000), 0),  # a single channel is one long slice
)
# Elements of recorded gates, and by how many they begin late.
RECORDED = (
    (20_011, 0),  # packs, in several blocks
    (1003, 1),  # one by one
)
# (rows, classes) of logits, and the elements between rows.
LOGITS = (
    ((5, 10), 0),  # several rows a block
    ((5, 10), 3),
    ((3, 300), 0),  # a block a row
    ((2, 5003), 0),  # several steps of a Triton program
)


class Product(NamedTuple):
    """Size of the fused products in Triton: gradients (batch, m), weights (m, n)."""

    batch: int
    m: int
    n: int
    apart: int = 0  # elements between rows of the gradient


PRODUCTS = (
    Product(21, 41, 57),  # masks everywhere, and no wide loads
    Product(64, 64, 96),  # neither masks nor narrow loads
    Product(1025, 32, 1920),  # large tiles for delta
    Product(21, 1040, 1920),  # for the gradient of the weight
    Product(2, 40, 48, apart=2**23),  # offsets in a tile that may exceed 32 bits
)


class Layer(NamedTuple):
    name: str
    function: Callable[..., Tensor]
    x: tuple[int, ...]
    weight: tuple[int, ...]
    geometry: tuple = ()
    layout: torch.memory_format = torch.contiguous_format


GEOMETRY = [2, 1], [1, 1], [1, 1], 1  # stride, padding, dilation, groups
LAYERS = (
    Layer("linear_relu", F.linear, (21, 33), (40, 33)),
    Layer("conv2d_relu", F.conv2d, (2, 3, 9, 9), (4, 3, 3, 3), GEOMETRY),
    Layer("conv2d_relu", F.conv2d, (2, 3, 9, 9), (4, 3, 3, 3), GEOMETRY, torch.channels_last),
)


class Result(NamedTuple):
    what: str
    value: Tensor
    truth: Tensor  # float64
    rounded: torch.dtype  # to which the operator may round


class Kernels:
    """The operators of a backend by name. Remembers which of them have been called."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self._operators = ops.of(backend)
        self._called: set[str] = set()

    def __getattr__(self, name: str) -> Callable:
        self._called.add(name)
        return getattr(self._operators, name)

    def forgotten(self) -> list[str]:
        names = {name for name in vars(self._operators) if not name.startswith("differentiable_")}
        return sorted(names - self._called)


Group = Callable[[Kernels, torch.dtype, str], Iterator[Result]]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; exit status 1 where something is wrong or missing."""
    parser = argparse.ArgumentParser(prog="python -m sgr_bench.every_kernel", description=__doc__)
    parser.add_argument("--device", choices=BACKENDS, default="cpu")
    parser.add_argument("--backend", choices=GROUPS, help="default: all of the device")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), metavar="DTYPE")
    args = parser.parse_args(argv)
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32, in convolutions too
    problems = []
    for backend in [args.backend] if args.backend else BACKENDS[args.device]:
        problems += check(backend, args.device, args.dtypes)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def check(backend: str, device: str, dtypes: Sequence[str] = DTYPES) -> list[str]:
    """What is wrong with the operators of a backend."""
    kernels, problems = Kernels(backend), []
    try:
        with sk.backend(backend):
            for dtype, group in itertools.product(dtypes, GROUPS[backend]):
                problems += _problems(group, kernels, dtype, device)
    except RuntimeError as error:  # the backend does not run here
        return [str(error)]
    return problems + [f"{backend}: {name} was not called" for name in kernels.forgotten()]


def _problems(group: Group, kernels: Kernels, dtype: str, device: str) -> list[str]:
    torch.manual_seed(0)
    name = f"{kernels.backend} {group.__name__} {dtype}"
    errors, wrong = [], []
    try:
        for result in group(kernels, getattr(torch, dtype), device):
            errors.append(relative_error(result.value, result.truth))
            if not errors[-1] < LIMITS[result.rounded]:  # NaN is wrong
                wrong.append(f"{name}, {result.what}: relative error {errors[-1]:.1e}")
    except Exception as error:  # the other groups are worth a look all the same
        traceback.print_exc()
        wrong.append(f"{name}, after {len(errors)} results: {type(error).__name__}: {error}")
    print(f"{name}: {len(errors)} results, largest error {max(errors, default=0.0):.1e}", flush=True)
    return wrong


# --- groups of operators ----------------------------------------------------------------------------------------------


def residual(kernels: Kernels, dtype: torch.dtype, device: str) -> Iterator[Result]:
    for rows in ROWS:
        shape = rows.rows, rows.columns(dtype)
        delta, target, x = torch.randn(3, *shape).to(device, dtype).unbind(0)
        if rows.rows > 2:
            delta[-1] = 0  # a dead row
        delta = _placed(delta, rows.late, 2 * rows.late)
        floor = torch.tensor(2 * math.sqrt(shape[1]), dtype=torch.float64, device=device)
        # Unit rows; and distances, scaled down by a floor that only the device knows.
        for options in (True, 0, 0.0, None, EPS), (False, 2, 0.0, floor, EPS):
            for result in _of_residual(kernels, delta, target, x, options):
                yield result._replace(what=f"{result.what} {rows} normalize={options[0]}")


def _of_residual(kernels: Kernels, delta: Tensor, target: Tensor, x: Tensor, options: tuple) -> Iterator[Result]:
    dtype, wide = delta.dtype, reference.loss_dtype(delta)
    truth, v, v_target = _residual_truth(delta, target, options)
    loss, coef = kernels.sgr_loss(delta, target, *options)
    alpha, beta, alpha_target = coef
    yield Result("sgr_loss, loss", loss, truth, wide)
    yield Result("sgr_loss, alpha and beta", _combined(alpha, delta, beta, target), v, wide)
    yield Result("sgr_loss, alpha_target", _combined(alpha_target, target, beta, delta), v_target, wide)
    loss, own = kernels.sgr_residual(delta, target, *options)
    yield Result("sgr_residual, loss", loss, truth, wide)
    yield Result("sgr_residual, v", own, v, wide)
    scale = (1 / v.abs().max()).to(delta.device, wide)  # float16 cannot hold the gradient of a mean
    factor = float(scale)
    gradient = kernels.sgr_loss_backward(scale, delta, target, alpha, beta)
    yield Result("sgr_loss_backward", gradient, factor * v, dtype)
    gradient = kernels.sgr_loss_backward(scale, target, delta, alpha_target, beta)
    yield Result("sgr_loss_backward, of the target", gradient, factor * v_target, dtype)
    shifted = kernels.sgr_shift(x, delta, target, alpha, beta, factor)
    yield Result("sgr_shift", shifted, _exact(x) + factor * v, dtype)


def gate(kernels: Kernels, dtype: torch.dtype, device: str) -> Iterator[Result]:
    for shape, late in GATES:
        grad = _placed(torch.randn(shape).to(device, dtype), late)
        output = torch.randn(shape).to(device, dtype).relu()
        truth = _gated(grad, output)
        for sum_channels in (True, False):
            what = f"{shape} late={late} sum_channels={sum_channels}"
            masked, sums = kernels.relu_backward(grad, output, sum_channels)
            yield Result(f"relu_backward, masked {what}", masked, truth, dtype)
            expected = truth.sum((0, 2)) if sum_channels else truth.new_empty(0)
            yield Result(f"relu_backward, sums {what}", sums, expected, reference.loss_dtype(grad))


def recorded_gates(kernels: Kernels, dtype: torch.dtype, device: str) -> Iterator[Result]:
    for (n, late), slope in itertools.product(RECORDED, SLOPES):
        values, what = torch.randn(n).to(dtype), f"{n} late={late} slope={slope}"
        x = _placed(values.to(device), late)
        positive, other = values > 0, torch.rand(n) > 0.5
        truth, bits_truth = _leaky(values, positive, slope), reference.pack_bits(positive).double()
        y, bits = kernels.record_relu(x, slope)
        yield Result(f"record_relu, y {what}", y, truth, dtype)
        yield Result(f"record_relu, bits {what}", bits, bits_truth, torch.float64)
        y = kernels.replay_relu(x, reference.pack_bits(other).to(device), slope)
        yield Result(f"replay_relu {what}", y, _leaky(values, other, slope), dtype)
        bits = kernels.record_relu_(x, slope)
        yield Result(f"record_relu_, y {what}", x, truth, dtype)
        yield Result(f"record_relu_, bits {what}", bits, bits_truth, torch.float64)
        x.copy_(values)
        kernels.replay_relu_(x, reference.pack_bits(other).to(device), slope)
        yield Result(f"replay_relu_ {what}", x, _leaky(values, other, slope), dtype)


def cross_entropy(kernels: Kernels, dtype: torch.dtype, device: str) -> Iterator[Result]:
    for shape, apart in LOGITS:
        logits = _placed(torch.randn(shape).to(device, dtype), 0, apart)
        labels = torch.randint(shape[1], shape[:1])
        wide = reference.loss_dtype(logits)
        tangent = torch.randn(shape, dtype=wide)
        loss, gradient = kernels.cross_entropy(logits, labels.to(device))
        loss_truth, gradient_truth = reference.cross_entropy_gradient(_exact(logits), labels)
        yield Result(f"cross_entropy, loss {shape}", loss, loss_truth, wide)
        yield Result(f"cross_entropy, gradient {shape}", gradient, gradient_truth, wide)
        product = kernels.cross_entropy_hvp(logits, labels.to(device), tangent.to(device))
        truth = reference.cross_entropy_hvp(_exact(logits), labels, tangent.double())
        yield Result(f"cross_entropy_hvp {shape}", product, truth, wide)


def layers(kernels: Kernels, dtype: torch.dtype, device: str) -> Iterator[Result]:
    """Made of library products and of other operators."""
    for layer in LAYERS:
        x, v_x = (torch.randn(layer.x).to(device, dtype).to(memory_format=layer.layout) for _ in range(2))
        weight, v_weight = torch.randn(2, *layer.weight).to(device, dtype).unbind(0)
        bias, v_bias = torch.randn(2, len(weight)).to(device, dtype).unbind(0)
        forward, backward, double_backward = (
            getattr(kernels, layer.name + suffix) for suffix in ("", "_backward", "_double_backward")
        )
        output = forward(x, weight, bias, *layer.geometry)
        yield _of_layer(layer, "", "output", output, F.relu(_product(layer, x, weight, bias)))
        grad, all_of_them = torch.randn_like(output), [True] * 3
        inputs, tangents = (x, weight, bias), (v_x, v_weight, v_bias)
        first, second = _layer_truth(layer, inputs, tangents, grad, output > 0)
        results = backward(grad, output, x, weight, all_of_them, *layer.geometry)
        for name, result, truth in zip(("x", "weight", "bias"), results, first, strict=True):
            yield _of_layer(layer, "_backward", name, result, truth)
        results = double_backward(*tangents, grad, output, x, weight, all_of_them, *layer.geometry)
        for name, result, truth in zip(("grad", "x", "weight"), results, second, strict=True):
            yield _of_layer(layer, "_double_backward", name, result, truth)


def _of_layer(layer: Layer, suffix: str, name: str, value: Tensor, truth: Tensor) -> Result:
    return Result(f"{layer.name}{suffix}, {name} {layer.layout}", value, truth, value.dtype)


def products(kernels: Kernels, dtype: torch.dtype, device: str) -> Iterator[Result]:
    if dtype == torch.float64:
        return _refuse_float64(kernels, device)
    for product, tf32 in itertools.product(PRODUCTS, (False, True) if dtype == torch.float32 else (False,)):
        with _allowing_tf32(tf32):
            for result in _of_product(kernels, product, dtype, device):
                rounded = torch.float16 if tf32 else result.rounded  # both have 11 bits
                yield result._replace(what=f"{result.what} {product} tf32={tf32}", rounded=rounded)


def _refuse_float64(kernels: Kernels, device: str) -> None:
    matrix = torch.zeros(2, 2, dtype=torch.float64, device=device)
    for operator, arguments in (
        (kernels.linear_relu_delta, (*[matrix] * 4, True, 1, 0.0, None, EPS)),
        (kernels.linear_relu_weight_grad, (*[matrix] * 5, matrix[0], matrix[0], 1.0, True)),
    ):
        with contextlib.suppress(TypeError):
            operator(*arguments)
            raise AssertionError(f"{operator} takes float64")


def _of_product(kernels: Kernels, product: Product, dtype: torch.dtype, device: str) -> Iterator[Result]:
    batch, m, n, apart = product
    grad, output = torch.randn(2, batch, m).to(device, dtype).unbind(0)
    x, target = torch.randn(2, batch, n).to(device, dtype).unbind(0)
    weight = torch.randn(m, n).to(device, dtype)
    a, grad = _gated(grad, output), _placed(grad, 0, apart)
    for normalize in (True, False):
        options = normalize, 1, 0.0, None, EPS
        delta, loss, coef = kernels.linear_relu_delta(grad, output, weight, target, *options)
        yield Result("linear_relu_delta, delta", delta, a @ _exact(weight), dtype)
        loss_truth, v, _ = _residual_truth(delta, target, options)  # of delta as it was rounded
        yield Result("linear_relu_delta, loss", loss, loss_truth, torch.float32)
        yield Result("linear_relu_delta, coef", _combined(coef[0], delta, coef[1], target), v, torch.float32)
        factor = float(1 / v.abs().max())
        arguments = grad, output, x, delta, target, coef[0], coef[1], factor
        grad_weight, grad_bias = kernels.linear_relu_weight_grad(*arguments, normalize)
        yield Result("linear_relu_weight_grad, weight", grad_weight, a.T @ (_exact(x) + factor * v), dtype)
        expected = a.sum(0) if normalize else a.new_empty(0)
        yield Result("linear_relu_weight_grad, bias", grad_bias, expected, torch.float32)


COMMON: tuple[Group, ...] = (residual, gate, recorded_gates, cross_entropy)
GROUPS: dict[str, tuple[Group, ...]] = {
    "cpu": (*COMMON, layers),
    "cuda": (*COMMON, layers),
    "triton": (*COMMON, products),
}


# --- inputs and truth -------------------------------------------------------------------------------------------------


def _placed(values: Tensor, late: int, apart: int = 0) -> Tensor:
    """A copy that begins ``late`` elements after an aligned address, with NaN between rows that lie further apart."""
    stride = values.stride(0) + apart
    memory = values.new_full((late + len(values) * stride,), math.nan)
    return memory.as_strided(values.shape, (stride, *values.stride()[1:]), late).copy_(values)


def _exact(values: Tensor) -> Tensor:
    return values.detach().cpu().double()


def _combined(alpha: Tensor, delta: Tensor, beta: Tensor, target: Tensor) -> Tensor:
    return alpha.cpu()[:, None] * _exact(delta) + beta.cpu()[:, None] * _exact(target)


def _residual_truth(delta: Tensor, target: Tensor, options: tuple) -> tuple[Tensor, Tensor, Tensor]:
    """The loss and its gradients for delta and target."""
    normalize, reduction, floor, floor_tensor, eps = options
    floor = floor if floor_tensor is None else floor_tensor.cpu()
    pair = [_exact(t).requires_grad_() for t in (delta, target)]
    loss = reference.sgr_loss(*pair, normalize=normalize, reduction=ops.REDUCTIONS[reduction], floor=floor, eps=eps)
    return loss.detach(), *torch.autograd.grad(loss, pair)


def _gated(grad: Tensor, output: Tensor) -> Tensor:
    return torch.where(output.cpu() <= 0, 0.0, _exact(grad))


def _leaky(values: Tensor, is_open: Tensor, slope: float) -> Tensor:
    return torch.where(is_open, _exact(values), slope * _exact(values))


def _product(layer: Layer, *inputs: Tensor) -> Tensor:
    return layer.function(*map(_exact, inputs), *layer.geometry)


def _layer_truth(
    layer: Layer, inputs: tuple[Tensor, ...], tangents: tuple[Tensor, ...], grad: Tensor, is_open: Tensor
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Gradients of <grad, y> for the inputs, and those of their product with the tangents for grad, x and weight."""
    grad, x, weight, bias = (_exact(t).requires_grad_() for t in (grad, *inputs))
    y = is_open.cpu() * layer.function(x, weight, bias, *layer.geometry)
    first = torch.autograd.grad(y, (x, weight, bias), grad, create_graph=True)
    inner = sum((a * _exact(b)).sum() for a, b in zip(first, tangents, strict=True))
    return first, torch.autograd.grad(inner, (grad, x, weight))


@contextlib.contextmanager
def _allowing_tf32(allowed: bool) -> Iterator[None]:
    before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


if __name__ == "__main__":
    sys.exit(main())
