"""Cross entropy: value, gradient and Hessian against extended precision, also where the usual formulas cancel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import DTYPES, assert_as_exact_as, device_of, operators_on, upcast
from sgr_bench import reference

import sgr_kernels as sk
from sgr_kernels.operators.common.checks import loss_dtype
from sgr_kernels.operators.cross_entropy import reference as formulas

KERNEL_BACKENDS = [name for name, status in sk.backends().items() if status == "ok" and name != "reference"]
MARGINS = [1.0, 18.0, 40.0, 60.0, -1.0, -18.0, -21.0, -40.0, -60.0]


def random_logits(backend: str, dtype=torch.float32, batch: int = 7, classes: int = 5, scale: float = 3.0):
    logits = (scale * torch.randn(batch, classes, dtype=torch.float64)).to(device_of(backend), dtype)
    return logits, torch.randint(classes, (batch,), device=logits.device)


def confident_logits(backend: str, dtype, margin: float):
    """The label's logit is ``margin`` above the largest of the others, or below it."""
    logits, labels = random_logits(backend, torch.float64, scale=1.0)
    target = labels.unsqueeze(1)
    others = logits.scatter(1, target, -torch.inf).amax(1, keepdim=True)
    return logits.scatter(1, target, others + margin).to(dtype), labels


def truth(logits, labels, tangent=None):
    """Loss, gradient and Hessian times tangent; only terms of one sign are added, so that nothing cancels."""
    z, label = upcast(logits), labels.cpu().numpy()[:, None]
    rows = np.arange(len(z))[:, None]
    margins = z - z[rows, label]
    odds = np.exp(margins)
    odds[rows, label] = 0.0
    p = odds / (1.0 + odds.sum(1, keepdims=True))
    loss = np.log1p(odds.sum(1)).mean()
    gradient = p.copy()
    gradient[rows, label] = -p.sum(1, keepdims=True)
    p[rows, label] = 1.0 / (1.0 + odds.sum(1, keepdims=True))
    if tangent is None:
        return np.asarray(loss), gradient / len(z)
    t = upcast(tangent)
    hvp = p * (p[:, None, :] * (t[:, :, None] - t[:, None, :])).sum(2)
    return np.asarray(loss), gradient / len(z), hvp / len(z)


def derivatives(function, logits, labels, tangent):
    """Loss, gradient and Hessian times tangent by autograd, in the dtype of the logits."""
    leaf = logits.detach().requires_grad_()
    loss = function(leaf, labels)
    (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
    (hvp,) = torch.autograd.grad(gradient, leaf, tangent.to(gradient.dtype))
    return loss.detach(), gradient.detach(), hvp


def by_operators(backend: str, logits, labels, tangent):
    """The same from the functions without autograd: the operators, or the reference."""
    if backend == "reference":
        loss, gradient = reference.cross_entropy_gradient(logits, labels)
        return loss, gradient, reference.cross_entropy_hvp(logits, labels, tangent)
    op = operators_on(backend)
    return *op.cross_entropy(logits, labels), op.cross_entropy_hvp(logits, labels, tangent)


def relative_error(result, exact):
    return np.sqrt(((upcast(result) - exact) ** 2).sum() / (exact**2).sum())


def random_tangent(logits):
    return torch.randn_like(logits, dtype=loss_dtype(logits))


@pytest.mark.parametrize("dtype", DTYPES)
def test_as_exact_as_plain_torch(backend, dtype):
    logits, labels = random_logits(backend, dtype)
    tangent = random_tangent(logits)
    plain = derivatives(F.cross_entropy, logits, labels, tangent)
    expected = truth(logits, labels, tangent)
    with sk.backend(backend):
        results = {
            "autograd": derivatives(sk.cross_entropy, logits, labels, tangent),
            "operators": by_operators(backend, logits, labels, tangent),
        }
    for mine in results.values():
        for value, usual, exact in zip(mine, plain, expected, strict=True):
            if dtype == torch.float64:  # nothing is wider: the rounding of the margins shows
                assert relative_error(value, exact) <= 1e-10
            else:
                assert_as_exact_as(value, usual, exact)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_of_the_results(backend, dtype):
    """Autograd's gradient has the dtype of the logits, everything else at least float32."""
    logits, labels = random_logits(backend, dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    with sk.backend(backend):
        loss, gradient, hvp = derivatives(sk.cross_entropy, logits, labels, logits)
        raw = by_operators(backend, logits, labels, random_tangent(logits))
    assert [loss.dtype, gradient.dtype, hvp.dtype] == [wide, dtype, dtype]
    assert {value.dtype for value in raw} == {wide} and raw[1].shape == raw[2].shape == logits.shape


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("margin", MARGINS)
def test_confident_samples_keep_their_digits(backend, dtype, margin):
    """Rounding z_k - z_y once moves the result by eps times the margin; nothing else may be lost."""
    logits, labels = confident_logits(backend, dtype, margin)
    tangent = random_tangent(logits)
    expected = truth(logits, labels, tangent)
    with sk.backend(backend):
        results = by_operators(backend, logits, labels, tangent)
    span = float(np.ptp(upcast(logits), axis=1).max())
    bound = 1e-10 if dtype == torch.float64 else torch.finfo(torch.float32).eps * (1 + span)
    assert relative_error(results[0], expected[0]) <= bound
    assert relative_error(results[1], expected[1]) <= bound
    if margin > 0:
        assert relative_error(results[2], expected[2]) <= bound
    else:  # the Hessian of confidently wrong samples is nothing next to their gradient: its rounding is harmless
        assert np.abs(upcast(results[2]) - expected[2]).max() <= bound * np.abs(expected[1]).max()


def cosines(a, b):
    a, b = (upcast(t) if isinstance(t, torch.Tensor) else t for t in (a, b))
    return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))


