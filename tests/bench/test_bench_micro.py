"""sgr-bench micro: rows hold what is promised, their commands repeat them, and nothing wrong is ever timed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from sgr_bench import cases, cli, goals, micro, timing
from sgr_bench.cases.case import Size
from sgr_bench.checks import WrongResult, relative_error
from sgr_bench.micro import GENERIC, OPS, cross_entropy, measurement, providers, relu_layers, relu_sgr
from sgr_bench.micro import sgr_loss as losses
from sgr_bench.micro.derivatives import MODES, Point, run_of
from sgr_bench.micro.grid import text, timed
from sgr_bench.roofline import Limits
from torch.utils.flop_counter import FlopCounterMode

import sgr_kernels as sk
from sgr_kernels import blocks
from sgr_kernels.functional.direction import Direction
from sgr_kernels.operators.common import relu_layer
from sgr_kernels.operators.cross_entropy import cross_entropy_hvp
from sgr_kernels.operators.gate_bits import record_relu, replay_relu
from sgr_kernels.operators.linear_relu import linear_relu
from sgr_kernels.operators.relu_backward import through_relu
from sgr_kernels.operators.sgr_loss import sgr_loss_backward
from sgr_kernels.operators.sgr_residual import sgr_residual
from sgr_kernels.operators.sgr_shift import sgr_shift

LIMITS = Limits(1e10, {"float32": 1e11, "bfloat16": 1e9})
EAGER = ["cpu", "eager", "torch.relu", "Algorithm 1", "library GEMM", "library conv", "reference"]
CASES = [(op, mode) for op in OPS for mode in OPS[op].modes]


def tiny(*shapes: tuple[int, ...]) -> tuple[Size, ...]:
    """All in float32, the last in bfloat16 as well."""
    return tuple(Size(shape, timed="quick", halves=shape == shapes[-1]) for shape in shapes)


TINY = {
    "sgr_loss": tiny((8, 64), (16, 96)),
    **dict.fromkeys(("sgr_residual", "sgr_shift", "row_norms"), tiny((8, 64))),
    "linear_relu": tiny((16, 32, 24)),
    "conv2d_relu": tiny((4, 12, 5, 5)),
    "cross_entropy": tiny((8, 10)),
    "record_relu": tiny((3, 4, 5, 5)),
    "relu_backward": tiny((4, 6, 3)),
}

pytestmark = pytest.mark.skipif(sk.backends()["cpu"] != "ok", reason="needs the compiled CPU kernels")


def make_small(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(micro.roofline, "limits", lambda device, quick: LIMITS)
    for operator in {op.operators[0] for op in OPS.values()}:
        given = cases.of(operator)
        small = dataclasses.replace(given, sizes=TINY.get(operator.name) or tiny(given.sizes[0].shape))
        patch.setitem(cases.all_of_them(), operator, small)
    patch.setattr(timing, "repeats_for", lambda seconds, budget: 3)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    make_small(monkeypatch)


def command(*options: str) -> list[str]:
    return ["micro", "--threads", "1", "--quick", *options]


def run(folder, argv: list[str]) -> list[dict]:
    assert cli.main([*argv, "--out", str(folder)]) == 0
    return json.loads((folder / "micro-cpu.json").read_text())["rows"]


def identity(row: dict) -> tuple:
    return row["op"], row["mode"], row["provider"], tuple(row["shape"]), row["dtype"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict]:
    """Everything but torch.compile."""
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        return run(tmp_path_factory.mktemp("micro"), command("--providers", *EAGER))


def test_every_operator_is_measured_in_every_mode_by_every_provider(rows):
    providers = {(op, mode): {r["provider"] for r in rows if (r["op"], r["mode"]) == (op, mode)} for op, mode in CASES}
    of_layer = {"cpu", "reference"}
    of_block = {"cpu", "Algorithm 1"}
    for (op, mode), found in providers.items():
        bare = "library conv" if op.startswith("conv2d") else "library GEMM"
        expected = {
            "linear_relu": of_layer | {bare},
            "conv2d_relu": of_layer | {bare},
            "gate_bits": of_layer | {"torch.relu"},
            **dict.fromkeys(GENERIC, of_layer),
        }.get(op, of_layer | {"eager"})
        if mode in relu_sgr.MODES:
            expected = of_block | {bare} | ({"reference"} if mode == "none" else set())
        assert found == expected, (op, mode)
    assert len(set(map(identity, rows))) == len(rows)
    assert {row["dtype"] for row in rows} == {"float32", "bfloat16"}


def test_rows_hold_what_follows_from_the_time(rows):
    for row in rows:
        assert 0 < row["low"] <= row["seconds"] <= row["high"] and row["repeats"] == 3 and row["timed"] == "wall"
        assert row["gbps"] == pytest.approx(row["bytes"] / row["seconds"] / 1e9)
        assert row["tflops"] == pytest.approx(row["flops"] / row["seconds"] / 1e12)
        least = {
            "memory": row["bytes"] / LIMITS.copy_bytes_per_second,
            "compute": row["flops"] / LIMITS.gemm_flops_per_second[row["dtype"]],
        }
        assert row["bound"] == max(least, key=least.get)
        assert row["fraction"] == pytest.approx(max(least.values()) / row["seconds"])
        assert 0 <= row["error"] < (1e-5 if row["dtype"] == "float32" else 1.0)
        assert all(word in micro.line(row) for word in (row["op"], row["mode"], row["provider"], row["dtype"]))


def test_bytes_are_those_that_have_to_be_read_and_written(rows):
    n, pixels = 4 * 16 * 96, 3 * 4 * 5 * 5
    expected = {
        ("sgr_loss", "forward", "16x96"): 2 * n,
        ("sgr_loss", "backward", "16x96"): 3 * n,
        ("sgr_loss", "double backward", "16x96"): 4 * n,
        ("sgr_loss", "full", "16x96"): 5 * n,
        ("sgr_residual", "full", "8x64"): 3 * 4 * 8 * 64,
        ("sgr_shift", "forward", "8x64"): 4 * 4 * 8 * 64,
        ("gate_bits", "record", "3x4x5x5"): 8 * pixels + -(-pixels // 8),
        ("gate_bits", "replay", "3x4x5x5"): 8 * pixels + -(-pixels // 8),
        ("cross_entropy", "full", "8x10"): 3 * 4 * 8 * 10 + 8 * 8,
        ("linear_relu", "forward", "16x32x24"): 4 * (16 * 32 + 24 * 32 + 24 + 16 * 24),
    }
    found = {(row["op"], row["mode"], text(row["shape"])): row for row in rows if row["dtype"] == "float32"}
    assert {key: found[key]["bytes"] for key in expected} == expected
    halves = [row for row in rows if (row["op"], row["mode"], row["dtype"]) == ("sgr_loss", "full", "bfloat16")]
    assert {row["bytes"] for row in halves} == {5 * n // 2}


@pytest.mark.parametrize("op", [op for op in OPS if op.startswith(("linear", "conv2d"))])
def test_flops_are_those_of_the_bare_products(op):
    """And those are as many as the mode needs: three for Eq. 35 and five for the exact gradient."""
    shape, product = ((4, 6, 11), 4 * 6 * 11) if op.startswith("linear") else ((2, 9, 5, 5), 2 * 25 * 9 * 9 * 9)
    count = {"forward": 1, "backward": 2, "double backward": 2, "full": 3, "none": 3, "exact": 5}
    inputs = OPS[op].inputs(shape, torch.float32, "cpu")
    for mode in OPS[op].modes:
        case = OPS[op].case(mode, inputs)
        [bare] = [case.ways[name] for name in case.ways if name.startswith("library")]
        with FlopCounterMode(display=False) as counter:
            bare.make()()
        assert counter.get_total_flops() == case.flops == 2 * count[mode] * product


@pytest.mark.parametrize("make", [partial(relu_layers.linear, (4, 6, 11)), partial(relu_layers.conv2d, (2, 9, 5, 5))])
def test_bare_products_are_the_derivatives_of_the_affine_map(make):
    layer = make(torch.float64, "cpu")
    linear = layer.kind.affine.forward
    _, gradients = torch.autograd.functional.vjp(linear, (layer.x, layer.weight), layer.cotangent)
    _, of_tangent = torch.autograd.functional.vjp(linear, (layer.tangent, layer.weight), layer.cotangent)
    expected = (linear(layer.x, layer.weight), *gradients, linear(layer.tangent, layer.weight), of_tangent[1])
    names = ("output", "input_grad", "weight_grad", "output_tangent", "weight_grad_of_tangent")
    bare = [getattr(relu_layers, name) for name in names]
    for product, truth in zip(bare, expected, strict=True):
        assert relative_error(product(layer), truth) < 1e-12


def test_the_command_of_a_row_repeats_it_alone(rows, tmp_path):
    chosen = {row["provider"]: row for row in rows} | {row["mode"]: row for row in rows}
    assert len(chosen) > 12  # some with blanks in their names
    for row in chosen.values():
        program, *argv = shlex.split(row["command"])
        assert program == "sgr-bench"
        [again] = run(tmp_path, argv)
        assert identity(again) == identity(row) and again["command"] == row["command"]
        assert again["error"] == row["error"]  # the same numbers, too


def test_the_quick_grid_is_a_part_of_the_full_one_and_that_of_the_grid_of_a_gpu(monkeypatch):
    monkeypatch.undo()
    for op in OPS:
        sizes = cases.of(OPS[op].operators[0]).sizes
        quick, full, gpu = (set(timed(sizes, *where)) for where in (("cpu", True), ("cpu", False), ("cuda", False)))
        assert quick < full < gpu
        assert all(size.timed for size in sizes if size.halves or size.once)


def test_nothing_to_measure_is_an_error(capsys):
    for options in (["--shapes", "3x3"], ["--ops", "sgr_shift", "--modes", "full"]):
        with pytest.raises(SystemExit) as exit:
            cli.main(command(*options))
        output = capsys.readouterr()
        assert exit.value.code == 2 and output.out == "" and "nothing" in output.err


def test_modes_are_the_derivatives_that_they_are_said_to_be():
    x, w, cotangent, tangent = (torch.randn(s, dtype=torch.float64) for s in ((5, 4), (3, 4), (5, 3), (5, 4)))

    def layer(x, w):
        return torch.tanh(x @ w.T)

    point = Point((x, w), (), cotangent, tangent)
    y, gradients = torch.autograd.functional.vjp(layer, (x, w), cotangent)
    with torch.enable_grad():
        c, w1 = cotangent.clone().requires_grad_(), w.clone().requires_grad_()
        (of_x, _) = torch.autograd.functional.vjp(layer, (x, w1), c, create_graph=True)[1]
        twice = torch.autograd.grad((of_x * tangent).sum(), (c, w1))
    expected = {"forward": (y,), "backward": gradients, "double backward": twice, "full": (y, *gradients)}
    assert tuple(expected) == MODES
    for mode, truth in expected.items():
        run_mode = run_of(mode, layer, point)
        for _ in range(2):  # a run can be repeated
            for result, right in zip(run_mode(), truth, strict=True):
                torch.testing.assert_close(result.detach(), right.detach())


@pytest.mark.parametrize("op", OPS)
def test_every_way_computes_the_same_in_float64(op):
    """What torch itself computes may be far off in the dtype of a case: here the formulas are shown to be right."""
    shape = {"linear": (8, 12, 16), "conv2d": (3, 12, 5, 5), "gate_bits": (3, 5, 7)}
    shape |= {name: cases.of(GENERIC[name].operators[0]).sizes[0].shape for name in GENERIC}
    inputs = OPS[op].inputs(
        next((s for name, s in shape.items() if op.startswith(name)), (6, 17)), torch.float64, "cpu"
    )
    in_float32 = op in ("sgr_residual", "sgr_shift")  # the formulas of these convert
    for mode in OPS[op].modes:
        case = OPS[op].case(mode, inputs)
        for name in set(case.ways) - {"torch.compile"}:
            for result, truth in zip(case.ways[name].make()(), case.ways[name].truth(), strict=True):
                limit = 1e-6 if in_float32 and name == "eager" else 1e-9
                assert result.shape == truth.shape and relative_error(result, truth) < limit, (mode, name)


LARGE_LAYERS = [partial(relu_layers.linear, (64, 300, 50)), partial(relu_layers.conv2d, (8, 16, 9, 9))]


@pytest.mark.parametrize("make", LARGE_LAYERS)
def test_no_rounding_opens_or_closes_a_gate(make):
    for dtype in (torch.float32, torch.bfloat16):
        layer = make(dtype, "cpu")
        y = layer.kind.plain(*layer.arguments)
        exact = layer.kind.plain(*layer.double().arguments)
        assert torch.equal(y, exact.to(dtype))
        unit = min(exact[exact > 0])  # of the sums, and the least that one can be away from 0
        assert unit > 1e-4 and torch.equal((exact / unit).round() * unit, exact)
        assert 0.4 < (y > 0).float().mean() < 0.6


def test_torch_compile_has_all_modes_but_the_double_backward(tmp_path, monkeypatch):
    """Traced in one piece by dynamo; without inductor, which would take a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    measured = run(tmp_path, command("--providers", "torch.compile", "--dtypes", "float32"))
    modes = {(row["op"], row["mode"]) for row in measured}
    assert modes == {(op, mode) for op, mode in CASES if mode not in ("double backward", "none", "exact")}
    micro.forget_compiled()


