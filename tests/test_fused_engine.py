"""The fused engine against the autograd engine: every body and head it takes, what it refuses, what it leaves alone."""

from __future__ import annotations

import contextlib
import copy
import math

import pytest
import torch
from helpers import DTYPES, Widths, device_of, upcast
from torch import nn
from torch.nn.utils import parametrizations

import sgr_kernels as sk
from sgr_kernels.engines import common, directional, fused

BATCH, CLASSES = 6, 4


class Scaled(nn.Module):
    """A head of its own kind: convolution, tanh, pooling, cross entropy, and a parameter that multiplies the output."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, CLASSES, 3, padding=1)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, features, y):
        logits = self.scale * torch.tanh(self.conv(features)).mean((2, 3))
        return nn.functional.cross_entropy(logits, y)


BODIES = {
    "linear": (lambda: nn.Sequential(nn.Linear(9, 7), nn.ReLU()), (9,)),
    "bare_linear": (lambda: nn.Linear(9, 7), (9,)),
    "linear_no_bias": (lambda: nn.Sequential(nn.Linear(9, 7, bias=False), nn.ReLU()), (9,)),
    "linear_3d": (lambda: nn.Sequential(nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 5)), (7, 9)),
    "linear_4d": (lambda: nn.Sequential(nn.Linear(9, 7), nn.ReLU()), (7, 2, 9)),
    "linear_4d_square": (lambda: nn.Sequential(nn.Linear(7, 7), nn.ReLU()), (7, 2, 7)),
    "linear_stack": (
        lambda: nn.Sequential(
            nn.Linear(9, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 6), nn.ReLU()), nn.Identity(), nn.Linear(6, 7)
        ),
        (9,),
    ),
    "linear_without_relu_between": (lambda: nn.Sequential(nn.Linear(9, 5), nn.Linear(5, 7), nn.ReLU()), (9,)),
    "one_relu_module_for_all": (lambda: one_relu(nn.ReLU()), (9,)),
    "flatten_mlp": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU()),
        (2, 3, 4),
    ),
    "layer_used_twice": (lambda: twice(nn.Linear(7, 7)), (7,)),
    "fused_modules": (lambda: nn.Sequential(sk.LinearReLU(9, 8), sk.LinearReLU(8, 7)), (9,)),
    "conv": (lambda: nn.Sequential(nn.Conv2d(3, 7, 3), nn.ReLU(inplace=True)), (3, 6, 5)),
    "conv_strided": (
        lambda: nn.Sequential(nn.Conv2d(3, 7, (3, 2), stride=(2, 1), padding=(1, 0)), nn.ReLU()),
        (3, 6, 5),
    ),
    "conv_dilated": (
        lambda: nn.Sequential(nn.Conv2d(3, 7, 3, dilation=2, padding=2, bias=False), nn.ReLU()),
        (3, 6, 5),
    ),
    "conv_groups": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.ReLU()), (4, 5, 5)),
    "conv_stack": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), sk.Conv2dReLU(5, 6, 3, stride=2), nn.Conv2d(6, 7, 1), nn.ReLU()
        ),
        (3, 7, 7),
    ),
}
IMAGES = [name for name in BODIES if name.startswith("conv")]


def one_relu(relu):
    return nn.Sequential(nn.Linear(9, 8), relu, nn.Linear(8, 7), relu)


def twice(layer):
    return nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU())


HEADS = {
    "etf": lambda shape: sk.CrossEntropyHead(sk.ETFClassifier(CLASSES, shape[0])),
    "linear": lambda shape: sk.CrossEntropyHead(nn.Linear(shape[0], CLASSES)),
    "linear_no_bias": lambda shape: sk.CrossEntropyHead(nn.Linear(shape[0], CLASSES, bias=False)),
    "flat_etf": lambda shape: sk.CrossEntropyHead(sk.ETFClassifier(CLASSES, math.prod(shape)), nn.Flatten()),
    "flat_linear": lambda shape: sk.CrossEntropyHead(nn.Linear(math.prod(shape), CLASSES), nn.Flatten()),
    "features": lambda shape: sk.CrossEntropyHead(nn.Linear(shape[0], CLASSES), nn.Softplus()),
    "flat_positions": lambda shape: sk.CrossEntropyHead(nn.Linear(shape[0], CLASSES), nn.Flatten(2)),
    "smoothed": lambda shape: sk.CrossEntropyHead(nn.Linear(shape[0], CLASSES), label_smoothing=0.3),
    "conv": lambda shape: Scaled(shape[0]),
    "lambda": lambda shape: Lambda(nn.Linear(shape[0], CLASSES)),
    "linear_loss": lambda shape: lambda features, y: features.mean(),
    "quadratic": lambda shape: lambda features, y: features.square().sum() / len(features),
}


class Lambda:
    """A head that is no module and reaches parameters: engines must find them."""

    def __init__(self, linear: nn.Linear) -> None:
        self.linear = linear

    def __call__(self, features, y):
        pooled = features.flatten(2).mean(2) if features.dim() > 2 else features
        return nn.functional.cross_entropy(self.linear(pooled), y, label_smoothing=0.1)


class Problem:
    """Body, head and data; ``step`` works on copies, so that engines start alike."""

    def __init__(self, body="linear", head="etf", dtype=torch.float64, device="cpu", batch=BATCH) -> None:
        make, shape = BODIES[body] if isinstance(body, str) else body
        self.body = make().to(device, dtype)
        self.x = torch.randn(batch, *shape, dtype=torch.float64).to(device, dtype)
        with torch.no_grad():
            _, *features = self.body(torch.zeros(1, *shape).to(self.x)).shape
        self.head = HEADS[head](features)
        for part in (self.head, getattr(self.head, "linear", None)):
            if isinstance(part, nn.Module):
                part.to(device, dtype)
        self.y = torch.randint(CLASSES, (batch,), device=device)
        self.delta_pre = torch.randn_like(self.x)

    def round(self, dtype):
        """Everything to numbers that ``dtype`` holds: rounding them is nobody's error."""
        with torch.no_grad():
            for tensor in (self.x, self.delta_pre, *self.parameters()):
                tensor.copy_(tensor.to(dtype))
        return self

    def parameters(self):
        parts = (self.body, self.head, getattr(self.head, "linear", None))
        return list(dict.fromkeys(p for part in parts if isinstance(part, nn.Module) for p in part.parameters()))

    def step(self, engine, delta_pre="default", **options):
        """Result and gradients of all parameters of a copy."""
        twin = copy.deepcopy(self)
        for mine, parameter in zip(self.parameters(), twin.parameters(), strict=True):
            parameter.grad = None if mine.grad is None else mine.grad.clone()
        options = {"weight": 0.7, "reduction": "batchmean"} | options
        delta_pre = self.delta_pre if isinstance(delta_pre, str) else delta_pre
        result = sk.local_step(twin.body, twin.head, self.x, self.y, delta_pre, engine=engine, **options)
        return result, [p.grad for p in twin.parameters()]