@pytest.mark.parametrize("create_graph", [False, True])
def test_direction_of_the_gradient_survives_confidence(backend, create_graph):
    """In float32 at a margin of 18 the usual p_y - 1 is mostly rounding: that gradient points elsewhere."""
    logits, labels = confident_logits(backend, torch.float32, 18.0)
    leaf = logits.requires_grad_()
    with sk.backend(backend):
        (mine,) = torch.autograd.grad(sk.cross_entropy(leaf, labels), leaf, create_graph=create_graph)
    (usual,) = torch.autograd.grad(F.cross_entropy(leaf, labels), leaf)
    _, exact = truth(logits, labels)
    assert cosines(mine, exact).min() > 1 - 1e-6
    assert cosines(usual, exact).min() < 0.99


def test_gradient_of_confident_samples_sums_to_zero(backend):
    logits, labels = confident_logits(backend, torch.float64, 40.0)
    with sk.backend(backend):
        _, gradient, _ = by_operators(backend, logits, labels, logits)
    own = gradient.gather(1, labels.unsqueeze(1))
    torch.testing.assert_close(gradient.sum(1, keepdim=True) / own, torch.zeros_like(own), atol=1e-12, rtol=0)
    assert (own < 0).all()


def test_gradcheck(backend):
    logits, labels = random_logits(backend, torch.float64)
    logits.requires_grad_()
    with sk.backend(backend):
        assert torch.autograd.gradcheck(lambda z: sk.cross_entropy(z, labels), logits)
        assert torch.autograd.gradgradcheck(lambda z: sk.cross_entropy(z, labels), logits)


def test_finite_for_extreme_logits(backend):
    logits = torch.tensor([[1e4, 0.0, -1e4], [0.0, 1e4, 0.0]], device=device_of(backend), requires_grad=True)
    with sk.backend(backend):
        loss = sk.cross_entropy(logits, torch.tensor([0, 0], device=logits.device))
        loss.backward()
    assert loss.item() == 5e3
    torch.testing.assert_close(logits.grad, torch.tensor([[0.0, 0.0, 0.0], [-0.5, 0.5, 0.0]], device=logits.device))


def test_upstream_gradient_scales(backend):
    logits, labels = random_logits(backend)
    leaf = logits.requires_grad_()
    with sk.backend(backend):
        (one,) = torch.autograd.grad(sk.cross_entropy(leaf, labels), leaf)
        (scaled,) = torch.autograd.grad(-4.0 * sk.cross_entropy(leaf, labels), leaf)
    assert torch.equal(scaled, -4.0 * one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(backend, dtype):
    logits, labels = random_logits(backend, dtype)
    with sk.backend(backend):
        outside = derivatives(sk.cross_entropy, logits, labels, logits)
        with torch.autocast(device_of(backend), torch.bfloat16):
            inside = derivatives(sk.cross_entropy, logits, labels, logits)
    assert inside[0].dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))


