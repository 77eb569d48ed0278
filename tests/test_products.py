"""What products round to: read from the settings of torch, and followed by the step of the directional engine."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from networks import Apply, module
from sgr_bench.precisions import RoundedProducts, products_in, rounded_to_tf32
from test_directional_engine import relative_error, sgr_part
from torch import nn

import sgr_kernels as sk
from sgr_kernels.engines import directional, head_check, passes, step_length
from sgr_kernels.functional.direction import sgr_direction
from sgr_kernels.operators.common.options import Options
from sgr_kernels.operators.sgr_step_length import reference
from sgr_kernels.products import KINDS, Spacing, rounding_of_products, spacing_of

FLOAT32, TF32, BF16 = torch.finfo(torch.float32).eps, 2.0**-10, 2.0**-7
SETTINGS = {
    ("cuda", "conv"): torch.backends.cudnn.conv,
    ("cuda", "rnn"): torch.backends.cudnn.rnn,
    ("cuda", "matmul"): torch.backends.cuda.matmul,
    **{("cpu", kind): getattr(torch.backends.mkldnn, kind) for kind in KINDS},
}
PARENTS = {"cuda": torch.backends.cudnn, "cpu": torch.backends.mkldnn}


@pytest.fixture(autouse=True)
def settings():
    """Every setting as it was: "none" first, so that one that inherits is seen to."""
    parents = [torch.backends, *PARENTS.values()]
    yield
    for parent in parents:
        parent.fp32_precision = "none"
    for (device, kind), setting in SETTINGS.items():
        setting.fp32_precision = "tf32" if device == "cuda" and kind != "matmul" else "none"
    assert torch.backends.cudnn.allow_tf32  # what the older style says is the same
    assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cuda.matmul.allow_tf32


UNTOLD = """
from sgr_kernels.products import KINDS, rounding_of_products
assert [rounding_of_products("cuda", kind) for kind in KINDS] == ["tf32", "ieee", "tf32"]
for device in ("cpu", "xpu", "meta", "mps"):
    assert {rounding_of_products(device, kind) for kind in KINDS} == {"ieee"}
