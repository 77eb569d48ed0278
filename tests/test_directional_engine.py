"""engine="directional" against Algorithm 1, and what it leaves behind."""

from __future__ import annotations

import contextlib
import copy
import random
import threading
import time
from functools import partial

import autograd_functions
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import device_of
from networks import MODELS, Apply, module
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

import sgr_kernels as sk
from sgr_kernels import checkpointing
from sgr_kernels.engines import passes, step_length
from sgr_kernels.functional.direction import row_norms
from sgr_kernels.operators.sgr_step_length.reference import gain_of_module


def run(engine: str, body, head, x, y, delta_pre, seed: int = 3, **options):
    """The step, and the gradients of copies of body and head, as one vector in float64."""
    body, head = copy.deepcopy(body), copy.deepcopy(head)
    torch.manual_seed(seed)
    double_backward = engine == "autograd" and delta_pre is not None  # which flash attention does not have
    with sdpa_kernel(SDPBackend.MATH) if double_backward else contextlib.nullcontext():
        step = sk.local_step(body, head, x, y, delta_pre, engine=engine, **{"weight": 50.0, **options})
    return step, flat(body, head), body, head


def flat(*parts) -> Tensor:
    grads = [p.grad for part in parts if isinstance(part, nn.Module) for p in part.parameters()]
    return torch.cat([g.double().flatten() for g in grads if g is not None])


def sgr_part(engine: str, body, head, x, y, delta_pre, **options) -> Tensor:
    with_sgr = run(engine, body, head, x, y, delta_pre, **options)[1]
    plain = {k: v for k, v in options.items() if k not in ("radius", "order")}
    return with_sgr - run("autograd", body, head, x, y, None, **plain)[1]


def cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a, b, dim=0))


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", MODELS)
def test_gradient_is_that_of_algorithm_1(name, backend):
    parts = [part.to(device_of(backend)) for part in module(name, torch.float64)]
    expected = sgr_part("autograd", *parts)
    with sk.backend(backend):
        assert relative_error(sgr_part("directional", *parts, order=2, radius=1e-3), expected) < 1e-4
        first_order = sgr_part("directional", *parts, radius=1e-5)
    assert relative_error(first_order, expected) < 1e-3


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("order", "least_cosine", "largest_error"), [(1, 0.999, 0.05), (2, 0.9999, 0.01)])
def test_default_steps_in_float32(name, order, least_cosine, largest_error):
    parts = module(name)
    expected = sgr_part("autograd", *parts)
    result = sgr_part("directional", *parts, order=order)
    assert cosine(result, expected) >= least_cosine
    assert relative_error(result, expected) <= largest_error


def test_deep_modules_take_shorter_steps(monkeypatch):
    blocks = (nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()) for _ in range(20))
    _, head, x, y, delta_pre = module("resnet")
    body = nn.Sequential(*blocks)
    exact = sgr_part("autograd", body.double(), head.double(), x.double(), y, delta_pre.double())
    parts = body.float(), head.float(), x, y, delta_pre
    error = relative_error(sgr_part("directional", *parts), exact)
    monkeypatch.setattr(step_length, "GAIN_POWER", 0.0)
    error_of_a_shallow_step = relative_error(sgr_part("directional", *parts), exact)
    assert error < 0.03 and error < error_of_a_shallow_step / 2


@pytest.mark.parametrize(("function", "gain"), [(lambda x: x**3, 3.0), (lambda x: 1e3 * x, 1.0), (torch.sqrt, 1.0)])
def test_gain_is_the_growth_of_a_relative_change(function, gain):
    x = torch.ones(4, 6, 5).requires_grad_()
    output = function(x)
    delta_out = torch.randn(output.shape)
    (delta,) = torch.autograd.grad(output, x, delta_out)
    of_x, of_output = ([*map(row_norms, pair)] for pair in ((x.detach(), delta), (output.detach(), delta_out)))
    torch.testing.assert_close(float(gain_of_module(*of_x, of_output, 1.0)), gain)


