"""sgr_loss, SGRLoss and sgr_residual on every backend that runs here."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from helpers import (
    DTYPES,
    any_order_errors,
    assert_as_exact_as,
    assert_lengths,
    device_of,
    exact_value_and_grads,
    gamma,
    layouts,
    plain_sgr_loss,
    value_and_grads,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from sgr_bench import reference

import sgr_kernels as sk
from sgr_kernels.functional.direction import sgr_direction, sgr_gradient
from sgr_kernels.operators.common.options import Options

OPTIONS = [(normalize, reduction) for normalize in (True, False) for reduction in ("mean", "batchmean", "sum")]


def gradients(backend: str, shape, dtype=torch.float32, noise: float | None = None, scale: float = 1.0):
    delta = torch.randn(shape, dtype=torch.float64)
    target = torch.randn(shape, dtype=torch.float64) if noise is None else delta + noise * torch.randn(shape).double()
    return (scale * delta).to(device_of(backend), dtype), (scale * target).to(device_of(backend), dtype)


def check(backend: str, delta, target, **options) -> None:
    """Loss, both gradients and the residual against extended precision, as exact as plain torch in the same dtype."""
    with sk.backend(backend):
        result = value_and_grads(lambda d, g: sk.sgr_loss(d, g, **options), delta, target)
        loss, v = sk.sgr_residual(delta, target, **options)
        _, direction = sgr_direction(delta, target, Options(**options))
    plain = value_and_grads(lambda d, g: plain_sgr_loss(d, g, **options), delta, target)
    truth = exact_value_and_grads(delta, target, **options)
    assert result[0].dtype == loss.dtype == v.dtype == (delta.dtype if delta.dtype == torch.float64 else torch.float32)
    any_order = any_order_errors(delta, target, **options)
    for mine, index in ((result[0], 0), (result[1], 1), (result[2], 2), (loss, 0), (v, 1)):
        assert_as_exact_as(mine, plain[index], truth[index], any_order[index])
    assert v.shape == result[1].shape == delta.shape
    assert_lengths(direction.norms(), truth[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("normalize", "reduction"), OPTIONS)
def test_matches_plain_torch(backend, dtype, normalize, reduction):
    check(backend, *gradients(backend, (7, 3, 5, 11), dtype), normalize=normalize, reduction=reduction)


@pytest.mark.parametrize("shape", [(1, 1), (5,), (2, 16385), (3, 40000), (300, 17), (1, 200003)])
def test_odd_shapes(backend, shape):
    """One element a row, one-dimensional input, rows of one segment and a bit, many short rows, one long row."""
    if math.prod(shape[1:]) == 1:  # every cosine is +-1: the gradient is 0 and plain torch cannot be compared
        delta, target = gradients(backend, shape)
        with sk.backend(backend):
            result = value_and_grads(lambda d, g: sk.sgr_loss(d, g, reduction="sum"), delta, target)
        opposite = (delta.sign() != target.sign()).sum()
        assert result[0] == 4 * opposite
        assert all(not gradient.any() or gradient.abs().max() < 1e-6 for gradient in result[1:])
    else:
        check(backend, *gradients(backend, shape), reduction="batchmean")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("noise", [1e-1, 1e-3, 1e-5])
def test_near_parallel_rows_keep_their_digits(backend, dtype, noise):
    """Three float32 sums would lose everything here; the loss must be as good as normalising first."""
    check(backend, *gradients(backend, (16, 4096), dtype, noise=noise))


def test_identical_rows_have_no_loss(backend):
    delta, _ = gradients(backend, (3, 1000))
    with sk.backend(backend):
        assert sk.sgr_loss(delta, delta.clone()) == 0


@pytest.mark.parametrize("delta_layout", ["contiguous", "channels_last", "batch_last", "strided", "offset_rows"])
@pytest.mark.parametrize("target_layout", ["contiguous", "channels_last", "batch_last", "strided", "offset_rows"])
def test_any_layout(backend, delta_layout, target_layout):
    delta, target = gradients(backend, (4, 3, 5, 6))
    check(backend, layouts(delta)[delta_layout], layouts(target)[target_layout])


def test_expanded_batch(backend):
    delta, target = gradients(backend, (4, 30))
    check(backend, delta[:1].expand(4, 30), target)


def test_channels_last_is_not_copied(backend):
    """Gradients come back in the layout of the input and nothing of the size of the input is allocated on the way."""
    if backend == "reference":
        pytest.skip("the reference is allowed to copy")
    delta, target = (t.contiguous(memory_format=torch.channels_last) for t in gradients(backend, (4, 3, 64, 64)))
    with sk.backend(backend), torch.profiler.profile(profile_memory=True) as profile:
        sk.sgr_loss(delta, target)
    largest = max((abs(event.cpu_memory_usage) for event in profile.events()), default=0)
    if device_of(backend) == "cuda":
        largest = max((abs(event.device_memory_usage) for event in profile.events()), default=0)
    assert 0 < largest < delta.numel()
    with sk.backend(backend):
        _, v = sk.sgr_residual(delta, target)
    assert v.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dead_rows_add_nothing(backend, dtype):
    delta, target = gradients(backend, (6, 40), dtype)
    delta[1], target[2], delta[4], target[4] = 0, 0, 0, 0
    delta[2, 0] = torch.inf  # in a row that is dead because of its target
    alive = [0, 3, 5]
    with sk.backend(backend):
        result = value_and_grads(lambda d, g: sk.sgr_loss(d, g, reduction="sum"), delta, target)
        few = value_and_grads(lambda d, g: sk.sgr_loss(d, g, reduction="sum"), delta[alive], target[alive])
        loss, v = sk.sgr_residual(delta, target, reduction="sum")
    torch.testing.assert_close(result[0], few[0])
    torch.testing.assert_close(loss, few[0])
    # Another batch may be summed in another order: both have a rounding error, which shows where terms cancel.
    _, *bounds = any_order_errors(delta[alive], target[alive], reduction="sum")
    pairs = [(result[1], few[1], bounds[0]), (result[2], few[2], bounds[1]), (v, few[1].to(v.dtype), bounds[0])]
    for gradient, expected, bound in pairs:
        assert not gradient[[1, 2, 4]].any()
        torch.testing.assert_close(gradient[alive], expected, rtol=2 * torch.finfo(dtype).eps, atol=2 * bound)


def test_eps_is_a_norm(backend):
    delta, target = gradients(backend, (2, 50))
    delta[0] *= 1e-3 / delta[0].norm()
    with sk.backend(backend):
        both = sk.sgr_loss(delta, target, reduction="sum", eps=0.9e-3)
        one = sk.sgr_loss(delta, target, reduction="sum", eps=1.1e-3)
        last = sk.sgr_loss(delta[1:], target[1:], reduction="sum")
    torch.testing.assert_close(one, last)
    assert both > one


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("normalize", [True, False])
def test_nan_and_inf_propagate(backend, poison, normalize):
    delta, target = gradients(backend, (3, 20))
    delta[1, 7] = poison
    with sk.backend(backend):
        loss, grad, _ = value_and_grads(lambda d, g: sk.sgr_loss(d, g, normalize=normalize), delta, target)
        residual, v = sk.sgr_residual(delta, target, normalize=normalize)
    assert not loss.isfinite()
    assert not residual.isfinite()
    for gradient in (grad, v):
        assert not gradient[1].isfinite().all()
        assert gradient[[0, 2]].isfinite().all()


@pytest.mark.parametrize("weight", [None, 3, 0.3, torch.tensor(0.3), torch.tensor(0.3, dtype=torch.float64)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_weighted_gradient(backend, dtype, weight):
    """v in the dtype of delta, or float32 for float16: no further from the truth than v of the residual, weighted in
    float32 and rounded.
    """
    if isinstance(weight, torch.Tensor):
        weight = weight.to(device_of(backend))
    factor = 1.0 if weight is None else float(weight)
    pairs = [gradients(backend, shape, dtype) for shape in ((40, 333), (7, 3, 5, 11))]
    pairs += zip(*(layouts(tensor).values() for tensor in pairs[-1]), strict=True)
    for delta, target in pairs:
        with sk.backend(backend):
            loss, v = sgr_gradient(delta, target, Options(), weight)
            expected_loss, residual = sk.sgr_residual(delta, target)
        assert v.dtype == (torch.float32 if dtype == torch.float16 else dtype)
        assert v.shape == delta.shape and v.stride() == residual.stride()
        torch.testing.assert_close(loss, expected_loss)
        truth = factor * reference.sgr_residual(delta.double(), target.double())[1]
        before = (factor * residual).to(v.dtype)
        assert (v.double() - truth).norm() <= 1.05 * (before.double() - truth).norm()


@pytest.mark.parametrize("shape", [(0, 5), (4, 0), (0,)])
def test_empty(backend, shape):
    delta, target = (t.requires_grad_() for t in gradients(backend, shape))
    with sk.backend(backend):
        loss = sk.sgr_loss(delta, target)
        loss.backward()
        residual, v = sk.sgr_residual(delta, target)
    assert loss == residual == 0
    assert delta.grad.shape == target.grad.shape == v.shape == shape


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("normalize", [True, False])
def test_floor_fades_small_rows_out(backend, as_tensor, normalize):
    """Row b counts min(1, (|delta_b| / floor)^2), in the loss and as a constant in both gradients."""
    delta, target = gradients(backend, (4, 25), torch.float64)
    delta *= delta.new_tensor([0.01, 0.5, 1.0, 3.0])[:, None] / delta.norm(dim=1, keepdim=True)
    floor = delta.new_tensor(1.0) if as_tensor else 1.0
    with sk.backend(backend):
        result = value_and_grads(
            lambda d, g: sk.sgr_loss(d, g, reduction="sum", normalize=normalize, floor=floor), delta, target
        )
        loss, v = sk.sgr_residual(delta, target, reduction="sum", normalize=normalize, floor=floor)
    rows = [
        value_and_grads(lambda d, g: plain_sgr_loss(d, g, reduction="sum", normalize=normalize), *pair)
        for pair in zip(delta.split(1), target.split(1), strict=True)
    ]
    expected = [
        sum(w * row[0] for w, row in zip((1e-4, 0.25, 1.0, 1.0), rows, strict=True)),
        *(torch.cat([w * row[i] for w, row in zip((1e-4, 0.25, 1.0, 1.0), rows, strict=True)]) for i in (1, 2)),
    ]
    for mine, theirs in zip((*result, loss, v), (*expected, expected[0], expected[1]), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)


def test_gradcheck(backend):
    delta, target = gradients(backend, (3, 4, 2), torch.float64)
    delta.requires_grad_(), target.requires_grad_()
    for normalize, reduction in OPTIONS:

        def loss(d, g, normalize=normalize, reduction=reduction):
            with sk.backend(backend):
                return sk.sgr_loss(d, g, normalize=normalize, reduction=reduction)

        with sk.backend(backend):  # the backward pass runs outside of the function
            assert torch.autograd.gradcheck(loss, (delta, target))
            assert torch.autograd.gradgradcheck(loss, (delta, target))


def test_one_tensor_as_both_arguments(backend):
    """d L(x, x) counts both roles, also under create_graph."""
    x, _ = gradients(backend, (3, 6), torch.float64)
    x.requires_grad_()
    with sk.backend(backend):
        for create_graph in (False, True):
            loss = sk.sgr_loss(x, 2 * x.detach() + x, normalize=False, reduction="sum")
            (grad,) = torch.autograd.grad(loss, x, create_graph=create_graph)
            torch.testing.assert_close(grad, torch.zeros_like(grad), atol=1e-12, rtol=0)
            (same,) = torch.autograd.grad(sk.sgr_loss(x, x, normalize=False), x, create_graph=create_graph)
            torch.testing.assert_close(same, torch.zeros_like(same))


def test_first_and_twice_differentiable_path_agree(backend):
    delta, target = gradients(backend, (3, 50), torch.float64)
    delta.requires_grad_()
    with sk.backend(backend):
        (fused,) = torch.autograd.grad(sk.sgr_loss(delta, target), delta)
        (graph,) = torch.autograd.grad(sk.sgr_loss(delta, target), delta, create_graph=True)
    assert graph.requires_grad
    torch.testing.assert_close(fused, graph.detach())


def test_upstream_gradient_scales(backend):
    delta, target = gradients(backend, (3, 50))
    with sk.backend(backend):
        one = value_and_grads(sk.sgr_loss, delta, target)
        three = value_and_grads(lambda d, g: -3.0 * sk.sgr_loss(d, g), delta, target)
    torch.testing.assert_close(three[1], -3.0 * one[1])
    torch.testing.assert_close(three[2], -3.0 * one[2])


def test_module_is_weight_times_loss(backend):
    delta, target = gradients(backend, (3, 50))
    criterion = sk.SGRLoss(weight=2.5, reduction="batchmean", normalize=False)
    with sk.backend(backend):
        torch.testing.assert_close(
            criterion(delta, target), 2.5 * sk.sgr_loss(delta, target, reduction="batchmean", normalize=False)
        )


def test_autocast_changes_nothing(backend):
    delta, target = gradients(backend, (3, 50), torch.bfloat16)
    with sk.backend(backend):
        outside = sk.sgr_loss(delta, target)
        with torch.autocast(device_of(backend), torch.bfloat16):
            inside = sk.sgr_loss(delta, target)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)


def test_reproducible_for_any_number_of_threads(backend):
    delta, target = gradients(backend, (2, 100_003))
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            with sk.backend(backend):
                results.append(value_and_grads(sk.sgr_loss, delta, target))
    finally:
        torch.set_num_threads(threads)
    if backend == "reference":
        pytest.skip("torch's own sums depend on the number of threads")
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 5),
    cols=st.integers(2, 70),
    exponent=st.integers(-30, 30),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**16),
)
def test_scale_invariance(batch, cols, exponent, dtype, seed):
    """A normalised residual does not see the scale of its arguments, down to 1e-30 and up to 1e30."""
    generator = torch.Generator().manual_seed(seed)
    delta, target = torch.randn(2, batch, cols, generator=generator, dtype=dtype)
    expected, v = sk.sgr_residual(delta, target, reduction="sum")
    scale = 10.0**exponent
    loss, scaled_v = sk.sgr_residual(delta * scale, target / scale, reduction="sum", eps=0.0)
    # In float64 the sums show, two times: see any_order_errors.
    eps = torch.finfo(dtype).eps + (2 * gamma(cols + batch + 10) if dtype == torch.float64 else 0.0)
    torch.testing.assert_close(loss, expected, rtol=8 * eps, atol=8 * eps)
    # v is the difference of two unit vectors times s / |delta|: that is the size its rounding errors have
    size = float(2 / delta.norm(dim=1).min())
    torch.testing.assert_close(scaled_v * scale, v, rtol=8 * eps, atol=8 * eps * size)


@st.composite
def strided_shapes(draw):
    """Shape, storage order of the dimensions, step along each, and what to put into some rows of either argument."""
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    orders = [draw(st.permutations(range(len(shape)))) for _ in range(2)]
    steps = [draw(st.lists(st.integers(1, 3), min_size=len(shape), max_size=len(shape))) for _ in range(2)]
    special = st.dictionaries(st.integers(0, shape[0] - 1), st.sampled_from([0.0, math.nan, math.inf]), max_size=2)
    return shape, orders, steps, [draw(special), draw(special)]


def strided(shape, order, steps, rows, dtype, device, generator):
    storage = torch.randn([shape[dim] * steps[dim] for dim in order], generator=generator, dtype=torch.float64)
    tensor = storage.permute([order.index(dim) for dim in range(len(shape))])
    tensor = tensor[tuple(slice(None, None, step) for step in steps)]
    for row, value in rows.items():
        tensor[row] = value
    return tensor.to(device, dtype)


@settings(max_examples=60, deadline=None)
@given(
    case=strided_shapes(),
    dtype=st.sampled_from(DTYPES),
    normalize=st.booleans(),
    reduction=st.sampled_from(["mean", "batchmean", "sum"]),
    seed=st.integers(0, 2**16),
)
def test_any_shape_stride_and_content(backend, case, dtype, normalize, reduction, seed):
    """Zero, NaN and Inf rows among others, in any layout: what the float64 reference makes of the same numbers."""
    shape, orders, steps, special = case
    generator = torch.Generator().manual_seed(seed)
    delta, target = (
        strided(shape, *layout, dtype, device_of(backend), generator)
        for layout in zip(orders, steps, special, strict=True)
    )
    options = {"normalize": normalize, "reduction": reduction}
    with sk.backend(backend):
        loss, v = sk.sgr_residual(delta, target, **options)
        other_loss = sk.sgr_loss(delta, target, **options)
    expected, expected_v = reference.sgr_residual(delta.double(), target.double(), Options(**options))
    # In float64 the sums show, of the operator and of the reference: see any_order_errors.
    sums = 2 * gamma(shape[0] + math.prod(shape[1:]) + 10) if dtype == torch.float64 else 0.0
    eps = torch.finfo(loss.dtype).eps + sums
    norms = [t.reshape(shape[0], -1).double().norm(dim=1).tolist() for t in (delta, target)]
    scale = 2 / {"mean": delta.numel(), "batchmean": len(delta), "sum": 1}[reduction]
    close = {"rtol": 8 * eps, "equal_nan": True, "check_dtype": False}
    torch.testing.assert_close(loss, expected, atol=8 * eps, **close)
    torch.testing.assert_close(other_loss, expected, atol=8 * eps, **close)
    for row in range(shape[0]):
        finite = expected_v[row].isfinite()
        assert v[row].isfinite().equal(finite)
        size = scale * (1 / norms[0][row] if normalize and norms[0][row] else norms[0][row] + norms[1][row])
        atol = 8 * eps * size if math.isfinite(size) else 0.0  # of the terms that cancel in v
        torch.testing.assert_close(v[row][finite], expected_v[row][finite], atol=atol, **close)


# --- a loss that nothing can be trained by ----------------------------------------------------------------------------

NO_GRAPH = r"the SGR loss has no gradient, .* create_graph=True"
CALLS = {"function": sk.sgr_loss, "module": sk.SGRLoss()}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_delta_without_a_graph_is_warned_of(backend, call):
    x, target = (t.double() for t in gradients(backend, (4, 5)))
    x.requires_grad_()
    (delta_now,) = torch.autograd.grad(x.sigmoid().sum(), x)
    with sk.backend(backend):
        with pytest.warns(UserWarning, match=NO_GRAPH) as caught:
            value = call(delta_now, target)
        with torch.no_grad():
            assert torch.equal(value, call(delta_now, target))
    [warning] = caught
    assert warning.filename == __file__ or call is not sk.sgr_loss


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_loop_is_warned_once(call):
    delta, target = gradients("reference", (4, 5))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            call(delta, target)
    assert len(caught) == 1


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_compiled_code_warns_while_it_is_traced(call):
    delta, target = gradients("reference", (4, 5))
    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend="eager")
    with pytest.warns(UserWarning, match=NO_GRAPH):
        value = compiled(delta, target)
    with torch.no_grad():
        assert torch.equal(value, call(delta, target))


@pytest.mark.filterwarnings("error:the SGR loss has no gradient")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_nothing_is_warned_of_where_there_is_a_graph_or_none_is_wanted(call):
    delta, target = gradients("reference", (4, 5))
    leaf = delta.clone().requires_grad_()
    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend="eager")
    for each in call, compiled:
        each(leaf, target).backward()
        each(target, leaf).backward()
        with torch.no_grad():
            each(delta, target)
        with torch.inference_mode():
            each(delta, target)
    torch.func.jvp(lambda d: call(d, target), (delta,), (target,))
    torch.vmap(call)(delta[None], target[None])
    torch.func.grad(call)(delta, target)
    sk.sgr_residual(delta, target)


@pytest.mark.filterwarnings("error:the SGR loss has no gradient")
@pytest.mark.parametrize("engine", ["autograd", "fused", "directional"])
def test_engines_do_not_warn(engine):
    body, x = sk.LinearReLU(6, 4), torch.randn(5, 6)
    for relative_floor in 0.0, 0.1:
        options = {"weight": 0.1, "engine": engine, "relative_floor": relative_floor}
        sk.local_step(body, lambda f, y: f.square().mean(), x, None, torch.randn(5, 6), **options)
    with torch.no_grad():
        sk.local_step(body, lambda f, y: f.square().mean(), x, None, torch.randn(5, 6), **options)