"""


def test_what_torch_does_unless_told_otherwise():
    subprocess.run([sys.executable, "-c", UNTOLD], check=True)  # this process may have been told


@pytest.mark.parametrize(("device", "kind"), SETTINGS)
def test_every_setting_is_that_of_one_kind_on_one_device(device, kind):
    before = {key: rounding_of_products(*key) for key in SETTINGS}
    for rounding in ("tf32", "ieee"):
        SETTINGS[device, kind].fp32_precision = rounding
        assert {key: rounding_of_products(*key) for key in SETTINGS} == {**before, (device, kind): rounding}


@pytest.mark.parametrize("device", PARENTS)
def test_settings_are_inherited(device):
    mine = [key for key in SETTINGS if key[0] == device]
    for key in mine:
        SETTINGS[key].fp32_precision = "none"
    for parent in (torch.backends, PARENTS[device]):  # the second wins
        for rounding in ("ieee", "tf32"):
            parent.fp32_precision = rounding
            assert {rounding_of_products(*key) for key in mine} == {rounding}
        parent.fp32_precision = "ieee"
    assert {rounding_of_products(*key) for key in mine} == {"ieee"}


def test_settings_of_both_styles_are_followed():
    torch.set_float32_matmul_precision("high")
    assert rounding_of_products("cuda", "matmul") == rounding_of_products("cpu", "matmul") == "tf32"
    torch.set_float32_matmul_precision("highest")
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    assert rounding_of_products("cpu", "matmul") == "bf16"
    with pytest.raises(RuntimeError):  # so the settings of the new style are the ones to read
        torch.get_float32_matmul_precision()


def test_spacing_is_that_of_what_takes_part():
    torch.backends.mkldnn.conv.fp32_precision = "tf32"
    both = [torch.float32, torch.float64]
    assert spacing_of("cpu", both, ["conv", "matmul"]) == (FLOAT32, TF32)
    assert spacing_of("cpu", both, ["matmul"]) == (FLOAT32, FLOAT32)
    assert spacing_of("cpu", both, []).coarsest == FLOAT32
    assert spacing_of("cpu", [torch.float64], ["conv"]).coarsest == torch.finfo(torch.float64).eps
    with torch.autocast("cpu", torch.bfloat16):
        assert spacing_of("cpu", both, ["conv"]) == (BF16, TF32)


def spacing_of_step(monkeypatch, body, x, head=None) -> Spacing:
    """That which a step of the directional engine follows, and its check of the gradient."""
    found, checked = [], []
    length, check = passes.spacing_of, passes.check_gradient
    monkeypatch.setattr(passes, "spacing_of", lambda *args: found.append(length(*args)) or found[-1])
    monkeypatch.setattr(passes, "check_gradient", lambda *args: checked.append(args[-1]) or check(*args))
    head = head or (lambda output, _: output.square().mean())
    sk.local_step(body, head, x, None, torch.randn_like(x), weight=1.0, engine="directional")
    assert checked == [found[-1].coarsest]
    return found[-1]


class Attention(nn.Module):
    def forward(self, x):
        x = x.flatten(1)[None]
        return F.scaled_dot_product_attention(x, x, x)[0]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.LSTM(9, 4)

    def forward(self, x):
        return self.inner(x.flatten(2))[0].flatten(1)


SCALE = nn.Parameter(torch.ones(()))
BODIES = {
    "conv": (lambda: nn.Conv2d(3, 4, 2), {"conv"}),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 2), {"conv"}),
    "conv2d_relu": (lambda: sk.Conv2dReLU(3, 4, 2), {"conv"}),
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(27, 4)), {"matmul"}),
    "linear_relu": (lambda: nn.Sequential(nn.Flatten(), sk.LinearReLU(27, 4)), {"matmul"}),
    "operator": (lambda: Apply(lambda x: SCALE * x.flatten(1) @ x.flatten(1).t()), {"matmul"}),
    "attention": (lambda: nn.Sequential(nn.Tanh(), nn.Conv2d(3, 4, 2), Attention()), {"conv", "matmul"}),
    "recurrent": (Recurrent, {"matmul", "rnn"}),
    "declared": (lambda: Apply(sk.smooth(lambda x: SCALE * x.tanh())), {"conv", "matmul", "rnn"}),
    "neither": (lambda: Apply(lambda x: SCALE * torch.tanh(x)), set()),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("make", "kinds"), BODIES.values(), ids=BODIES)
def test_a_step_follows_the_products_in_its_module(monkeypatch, make, kinds, kind):
    SETTINGS["cpu", kind].fp32_precision = "tf32"
    spacing = spacing_of_step(monkeypatch, make(), torch.randn(5, 3, 3, 3))
    assert spacing.coarsest == (TF32 if kind in kinds else FLOAT32)


def test_products_of_the_head_and_of_compiled_code_count(monkeypatch):
    x = torch.randn(4, 6)
    layer = nn.Linear(6, 1)
    head = torch.compile(lambda output, _: layer(output).square().mean(), backend="eager")
    with products_in("tf32", "cpu"):
        for _ in range(2):  # the second finds compiled code
            body = Apply(lambda x: SCALE * x)
            assert spacing_of_step(monkeypatch, body, x, head) == (FLOAT32, TF32)


@pytest.mark.parametrize("rounding", ["ieee", "tf32", "bf16"])
def test_rounding_of_products_excuses_no_change_between_passes(rounding):
    """They round the same numbers the same way: what changes is state that nothing reaches."""
    SETTINGS["cpu", "conv"].fp32_precision = rounding
    layer, number, x = nn.Conv2d(3, 4, 2), itertools.count(), torch.randn(5, 3, 3, 3)
    body, head = Apply(lambda x: layer(x) * (1 + 0.01 * next(number))), lambda output, _: output.square().mean()
    with pytest.raises(RuntimeError, match="two passes over the same input differ"):
        sk.local_step(body, head, x, None, torch.randn_like(x), weight=1.0, engine="directional")


def test_float64_is_left_alone(monkeypatch):
    with products_in("tf32", "cpu"):
        spacing = spacing_of_step(monkeypatch, nn.Linear(6, 3).double(), torch.randn(4, 6, dtype=torch.float64))
    assert spacing.coarsest == torch.finfo(torch.float64).eps


def test_the_check_of_a_head_follows_them(monkeypatch):
    found = []
    check = head_check.check_gradient
    monkeypatch.setattr(head_check, "check_gradient", lambda *args: found.append(args[-1]) or check(*args))
    x, y = torch.randn(4, 6), torch.randint(3, (4,))
    for rounding in ("ieee", "tf32"):
        layer = nn.Linear(6, 3)

        def head(output, y, layer=layer):
            return F.cross_entropy(layer(output), y)

        with products_in(rounding, "cpu"):
            sk.local_step(sk.LinearReLU(6, 6), head, x, y, torch.randn(4, 6), weight=1.0, engine="fused")
    assert found == [FLOAT32, TF32]


def test_rounding_to_tf32():
    above = 1 + TF32
    numbers = [1.0, 1 + TF32 / 4, 1 + TF32 / 2, above + TF32 / 2, above + TF32 / 4, -1 - 0.75 * TF32, 0.0]
    expected = [1.0, 1.0, 1.0, above + TF32, above, -above, 0.0]
    assert rounded_to_tf32(torch.tensor(numbers)).tolist() == expected
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), torch.finfo(torch.float32).max])
    assert rounded_to_tf32(special).isfinite().tolist() == [False] * 4
    exact = torch.tensor(numbers, dtype=torch.float64)
    assert torch.equal(rounded_to_tf32(exact), exact)


def deep_network() -> tuple:
    torch.manual_seed(0)
    _, head, x, y, delta_pre = module("resnet")
    blocks = [nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()) for _ in range(8)]
    return nn.Sequential(*blocks), head, x, y, delta_pre


def error(engine: str, parts: tuple, context, scale: float, **options) -> float:
    """Of the SGR gradient in a context, whose loss is scaled, against Algorithm 1 in float32.

    The weight is large, so that Algorithm 1 does not lose the SGR gradient beside that of the local loss; with a scale
    its double backward would overflow.
    """
    weight = 1.0 if scale > 1 else 100.0
    exact = sgr_part("autograd", *parts, reduction="batchmean", weight=1.0)
    with context():
        result = sgr_part(engine, *parts, reduction="batchmean", weight=weight, grad_scale=scale, **options)
    return relative_error(result / (weight * scale), exact)


@contextlib.contextmanager
def emulated_tf32():
    with products_in("tf32", "cpu"), RoundedProducts():
        yield


PRECISIONS = {
    "TF32": (emulated_tf32, 1.0, 0.04, 0.02),
    "bfloat16": (lambda: torch.autocast("cpu", torch.bfloat16), 1.0, 0.1, 0.04),
    "float16": (lambda: torch.autocast("cpu", torch.float16), 2.0**8, 0.04, 0.02),
}


@pytest.mark.parametrize(("context", "scale", "first", "central"), PRECISIONS.values(), ids=PRECISIONS)
def test_errors_are_those_of_algorithm_1_in_the_same_precision(context, scale, first, central):
    """Of a deep module: at most twice its own at first order, a quarter more by central differences."""
    parts = deep_network()
    own = error("autograd", parts, context, scale)
    forward, both_sides = (error("directional", parts, context, scale, order=order) for order in (1, 2))
    assert own > 0.001
    if own >= 0.5:
        pytest.skip(f"Algorithm 1 itself is off by {own:.2f} with the products of this processor")
    assert forward <= 2 * own + first and both_sides <= 1.25 * own + central


@pytest.mark.parametrize(("context", "scale"), [(*case[:2],) for case in PRECISIONS.values()], ids=PRECISIONS)
def test_no_step_of_half_or_twice_the_length_is_better(monkeypatch, context, scale):
    """Of encoder blocks, where the error of a long step counts as well as that of a short one."""
    parts, found = module("vit without dropout"), {}
    for factor in (0.5, 1.0, 2.0):

        def length(*arguments, factor=factor):
            inverse, coef = step_length.step_length(*arguments)
            return inverse / factor, coef * factor

        monkeypatch.setattr(directional, "step_length", length)
        found[factor] = error("directional", parts, context, scale)
    assert found[1.0] < min(found[0.5], found[2.0])


STEPS = [Spacing(eps, products) for eps, products in ((FLOAT32, FLOAT32), (FLOAT32, TF32), (TF32, 0.0), (BF16, 0.0))]


def test_a_coarser_precision_counts_more_and_products_alone_less():
    roundings = [step_length.rounding_of(spacing) for spacing in STEPS]
    assert roundings == sorted(set(roundings)) and roundings[0] == FLOAT32
    float64 = torch.finfo(torch.float64).eps
    assert step_length.rounding_of(Spacing(float64, 0.0)) == float64


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("spacing", STEPS)
def test_the_gain_shortens_the_step_in_every_precision(monkeypatch, spacing, order):
    delta, target, x, output, delta_out = torch.randn(5, 6, 7).unbind(0)
    _, direction = sgr_direction(delta, target, Options())
    ends = torch.zeros(()), (x, delta), (output, delta_out)

    def inverse(gain: float) -> float:
        monkeypatch.setattr(reference, "gain_of_module", lambda *_: torch.tensor(gain, dtype=torch.float64))
        with sk.backend("reference"):
            return float(step_length.step_length(direction, *ends, spacing, None, order)[0])

    assert inverse(64.0) == pytest.approx(inverse(16.0) * 4**step_length.GAIN_POWER)


@pytest.mark.parametrize("order", [1, 2])
def test_a_loss_that_is_sensitive_to_delta_shortens_the_step(order):
    """By its change along delta relative to itself: twice as much as that of a loss twice as large, up to a bound."""
    x, delta, target, output, delta_out = torch.rand(5, 6, 7).unbind(0)

    def inverse(loss: float, scale: float = 1.0) -> float:
        _, direction = sgr_direction(scale * delta, target, Options())
        ends = torch.tensor(loss * scale), (x, scale * delta), (output, scale * delta_out)
        return float(step_length.step_length(direction, *ends, Spacing(FLOAT32, TF32), None, order)[0])

    unknown = inverse(0.0)  # of no positive loss a change is no part
    part, of_twice = ((inverse(loss) / unknown) ** 2 - 1 for loss in (10.0, 20.0))
    assert part > 0.01 and part == pytest.approx(2 * of_twice, rel=1e-4)
    assert inverse(-1.0) == unknown
    assert inverse(1e-9) == pytest.approx(unknown * (1 + step_length.MOST) ** 0.5)
    assert inverse(10.0, 64.0) == pytest.approx(inverse(10.0) / 64)  # h v does not depend on the scale of a loss