OUTPUTS = {"empty": lambda x: x[:0], "0-d": lambda x: x.square().mean(), "complex": sk.smooth(torch.fft.rfft)}


@pytest.mark.parametrize("function", OUTPUTS.values(), ids=OUTPUTS)
def test_outputs_of_any_kind(function):
    layer, side = nn.Linear(5, 5).double(), []
    x, delta_pre = torch.randn(2, 12, 5, dtype=torch.float64).unbind(0)

    def body(x):
        side[:] = [torch.tanh(layer(x))]
        return function(side[0])

    def head(output, _):
        return side[0].square().sum() + sk.smooth(torch.view_as_real)(output + 0j).square().sum()

    gradients = []
    for engine in ("autograd", "directional"):
        layer.zero_grad()
        sk.local_step(body, head, x, None, delta_pre, weight=50.0, engine=engine, need_delta_out=False)
        gradients.append(flat(layer))
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_input_that_goes_around_the_output():
    """A head that is handed what the body left for it."""
    side = []
    weight = nn.Parameter(torch.randn(5, 5, dtype=torch.float64))

    def body(x):
        side[:] = [torch.tanh(x @ weight)]
        return x.detach()

    x, delta_pre = torch.randn(2, 12, 5, dtype=torch.float64).unbind(0)
    gradients = []
    for options in ({"engine": "autograd"}, {"engine": "directional", "order": 2, "radius": 1e-3}):
        weight.grad = None
        head = lambda _, y: side[0].square().sum()  # noqa: E731
        options |= {"weight": 50.0, "need_delta_out": False}
        sk.local_step(body, head, x, None, delta_pre, **options)
        gradients.append(weight.grad)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_everything_else_is_as_after_one_ordinary_step(name):
    body, head, x, y, delta_pre = module(name)
    x_before = x.clone()
    theirs, _, their_body, their_head = run("autograd", body, head, x, y, delta_pre)
    their_streams = torch.get_rng_state()
    mine, _, my_body, my_head = run("directional", body, head, x, y, delta_pre)
    assert torch.equal(torch.get_rng_state(), their_streams)
    for part, other in ((my_body, their_body), (my_head, their_head)):
        for (key, buffer), expected in zip(part.state_dict().items(), other.state_dict().values(), strict=True):
            torch.testing.assert_close(buffer, expected, msg=key)
        assert [m.training for m in part.modules()] == [m.training for m in other.modules()]
    for result, expected in zip(mine, theirs, strict=True):
        torch.testing.assert_close(result, expected)
        assert not result.requires_grad
    assert torch.equal(x, x_before) and not x.requires_grad and x.grad is None


def test_gradients_add_up_and_scale():
    body, head, x, y, delta_pre = module("vgg", torch.float64)
    options = {"weight": 50.0, "engine": "directional", "order": 2, "radius": 1e-3}
    plain = sk.local_step(body, head, x, y, delta_pre, **options)
    once = flat(body, head)
    step = sk.local_step(body, head, x, y, delta_pre, grad_scale=8.0, **options)
    torch.testing.assert_close(flat(body, head), 9 * once)
    for scaled, unscaled in zip(step, plain, strict=True):
        torch.testing.assert_close(scaled, unscaled)


@pytest.mark.parametrize("options", [{"normalize": False}, {"reduction": "batchmean"}, {"relative_floor": 0.9}])
def test_options_of_the_residual(options):
    body, head, x, y, delta_pre = module("vgg", torch.float64)
    arguments = body, head, x, y, 1e-2 * delta_pre
    expected = sgr_part("autograd", *arguments, **options)
    assert relative_error(sgr_part("directional", *arguments, order=2, radius=1e-3, **options), expected) < 1e-4


def test_radius_is_the_largest_relative_step():
    body, head, x, y, delta_pre = module("vgg", torch.float64)
    seen = []
    body.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    sk.local_step(body, head, x, y, delta_pre, weight=1.0, engine="directional", radius=0.02, order=2)
    forward, back = (((shifted - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)) for shifted in seen[-2:])
    torch.testing.assert_close(forward.max(), torch.tensor(0.02, dtype=torch.float64))
    torch.testing.assert_close(back, forward)