def spoil(function, index: int, change):
    """``function`` with a change of one of its results."""

    def spoilt(*args, **options):
        result = function(*args, **options)
        if isinstance(result, torch.Tensor):
            return change(result)
        return (*result[:index], change(result[index]), *result[index + 1 :])

    return spoilt


def slightly(tensor):
    return tensor * (1 + 1e-4)


def one_element(tensor):
    tensor = tensor.clone()
    tensor.view(-1)[-1] = torch.nan
    return tensor


def one_row(tensor):
    return torch.cat([tensor[:-1], 2 * tensor[-1:]])


def one_bit(bits):
    return torch.cat([bits[:-1], bits[-1:] ^ 1])


def ungated(grad, output, *options):
    return grad, through_relu(grad, output, *options)[1]


def put(monkeypatch, place, name, fault) -> None:
    (monkeypatch.setitem if isinstance(place, dict) else monkeypatch.setattr)(place, name, fault)


def faulty(operator, *fault):
    """The place and name of a compiled operator, and the operator with a fault."""
    return operator._calls, "sgr", spoil(operator.on("cpu"), *fault)


LOCAL_STEP, EAGER_LOSS = sk.local_step, losses.eager

# Where the fault is, the function there, and a case that has to notice.
FAULTS = [
    (sk, "sgr_loss", spoil(sk.sgr_loss, 0, slightly), "sgr_loss", "forward"),
    (sk, "sgr_loss", spoil(sk.sgr_loss, 0, slightly), "sgr_loss", "double backward"),
    (sk, "sgr_loss", spoil(sk.sgr_loss, 0, lambda loss: loss[None]), "sgr_loss", "forward"),
    (*faulty(sgr_loss_backward, 0, one_row), "sgr_loss", "backward"),
    (*faulty(sgr_loss_backward, 0, one_element), "sgr_loss", "full"),
    (*faulty(sgr_residual, 0, slightly), "sgr_residual", "full"),
    (*faulty(sgr_residual, 1, one_row), "sgr_residual", "full"),
    (Direction, "shift", spoil(Direction.shift, 0, slightly), "sgr_shift", "forward"),
    (sgr_shift._calls, "sgr", lambda x, *_: x, "sgr_shift", "forward"),
    (relu_layer, "through_relu", ungated, "linear_relu", "backward"),
    (relu_layer, "through_relu", ungated, "linear_relu", "full"),
    (relu_layer, "through_relu", ungated, "conv2d_relu", "double backward"),
    (*faulty(linear_relu, 0, slightly), "linear_relu", "forward"),
    (blocks, "through_relu", ungated, "linear_relu_sgr", "none"),
    (*faulty(sgr_residual, 1, one_row), "linear_relu_sgr", "exact"),
    (relu_sgr.Head, "hvp", lambda *_: torch.zeros_like, "linear_relu_sgr", "exact"),
    (relu_sgr.Head, "hvp", lambda *_: torch.zeros_like, "conv2d_relu_sgr", "exact"),
    (blocks, "through_relu", ungated, "conv2d_relu_sgr", "none"),
    (sk, "local_step", lambda *a, weight, **o: LOCAL_STEP(*a, weight=1.01 * weight, **o), "linear_relu_step", "none"),
    (sk, "local_step", lambda *a, curvature, **o: LOCAL_STEP(*a, curvature="none", **o), "linear_relu_step", "exact"),
    (sk, "cross_entropy", spoil(sk.cross_entropy, 0, slightly), "cross_entropy", "forward"),
    (sk, "cross_entropy", spoil(sk.cross_entropy, 0, slightly), "cross_entropy", "backward"),
    (*faulty(cross_entropy_hvp, 0, one_row), "cross_entropy", "hessian"),
    (*faulty(record_relu, 1, one_bit), "gate_bits", "record"),
    (*faulty(record_relu, 0, one_element), "gate_bits", "record"),
    (replay_relu._calls, "sgr", lambda gradient, bits, slope: gradient, "gate_bits", "replay"),
]