def test_one_class_has_no_loss(backend):
    logits, labels = random_logits(backend, classes=1)
    with sk.backend(backend):
        loss, *derivatives = by_operators(backend, logits, labels, random_tangent(logits))
        sk.cross_entropy(logits.requires_grad_(), labels).backward()
    assert loss == 0
    assert all(value.eq(0).all() and value.shape == logits.shape for value in (logits.grad, *derivatives))


@pytest.mark.parametrize("masked", [[3], [1, 3], [1, 2, 3]])
def test_masked_classes_do_not_exist(backend, masked):
    """-inf for other classes than the label, all of them in the end: what the logits without them give."""
    logits, _ = random_logits(backend, torch.float64, classes=4)
    labels = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
    tangent = torch.randn_like(logits)
    kept = [k for k in range(4) if k not in masked]
    expected = truth(logits[:, kept], labels, tangent[:, kept])
    logits[:, masked] = -torch.inf
    with sk.backend(backend):
        graph = derivatives(sk.cross_entropy, logits, labels, tangent)
        results = by_operators(backend, logits, labels, tangent)
    for value, *matrices in (graph, results):
        assert abs(value.item() - float(expected[0])) <= 1e-12
        for result, exact in zip(matrices, expected[1:], strict=True):
            assert not result[:, masked].any()
            assert np.abs(upcast(result[:, kept]) - exact).max() <= 1e-12


def test_masked_label_gets_an_infinite_loss_and_the_usual_gradient(backend):
    logits, labels = random_logits(backend, torch.float64)
    logits[0, labels[0]] = -torch.inf
    expected = derivatives(F.cross_entropy, logits, labels, torch.ones_like(logits))
    with sk.backend(backend):
        loss, gradient, _ = by_operators(backend, logits, labels, torch.ones_like(logits))
    assert loss == expected[0] == torch.inf
    torch.testing.assert_close(gradient, expected[1])


@pytest.mark.parametrize(("poison", "at_label"), [(torch.nan, True), (torch.nan, False), (torch.inf, False)])
def test_nan_and_inf_show(backend, poison, at_label):
    """In the loss, and in the derivatives of that row alone."""
    logits, labels = random_logits(backend, torch.float64)
    logits[2, labels[2] if at_label else (labels[2] + 1) % 5] = poison
    with sk.backend(backend):
        loss, gradient, hvp = by_operators(backend, logits, labels, torch.ones_like(logits))
    assert not loss.isfinite()
    others = [b for b in range(len(logits)) if b != 2]
    for result in (gradient, hvp):
        assert result[2].isnan().any()
        assert result[others].isfinite().all()


def test_empty_batch_is_nan(backend):
    logits, labels = random_logits(backend, batch=0)
    with sk.backend(backend):
        loss = sk.cross_entropy(logits.requires_grad_(), labels)
        loss.backward()
        results = by_operators(backend, logits.detach(), labels, logits.detach())
    assert loss.isnan() and results[0].isnan()
    assert logits.grad.shape == results[1].shape == results[2].shape == (0, 5)


def layouts(tensor):
    wide = tensor.new_full((tensor.shape[0], 2 * tensor.shape[1]), 7.0)
    wide[:, ::2] = tensor
    rows = tensor.new_full((2 * tensor.shape[0], tensor.shape[1] + 3), 7.0)
    rows[::2, 3:] = tensor
    return {"transposed": tensor.T.contiguous().T, "strided": wide[:, ::2], "rows": rows[::2, 3:]}


@pytest.mark.parametrize("layout", ["transposed", "strided", "rows"])
def test_any_layout(backend, layout):
    logits, labels = random_logits(backend)
    with sk.backend(backend):
        expected = derivatives(sk.cross_entropy, logits, labels, logits)
        result = derivatives(sk.cross_entropy, layouts(logits)[layout], labels.repeat_interleave(2)[::2], logits)
    for mine, contiguous in zip(result, expected, strict=True):
        assert torch.equal(mine, contiguous)


@pytest.mark.parametrize("name", KERNEL_BACKENDS)
def test_hessian_operator_takes_rows_of_a_wider_tangent(name):
    logits, labels = random_logits(name)
    tangent = random_tangent(logits)
    hvp = operators_on(name).cross_entropy_hvp
    assert torch.equal(hvp(logits, labels, layouts(tangent)["rows"]), hvp(logits, labels, tangent))


def test_expanded_batch(backend):
    logits, _ = random_logits(backend, torch.float64)
    labels = torch.arange(5, device=logits.device)
    with sk.backend(backend):
        loss = sk.cross_entropy(logits[:1].expand(5, 5), labels)
    torch.testing.assert_close(loss, F.cross_entropy(logits[:1].expand(5, 5), labels))