def test_head_may_be_any_callable():
    body, head, x, y, delta_pre = module("vgg", torch.float64)
    expected = run("directional", body, head, x, y, delta_pre)[1]
    sk.local_step(body, lambda f, t: head(f, t), x, y, delta_pre, weight=50.0, engine="directional")
    torch.testing.assert_close(flat(body, head), expected)


def test_first_module_takes_an_ordinary_step():
    body, head, x, y, _ = module("vgg")
    mine, theirs = (run(engine, body, head, x, y, None)[1] for engine in ("directional", "autograd"))
    assert torch.equal(mine, theirs)


# --- modules of all kinds ---------------------------------------------------------------------------------------------


class Twice(nn.Module):
    """A module called twice, one that two names share, a frozen and an unused parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.same = self.conv
        self.frozen = nn.Conv2d(8, 8, 1).requires_grad_(False)
        self.unused = nn.Parameter(torch.zeros(3))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.same(self.act(self.frozen(self.act(self.conv(x))))))


def test_shared_repeated_frozen_and_unused_parameters():
    _, head, x, y, delta_pre = module("resnet", torch.float64)
    body = Twice().double()
    expected = sgr_part("autograd", body, head, x, y, delta_pre)
    assert relative_error(sgr_part("directional", body, head, x, y, delta_pre, order=2, radius=1e-3), expected) < 1e-4
    _, _, body, _ = run("directional", body, head, x, y, delta_pre)
    assert body.frozen.weight.grad is None and body.unused.grad is None


@pytest.mark.parametrize("frozen", ["body", "head", "both"])
def test_parts_without_trainable_parameters(frozen):
    body, head, x, y, delta_pre = module("vgg", torch.float64)
    for name, part in (("body", body), ("head", head)):
        part.requires_grad_(frozen not in (name, "both"))
    if frozen == "both":
        step = sk.local_step(body, head, x, y, delta_pre, weight=1.0, engine="directional")
        assert step.sgr.isfinite() and all(p.grad is None for p in [*body.parameters(), *head.parameters()])
        return
    expected = sgr_part("autograd", body, head, x, y, delta_pre)
    assert relative_error(sgr_part("directional", body, head, x, y, delta_pre, order=2, radius=1e-3), expected) < 1e-4


def test_buffers_that_the_forward_pass_uses():
    body, head, x, y, delta_pre = module("vgg", torch.float64)
    for conv in [m for m in body.modules() if isinstance(m, nn.Conv2d)]:
        nn.utils.parametrizations.spectral_norm(conv)  # one power iteration a pass, in buffers
    expected = sgr_part("autograd", body, head, x, y, delta_pre)
    assert relative_error(sgr_part("directional", body, head, x, y, delta_pre, order=2, radius=1e-3), expected) < 1e-4


def test_in_place_work_on_the_input_itself_is_an_error():
    _, head, x, y, delta_pre = module("resnet")
    with pytest.raises(ValueError, match="in place"):
        sk.local_step(nn.ReLU(inplace=True), head, x, y, delta_pre, weight=1.0, engine="directional")


def test_empty_batch():
    body, head, x, y, delta_pre = module("vgg")
    body.eval(), head.eval()
    step = sk.local_step(body, head, x[:0], y[:0], delta_pre[:0], weight=1.0, engine="directional")
    assert step.sgr == 0


@pytest.mark.parametrize("where", ["x", "delta_pre"])
def test_nan_shows(where):
    body, head, x, y, delta_pre = module("vgg")
    tensors = {"x": x, "delta_pre": delta_pre}
    tensors[where][1, 0, 0, 0] = torch.nan
    step, gradient, _, _ = run("directional", body, head, tensors["x"], y, tensors["delta_pre"])
    assert step.sgr.isnan() and gradient.isnan().any()


def test_samples_without_direction_or_size_are_left_where_they_are():
    body, head, x, y, delta_pre = module("vgg", torch.float64)
    x[0] = 0.0
    delta_pre[1] = 0.0
    expected = sgr_part("autograd", body, head, x, y, delta_pre)
    assert relative_error(sgr_part("directional", body, head, x, y, delta_pre, order=2, radius=1e-3), expected) < 1e-4
    nowhere = sgr_part("directional", body, head, x, y, torch.zeros_like(delta_pre))
    assert not nowhere.any()


@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-4, 1e-6, 0.0])
@pytest.mark.parametrize("rows", [slice(None), slice(3, 4)], ids=["all rows", "one row"])
def test_small_inputs_beside_biases(rows, scale):
    """A step that is short beside x would be lost in the rounding of what the biases give."""
    body = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64))
    head = sk.CrossEntropyHead(nn.Linear(64, 4))
    x, delta_pre = torch.randn(2, 32, 32, dtype=torch.float64).unbind(0)
    x[rows] *= scale
    y = torch.randint(4, (32,))
    truth = sgr_part("autograd", copy.deepcopy(body).double(), copy.deepcopy(head).double(), x, y, delta_pre)
    result = sgr_part("directional", body, head, x.float(), y, delta_pre.float())
    assert relative_error(result, truth) < 0.02


@pytest.mark.parametrize(("spread", "least_cosine"), [(1e2, 0.9999), (1e4, 0.999)])
def test_spread_of_gradient_norms(spread, least_cosine):
    """v_b is as long as delta_b is short: the most confident sample must not spoil the step for all others."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64)).double()
    x, delta_pre = torch.randn(2, 32, 64, dtype=torch.float64).unbind(0)
    sizes = torch.logspace(0, -np.log10(spread), 32, dtype=torch.float64)
    direction = torch.randn(64, 64, dtype=torch.float64)

    def head(features, y):
        return (sizes.to(features) * torch.tanh(features @ direction.to(features) / 8).square().sum(1)).mean()

    truth = sgr_part("autograd", body, head, x, None, delta_pre)
    inputs = body.float(), head, x.float(), None, delta_pre.float()
    assert cosine(sgr_part("directional", *inputs), truth) >= 0.999
    assert cosine(sgr_part("directional", *inputs, order=2), truth) >= least_cosine