@pytest.mark.parametrize(("place", "name", "fault", "op", "mode"), FAULTS)
def test_a_wrong_kernel_is_not_timed(place, name, fault, op, mode, monkeypatch, capsys):
    options = command("--providers", "cpu", "--ops", op, "--modes", mode, "--dtypes", "float32")
    put(monkeypatch, place, name, fault)
    assert cli.main(options) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert f"cpu: {op} {mode}" in output.err and "is wrong" in output.err


@pytest.mark.parametrize(
    ("place", "name", "fault", "op", "mode"),
    [
        (sk, "sgr_loss", spoil(sk.sgr_loss, 0, lambda loss: 0.97 * loss), "sgr_loss", "backward"),
        (sk, "sgr_loss", spoil(sk.sgr_loss, 0, lambda loss: 1.02 * loss), "sgr_loss", "forward"),
        (relu_layer, "through_relu", ungated, "linear_relu", "backward"),
        (*faulty(linear_relu, 0, lambda y: 1.02 * y), "linear_relu", "forward"),
        (*faulty(sgr_loss_backward, 0, one_row), "linear_relu_sgr", "none"),
    ],
)
def test_a_wrong_kernel_in_half_precision_is_not_timed(place, name, fault, op, mode, monkeypatch, capsys):
    options = command("--providers", "cpu", "--ops", op, "--modes", mode, "--dtypes", "bfloat16")
    put(monkeypatch, place, name, fault)
    assert cli.main(options) == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("place", "name", "fault", "op", "mode", "provider"),
    [
        (losses, "eager", lambda *args: 1.01 * EAGER_LOSS(*args), "sgr_loss", "full", "eager"),
        (losses, "eager_residual", lambda *args: (EAGER_LOSS(*args), args[1]), "sgr_residual", "full", "eager"),
        (losses, "eager_shift", lambda x, *_: (x,), "sgr_shift", "forward", "eager"),
        (relu_sgr, "eager", lambda *args: 1.01 * EAGER_LOSS(*args), "linear_relu_sgr", "none", "Algorithm 1"),
        (cross_entropy, "eager_hessian", lambda *args: args[2], "cross_entropy", "hessian", "eager"),
    ],
)
def test_what_is_compared_with_has_to_be_right_as_well(place, name, fault, op, mode, provider, monkeypatch, capsys):
    put(monkeypatch, place, name, fault)
    options = command("--providers", provider, "--ops", op, "--modes", mode, "--dtypes", "float32")
    assert cli.main(options) == 1
    assert capsys.readouterr().out == ""


