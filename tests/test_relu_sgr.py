"""linear_relu_sgr and conv2d_relu_sgr against Eq. 35 written out, double backward, and the curvature by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import DTYPES, Widths, assert_as_exact_as, device_of, exact_value_and_grads, upcast

import sgr_kernels as sk

OPTIONS = [(normalize, reduction) for normalize in (True, False) for reduction in ("mean", "batchmean", "sum")]
GEOMETRIES = {
    "conv": {},
    "conv_padded": {"padding": 1},
    "conv_strided": {"stride": (2, 1), "padding": (0, 1)},
    "conv_dilated": {"dilation": [2, 1]},
    "conv_groups": {"groups": 2, "stride": 2},
}
LAYERS = ["linear", "linear_3d", "linear_4d", *GEOMETRIES]


class Layer:
    """A ReLU layer, its tensors, and a head L(y) = sum of softplus(w y)^2 / B with a Hessian of full rank."""

    def __init__(self, name: str, dtype=torch.float64, device="cpu", batch: int = 6) -> None:
        self.conv = name.startswith("conv")
        self.options = GEOMETRIES.get(name, {})
        shape = {"linear": (9,), "linear_3d": (4, 9), "linear_4d": (2, 3, 9)}.get(name, (4, 7, 6))
        weight = (5, 9) if not self.conv else (6, 4 // self.options.get("groups", 1), 3, 2)

        def random(*sizes):
            return torch.randn(sizes, dtype=torch.float64).to(device, dtype)

        self.x, self.weight, self.bias = random(batch, *shape), random(*weight), random(weight[0])
        self.target = random(batch, *shape)
        self.head = torch.randn_like(self.output())

    def linear_map(self, x, weight, bias=None):
        return F.conv2d(x, weight, bias, **self.options) if self.conv else F.linear(x, weight, bias)

    def output(self):
        return F.relu(self.linear_map(self.x, self.weight, self.bias))

    def loss(self, y):
        return F.softplus(self.head.to(y.dtype) * y).square().sum() / len(y)

    def grad_output(self):
        y = self.output().requires_grad_()
        return torch.autograd.grad(self.loss(y), y)[0]

    def hvp(self, u):
        """Hessian of the loss applied to u."""
        with torch.enable_grad():
            y = self.output().to(u.dtype).requires_grad_()
            (g,) = torch.autograd.grad(self.loss(y), y, create_graph=True)
            return torch.autograd.grad(g, y, u)[0]

    def sgr(self, **options):
        arguments = {"x": self.x, "weight": self.weight, "bias": self.bias, "grad_output": self.grad_output()}
        arguments |= {"target": self.target} | options | self.options
        return (sk.conv2d_relu_sgr if self.conv else sk.linear_relu_sgr)(**arguments)

    def double_backward(self, plain_loss, frozen: bool):
        """(loss, delta, gradients of weight and bias) by autograd through plain torch.

        ``frozen``: the upstream gradient is a constant.
        """
        x, weight, bias = (t.detach().requires_grad_() for t in (self.x, self.weight, self.bias))
        y = F.relu(self.linear_map(x, weight, bias))
        if frozen:
            (delta,) = torch.autograd.grad(y, x, self.grad_output(), create_graph=True)
        else:
            (delta,) = torch.autograd.grad(self.loss(y), x, create_graph=True)
        loss = plain_loss(delta)
        grads = torch.autograd.grad(loss, (weight, bias), allow_unused=True)
        return loss.detach(), delta.detach(), grads[0], torch.zeros_like(bias) if grads[1] is None else grads[1]


def loss_of(target, normalize=True, reduction="mean"):
    """The residual in plain torch; alike, but twice differentiable where sgr_loss is under test itself."""

    def loss(delta):
        d, g = delta.flatten(1), target.flatten(1)
        if normalize:
            d, g = d / d.norm(dim=1, keepdim=True), g / g.norm(dim=1, keepdim=True)
        return (d - g).square().sum() / {"mean": d.numel(), "batchmean": len(d), "sum": 1}[reduction]

    return loss


def assert_close(result, expected):
    """float64: 1e-10 relative, in the Euclidean norm."""
    for mine, theirs in zip(result, expected, strict=True):
        assert mine.shape == theirs.shape
        assert (mine - theirs).norm() <= 1e-10 * theirs.norm()


def assert_alive(delta):
    """Rows far below the others are noise in any method: the comparison says something about the others only."""
    norms = delta.flatten(1).norm(dim=1)
    assert (norms > 1e-6 * norms.square().mean().sqrt()).all()


def eq35(x, weight, bias, grad_output, target, v_of):
    """delta and dL/dW of Eq. 35 in extended precision, with v = dL/d delta from ``v_of``."""
    z = x @ weight.T + bias
    a = np.where(z > 0, grad_output, 0)
    delta = a @ weight
    return delta, a.T @ v_of(delta, target)


def test_none_is_equation_35_as_printed(backend):
    """1/2 |delta - g|^2 summed over samples: half of normalize=False, reduction="sum"."""
    layer = Layer("linear", device=device_of(backend))
    grad_output = layer.grad_output()
    with sk.backend(backend):
        result = layer.sgr(normalize=False, reduction="sum")
    arrays = [upcast(t) for t in (layer.x, layer.weight, layer.bias, grad_output, layer.target)]
    delta, grad_weight = eq35(*arrays, lambda delta, g: delta - g)
    np.testing.assert_allclose(upcast(result.delta), delta, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(upcast(result.grad_weight) / 2, grad_weight, rtol=1e-10, atol=1e-12)
    assert abs(result.loss.item() - float(((delta - arrays[4]) ** 2).sum())) <= 1e-10 * result.loss.item()
    assert not result.grad_bias.any()


@pytest.mark.parametrize("reduction", ["mean", "batchmean", "sum"])
def test_none_is_equation_35_normalised(backend, reduction):
    layer = Layer("linear", device=device_of(backend))
    with sk.backend(backend):
        result = layer.sgr(reduction=reduction)
    loss, v, _ = exact_value_and_grads(result.delta, layer.target, reduction=reduction)
    arrays = [upcast(t) for t in (layer.x, layer.weight, layer.bias, layer.grad_output(), layer.target)]
    _, grad_weight = eq35(*arrays, lambda delta, g: v)
    np.testing.assert_allclose(upcast(result.grad_weight), grad_weight, rtol=1e-9, atol=1e-12)
    assert abs(result.loss.item() - float(loss)) <= 1e-10 * float(loss)


@pytest.mark.parametrize(("normalize", "reduction"), OPTIONS)
@pytest.mark.parametrize("name", LAYERS)
def test_none_is_double_backward_with_a_constant_upstream_gradient(backend, name, normalize, reduction):
    layer = Layer(name, device=device_of(backend))
    with sk.backend(backend):
        result = layer.sgr(normalize=normalize, reduction=reduction)
    assert_alive(result.delta)
    assert_close(result, layer.double_backward(loss_of(layer.target, normalize, reduction), frozen=True))


@pytest.mark.parametrize(("normalize", "reduction"), OPTIONS)
@pytest.mark.parametrize("name", LAYERS)
def test_exact_is_double_backward(backend, name, normalize, reduction):
    layer = Layer(name, device=device_of(backend))
    with sk.backend(backend):
        result = layer.sgr(normalize=normalize, reduction=reduction, curvature="exact", hvp=layer.hvp)
    assert_alive(result.delta)
    assert_close(result, layer.double_backward(loss_of(layer.target, normalize, reduction), frozen=False))


@pytest.mark.parametrize("name", ["linear", "conv_strided"])
def test_what_none_leaves_out_is_the_curvature(backend, name):
    """exact - none = (C D)^T X and sum C D, with C = H[U] from central differences of the upstream gradient."""
    layer = Layer(name, device=device_of(backend))
    with sk.backend(backend):
        exact, none = layer.sgr(curvature="exact", hvp=layer.hvp), layer.sgr()
        _, v = sk.sgr_residual(exact.delta, layer.target)
    y = layer.output()
    gates = (y > 0).double()
    u = layer.linear_map(v, layer.weight) * gates
    step = 1e-4 / u.abs().max()
    moved = []
    for sign in (1, -1):
        shifted = (y + sign * step * u).requires_grad_()
        moved.append(torch.autograd.grad(layer.loss(shifted), shifted)[0])
    a = (moved[0] - moved[1]) / (2 * step) * gates
    weight, bias = layer.weight.clone().requires_grad_(), layer.bias.clone().requires_grad_()
    expected = torch.autograd.grad(layer.linear_map(layer.x, weight, bias), (weight, bias), a)
    for mine, other, theirs in zip(exact[2:], none[2:], expected, strict=True):
        assert theirs.norm() > 0
        # the rounding of the two upstream gradients, divided by the step, and the third derivative of the loss
        assert (mine - other - theirs).norm() <= 1e-6 * theirs.norm()


def test_hvp_gets_the_tangent_with_closed_gates():
    layer = Layer("linear")
    seen = []
    layer.sgr(curvature="exact", hvp=lambda u: seen.append(u) or layer.hvp(u))
    [u] = seen
    _, v = sk.sgr_residual(layer.sgr().delta, layer.target)
    torch.testing.assert_close(u, (v @ layer.weight.T) * (layer.output() > 0))


@pytest.mark.parametrize("curvature", ["none", "exact"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["linear", "conv_padded"])
def test_as_exact_as_plain_torch(backend, name, dtype, curvature):
    """Against double backward in the same dtype; gates and upstream gradient are those of the dtype in both."""
    layer = Layer(name, dtype, device_of(backend))
    grad_output, gates = layer.grad_output(), layer.output() > 0
    curve = torch.randn_like(grad_output) / 8  # of a quadratic head: C = curve * U in every dtype

    def double_backward(wide):
        x, weight, bias = (t.to(wide).requires_grad_() for t in (layer.x, layer.weight, layer.bias))
        y = layer.linear_map(x, weight, bias) * gates
        # its gradient at the current y is grad_output, its Hessian diag(curve)
        upstream = grad_output.to(wide)
        if curvature == "exact":
            upstream = upstream + curve.to(wide) * (y - y.detach())
        (delta,) = torch.autograd.grad(y, x, upstream, create_graph=True)
        loss = loss_of(layer.target.to(wide))(delta)
        grads = torch.autograd.grad(loss, (weight, bias), allow_unused=True)
        return loss.detach(), delta.detach(), *grads

    hvp = (lambda u: curve.to(u.dtype) * u) if curvature == "exact" else None
    with sk.backend(backend):
        result = layer.sgr(grad_output=grad_output, curvature=curvature, hvp=hvp)
    plain, exact = double_backward(dtype), double_backward(torch.float64)
    for mine, theirs, truth in zip(result, plain, exact, strict=True):
        if truth is None:
            assert not mine.any()
        elif dtype == torch.float64:
            assert_close([mine], [truth])
        else:
            assert_as_exact_as(mine.to(dtype), theirs, upcast(truth))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("curvature", ["none", "exact"])
def test_output_at_hand_changes_nothing(backend, name, curvature):
    layer = Layer(name, device=device_of(backend))
    hvp = layer.hvp if curvature == "exact" else None
    output = layer.output()
    before = output.clone()
    with sk.backend(backend):
        assert_close(layer.sgr(curvature=curvature, hvp=hvp, output=output), layer.sgr(curvature=curvature, hvp=hvp))
    assert torch.equal(output, before)


def test_the_output_is_what_opens_the_gates(backend):
    """An output that was given is used, not computed again."""
    layer = Layer("linear", device=device_of(backend))
    with sk.backend(backend):
        closed = layer.sgr(output=torch.zeros_like(layer.output()))
    assert not closed.delta.any() and not closed.grad_weight.any()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("name", ["linear", "conv"])
def test_dead_blocks(backend, name, normalize):
    """All gates closed: nothing moves, and nothing is NaN."""
    layer = Layer(name, device=device_of(backend))
    layer.bias -= 1e3
    with sk.backend(backend):
        result = layer.sgr(normalize=normalize, curvature="exact", hvp=layer.hvp)
    assert all(not t.any() for t in result[1:])
    expected = 0.0 if normalize else layer.target.square().mean().item()
    assert abs(result.loss.item() - expected) <= 1e-12


@pytest.mark.parametrize("name", ["linear", "conv"])
def test_dead_samples_add_nothing(backend, name):
    """Samples without an upstream gradient: the sum over the others is left."""
    layer = Layer(name, device=device_of(backend))
    grad_output = layer.grad_output()
    grad_output[[1, 4]] = 0.0
    alive = [0, 2, 3, 5]
    with sk.backend(backend):
        result = layer.sgr(grad_output=grad_output, reduction="sum")
        few = layer.sgr(x=layer.x[alive], grad_output=grad_output[alive], target=layer.target[alive], reduction="sum")
    assert not result.delta[[1, 4]].any()
    assert_close((result.loss, result.delta[alive], result.grad_weight), (few.loss, few.delta, few.grad_weight))


def test_zero_upstream_gradient(backend):
    layer = Layer("linear", device=device_of(backend))
    with sk.backend(backend):
        result = layer.sgr(grad_output=torch.zeros_like(layer.output()), curvature="exact", hvp=layer.hvp)
    assert all(not t.any() for t in result)


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("name", ["linear", "conv"])
def test_small_batches(backend, name, batch):
    layer = Layer(name, device=device_of(backend), batch=batch)
    layer.bias += 2  # with one open gate the direction of delta, and so the loss, would not change at all
    with sk.backend(backend):
        result = layer.sgr(curvature="exact", hvp=layer.hvp if batch else lambda u: u)
    if batch:
        assert_close(result, layer.double_backward(loss_of(layer.target), frozen=False))
    else:
        assert result.loss == 0 and result.delta.shape == layer.x.shape
        assert not result.grad_weight.any() and not result.grad_bias.any()


@pytest.mark.parametrize("name", ["linear", "linear_3d", "conv", "conv_padded"])
def test_any_layout(backend, name):
    """Non-contiguous and, for images, channels-last input: the same numbers."""
    layer = Layer(name, device=device_of(backend))
    tensors = {"x": layer.x, "target": layer.target, "grad_output": layer.grad_output(), "output": layer.output()}

    def batch_last(t):
        return t.movedim(0, -1).contiguous().movedim(-1, 0)

    layouts = [batch_last, lambda t: t.repeat_interleave(2, dim=-1)[..., ::2]]
    if layer.conv:
        layouts.append(lambda t: t.contiguous(memory_format=torch.channels_last))
    with sk.backend(backend):
        expected = layer.sgr(**tensors, curvature="exact", hvp=layer.hvp)
        for layout in layouts:
            for changed in [*([key] for key in tensors), list(tensors)]:
                views = {key: layout(t) if key in changed else t for key, t in tensors.items()}
                assert_close(layer.sgr(**views, curvature="exact", hvp=layer.hvp), expected)
        assert_close(layer.sgr(curvature="exact", hvp=lambda u: batch_last(layer.hvp(u))), expected)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_floor_fades_small_rows_out(backend, as_tensor):
    layer = Layer("linear", device=device_of(backend))
    norms = layer.sgr().delta.norm(dim=1)
    floor = norms.median() if as_tensor else norms.median().item()
    weights = (norms / floor).square().clamp(max=1.0)
    assert weights.min() < 1.0 == weights.max()

    def loss(delta):
        d, g = (t / t.norm(dim=1, keepdim=True) for t in (delta, layer.target))
        return (weights[:, None] * (d - g).square()).mean()

    with sk.backend(backend):
        result = layer.sgr(floor=floor, curvature="exact", hvp=layer.hvp)
    assert_close(result, layer.double_backward(loss, frozen=False))


def test_eps_decides_which_rows_are_dead(backend):
    layer = Layer("linear", device=device_of(backend))
    with sk.backend(backend):
        assert layer.sgr().grad_weight.any()
        assert not layer.sgr(eps=1e9).grad_weight.any()


def test_without_bias(backend):
    for name in ("linear", "conv"):
        layer = Layer(name, device=device_of(backend))
        layer.bias.zero_()
        with sk.backend(backend):
            with_bias, without = (layer.sgr(curvature="exact", hvp=layer.hvp, bias=b) for b in (layer.bias, None))
        assert without.grad_bias is None
        assert_close(without[:3], with_bias[:3])


def test_half_precision_residuals_may_overflow_it(backend):
    """v is s / |delta|: 1e6 here, which float16 does not hold; the weight gradient is float32."""
    layer = Layer("linear", torch.float16, device_of(backend))
    with sk.backend(backend):
        result = layer.sgr(grad_output=layer.grad_output() * 1e-5, reduction="sum")
        _, v = sk.sgr_residual(result.delta, layer.target, reduction="sum")
    assert v.abs().max() > torch.finfo(torch.float16).max
    assert result.grad_weight.isfinite().all() and result.grad_weight.dtype == torch.float32


@pytest.mark.parametrize("name", ["linear", "conv"])
def test_no_activation_is_wider_than_bfloat16(name):
    layer = Layer(name, torch.bfloat16)
    with Widths() as seen:
        layer.sgr(curvature="exact", hvp=layer.hvp)
    assert max(seen.sizes) < layer.x.numel()


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_nan_and_inf_show(backend, poison):
    layer = Layer("linear", device=device_of(backend))
    grad_output = layer.grad_output()
    open_gate = (layer.output()[0] > 0).nonzero()[0, 0]
    grad_output[0, open_gate] = poison
    with sk.backend(backend):
        result = layer.sgr(grad_output=grad_output)
    assert not result.loss.isfinite() and not result.delta[0].isfinite().any()
    assert result.delta[1:].isfinite().all() and not result.grad_weight.isfinite().all()


def test_leaves_no_graph_and_no_gradients(backend):
    layer = Layer("linear", device=device_of(backend))
    tensors = {name: getattr(layer, name).clone().requires_grad_() for name in ("x", "weight", "bias", "target")}
    with sk.backend(backend):
        result = layer.sgr(**tensors, curvature="exact", hvp=layer.hvp)
    assert all(not t.requires_grad for t in result)
    assert all(t.grad is None for t in tensors.values())


def test_results_have_names():
    assert isinstance(Layer("linear").sgr(), sk.LinearReLUSGR)
    assert isinstance(Layer("conv").sgr(), sk.Conv2dReLUSGR)
    assert sk.Conv2dReLUSGR._fields == ("loss", "delta", "grad_weight", "grad_bias")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"curvature": "exact"}, ValueError, "hvp belongs to .* got curvature='exact', hvp=None"),
        ({"hvp": lambda u: u}, ValueError, "hvp belongs to .* got curvature='none', hvp=<"),
        ({"curvature": "full"}, ValueError, "curvature must be one of none, exact, got 'full'"),
        ({"reduction": "avg"}, ValueError, "reduction must be one of"),
        ({"floor": -1.0}, ValueError, "floor must be"),
        ({"floor": float("inf")}, ValueError, "floor must be finite, got inf"),
        ({"eps": -1.0}, ValueError, "eps must be"),
        ({"grad_output": torch.randn(6, 4).double()}, ValueError, r"grad_output must have shape \(6, 5\), got "),
        ({"target": torch.randn(6, 8).double()}, ValueError, r"target must have .* \(6, 9\), got \(6, 8\)"),
        ({"output": torch.randn(6, 4).double()}, ValueError, r"output must have shape \(6, 5\), got \(6, 4\)"),
        ({"weight": torch.randn(5, 8).double()}, ValueError, r"weight must have shape .* got \(5, 8\)"),
        ({"bias": torch.randn(4).double()}, ValueError, r"bias must have shape \(5,\), got \(4,\)"),
        ({"x": torch.randn(6, 9).int()}, TypeError, "x must be float64, .* got torch.int32"),
        ({"weight": torch.randn(5, 9)}, TypeError, "weight must have the dtype of x torch.float64, got torch.float32"),
        ({"bias": torch.randn(5)}, TypeError, "bias must have the dtype of x torch.float64, got torch.float32"),
        ({"grad_output": torch.randn(6, 5)}, TypeError, "grad_output must have the dtype of x torch.float64"),
        ({"output": torch.randn(6, 5)}, TypeError, "output must have the dtype of x torch.float64"),
        ({"target": torch.randn(6, 9)}, TypeError, "target must have the dtype of .* torch.float64, got torch.float32"),
    ],
)
def test_refuses(options, error, message):
    layer = Layer("linear")
    with pytest.raises(error, match=message):
        layer.sgr(**{"grad_output": layer.grad_output()} | options)


def test_convolution_refuses_padding_by_name():
    layer = Layer("conv")
    with pytest.raises(ValueError, match="padding must be a number or a pair"):
        sk.conv2d_relu_sgr(layer.x, layer.weight, layer.bias, layer.grad_output(), layer.target, padding="same")