# --- random numbers and hidden state ----------------------------------------------------------------------------------


class Noisy(nn.Module):
    def __init__(self, draw) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x)) * self.draw(x)


@pytest.mark.parametrize(
    "draw",
    [
        lambda x: torch.rand_like(x),
        lambda x: torch.empty(len(x), 1, 1, 1, dtype=x.dtype).bernoulli_(0.5) / 0.5,
        lambda x: random.random(),
        lambda x: float(np.random.rand()),
    ],
    ids=["rand_like", "stochastic depth", "Python", "NumPy"],
)
def test_random_numbers_are_drawn_once(draw):
    _, head, x, y, delta_pre = module("resnet", torch.float64)
    body = Noisy(draw).double()
    results = []
    for engine, options in (("autograd", {}), ("directional", {"order": 2, "radius": 1e-3})):
        random.seed(0), np.random.seed(0)
        with_sgr = run(engine, body, head, x, y, delta_pre, **options)[1]
        random.seed(0), np.random.seed(0)
        results.append(with_sgr - run("autograd", body, head, x, y, None)[1])
    assert relative_error(results[1], results[0]) < 1e-4
    random.seed(0), np.random.seed(0)
    run("directional", body, head, x, y, delta_pre)
    after = random.random(), np.random.rand()
    random.seed(0), np.random.seed(0)
    run("autograd", body, head, x, y, delta_pre)
    assert after == (random.random(), np.random.rand())


@pytest.mark.parametrize("answer", [True, False])
def test_torch_is_asked_whether_a_gpu_captures(answer, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: answer)
    assert passes.is_capturing(torch.device("cuda")) is answer
    assert not passes.is_capturing(torch.device("cpu"))