def test_what_is_wrong_is_reported_and_the_rest_goes_on(monkeypatch, tmp_path, capsys):
    """A wrong kernel, and one that raises, beside a right provider, another mode and another operator."""

    def fail(*_):
        raise RuntimeError("no kernel image\n  is available")

    put(monkeypatch, *faulty(sgr_residual, 1, one_row))
    put(monkeypatch, replay_relu._calls, "sgr", fail)
    options = ["--providers", "cpu", "reference", "--ops", "sgr_residual", "gate_bits", "--dtypes", "float32"]
    assert cli.main(command(*options, "--out", str(tmp_path))) == 1
    result = json.loads((tmp_path / "micro-cpu.json").read_text())
    assert [identity(row)[:3] for row in result["rows"]] == [
        ("sgr_residual", "full", "reference"),
        ("gate_bits", "record", "cpu"),
        ("gate_bits", "record", "reference"),
        ("gate_bits", "replay", "reference"),
    ]
    [wrong, failed] = result["failures"]
    assert identity(wrong) == ("sgr_residual", "full", "cpu", (8, 64), "float32")
    assert wrong["failure"].startswith("cpu: sgr_residual full 8x64 float32 is wrong: relative error")
    assert failed["failure"] == "cpu: gate_bits replay 3x4x5x5 float32: RuntimeError: no kernel image is available"
    assert failed["failure"] in capsys.readouterr().err


