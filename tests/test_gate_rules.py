"""Rules of one's own for functions with kinks: sk.gate; what the rule of a small ReLU costs, and allows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from gated_net import gradients
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import sgr_kernels as sk
from sgr_kernels.gates import Record, Replay, lists, tape


def softshrink(gates, input, lambd=0.5):
    above, below = gates.decide(torch.gt, input, lambd), gates.decide(torch.lt, input, -lambd)
    return torch.where(above, input - lambd, torch.where(below, input + lambd, 0.0 * input))


def hardshrink(gates, input, lambd=0.5):
    return torch.where(gates.decide(lambda: input.abs() <= lambd), 0.0 * input, input)


def hardshrink_without_gates(input: Tensor, lambd: float = 0.5) -> Tensor:
    return torch.hardshrink(input, lambd)


class Hardshrink(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, lambd):
        ctx.save_for_backward(input)
        ctx.lambd = lambd
        return torch.hardshrink(input, lambd)

    @staticmethod
    def backward(ctx, grad):
        (input,) = ctx.saved_tensors
        return grad * (input.abs() > ctx.lambd), None


# What is declared, its rule, and the function of a network made from what the decorator gives
OWN = {
    "function of torch": (F.softshrink, softshrink, lambda call: lambda x: call(2 * x, 0.4)),
    "function of torch, called by a module": (F.softshrink, softshrink, lambda call: nn.Softshrink(0.4)),
    "method": (Tensor.hardshrink, hardshrink, lambda call: lambda x: x.hardshrink(lambd=0.3)),
    "operator": (torch.ops.aten.hardshrink.default, hardshrink, lambda call: lambda x: call(x, 0.3)),
    "Python function": (hardshrink_without_gates, hardshrink, lambda call: lambda x: call(x, lambd=0.3)),
    "autograd Function": (Hardshrink, hardshrink, lambda call: lambda x: call(x, 0.3)),
}


@pytest.fixture
def own_rules():
    """Forgets afterwards what a test has declared."""
    lasting = tape.RULES, lists.CONSTANT, tape.NO_GATES, lists.SMOOTH, lists.SHAPE_ONLY
    known = [(names, names.copy()) for names in lasting]
    yield
    for names, before in known:
        names.clear()
        names.update(before)


@pytest.mark.parametrize("name", OWN)
def test_rules_of_ones_own_give_the_gradient_of_algorithm_1(name, own_rules):
    function, rule, network = OWN[name]
    undeclared = network(function.apply if function is Hardshrink else function)
    with pytest.raises(ValueError, match="(?i)shrink.*sgr_kernels.gate"):
        gradients("directional", undeclared)
    call = sk.gate(function)(rule)
    expected = gradients("autograd", network(call))
    torch.testing.assert_close(expected, gradients("autograd", undeclared), rtol=0, atol=0)
    error = gradients("directional", network(call), order=2, radius=0.003) - expected
    assert error.norm() < 1e-3 * expected.norm()


@pytest.mark.parametrize("name", ["function of torch", "Python function", "autograd Function"])
def test_rules_of_ones_own_in_compiled_code(name, own_rules):
    torch._dynamo.reset()
    function, rule, make = OWN[name]
    network = make(sk.gate(function)(rule))
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    expected = gradients("directional", network, order=2, radius=0.003)
    torch.testing.assert_close(gradients("directional", compiled, order=2, radius=0.003), expected)


def test_what_the_decorator_gives_is_what_a_network_calls(own_rules):
    assert sk.gate(F.softshrink)(softshrink) is F.softshrink
    announced = sk.gate(hardshrink_without_gates)(hardshrink)
    assert announced.__name__ == "hardshrink_without_gates" and announced is not hardshrink_without_gates
    assert sk.gate(announced)(softshrink) is announced and sk.smooth(announced) is announced
    assert sk.gate(Hardshrink)(hardshrink).__name__ == "Hardshrink"


@pytest.mark.parametrize("listed", [torch.sin, torch.round, torch.ones_like, F.relu], ids=lambda f: f.__name__)
def test_a_rule_goes_before_what_is_known(listed, own_rules):
    x = torch.randn(5, requires_grad=True)
    sk.gate(listed)(lambda gates, input, **options: 3 * input)
    with Record(x):
        assert torch.equal(listed(x), 3 * x)


def test_rules_of_forms_that_work_in_place(own_rules):
    @sk.gate(torch.frac_)
    def frac_(gates, input):
        return input.copy_(input - gates.decide(torch.trunc, input))

    expected = gradients("autograd", torch.frac)
    error = gradients("directional", lambda x: torch.frac_(1 * x), order=2, radius=0.003) - expected
    assert error.norm() < 1e-3 * expected.norm()


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda: sk.gate(3), TypeError, r"sgr_kernels.gate\(\) expects a function, .* got int"),
        (lambda: sk.gate(nn.Softshrink), TypeError, r"sgr_kernels.gate\(\) expects a function, .* got Softshrink"),
        (lambda: sk.smooth(None), TypeError, r"sgr_kernels.smooth\(\) expects a function, .* got NoneType"),
        (lambda: sk.gate(softshrink)(torch.ones(2)), TypeError, r"the rule of softshrink must be .* got Tensor"),
        (lambda: sk.gate(F.softshrink)(F.relu), ValueError, "the rule of softshrink must be a rule, got relu"),
    ],
)
def test_declarations_of_what_is_no_function(use, error, message, own_rules):
    with pytest.raises(error, match=message):
        use()


def test_a_decision_is_a_tensor(own_rules):
    sk.gate(F.softshrink)(lambda gates, input: gates.decide(torch.max, input, 0)[0])
    with pytest.raises(TypeError, match=r"gates.decide\(\) expects a function that gives a tensor, got max"):
        gradients("directional", F.softshrink)


@pytest.mark.parametrize("counts", [(1, 2), (2, 1), (1, 0)])
@pytest.mark.parametrize("then", [F.relu, torch.tanh], ids=["decisions follow", "at the end"])
def test_rules_that_do_not_repeat_their_decisions(counts, then, own_rules):
    passes = iter(counts)

    @sk.gate(F.softshrink)
    def unsteady(gates, input):
        for _ in range(next(passes)):
            input = torch.where(gates.decide(torch.gt, input, 0.1), input, 0.0)
        return input

    with pytest.raises(RuntimeError, match="^the network is not the same in two passes: [^\n]*$"):
        gradients("directional", lambda x: then(unsteady(x)))


class Kernels(TorchDispatchMode):
    """Lists what is computed inside, views left out."""

    def __enter__(self):
        self.names = []
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view:
            self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_a_relu_of_few_elements_takes_few_kernels():
    x = torch.randn(2, 3, requires_grad=True)
    with Record(x) as gates, Kernels() as recording:
        first = F.relu(x)
    with Replay(gates.tape), Kernels() as replaying:
        second = F.relu(x)
    assert recording.names == ["relu"] and replaying.names == ["threshold_backward"]
    for y in (first, second):
        with Kernels() as backward:
            torch.autograd.grad(y, x, torch.ones(2, 3))
        assert backward.names[1:] == ["threshold_backward"]  # behind torch.ones


def test_a_network_may_write_into_the_result_of_a_relu():
    x = torch.tensor([-1.0, 2.0, 3.0]).repeat(2048).requires_grad_()
    with Record(x) as gates:
        first = F.relu(x).mul_(2.0)
    with Replay(gates.tape):
        second = F.relu(-x).mul_(2.0)
    for y, sign in ((first, 2.0), (second, -2.0)):
        expected = sign * torch.tensor([0.0, 1.0, 1.0]).repeat(2048)
        assert torch.equal(torch.autograd.grad(y.sum(), x)[0], expected) and torch.equal(y, expected * x)


@pytest.mark.parametrize("inplace", [False, True])
def test_a_network_may_not_write_into_that_of_a_small_one_as_in_torch(inplace):
    """Unless it has no gradient: then the gates on the tape are those of the result as it was."""
    x = torch.tensor([-1.0, 2.0, 3.0], requires_grad=True)
    with Record(x):
        y = F.relu(1 * x, inplace=inplace).mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(y.sum(), x)
    constant = x.detach()
    with Record(x) as gates:
        F.relu(1 * constant, inplace=inplace).sub_(2.5)
    with Replay(gates.tape):
        y = F.relu(1 * constant, inplace=inplace)
    assert y.tolist() == [0.0, 2.0, 3.0]