# --- what a double backward cannot do ---------------------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 8)).movedim(-3, 0).transpose(-2, -3)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(-2, -3).flatten(-2))


def test_flash_attention():
    body, head = Attention().double(), Mean(nn.Linear(16, 4).double())
    x, delta_pre = torch.randn(2, 6, 10, 16, dtype=torch.float64).unbind(0)
    y = torch.randint(4, (6,))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        with pytest.raises(RuntimeError, match="derivative"):
            sk.local_step(body, head, x, y, delta_pre, weight=1.0, engine="autograd")
        result = sgr_part("directional", body, head, x, y, delta_pre, order=2, radius=1e-3)
    assert relative_error(result, sgr_part("autograd", body, head, x, y, delta_pre)) < 1e-4


class Mean(nn.Module):
    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.classifier(x.mean(1)), y)


class Checkpointed(nn.Module):
    """Regions that are computed again in the backward pass, one inside another, with random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Dropout(0.2)) for _ in range(3)
        )
        self.recompute = True

    def forward(self, x: Tensor) -> Tensor:
        if not self.recompute:
            return self._inner(self.blocks[2](x))
        again = partial(checkpoint, use_reentrant=False)
        return again(self._inner, again(self.blocks[2], x))

    def _inner(self, x: Tensor) -> Tensor:
        block = self.blocks[0]
        x = checkpoint(block, x, use_reentrant=False) if self.recompute else block(x)
        return F.max_pool2d(self.blocks[1](x), 2)


def test_activation_checkpointing(backend):
    _, head, x, y, delta_pre = (part.to(device_of(backend)) for part in module("resnet", torch.float64))
    body = Checkpointed().double().to(device_of(backend))
    with sk.backend(backend):
        again = sgr_part("directional", body, head, x, y, delta_pre, order=2, radius=1e-3)
        body.recompute = False
        once = sgr_part("directional", body, head, x, y, delta_pre, order=2, radius=1e-3)
    torch.testing.assert_close(again, once)
    assert relative_error(once, sgr_part("autograd", body, head, x, y, delta_pre)) < 1e-4


def test_checkpointing_in_other_threads_is_left_alone():
    """Some take steps with checkpointed bodies, others use checkpointing for themselves."""
    _, head, x, y, delta_pre = module("resnet")
    errors = []

    def steps():
        for _ in range(3):
            try:
                # Random numbers are everybody's.
                sk.local_step(
                    Checkpointed().eval(), copy.deepcopy(head), x, y, delta_pre, weight=1.0, engine="directional"
                )
            except Exception as error:
                errors.append(error)

    def others():
        for _ in range(30):
            leaf = torch.randn(8, 8, requires_grad=True)
            try:
                checkpoint(torch.relu, leaf, use_reentrant=False).sum().backward()
                torch.testing.assert_close(leaf.grad, (leaf > 0).float())
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=work) for work in (steps, others, steps, others)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    others()
    assert errors == []


def test_threads_that_begin_together_intercept_checkpoints_once(monkeypatch):
    checkpointing._intercept_once()
    calls = []
    monkeypatch.setattr(
        checkpointing.torch_internals, "intercept_checkpoints", lambda *_: time.sleep(0.05) or calls.append(1)
    )
    checkpointing._intercept.cache_clear()
    threads = [threading.Thread(target=checkpointing._intercept_once) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [1]


@pytest.mark.parametrize("name", ["resnet", "vgg", "vit without dropout"])
def test_compiled_body_and_head(name):
    torch._dynamo.reset()
    body, head, x, y, delta_pre = module(name, torch.float64)
    expected = sgr_part("directional", body, head, x, y, delta_pre, order=2, radius=1e-3)
    compiled = [torch.compile(part, fullgraph=True, backend="aot_eager") for part in (body, head)]
    results = []
    for _ in range(2):
        for delta in (delta_pre, None):
            body.zero_grad(), head.zero_grad()
            options = {"engine": "directional", "order": 2, "radius": 1e-3} if delta is not None else {}
            sk.local_step(*compiled, x, y, delta, weight=50.0, **options)
            results.append(flat(body, head))
    for with_sgr, plain in (results[:2], results[2:]):
        torch.testing.assert_close(with_sgr - plain, expected)


@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_compilers_that_run_a_graph_in_python(compiler):
    layers = nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 16), nn.Hardtanh()
    body, head = nn.Sequential(*layers).double(), sk.CrossEntropyHead(nn.Linear(16, 4)).double()
    x, delta_pre = torch.randn(2, 12, 16, dtype=torch.float64).unbind(0)
    inputs = head, x, torch.randint(4, (12,)), delta_pre
    expected = sgr_part("autograd", body, *inputs)
    result = sgr_part("directional", torch.compile(body, backend=compiler), *inputs, order=2, radius=1e-3)
    assert relative_error(result, expected) < 1e-4


def test_compiled_blocks_inside_of_a_body():
    torch._dynamo.reset()
    body, head, x, y, delta_pre = module("vgg", torch.float64)
    expected = run("directional", body, head, x, y, delta_pre, order=2, radius=1e-3)[1]
    body = nn.Sequential(*map(Apply, body))  # older versions of torch do not compile a container by itself
    for block in body:
        block.compile(fullgraph=True, backend="aot_eager")
    sk.local_step(body, head, x, y, delta_pre, weight=50.0, engine="directional", order=2, radius=1e-3)
    torch.testing.assert_close(flat(body, head), expected)


def test_autocast_and_gradient_scaling():
    body, head, x, y, delta_pre = module("vgg")
    expected = sgr_part("autograd", body, head, x, y, delta_pre)
    for scale in (1.0, 1024.0):
        with torch.autocast("cpu", torch.bfloat16):
            result = sgr_part("directional", body, head, x, y, delta_pre, order=2, grad_scale=scale)
        assert cosine(result / scale, expected) > 0.98
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in body.parameters())


class InHalfPrecision(nn.Module):
    """Chooses autocast by itself."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.inner(x).float()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MODELS)
