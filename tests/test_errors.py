"""Bad input of the operator library: an error that names the argument, what came and what was expected."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sgr_kernels as sk
from sgr_kernels.operators.common.operator import computed

X = torch.randn(4, 6)


@pytest.mark.parametrize("function", [sk.sgr_loss, sk.sgr_residual])
@pytest.mark.parametrize(
    ("delta", "target", "options", "error", "message"),
    [
        (X, torch.randn(4, 5), {}, ValueError, r"target must have the shape of delta \(4, 6\), got \(4, 5\)"),
        (X, X.double(), {}, TypeError, r"target must have the dtype of delta torch.float32, got torch.float64"),
        (X, X.to("meta"), {}, ValueError, r"target must be on the device of delta cpu, got meta"),
        (X.int(), X.int(), {}, TypeError, r"delta must be float64, .* got torch.int32"),
        (X, X.to(torch.complex64), {}, TypeError, r"target must be float64, .* got torch.complex64"),
        (X[0, 0], X[0, 0], {}, ValueError, r"delta must have a batch dimension, got a scalar"),
        (X, None, {}, TypeError, r"target must be a tensor, got NoneType"),
        (X, X, {"reduction": "none"}, ValueError, r"reduction must be one of mean, batchmean, sum, got 'none'"),
        (X, X, {"eps": -1.0}, ValueError, r"eps must be >= 0, got -1.0"),
        (X, X, {"floor": -1.0}, ValueError, r"floor must be >= 0, got -1.0"),
        (X, X, {"floor": float("nan")}, ValueError, r"floor must be >= 0, got nan"),
        (X, X, {"floor": float("inf")}, ValueError, r"floor must be finite, got inf"),
        (X, X, {"eps": float("inf")}, ValueError, r"eps must be finite, got inf"),
        (X, X, {"eps": "small"}, TypeError, r"eps must be a number >= 0, got str"),
        (X, X, {"floor": "small"}, TypeError, r"floor must be a number >= 0, got str"),
        (X, X, {"eps": torch.ones(2)}, ValueError, r"eps must be a number >= 0, got a tensor of shape \(2,\)"),
        (X, X, {"floor": torch.ones(2)}, ValueError, r"floor must be a number or a 0-d tensor, got shape \(2,\)"),
    ],
)
def test_residual_refuses(function, delta, target, options, error, message):
    with pytest.raises(error, match=message):
        function(delta, target, **options)


@pytest.mark.parametrize(
    ("text", "kind"), [("CUDA out of memory. Tried to allocate 2 GiB", torch.OutOfMemoryError), ("rows", RuntimeError)]
)
def test_no_memory_for_a_kernel_is_what_torch_calls_it(text, kind):
    def kernel(*_):
        raise RuntimeError(text)

    with pytest.raises(RuntimeError, match=text) as raised:
        computed(kernel, (X,))
    assert raised.type is kind


def test_loss_module_refuses_an_unknown_reduction():
    with pytest.raises(ValueError, match="reduction must be one of"):
        sk.SGRLoss(reduction="avg")


LOGITS, LABELS = torch.randn(4, 3), torch.arange(4) % 3
KINDS = [torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32, torch.bool]


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        *((LABELS.to(kind), TypeError, f"labels must be int64, got {kind}") for kind in (*KINDS, torch.float32)),
        (torch.full((4,), 2**64 - 1, dtype=torch.uint64), TypeError, "labels must be int64, got torch.uint64"),
        (None, TypeError, "labels must be a tensor, got NoneType"),
        ([0, 1, 2, 0], TypeError, "labels must be a tensor, got list"),
        (LABELS.to("meta"), ValueError, "labels must be on the device of logits cpu, got meta"),
        (LABELS[:, None], ValueError, r"labels must have shape \(4,\), got \(4, 1\)"),
    ],
)
def test_cross_entropy_refuses(labels, error, message):
    with pytest.raises(error, match=message):
        sk.cross_entropy(LOGITS, labels)


@pytest.mark.parametrize("labels", [LABELS - 1, LABELS + 1])
@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_labels_out_of_range_are_errors(name, labels):
    if sk.backends()[name] != "ok":
        pytest.skip("no kernels")
    with sk.backend(name), pytest.raises(RuntimeError, match="labels must be 0 to 2|out of bounds"):
        sk.cross_entropy(LOGITS, labels)


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (-0.1, ValueError, "weight must be >= 0, got -0.1"),
        (float("nan"), ValueError, "weight must be >= 0, got nan"),
        (float("inf"), ValueError, "weight must be finite, got inf"),
        ("0.1", TypeError, "weight must be a number >= 0, got str"),
        (torch.ones(2), ValueError, r"weight must be a number or a 0-d tensor, got shape \(2,\)"),
    ],
)
def test_weights_that_are_none(weight, error, message):
    with pytest.raises(error, match=message):
        sk.SGRLoss(weight=weight)
    with pytest.raises(error, match=message):
        sk.local_step(nn.Linear(6, 6), lambda f, y: f.mean(), X, None, X, weight=weight)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [((5, 3), "num_features must be at least num_classes - 1 = 4, got 3"), ((1, 8), "num_classes must be at least 2")],
)
def test_etf_refuses(sizes, message):
    with pytest.raises(ValueError, match=message):
        sk.etf_classifier(*sizes)


def test_unknown_and_missing_backends_are_errors():
    unknown = "unknown backend 'gpu'; choose one of reference, cpu, triton, cuda"
    with pytest.raises(ValueError, match=unknown), sk.backend("gpu"):
        pass
    for name, status in sk.backends().items():
        if status.startswith("missing"):
            with pytest.raises(RuntimeError, match=f"backend '{name}' cannot run here"), sk.backend(name):
                pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "magic"}, "engine must be one of auto, autograd"),
        (
            {"curvature": "none", "engine": "autograd"},
            "'autograd' always includes the curvature, got curvature='none'",
        ),
        ({"order": 2}, "radius and order belong to engine='directional'"),
        ({"radius": 0.1}, "radius and order belong to engine='directional'"),
        ({"reduction": "none"}, "reduction must be one of"),
        ({"relative_floor": -0.1}, "relative_floor must be >= 0"),
        ({"relative_floor": torch.ones(2)}, r"relative_floor must be a number >= 0, got a tensor of shape \(2,\)"),
        ({"relative_floor": float("nan")}, "relative_floor must be >= 0, got nan"),
        ({"relative_floor": float("inf")}, "relative_floor must be finite, got inf"),
        ({"grad_scale": 0.0}, "grad_scale must be > 0"),
        ({"grad_scale": float("inf")}, "grad_scale must be finite, got inf"),
        ({"grad_scale": float("nan")}, "grad_scale must be > 0, got nan"),
        ({"engine": "directional", "radius": float("inf")}, "radius must be finite, got inf"),
        ({"engine": "directional", "radius": float("nan")}, "radius must be > 0, got nan"),
    ],
)
def test_local_step_refuses(options, message):
    body, head = nn.Linear(6, 6), lambda f, y: f.square().mean()
    with pytest.raises(ValueError, match=message):
        sk.local_step(body, head, X, None, torch.randn(4, 6), weight=1.0, **options)
    assert body.weight.grad is None


def test_local_step_refuses_tensors_that_do_not_fit():
    body = nn.Linear(6, 6)
    with pytest.raises(ValueError, match=r"delta_pre must have the shape of x \(4, 6\), got \(4, 5\)"):
        sk.local_step(body, lambda f, y: f.mean(), X, None, torch.randn(4, 5), weight=1.0)
    for x, delta_pre, message in (
        ([1.0], None, "x must be a tensor, got list"),
        (X, [1.0], "delta_pre must be a tensor, got list"),
        (X.long(), X, "x must be a floating-point tensor where there is a delta_pre, got torch.int64"),
    ):
        with pytest.raises(TypeError, match=message):
            sk.local_step(body, lambda f, y: f.mean(), x, None, delta_pre, weight=1.0)
    with pytest.raises(ValueError, match=r"head must return a scalar loss, got shape \(4,\)"):
        sk.local_step(body, lambda f, y: f.mean(1), X, None, None, weight=1.0)