def assert_same(mine, theirs, tolerance=1e-10):
    """float64: 1e-10 relative, in the Euclidean norm; a gradient that is nothing but rounding has no direction."""
    scale = max([float(g.norm()) for g in theirs[1] if g is not None and g.numel()], default=0.0)
    for a, b in zip(mine[0], theirs[0], strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.shape == b.shape and a.dtype == b.dtype and not a.requires_grad
            assert (a - b).norm() <= tolerance * b.norm() + 1e-14 * scale
    for a, b in zip(mine[1], theirs[1], strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.shape == b.shape and a.dtype == b.dtype
            assert (a - b).norm() <= tolerance * b.norm() + 1e-14 * scale


def check(problem: Problem, backend: str, **options):
    with sk.backend(backend):
        assert_same(problem.step("fused", **options), problem.step("autograd", **options))


@pytest.mark.parametrize("body", BODIES)
def test_bodies(backend, body):
    problem = Problem(body, device=device_of(backend))
    check(problem, backend)
    check(problem, backend, delta_pre=None)


@pytest.mark.parametrize("head", ["etf", "flat_etf", "linear", "features", "smoothed"])
@pytest.mark.parametrize("engine", ["fused", "directional"])
def test_class_probabilities(engine, head):
    """As mixup gives them; those of one class alone are its label."""
    problem = Problem("linear_stack", head)
    labels, problem.y = problem.y, torch.rand(BATCH, CLASSES, dtype=torch.float64).softmax(1)
    published = problem.step("autograd")
    options, tolerances = ({}, (1e-10, 1e-10)) if engine == "fused" else ({"order": 2}, (1e-3, 1e-6))
    assert_same(problem.step(engine, **options), published, tolerances[0])
    problem.y = nn.functional.one_hot(labels, CLASSES).double()
    hard = problem.step(engine, **options)
    assert abs(hard[0].loss - published[0].loss) > 1e-3
    problem.y = labels
    assert_same(hard, problem.step(engine, **options), tolerances[1])


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("body", ["linear", "linear_stack", "conv", "conv_stack"])
def test_heads(backend, body, head):
    if head in ("conv", "flat_positions") and body not in IMAGES:
        pytest.skip("it needs an image")
    problem = Problem(body, head, device=device_of(backend))
    check(problem, backend)
    check(problem, backend, delta_pre=None)


@pytest.mark.parametrize(
    "options",
    [
        {"reduction": "mean", "weight": 50.0},
        {"reduction": "sum"},
        {"normalize": False},
        {"normalize": False, "reduction": "sum"},
        {"grad_scale": 1024.0},
        {"grad_scale": 1 / 3},
        {"relative_floor": 0.9},
        {"relative_floor": 2.0, "normalize": False, "grad_scale": 8.0},
        {"need_delta_out": False},
        {"weight": 0.0},
        {"weight": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("body", ["linear", "conv_stack"])
def test_options(backend, body, options):
    check(Problem(body, "linear", device=device_of(backend)), backend, **options)
    check(Problem(body, "lambda", device=device_of(backend)), backend, **options)


@pytest.mark.parametrize("head", ["linear", "lambda"])
def test_gradient_scale_multiplies_the_gradients_alone(head):
    problem = Problem("linear_stack", head)
    result, grads = problem.step("fused")
    scaled, scaled_grads = problem.step("fused", grad_scale=64.0)
    assert_same((scaled, [g / 64 for g in scaled_grads]), (result, grads))


@pytest.mark.parametrize("head", ["etf", "linear", "flat_linear", "lambda", "quadratic"])
@pytest.mark.parametrize("body", ["linear", "linear_stack", "conv_strided", "conv_stack"])
def test_curvature_none_lacks_the_curvature_terms(body, head):
    """The SGR gradient with the upstream gradient held constant: a head that is linear in x_k, of the same gradient."""
    problem = Problem(body, head)
    local, local_grads = problem.step("autograd", delta_pre=None)
    none, none_grads = problem.step("fused", curvature="none")
    frozen = copy.copy(problem)
    frozen.head = lambda features, y: (features * local.delta_out).sum()
    expected, expected_grads = frozen.step("autograd")
    torch.testing.assert_close(none.sgr, expected.sgr)
    count = len(list(problem.body.parameters()))
    assert_same((none, none_grads[:count]), (none, expected_grads[:count]))
    assert_same((none, none_grads[count:]), (none, local_grads[count:]))  # no SGR gradient for the head


def test_curvature_matters():
    """Otherwise the tests above could not tell the two apart."""
    problem = Problem("linear_stack", "linear")
    exact, none = problem.step("fused")[1], problem.step("fused", curvature="none")[1]
    assert all((a - b).norm() > 1e-3 * b.norm() for a, b in zip(exact, none, strict=True))


def test_heads_get_an_sgr_gradient():
    problem = Problem("linear", "linear")
    exact, local = problem.step("fused")[1], problem.step("fused", delta_pre=None)[1]
    assert all((a - b).norm() > 1e-3 * b.norm() for a, b in zip(exact[-2:], local[-2:], strict=True))


@pytest.mark.parametrize("body", ["linear_stack", "conv_stack"])
def test_frozen_parameters_stay_without_gradient(backend, body):
    for frozen in range(4):
        problem = Problem(body, "linear", device=device_of(backend))
        problem.parameters()[frozen].requires_grad_(False)
        check(problem, backend)
        assert problem.step("fused")[1][frozen] is None


@pytest.mark.parametrize("head", ["linear", "lambda"])
def test_frozen_heads(backend, head):
    problem = Problem("linear", head, device=device_of(backend))
    problem.parameters()[-1].requires_grad_(False)
    check(problem, backend)
    problem.parameters()[-2].requires_grad_(False)
    check(problem, backend)


@pytest.mark.parametrize("body", ["linear_stack", "layer_used_twice", "conv"])
@pytest.mark.parametrize("head", ["linear", "lambda"])
def test_gradients_are_added_to_those_that_are_there(backend, body, head):
    problem = Problem(body, head, device=device_of(backend))
    with sk.backend(backend):
        result, grads = problem.step("fused")
        for parameter in problem.parameters():
            parameter.grad = torch.ones_like(parameter)
        _, added = problem.step("fused")
    assert_same((result, added), (result, [g + 1 for g in grads]))


def test_no_two_additions_write_to_one_gradient_at_once(monkeypatch):
    """A multi-tensor addition on a GPU adds its pairs in parallel: a tensor that is in it twice loses one of them."""
    lists = []
    add = common.foreach_add_
    monkeypatch.setattr(common, "foreach_add_", lambda old, new: lists.append(old) or add(old, new))
    problem = Problem("layer_used_twice", "linear")
    for parameter in problem.parameters():
        parameter.grad = torch.zeros_like(parameter)
    problem.step("fused")
    assert lists
    for old in lists:
        assert len({t.data_ptr() for t in old}) == len(old)


@pytest.mark.parametrize("delta_pre", ["default", None])
@pytest.mark.parametrize("engine", ["fused", "autograd"])
def test_gradients_of_two_parameters_share_no_memory(engine, delta_pre):
    """Autograd hands out one tensor for both terms of a sum; in .grad they must be two."""
    problem = Problem("linear", "lambda")
    shift = [nn.Parameter(torch.zeros(BATCH, 7, dtype=torch.float64)) for _ in range(2)]
    delta_pre, options = problem.delta_pre if delta_pre else None, {"weight": 1.0, "engine": engine}

    def head(features, y):
        return problem.head(features + shift[0] + shift[1], y)

    sk.local_step(problem.body, head, problem.x, problem.y, delta_pre, **options)
    once = shift[0].grad.clone()
    sk.local_step(problem.body, head, problem.x, problem.y, delta_pre, **options)
    assert shift[0].grad.data_ptr() != shift[1].grad.data_ptr()
    assert all((parameter.grad - 2 * once).norm() <= 1e-10 * once.norm() for parameter in shift)


@pytest.mark.parametrize("engine", ["fused", "autograd"])
def test_gradients_can_be_added_to(engine):
    """That of a plain sum comes from autograd with stride 0, which nothing can be added to in place."""
    problem = Problem("linear", "lambda")
    total = nn.Parameter(torch.ones(3, dtype=torch.float64))
    for _ in range(2):
        head = lambda features, y: problem.head(features, y) + total.sum()  # noqa: E731
        sk.local_step(problem.body, head, problem.x, problem.y, None, weight=1.0, engine=engine)
    assert total.grad.eq(2).all()


def test_auto_takes_fused_where_it_applies(monkeypatch):
    used = []
    for module in (fused, directional):
        run = module.run
        monkeypatch.setattr(module, "run", lambda *a, run=run, m=module: used.append(m) or run(*a))
    for name in BODIES:
        Problem(name).step("auto")
        assert used.pop() is fused
    for name, (make, shape) in REFUSED.items():
        refused_again = name.endswith("backward")  # hooks that see gradients may change them
        with pytest.raises(ValueError, match="BackwardHook") if refused_again else contextlib.nullcontext():
            Problem((make, shape)).step("auto")
        assert used.pop() is directional
    problem = Problem("linear")
    body = problem.body
    sk.local_step(lambda x: body(x), problem.head, problem.x, problem.y, None, weight=1.0, engine="auto")
    assert used == [directional]


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def hooked(register):
    body = nn.Sequential(nn.Linear(9, 7), nn.ReLU())
    getattr(body[0], register)(lambda *args: None)
    return body


def own_forward():
    """A forward that is set on the object, as libraries that patch models do."""
    layer = nn.Linear(9, 7)
    layer.forward = lambda x: 2 * nn.functional.linear(x, layer.weight, layer.bias)
    return nn.Sequential(layer, nn.ReLU())


REFUSED = {
    "BatchNorm2d": (lambda: nn.Sequential(nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7), nn.ReLU()), (3, 6, 5)),
    "GELU": (lambda: nn.Sequential(nn.Linear(9, 7), nn.GELU()), (9,)),
    "MaxPool2d": (lambda: nn.Sequential(nn.Conv2d(3, 7, 3), nn.ReLU(), nn.MaxPool2d(2)), (3, 6, 5)),
    "0 .* with hooks": (lambda: hooked("register_forward_hook"), (9,)),
    "0 .* with hooks#pre": (lambda: hooked("register_forward_pre_hook"), (9,)),
    "0 .* with hooks#backward": (lambda: hooked("register_full_backward_hook"), (9,)),
    "ParametrizedLinear": (lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(9, 7)), nn.ReLU()), (9,)),
    "padding_mode=.?circular": (
        lambda: nn.Sequential(nn.Conv2d(3, 7, 3, padding=1, padding_mode="circular")),
        (3, 6, 5),
    ),
    "padding=.?same": (lambda: nn.Sequential(nn.Conv2d(3, 7, 3, padding="same")), (3, 6, 5)),
    r"0 \(ReLU": (lambda: nn.Sequential(nn.ReLU(), nn.Linear(9, 7)), (9,)),
    "2 .Flatten": (lambda: nn.Sequential(nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Flatten(), nn.Linear(84, 7)), (3, 6, 5)),
    "Residual": (lambda: Residual(nn.Linear(9, 9), nn.ReLU()), (9,)),
    "Dropout": (lambda: nn.Sequential(nn.Linear(9, 7), nn.ReLU(), nn.Dropout(0.0)), (9,)),
    "1.1 .Tanh": (lambda: nn.Sequential(nn.Linear(9, 7), nn.Sequential(nn.ReLU(), nn.Tanh())), (9,)),
    "Linear": (own_forward, (9,)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_has_no_closed_form(name):
    problem = Problem(REFUSED[name])
    with pytest.raises(ValueError, match=f"(?s)engine='fused'.* not for .*{name.split('#')[0]}") as error:
        sk.local_step(problem.body, problem.head, problem.x, problem.y, problem.delta_pre, weight=1.0, engine="fused")
    assert "use engine='directional'" in str(error.value)
    assert all(p.grad is None for p in problem.parameters())


@pytest.mark.parametrize("body", [lambda x: x, nn.Sequential(), nn.Identity()])
def test_refuses_bodies_without_layers(body):
    x = torch.randn(3, 4, requires_grad=True)
    with pytest.raises(ValueError, match="use engine='directional'"):
        sk.local_step(body, lambda f, y: f.square().sum(), x, None, None, weight=1.0, engine="fused")


def test_heads_with_hooks_run_their_hooks():
    """The closed form would step over them."""
    problem = Problem("linear", "flat_linear")
    calls = []
    for module in (problem.head, problem.head.classifier, problem.head.features):
        handle = module.register_forward_hook(lambda *args: calls.append(1))
        for _ in range(2):  # the first step runs the head again to check its gradient
            calls.clear()
            sk.local_step(
                problem.body, problem.head, problem.x, problem.y, problem.delta_pre, weight=1.0, engine="fused"
            )
        assert len(calls) == 1
        handle.remove()


def gradient_error(problem, engine, dtype, truth, **options):
    """Relative error of all gradients together, of an autocast step against float64."""
    with torch.autocast(problem.x.device.type, dtype):
        _, grads = problem.step(engine, **options)
    assert all(g.dtype == torch.float32 for g in grads)
    numerator = sum(((upcast(g) - upcast(t)) ** 2).sum() for g, t in zip(grads, truth, strict=True))
    return float((numerator / sum((upcast(t) ** 2).sum() for t in truth)) ** 0.5)


AUTOCAST = [
    ("linear", "etf"),
    ("linear_stack", "linear"),
    ("linear_stack", "lambda"),
    ("conv", "etf"),
    ("conv", "flat_etf"),
    ("conv_stack", "linear"),
    ("conv_stack", "conv"),
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("body", "head"), AUTOCAST)
def test_autocast_is_as_exact_as_the_autograd_engine(backend, body, head, dtype):
    """Over several batches: in one, a gate that rounds differently may decide."""
    errors = {"fused": 0.0, "autograd": 0.0}
    for seed in range(5):
        torch.manual_seed(seed)
        problem = Problem(body, head, torch.float32, device_of(backend), batch=32).round(dtype)
        wide = copy.deepcopy(problem)
        for part in (wide.body, wide.head, getattr(wide.head, "linear", None)):
            if isinstance(part, nn.Module):
                part.double()
        wide.x, wide.delta_pre = wide.x.double(), wide.delta_pre.double()
        with sk.backend(backend):
            _, truth = wide.step("autograd", weight=2.0)
            for engine in errors:
                errors[engine] += gradient_error(problem, engine, dtype, truth, weight=2.0) ** 2
    assert errors["fused"] <= 4 * errors["autograd"], errors  # squares


@pytest.mark.parametrize("body", ["linear", "linear_stack", "conv"])
@pytest.mark.parametrize("curvature", ["none", "exact"])
def test_residuals_may_overflow_float16(backend, body, curvature):
    """v is 1 / |delta|: far above 65504 here, with gradients that the scale keeps in the range of float16."""
    problem = Problem(body, "quadratic", torch.float32, device_of(backend)).round(torch.float16)
    problem.head = lambda features, y: 1e-6 * features.square().sum()
    wide = copy.deepcopy(problem)
    wide.body.double()
    wide.x, wide.delta_pre = wide.x.double(), wide.delta_pre.double()
    options = {"weight": 1e-5, "reduction": "sum", "curvature": curvature}
    with sk.backend(backend):
        truth = wide.step("fused", **options)[1]
        options["grad_scale"] = 2.0**14
        error = gradient_error(problem, "fused", torch.float16, [2**14 * g for g in truth], **options)
    assert error < 8 * torch.finfo(torch.float16).eps  # a few roundings in a row; Inf and NaN fail


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_results_of_the_same_dtypes(dtype):
    for body, head in AUTOCAST:
        problem = Problem(body, head, torch.float32)
        with torch.autocast("cpu", dtype):
            mine, theirs = (problem.step(engine)[0] for engine in ("fused", "autograd"))
        assert [t.dtype for t in mine] == [t.dtype for t in theirs]


@pytest.mark.parametrize("dtype", DTYPES)
def test_parameters_of_every_dtype(backend, dtype):
    """Without autocast: as exact as the autograd engine in that dtype."""
    problem = Problem("linear_stack", "linear", dtype, device_of(backend), batch=32)
    wide = copy.deepcopy(problem)
    wide.body.double(), wide.head.double()
    wide.x, wide.delta_pre = wide.x.double(), wide.delta_pre.double()
    truth = wide.step("autograd")[1]
    with sk.backend(backend):
        mine, theirs = problem.step("fused"), problem.step("autograd")
    errors = [
        sum(((upcast(g) - upcast(t)) ** 2).sum() for g, t in zip(grads, truth, strict=True))
        for _, grads in (mine, theirs)
    ]
    size = sum((upcast(t) ** 2).sum() for t in truth)
    assert errors[0] <= 1e-20 * size if dtype == torch.float64 else errors[0] <= 4 * errors[1]  # squares
    assert all(g.dtype == dtype for g in mine[1])


@pytest.mark.parametrize("weight", [0.7, sk.RelativeWeight(0.1)])
@pytest.mark.parametrize("curvature", ["none", "exact"])
@pytest.mark.parametrize("body", ["linear", "linear_stack", "conv_stack"])
def test_no_activation_is_wider_than_bfloat16(body, curvature, weight):
    problem = Problem(body, "etf", torch.bfloat16, batch=64)
    with Widths() as seen:
        problem.step("fused", curvature=curvature, weight=weight)
    assert max(seen.sizes) < problem.x.numel()  # logits and gradients of weights are smaller here


@pytest.mark.parametrize("head", ["linear", "flat_linear"])
@pytest.mark.parametrize("create_graph_around", [False, True])
def test_builds_no_graph_for_closed_form_heads(create_graph_around, head):
    saved, problem = [], Problem("conv_stack", head)
    twin = copy.deepcopy(problem)
    x, delta_pre = problem.x.requires_grad_(), problem.delta_pre.requires_grad_()
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t)
    with torch.set_grad_enabled(create_graph_around), hooks:
        result = sk.local_step(problem.body, problem.head, x, problem.y, delta_pre, weight=1.0, engine="fused")
    assert saved == []
    assert all(t.grad_fn is None and not t.requires_grad for t in result)
    assert all(p.grad.grad_fn is None and not p.grad.requires_grad for p in problem.parameters())
    assert x.grad is None and delta_pre.grad is None
    expected = sk.local_step(twin.body, twin.head, twin.x, twin.y, twin.delta_pre, weight=1.0, engine="autograd")
    assert_same((result, [p.grad for p in problem.parameters()]), (expected, [p.grad for p in twin.parameters()]))


def test_other_heads_keep_no_graph():
    problem = Problem("conv_stack", "conv")
    with torch.no_grad():
        result, grads = problem.step("fused")
    assert all(t.grad_fn is None and not t.requires_grad for t in (*result, *grads))


@pytest.mark.parametrize("body", ["linear", "conv_stack"])
@pytest.mark.parametrize("normalize", [True, False])
def test_dead_blocks(backend, body, normalize):
    """All gates closed: no NaN, and a body that gets nothing."""
    problem = Problem(body, "linear", device=device_of(backend))
    for layer in problem.body.modules():
        if hasattr(layer, "bias") and layer.bias is not None:
            layer.bias.data -= 1e3
    check(problem, backend, normalize=normalize)
    result, grads = problem.step("fused", normalize=normalize)
    assert not any(g.any() for g in grads[:2])
    assert all(g.isfinite().all() for g in grads) and (result.sgr == 0) == normalize


@pytest.mark.parametrize("body", ["linear", "conv_stack"])
def test_zero_upstream_gradient(backend, body):
    problem = Problem(body, "quadratic", device=device_of(backend))
    problem.head = lambda features, y: (0.0 * features.square()).sum()
    check(problem, backend)
    assert not any(g.any() for g in problem.step("fused")[1])


@pytest.mark.parametrize("head", ["etf", "linear", "lambda"])
def test_zero_target_rows_are_dead(backend, head):
    problem = Problem("linear_stack", head, device=device_of(backend))
    problem.delta_pre[[0, 3]] = 0.0
    check(problem, backend)


def test_one_class(backend):
    """Nothing to learn: no loss, no gradient, whatever the target is."""
    problem = Problem("linear", device=device_of(backend))
    problem.head = sk.CrossEntropyHead(nn.Linear(7, 1)).to(problem.x)
    problem.y.zero_()
    with sk.backend(backend):
        result, grads = problem.step("fused")
    assert result.loss == 0 and result.sgr == 0 and not result.delta_out.any()
    assert not any(g.any() for g in grads)


@pytest.mark.parametrize("head", ["etf", "linear", "lambda"])
@pytest.mark.parametrize("body", ["linear", "conv_stack"])
def test_one_sample(backend, body, head):
    check(Problem(body, head, device=device_of(backend), batch=1), backend)


@pytest.mark.parametrize("curvature", ["none", "exact"])
@pytest.mark.parametrize("head", ["etf", "flat_etf", "lambda"])
@pytest.mark.parametrize("body", ["linear", "linear_stack", "conv_stack"])
def test_empty_batch(backend, body, head, curvature):
    """As the autograd engine: a loss of NaN, a residual of 0, empty results."""
    problem = Problem(body, head, device=device_of(backend), batch=0)
    with sk.backend(backend):
        expected, _ = problem.step("autograd")
        for delta_pre in (problem.delta_pre, None):
            result, _ = problem.step("fused", delta_pre=delta_pre, curvature=curvature)
            assert result.loss.isnan() and (delta_pre is None or result.sgr == 0)
            assert result.output.shape == expected.output.shape and result.delta_out.shape == expected.delta_out.shape


@pytest.mark.parametrize("body", ["linear", "conv_stack"])
def test_nan_shows(backend, body):
    problem = Problem(body, "linear", device=device_of(backend))
    problem.x[2] = torch.nan
    with sk.backend(backend):
        result, grads = problem.step("fused")
    assert result.loss.isnan() and result.sgr.isnan()
    assert result.output[2].isnan().all() and result.output[[0, 1, 3, 4, 5]].isfinite().all()
    assert all(g.isnan().any() for g in grads)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_target_that_is_not_finite_shows(backend, poison):
    problem = Problem("linear", "linear", device=device_of(backend))
    problem.delta_pre[1, 2] = poison
    with sk.backend(backend):
        result, grads = problem.step("fused")
    assert result.loss.isfinite() and not result.sgr.isfinite()
    assert all(not g.isfinite().all() for g in grads)


@pytest.mark.parametrize("head", ["etf", "flat_etf", "conv"])
@pytest.mark.parametrize("body", IMAGES)
def test_channels_last(backend, body, head):
    problem = Problem(body, head, device=device_of(backend))
    expected = problem.step("autograd")
    problem.x = problem.x.contiguous(memory_format=torch.channels_last)
    for delta_pre in (problem.delta_pre, problem.delta_pre.contiguous(memory_format=torch.channels_last)):
        with sk.backend(backend):
            result = problem.step("fused", delta_pre=delta_pre)
        assert_same(result, expected)
        with torch.no_grad():
            of_torch = problem.body(problem.x)  # cuDNN has no channels_last in float64
        assert result[0].output.stride() == of_torch.stride()


@pytest.mark.parametrize("body", ["linear_3d", "conv", "flatten_mlp"])
def test_non_contiguous_input(backend, body):
    problem = Problem(body, "linear", device=device_of(backend))
    expected = problem.step("autograd")
    problem.x = problem.x.movedim(0, -1).contiguous().movedim(-1, 0)
    with sk.backend(backend):
        assert_same(problem.step("fused"), expected)
        assert_same(problem.step("fused", delta_pre=problem.delta_pre.repeat_interleave(2, -1)[..., ::2]), expected)


def test_a_chain_of_modules(backend):
    """delta_out of one step is delta_pre of the next, whatever layout it has."""
    first, second = Problem("conv", device=device_of(backend)), Problem("conv_stack", device=device_of(backend))
    second.body = nn.Sequential(nn.Conv2d(7, 5, 3), nn.ReLU()).to(first.x)
    second.head = HEADS["linear"]([5]).to(first.x)
    results = []
    for engine in ("fused", "autograd"):
        with sk.backend(backend):
            step, _ = first.step(engine, delta_pre=None)
            second.x = step.output
            results.append(second.step(engine, delta_pre=step.delta_out))
    assert_same(*results)


def test_random_state_and_arguments_are_untouched(backend):
    problem = Problem("conv_stack", "linear", device=device_of(backend))
    tensors = [problem.x, problem.delta_pre, problem.y, *problem.parameters()]
    before, state = [t.detach().clone() for t in tensors], torch.get_rng_state()
    with sk.backend(backend):
        sk.local_step(problem.body, problem.head, *tensors[:1], tensors[2], tensors[1], weight=1.0, engine="fused")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


def test_heads_with_state_run_once(backend):
    """BatchNorm statistics and the random stream move as in one step."""
    problem = Problem("conv", "linear", device=device_of(backend))
    features = nn.Sequential(nn.Conv2d(7, 7, 1), nn.BatchNorm2d(7), nn.Dropout(0.5))
    problem.head = sk.CrossEntropyHead(nn.Linear(7, CLASSES), features).to(problem.x)
    results, states = [], []
    for engine in ("fused", "autograd"):
        twin = copy.deepcopy(problem)
        torch.manual_seed(3)
        with sk.backend(backend):
            step = sk.local_step(twin.body, twin.head, twin.x, twin.y, twin.delta_pre, weight=1.0, engine=engine)
        results.append((step, [p.grad for p in twin.parameters()]))
        states.append([*twin.head.buffers(), torch.get_rng_state()])
    assert_same(*results)
    for mine, theirs in zip(*states, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("head", ["linear", "lambda"])
def test_a_weight_shared_by_body_and_head(backend, head):
    problem = Problem("linear", head, device=device_of(backend))
    linear = problem.head.classifier if head == "linear" else problem.head.linear
    linear.weight = problem.body[0].weight = nn.Parameter(torch.randn(7, 7).to(problem.x))
    linear.bias = problem.body[0].bias
    problem.x, problem.delta_pre = problem.x[:, :7], problem.delta_pre[:, :7]
    check(problem, backend)


@pytest.mark.parametrize("engine", ["fused", "autograd"])
@pytest.mark.parametrize(("labels", "error"), [("int32", TypeError), ("short", ValueError), ("range", RuntimeError)])
def test_bad_labels_are_the_same_error(engine, labels, error):
    problem = Problem("linear", "etf")
    bad = {"int32": problem.y.int(), "short": problem.y[:-1], "range": problem.y + CLASSES}[labels]
    with pytest.raises(error, match="labels" if labels != "range" else None):
        sk.local_step(problem.body, problem.head, problem.x, bad, problem.delta_pre, weight=1.0, engine=engine)
    assert all(p.grad is None for p in problem.parameters())


def test_refuses_losses_without_a_way_to_the_output():
    problem = Problem("linear")
    with pytest.raises(ValueError, match="does not depend on the output"):
        constant = nn.Parameter(torch.ones(()))
        sk.local_step(problem.body, lambda f, y: 2 * constant, problem.x, problem.y, None, weight=1.0, engine="fused")


@pytest.mark.parametrize("register", ["register_module_forward_hook", "register_module_forward_pre_hook"])
def test_hooks_of_all_modules_are_refused(register):
    """The closed form would step over them."""
    problem = Problem("linear", "linear")
    handle = getattr(torch.nn.modules.module, register)(lambda *args: None)
    try:
        with pytest.raises(ValueError, match="with hooks"):
            sk.local_step(
                problem.body, problem.head, problem.x, problem.y, problem.delta_pre, weight=1.0, engine="fused"
            )
    finally:
        handle.remove()


HEADS_WITH_CONSTANTS = {
    "stop gradient": lambda o, y: -torch.nn.functional.cosine_similarity(torch.tanh(o), o.flip(0).detach()).mean(),
    "no gradients": lambda o, y: (o.square().sum(1) * _norms(o)).mean(),
    "rounding straight through": lambda o, y: (o + (o.round() - o).detach()).square().mean(),
    "gradient penalty": lambda o, y: torch.autograd.grad(torch.tanh(o).sum(), o, create_graph=True)[0].square().mean(),
}


@torch.no_grad()
def _norms(o):
    return o.norm(dim=1)


@pytest.mark.parametrize("name", HEADS_WITH_CONSTANTS)
def test_heads_with_constants(name):
    problem = Problem("linear", "linear")
    body, x, delta_pre = problem.body.double(), problem.x.double(), problem.delta_pre.double()
    gradients = []
    for engine in ("autograd", "fused"):
        body.zero_grad()
        sk.local_step(body, HEADS_WITH_CONSTANTS[name], x, None, delta_pre, weight=3.0, engine=engine)
        gradients.append([p.grad.clone() for p in body.parameters()])
    torch.testing.assert_close(*gradients)