def test_inputs_that_cannot_be_made_are_reported(monkeypatch, tmp_path):
    def fail(shape, dtype, device):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setitem(OPS, "sgr_shift", OPS["sgr_shift"]._replace(inputs=fail))
    options = ["--providers", "reference", "--ops", "sgr_shift", "sgr_residual", "--dtypes", "float32"]
    assert cli.main(command(*options, "--out", str(tmp_path))) == 1
    result = json.loads((tmp_path / "micro-cpu.json").read_text())
    assert [row["op"] for row in result["rows"]] == ["sgr_residual"]
    assert [each["failure"] for each in result["failures"]] == [
        "sgr_shift forward 8x64 float32: OutOfMemoryError: CUDA out of memory"
    ]


def test_on_a_gpu_the_library_as_it_chooses_stands_beside_each_backend(monkeypatch):
    """A CPU has one backend, which it chooses."""
    on = {"triton": "by triton", "cuda": "by cuda"}
    monkeypatch.setattr(providers, "backends", lambda device: list(on) if device == "cuda" else ["cpu"])
    operator = SimpleNamespace(has=lambda name: name != "triton", on=on.get)
    assert providers.kernels(operator, "cuda") == {"default": operator, "cuda": "by cuda"}
    assert providers.kernels(SimpleNamespace(has=lambda name: True, on=str), "cpu") == {"cpu": "cpu"}
    forced = []
    monkeypatch.setattr(sk, "backend", lambda name: contextlib.nullcontext(forced.append(name)))
    ways = providers.of_backends("cuda", lambda: lambda: list(forced), tuple)
    assert list(ways) == ["default", "triton", "cuda"]
    for name, way in ways.items():
        forced.clear()
        run = way.make()
        assert run() == ([] if name == "default" else [name, name])  # what is prepared, and what is run
    assert list(providers.of_backends("cpu", lambda: tuple, tuple)) == ["cpu"]