def test_checks_of_the_first_step_suit_the_precision(name, dtype):
    """Nothing is refused: small inputs, confident heads, gradients that are mostly rounding."""
    for scale, confidence in ((1.0, 1.0), (1e-3, 1.0), (1.0, 20.0)):
        body, head, x, y, delta_pre = module(name)
        head.classifier.weight.data *= confidence
        with torch.autocast("cpu", dtype):
            for _ in range(2):
                sk.local_step(body, head, scale * x, y, delta_pre, weight=1.0, engine="directional")


def test_steps_suit_the_precision_inside_of_the_body():
    body, head, x, y, delta_pre = module("vgg")
    expected = sgr_part("autograd", body, head, x, y, delta_pre)
    assert cosine(sgr_part("directional", InHalfPrecision(body), head, x, y, delta_pre, order=2), expected) > 0.95


def test_layers_of_this_package_on_tokens_under_autocast():
    _, head, x, y, delta_pre = module("vit")
    body = nn.Sequential(sk.LinearReLU(16, 16), nn.Linear(16, 16))
    expected = sgr_part("autograd", body, head, x, y, delta_pre)
    with torch.autocast("cpu", torch.bfloat16):
        assert cosine(sgr_part("directional", body, head, x, y, delta_pre, order=2), expected) > 0.98


def test_gradients_of_weights_are_not_rounded_to_half_precision():
    body, head, x, y, delta_pre = module("vgg")
    with torch.autocast("cpu", torch.bfloat16):
        sk.local_step(body, head, x, y, delta_pre, weight=0.0, engine="directional")
    weights = [p.grad for p in (*body.parameters(), *head.parameters()) if p.dim() > 1]
    assert weights and all(not torch.equal(gradient, gradient.bfloat16().float()) for gradient in weights)