def test_reproducible_for_any_number_of_threads(backend):
    if backend == "reference":
        pytest.skip("torch's own sums depend on the number of threads")
    logits, labels = random_logits(backend, batch=500, classes=37)
    tangent, threads, results = random_tangent(logits), torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(by_operators(backend, logits, labels, tangent))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    for value, exact in zip(results[0], truth(logits, labels, tangent), strict=True):
        np.testing.assert_allclose(upcast(value).astype(float), exact.astype(float), rtol=1e-5, atol=1e-9)


@pytest.mark.skipif(not KERNEL_BACKENDS, reason="only the reference backend runs here")
@pytest.mark.parametrize("name", KERNEL_BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck_of_wider_rows(name, dtype):
    op, (wide, labels) = operators_on(name), random_logits(name, dtype, classes=8)
    labels = labels.remainder(5)
    torch.library.opcheck(op.cross_entropy_hvp, (wide[:, :5], labels, random_tangent(wide)[:, :5]))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_as_one_graph(backend, dynamic):
    torch._dynamo.reset()
    function = torch.compile(
        lambda z, y: 3 * sk.cross_entropy(z, y), fullgraph=True, dynamic=dynamic, backend="aot_eager"
    )
    with sk.backend(backend):
        for batch, classes in ((4, 3), (6, 5)):
            logits, labels = random_logits(backend, batch=batch, classes=classes)
            logits.requires_grad_()
            loss = 3 * sk.cross_entropy(logits, labels)
            compiled = function(logits, labels)
            torch.testing.assert_close(compiled, loss)
            (expected,) = torch.autograd.grad(loss, logits)
            torch.testing.assert_close(torch.autograd.grad(compiled, logits)[0], expected)


Z, Y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("logits", "labels", "error", "message"),
    [
        (Z[0], Y, ValueError, r"logits must have shape \(B, K\), got \(3,\)"),
        (Z[None], Y, ValueError, r"logits must have shape \(B, K\), got \(1, 4, 3\)"),
        (Z, Y[:3], ValueError, r"labels must have shape \(4,\), got \(3,\)"),
        (Z, Y[:, None], ValueError, r"labels must have shape \(4,\), got \(4, 1\)"),
        (Z, Y.int(), TypeError, "labels must be int64, got torch.int32"),
        (Z, Z, TypeError, "labels must be int64, got torch.float32"),
        (Z.int(), Y, TypeError, "logits must be float64, .* got torch.int32"),
        (None, Y, TypeError, "logits must be a tensor, got NoneType"),
    ],
)
def test_refuses(logits, labels, error, message):
    with pytest.raises(error, match=message):
        sk.cross_entropy(logits, labels)


@pytest.mark.parametrize("label", [-1, 3, -100])
def test_a_label_out_of_range_is_an_error_or_shows(backend, label):
    """On a GPU the check would stall: the loss is NaN there."""
    logits, labels = Z.to(device_of(backend)), Y.to(device_of(backend)).clone()
    labels[1] = label
    with sk.backend(backend):
        if device_of(backend) == "cuda":
            assert sk.cross_entropy(logits, labels).isnan()
        else:
            whole = f"^labels must be 0 to 2, got {label} in row 1$" if backend == "cpu" else None
            with pytest.raises(RuntimeError, match=whole):
                sk.cross_entropy(logits, labels)


@pytest.mark.parametrize("label", [-1, 3])
@pytest.mark.parametrize("classes", [1, 3])
def test_the_reference_has_nan_for_a_label_where_an_index_out_of_range_ends_the_process(monkeypatch, label, classes):
    """As on a GPU. The kernels' double backward is by the reference, too."""
    monkeypatch.setattr(formulas, "raises_for_an_index", lambda _: False)
    logits, labels = Z[:, :classes].double(), torch.zeros(4, dtype=torch.int64)
    labels[1] = label
    loss, *results = derivatives(formulas.cross_entropy, logits, labels, torch.ones_like(logits))
    if classes == 1:
        results.pop()  # the Hessian of 0 z^2 does not ask for z
    op = operators_on("reference")
    other_loss, gradient = op.cross_entropy(logits, labels)
    assert loss.isnan() and other_loss.isnan()
    for each in (*results, gradient, op.cross_entropy_hvp(logits, labels, torch.ones_like(logits))):
        assert each[1].isnan().all() and each[[0, 2, 3]].isfinite().all()