def test_on_a_gpu_what_the_goals_name_comes_first(monkeypatch):
    monkeypatch.undo()
    args = SimpleNamespace(ops=list(OPS), dtypes=micro.DTYPES, shapes=None, device="cuda", quick=False)
    ordered = [(name, size.shape, dtype) for name, size, dtype in micro._sizes(args)]
    first = [(each.op, each.shape, each.dtype) for each in goals.FIRST]
    assert ordered[: len(first)] == first and len(set(ordered)) == len(ordered) > 100
    args.device = "cpu"
    assert [name for name, _, _ in micro._sizes(args)][0] == next(iter(OPS))


class TestCapture:
    """What is done with a CUDA graph, with graphs that can be had without a GPU."""

    def captured(self, monkeypatch, replayed):
        monkeypatch.setattr(timing, "replayed", replayed)
        x = torch.ones(3)

        def check(results) -> float:
            if not torch.equal(results[0], 2 * x):
                raise WrongResult("wrong")
            return 0.0

        return measurement._captured(lambda: lambda: (2 * x,), check)

    def test_a_graph_is_replayed(self, monkeypatch):
        assert self.captured(monkeypatch, ready) is not None

    def test_an_empty_graph_is_found_out(self, monkeypatch):
        def replayed(make):
            ready(make)
            return lambda: None

        with pytest.raises(WrongResult):
            self.captured(monkeypatch, replayed)

    def test_what_cannot_be_captured_is_none(self, monkeypatch):
        def replayed(make):
            raise RuntimeError("operation not permitted when stream is capturing")

        assert self.captured(monkeypatch, replayed) is None

    @pytest.mark.parametrize(("op", "mode"), CASES)
    def test_everything_is_checked_again_after_a_capture(self, monkeypatch, op, mode):
        """Its results are erased before: no kernel, and no derivative, has results that this breaks."""
        replays = []
        monkeypatch.setattr(timing, "replayed", lambda make: replays.append(ready(make)) or replays[-1])
        operator = OPS[op].operators[0]
        case = OPS[op].case(mode, OPS[op].inputs(cases.of(operator).sizes[-1].shape, torch.float32, "cpu"))
        plain = partial(measurement._plain_errors, case)
        for name in set(case.ways) - {"torch.compile", *measurement.NOT_CAPTURED}:
            prepared = measurement._prepare(name, f"{op} {mode}", case, plain, torch.float32, "cuda")
            assert prepared.timed == "graph" and prepared.run is replays[-1], name


