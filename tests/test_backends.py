"""Kernels are chosen unasked where a comparison with the reference has found them right, and nowhere else.

The CPU plays the part of a GPU here: its kernels are compared before they are chosen, too. tests/triton has the same
for Triton.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import warnings

import pytest
import torch
from helpers import DTYPES, begin_anew, choosing, replace_operator, spoilt
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import sgr_kernels as sk
from sgr_kernels import verdicts
from sgr_kernels.operators import Operator, registered
from sgr_kernels.operators.common.checks import loss_dtype
from sgr_kernels.operators.common.comparison import fault, numbers
from sgr_kernels.operators.gate_bits import record_relu
from sgr_kernels.operators.relu_backward import relu_backward
from sgr_kernels.operators.row_norms import row_norms
from sgr_kernels.operators.sgr_loss import sgr_loss_backward
from sgr_kernels.operators.sgr_residual import sgr_residual

pytestmark = pytest.mark.skipif(sk.backends()["cpu"].startswith("missing"), reason="no compiled CPU kernels")

CPU = torch.device("cpu")
ROWS = torch.tensor([[3.0, 4.0], [6.0, 8.0]])
KERNELS = {operator.name: operator for operator in registered() if operator.composed is None and operator.has("cpu")}
RESULTS = [
    (name, index)
    for name, operator in KERNELS.items()
    for index in [*range(len(operator.overload("cpu")._schema.returns)), *([None] if name.endswith("_") else [])]
]


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch, tmp_path):
    """In a process that has not called an operator yet, with a cache of its own."""
    monkeypatch.setattr(choosing, "CHECKED", ("cpu",))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    begin_anew(monkeypatch)


@pytest.fixture
def compared(monkeypatch) -> list[str]:
    """Names of the operators that are compared from now on."""
    seen = []
    compare = Operator.fault

    def spy(self, *args):
        seen.append(self.name)
        return compare(self, *args)

    monkeypatch.setattr(Operator, "fault", spy)
    return seen


def break_it(monkeypatch, operator: Operator) -> None:
    replace_operator(monkeypatch, operator, spoilt(operator, 0))


def used(monkeypatch, operator: Operator) -> list[int]:
    """Grows with every call of the kernel."""
    calls, right = [], operator.on("cpu")

    def call(*arguments):
        calls.append(1)
        return right(*arguments)

    replace_operator(monkeypatch, operator, call)
    return calls


def cache_file() -> pathlib.Path:
    [file] = (pathlib.Path(os.environ["XDG_CACHE_HOME"]) / "sgr_kernels").iterdir()
    return file


# --- what is chosen ---------------------------------------------------------------------------------------------------


def test_kernels_that_are_right_are_chosen(monkeypatch, compared, recwarn):
    calls = used(monkeypatch, row_norms)
    for _ in range(3):
        assert row_norms(ROWS).tolist() == [5.0, 10.0]
    assert len(calls) >= 3 and compared == ["row_norms"] and not recwarn.list
    assert sk.backends()["cpu"] == "ok"


def test_a_kernel_that_is_wrong_is_named_once_and_not_used(monkeypatch, compared):
    break_it(monkeypatch, row_norms)
    with pytest.warns(UserWarning, match=r"row_norms of backend 'cpu' is wrong on cpu: result 0 .* 'reference'$"):
        assert row_norms(ROWS).tolist() == [5.0, 10.0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert row_norms(ROWS).tolist() == [5.0, 10.0]
        sgr_residual(ROWS, ROWS, True, 0, 0.0, None, 1e-12)
    assert sk.backends()["cpu"] == "wrong: row_norms"
    assert compared == ["row_norms", "sgr_residual"]


def test_a_kernel_that_fails_is_wrong(monkeypatch):
    def no_image(*_):
        raise RuntimeError("no kernel image is available\nfor this device")

    replace_operator(monkeypatch, row_norms, no_image)
    with pytest.warns(UserWarning, match="row_norms .*: RuntimeError: no kernel image is available; row_norms is left"):
        assert row_norms(ROWS).tolist() == [5.0, 10.0]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError], ids=["of torch", "of the library"])
def test_no_memory_is_no_verdict(monkeypatch, compared, error):
    """The next call compares anew. What leaves the library is text, for torch to raise."""

    def no_memory(*_):
        raise error("CUDA out of memory. Tried to allocate 2.00 MiB.")

    with monkeypatch.context() as patch:
        replace_operator(patch, row_norms, no_memory)
        with pytest.warns(UserWarning, match="no memory is left to compare row_norms .*: the reference computes"):
            assert row_norms(ROWS).tolist() == [5.0, 10.0]
    assert sk.backends()["cpu"] == "ok"
    calls = used(monkeypatch, row_norms)
    row_norms(ROWS)
    assert compared == ["row_norms", "row_norms"] and calls


def test_an_operator_goes_with_those_that_its_derivative_calls(monkeypatch):
    break_it(monkeypatch, sgr_loss_backward)
    delta, target = numbers(4, 7, dtype=torch.float64).requires_grad_(), numbers(4, 7, dtype=torch.float64, seed=1)
    with pytest.warns(UserWarning, match="sgr_loss_backward of backend 'cpu' is wrong.*; sgr_loss is left"):
        (gradient,) = torch.autograd.grad(sk.sgr_loss(delta, target), delta)
    with sk.backend("reference"):
        (expected,) = torch.autograd.grad(sk.sgr_loss(delta, target), delta)
    assert torch.equal(gradient, expected)


def test_the_report_checks_everything_if_asked(monkeypatch, compared):
    assert sk.backends(check=True)["cpu"] == "ok"
    assert set(compared) >= set(KERNELS)
    break_it(monkeypatch, sgr_residual)
    break_it(monkeypatch, relu_backward)
    assert sk.backends()["cpu"] == "ok"
    assert sk.backends(check=True)["cpu"] == "wrong: relu_backward, sgr_residual"
    assert sk.backends()["reference"] == "ok"


def test_what_the_report_has_found_wrong_is_used_no_more(monkeypatch):
    """Also on devices where nothing is compared unasked."""
    monkeypatch.setattr(choosing, "CHECKED", ())
    break_it(monkeypatch, row_norms)
    assert row_norms(ROWS).tolist() != [5.0, 10.0]
    sk.backends(check=True)
    with pytest.warns(UserWarning, match="row_norms of backend 'cpu' is wrong"):
        assert row_norms(ROWS).tolist() == [5.0, 10.0]


def test_a_backend_that_is_asked_for_is_used_unchecked(monkeypatch, compared):
    break_it(monkeypatch, row_norms)
    with sk.backend("cpu"):
        assert row_norms(ROWS).tolist() == [5.0, 11.0]
    assert compared == []


def test_where_nothing_is_compared_unasked_no_file_is_looked_for(monkeypatch, compared):
    monkeypatch.setattr(choosing, "CHECKED", ())
    monkeypatch.setattr(verdicts, "_file", lambda *_: pytest.fail("a file"))
    calls = used(monkeypatch, row_norms)
    row_norms(ROWS)
    assert calls and compared == []


def test_a_device_without_kernels_warns_once(monkeypatch):
    monkeypatch.setattr(choosing, "PREFERRED", {"cpu": ("cuda",)})
    monkeypatch.setattr(choosing, "status", lambda name: "missing: no compiler")
    with pytest.warns(UserWarning, match=r"no kernels for cpu tensors \(cuda is missing: no compiler\)") as caught:
        assert row_norms(ROWS).tolist() == [5.0, 10.0]
        sk.sgr_residual(ROWS, ROWS)
    assert len(caught) == 1


# --- what is noticed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("element", [0, -1])
@pytest.mark.parametrize(("name", "index"), RESULTS)
def test_every_result_of_every_operator_is_compared(name, index, element):
    operator = KERNELS[name]
    what = "argument 0" if index is None else f"result {index}"
    assert fault(operator.on("cpu"), operator.reference, operator.example, CPU) == ""
    assert fault(spoilt(operator, index, element), operator.reference, operator.example, CPU).startswith(what)


def test_nan_and_another_shape_are_wrong():
    def found(kernel) -> str:
        return fault(kernel, row_norms.reference, row_norms.example, CPU)

    assert "off by nan" in found(lambda rows: torch.full((len(rows),), torch.nan))
    assert found(lambda rows: row_norms.reference(rows)[:1]) == "result 0 for torch.float64 has shape (1,), not (3,)"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [name for name in KERNELS if not name.endswith("_")])
def test_a_kernel_is_wrong_that_rounds_too_much_in_one_dtype(name, dtype):
    """By four units in the last place of a half, by 200 in float32, by those of a long sum in float64."""
    operator = KERNELS[name]

    def coarse(*arguments):
        results = operator.on("cpu")(*arguments)
        floating = [each for each in arguments if isinstance(each, torch.Tensor) and each.is_floating_point()]
        if min(floating, key=lambda each: each.dtype.itemsize).dtype == dtype:
            for each in results if isinstance(results, tuple) else (results,):
                if each.is_floating_point():
                    least = loss_dtype(floating[0]) if each.dtype == torch.float64 else each.dtype
                    steps = {2: 4, 4: 200, 8: 200 + 2 * max(each.numel() for each in floating)}[least.itemsize]
                    each.mul_(1 + steps * torch.finfo(least).eps)
        return results

    assert f"for {dtype} is off by" in fault(coarse, operator.reference, operator.example, CPU)


def test_examples_hold_the_same_numbers_in_every_dtype():
    for name, operator in KERNELS.items():
        of_dtype = [list(operator.example(dtype)) for dtype in (torch.float32, torch.bfloat16, torch.float16)]
        assert of_dtype[0], name
        for calls in zip(*of_dtype, strict=True):
            for first, *others in zip(*calls, strict=True):
                for other in others if isinstance(first, torch.Tensor) else ():
                    assert torch.equal(first.double(), other.double()), name


# --- what is remembered -----------------------------------------------------------------------------------------------

SECOND_PROCESS = """
import importlib, torch
import sgr_kernels as sk
from sgr_kernels.operators import Operator
from sgr_kernels.operators.row_norms import row_norms