def test_compiled_under_autocast():
    torch._dynamo.reset()
    body, head, x, y, delta_pre = module("vgg")
    compiled = [torch.compile(part, fullgraph=True, backend="aot_eager") for part in (body, head)]
    gradients = []
    for parts in ((body, head), compiled):
        body.zero_grad(), head.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            sk.local_step(*parts, x, y, delta_pre, weight=50.0, engine="directional")
        gradients.append(flat(body, head))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_inputs_in_half_precision(dtype):
    """As a module under autocast hands them on; with a gradient scale, or from a wider module, delta is float32."""
    body, head, x, y, delta_pre = module("vgg")
    expected = sgr_part("autograd", body, head, x, y, delta_pre)
    seen = []
    body.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    for delta, scale in ((delta_pre.to(dtype), 1.0), (delta_pre, 1.0), (delta_pre.to(dtype), 1024.0)):
        with torch.autocast("cpu", dtype):
            result = sgr_part("directional", body, head, x.to(dtype), y, delta, order=2, grad_scale=scale)
        assert cosine(result, expected) > 0.98
    assert set(seen) == {dtype}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parameters_are_refused(dtype):
    body, head, x, y, delta_pre = module("vgg", dtype)
    with pytest.raises(ValueError, match="keep the parameters in float32"):
        sk.local_step(body, head, x, y, delta_pre, weight=1.0, engine="directional")


def test_channels_last():
    body, head, x, y, delta_pre = module("vgg", torch.float64)
    expected = run("directional", body, head, x, y, delta_pre, order=2)[1]
    x, delta_pre = (t.contiguous(memory_format=torch.channels_last) for t in (x, delta_pre))
    body = body.to(memory_format=torch.channels_last)
    torch.testing.assert_close(run("directional", body, head, x, y, delta_pre, order=2)[1], expected)


# --- refusals ---------------------------------------------------------------------------------------------------------


class Hidden(torch.autograd.Function):
    """A kink that calls no function of torch."""

    @staticmethod
    def forward(ctx, x):
        y = torch.from_numpy(np.maximum(x.detach().numpy(), 0.0))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        return grad * (y > 0)


def test_undeclared_autograd_functions_are_refused():
    _, head, x, y, delta_pre = module("resnet")
    body = nn.Sequential(nn.Conv2d(8, 8, 3), Apply(Hidden.apply))
    with pytest.raises(ValueError, match="Hidden"):
        sk.local_step(body, head, x, y, delta_pre, weight=1.0, engine="directional")


def test_declared_autograd_functions_pass():
    _, head, x, y, delta_pre = module("resnet", torch.float64)
    body = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), Apply(sk.smooth(autograd_functions.Twice))).double()
    plain = nn.Sequential(body[0], body[1], Apply(lambda x: 2 * x))
    expected = run("directional", plain, head, x, y, delta_pre, order=2)[1]
    torch.testing.assert_close(run("directional", body, head, x, y, delta_pre, order=2)[1], expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "directional", "order": 3}, "order must be 1 or 2"),
        ({"engine": "directional", "radius": 0.0}, "radius must be > 0"),
        ({"engine": "directional", "curvature": "none"}, "always includes the curvature"),
        ({"engine": "autograd", "radius": 0.1}, "radius and order belong to engine='directional'"),
        ({"engine": "fused", "order": 2}, "radius and order belong to engine='directional'"),
    ],
)
def test_options_without_meaning(options, message):
    body, head, x, y, delta_pre = module("vgg")
    with pytest.raises(ValueError, match=message):
        sk.local_step(body, head, x, y, delta_pre, weight=1.0, **options)


def test_auto_takes_the_closed_form_where_there_is_one():
    body, head, x, y, delta_pre = module("resnet", torch.float64)
    torch.testing.assert_close(
        run("auto", body, head, x, y, delta_pre)[1], run("directional", body, head, x, y, delta_pre)[1]
    )
    chain = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()).double()
    torch.testing.assert_close(
        run("auto", chain, head, x, y, delta_pre)[1], run("fused", chain, head, x, y, delta_pre)[1]
    )