def ready(make):
    """In the place of a capture: ran once, and runs again."""
    run = make()
    run()
    return run


class TestCapturedRuns:
    """timing.replayed with the parts of torch.cuda that it is made of, all on the CPU."""

    @pytest.fixture
    def log(self, monkeypatch):
        log = []

        class Stream:
            def __init__(self, name):
                self.name = name

            def wait_stream(self, other):
                log.append(f"{self.name} waits for {other.name}")

        current, side = Stream("current"), Stream("side")

        @contextlib.contextmanager
        def inside(what):
            log.append(what)
            try:
                yield
            finally:
                log.append(f"end of {what}")

        class Graph:
            def replay(self):
                log.append("replay")

        class Generator:
            def __init__(self, device):
                self.device = device

            def graphsafe_get_state(self):
                return f"a fresh state of {self.device}"

            def graphsafe_set_state(self, state):
                log.append(f"the generator has {state}")

        monkeypatch.setattr(torch, "Generator", Generator)
        monkeypatch.setattr(torch.cuda, "default_generators", (Generator("cuda:0"),))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: current)
        monkeypatch.setattr(timing, "_side_stream", lambda: side)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: inside(stream.name))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", lambda graph, stream: inside(f"capture on {stream.name}"))
        return log

    def test_preparation_warm_up_and_capture_are_on_one_stream(self, log):
        def make():
            log.append("make")
            return lambda: log.append("run")

        replay = timing.replayed(make)
        before = ["side waits for current", "side", "make", "run", "end of side", "current waits for side"]
        capture = ["current", "capture on side", "run", "end of capture on side", "end of current"]
        assert log == before + capture
        replay()
        assert log[-1] == "replay"

    def test_a_failed_capture_leaves_the_current_stream(self, log):
        runs = []

        def run():
            runs.append(None)
            if len(runs) > 1:
                raise RuntimeError("operation not permitted when stream is capturing")

        with pytest.raises(RuntimeError, match="not permitted"):
            timing.replayed(lambda: run)
        assert log[-2:] == ["end of current", "the generator has a fresh state of cuda"]