importlib.import_module("sgr_kernels.backends").CHECKED = ("cpu",)
Operator.fault = lambda self, *_: f"{self.name} was compared"
row_norms(torch.ones(2, 3))
assert sk.backends()["cpu"] == "ok"
sk.sgr_residual(torch.ones(2, 3), torch.ones(2, 3))
print(sk.backends()["cpu"])
"""


def test_another_process_remembers(compared):
    row_norms(ROWS)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    second = subprocess.run([sys.executable, "-c", SECOND_PROCESS], env=environment, capture_output=True, text=True)
    assert (second.returncode, second.stdout) == (0, "wrong: sgr_residual\n"), second.stderr


def test_the_file_says_of_what_it_is():
    row_norms(ROWS)
    sgr_residual(ROWS, ROWS, True, 0, 0.0, None, 1e-12)
    stored = json.loads(cache_file().read_text())
    assert stored["right"] == ["row_norms", "sgr_residual"]
    assert {"backend", "sgr_kernels", "torch", "sources", "device", "capability"} <= set(stored["of"])


def test_what_was_wrong_is_tried_again_by_the_next_process(monkeypatch, compared):
    with monkeypatch.context() as patch:
        break_it(patch, row_norms)
        with pytest.warns(UserWarning, match="is wrong"):
            row_norms(ROWS)
    begin_anew(monkeypatch)
    calls = used(monkeypatch, row_norms)
    row_norms(ROWS)
    assert compared == ["row_norms", "row_norms"] and calls


def test_what_has_become_wrong_is_forgotten(monkeypatch, compared):
    row_norms(ROWS)
    break_it(monkeypatch, row_norms)
    sk.backends(check=True)
    begin_anew(monkeypatch)
    with pytest.warns(UserWarning, match="row_norms of backend 'cpu' is wrong"):
        row_norms(ROWS)


@pytest.mark.parametrize("what", ["library", "sources", "package", "device"])
def test_another_build_or_device_is_compared_anew(monkeypatch, tmp_path, compared, what):
    row_norms(ROWS)
    begin_anew(monkeypatch)
    row_norms(ROWS)
    assert compared == ["row_norms"]
    other = tmp_path / "other.py"
    other.write_text("# another one")
    if what == "library":
        monkeypatch.setattr(verdicts, "library_of", lambda _: other)
    elif what == "sources":
        monkeypatch.setattr(verdicts, "_OPERATORS", tmp_path)
    elif what == "package":
        monkeypatch.setattr(verdicts, "__version__", "9.9.9")
    else:
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another one")
    for function in verdicts._build, verdicts._device:
        function.cache_clear()
    begin_anew(monkeypatch)
    row_norms(ROWS)
    monkeypatch.undo()
    for function in verdicts._build, verdicts._device:
        function.cache_clear()
    assert compared == ["row_norms", "row_norms"]


def test_gpus_differ_by_name_capability_and_driver(monkeypatch, tmp_path):
    gpu = torch.device("cuda", 0)
    driver = tmp_path / "version"
    driver.write_text("NVRM version: 580.1\nGCC version: 13")

    def is_known(name: str, capability: tuple[int, int]) -> bool:
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        verdicts._device.cache_clear()
        begin_anew(monkeypatch)
        return verdicts.known("row_norms", "cuda", gpu) == ""

    monkeypatch.setattr(verdicts, "_DRIVER", driver)
    monkeypatch.setattr(verdicts, "library_of", lambda _: driver)
    monkeypatch.setattr(Operator, "fault", lambda *_: "")
    assert not is_known("H100", (9, 0))
    verdicts.check(row_norms, "cuda", gpu)
    assert is_known("H100", (9, 0))
    assert not is_known("A100", (9, 0)) and not is_known("H100", (8, 0))
    driver.write_text("NVRM version: 590.1")
    assert not is_known("H100", (9, 0))
    for function in verdicts._build, verdicts._device:
        function.cache_clear()


@pytest.mark.parametrize("name", ["cuda", "triton"])
def test_fake_gpu_tensors_take_the_kernels_that_a_gpu_would(monkeypatch, name):
    monkeypatch.setattr(choosing, "CHECKED", ("cuda",))
    monkeypatch.setattr(choosing, "status", lambda each: "ok" if each == name else "missing: for this test")
    monkeypatch.setattr(choosing, "device_of", lambda _: "cuda")
    with FakeTensorMode():
        rows = torch.empty(2, 3, device="cuda")
        assert choosing.choose("row_norms", rows) == name


NO_RESULTS = [b"", b"{", b"[]", b"7", b"\xff\xfe\x00", b'{"of": 1}', b'{"right": ["row_norms"]}']


@pytest.mark.parametrize("content", NO_RESULTS)
def test_a_file_that_is_damaged_is_none(monkeypatch, compared, content, recwarn):
    row_norms(ROWS)
    before = cache_file().read_bytes()
    cache_file().write_bytes(content)
    begin_anew(monkeypatch)
    row_norms(ROWS)
    assert compared == ["row_norms", "row_norms"] and cache_file().read_bytes() == before and not recwarn.list


def test_a_file_that_cannot_be_replaced_is_no_error(monkeypatch, compared, recwarn):
    row_norms(ROWS)
    path = cache_file()
    path.unlink()
    path.mkdir()  # neither read nor replaced, whoever asks
    begin_anew(monkeypatch)
    assert row_norms(ROWS).tolist() == [5.0, 10.0]
    assert compared == ["row_norms", "row_norms"] and list(path.parent.iterdir()) == [path] and not recwarn.list


@pytest.mark.parametrize("where", ["a file", "no home"])
def test_a_folder_that_cannot_be_made_is_no_error(monkeypatch, tmp_path, compared, where, recwarn):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    (tmp_path / "cache").write_text("a file")
    if where == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(pathlib.Path, "home", no_home)
    assert row_norms(ROWS).tolist() == [5.0, 10.0]
    assert compared == ["row_norms"] and not recwarn.list


# --- where nothing is compared ----------------------------------------------------------------------------------------


@pytest.fixture
def capturing(monkeypatch) -> list[bool]:
    """Whether the current stream is, by its last element."""
    state = [True]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: state[-1])
    return state


def test_in_a_capture_the_reference_stands_in(monkeypatch, compared, capturing):
    calls = used(monkeypatch, row_norms)
    with pytest.warns(UserWarning, match="row_norms was not called .* before this capture.*call it once before"):
        row_norms(ROWS)
    assert compared == [] and calls == []
    capturing.append(False)
    row_norms(ROWS)
    assert compared == ["row_norms"] and calls


def test_in_a_capture_what_is_known_counts(monkeypatch, compared, capturing, recwarn):
    capturing.append(False)
    row_norms(ROWS)
    calls = used(monkeypatch, row_norms)
    capturing.append(True)
    row_norms(ROWS)
    assert len(calls) == 1
    begin_anew(monkeypatch)  # and what was written down
    row_norms(ROWS)
    assert len(calls) == 2 and compared == ["row_norms"] and not recwarn.list


@pytest.mark.parametrize("kind", ["fake", "meta"])
def test_tensors_without_numbers_are_no_occasion(compared, kind):
    if kind == "meta":
        assert row_norms(torch.ones(2, 3, device="meta")).shape == (2,)
    else:
        with FakeTensorMode():
            assert row_norms(torch.ones(2, 3)).shape == (2,)
        assert choosing._choices == {}
    assert compared == [] and not os.path.exists(os.environ["XDG_CACHE_HOME"])


def test_compiled_code_is_made_of_right_kernels(monkeypatch, compared):
    """While code is compiled, kernels are compared outside of what the compiler sees."""
    break_it(monkeypatch, record_relu)
    targets = []

    def spy(graph, _):
        targets.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    compiled = torch.compile(lambda x: (row_norms(x), record_relu(x[0], 0.0)[0]), fullgraph=True, backend=spy)
    torch._dynamo.reset()
    with pytest.warns(UserWarning, match="record_relu of backend 'cpu' is wrong"):
        norms, y = compiled(ROWS)
    assert norms.tolist() == [5.0, 10.0] and y.tolist() == [3.0, 4.0]
    assert compared == ["row_norms", "record_relu"]
    assert {"sgr.row_norms.default", "sgr_reference.record_relu.default"} <= set(targets)


# --- what it leaves alone ---------------------------------------------------------------------------------------------


class Sees(TorchFunctionMode):
    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


class Dispatches(TorchDispatchMode):
    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [Sees, Dispatches])
def test_modes_see_the_call_alone(monkeypatch, compared, mode):
    """Beside attributes of its argument."""
    first, second = [], []
    for seen in first, second:
        with mode(seen):
            row_norms(ROWS)
    assert compared == ["row_norms"] and {name for name in first if "__get__" not in name} <= set(second)


def test_settings_of_the_caller_do_not_matter(compared, recwarn):
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
        row_norms(ROWS)
        sgr_residual(ROWS, ROWS, True, 0, 0.0, None, 1e-12)
        assert torch.is_inference_mode_enabled() and torch.is_autocast_enabled("cpu")
    assert compared == ["row_norms", "sgr_residual"] and sk.backends()["cpu"] == "ok" and not recwarn.list


def test_a_ban_on_waiting_for_a_gpu_does_not_matter(monkeypatch):
    """It holds for all threads."""
    modes, seen = [2], []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    fault(row_norms.on("cpu"), row_norms.reference, lambda _: seen.append(modes[-1]) or [], torch.device("cuda"))
    assert set(seen) == {0} and modes[-1] == 2


def test_within_a_transform_and_a_backward_pass(compared):
    class Norms(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * sk.sgr_loss(grad, grad)

    x = ROWS.clone().requires_grad_()
    Norms.apply(x).sum().backward()
    assert set(compared) == {"sgr_loss", "sgr_loss_backward"} and not x.grad.any()
    assert torch.func.vmap(row_norms.reference)(ROWS[None]).tolist() == [[5.0, 10.0]]
    assert torch.func.grad(lambda rows: row_norms(rows).sum())(ROWS.double()).shape == (2, 2)


def test_random_streams_are_left_alone(compared):
    state = torch.get_rng_state()
    sk.backends(check=True)
    assert torch.equal(torch.get_rng_state(), state)
