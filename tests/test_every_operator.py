"""What every operator of every backend is held to, on the first size of its cases. An operator added later is found.

Its results on all sizes are compared with the truth by tests/bench/test_every_kernel.py.
"""

from __future__ import annotations

import functools

import pytest
import torch
from helpers import DTYPES, device_of
from sgr_bench import cases
from sgr_bench.cases.case import Inputs
from torch import Tensor

import sgr_kernels as sk
from sgr_kernels.operators import registered

OPERATORS = {operator.name: operator for operator in registered()}
BACKENDS = [name for name, status in sk.backends().items() if not status.startswith("missing")]
# What a derivative holds constant, by the names in schemas: gates are those of the output, and a floor is a choice.
CONSTANT = {"output", "floor_tensor"}


def pairs(*suits):
    """Parametrizes with every operator that suits, on every backend that has it."""
    found = [
        pytest.param(operator, backend, id=f"{name}-{backend}")
        for name, operator in OPERATORS.items()
        for backend in BACKENDS
        if operator.has(backend) and all(suit(operator) for suit in suits)
    ]
    return pytest.mark.parametrize(("operator", "name"), found)


def writes(operator) -> bool:
    return operator.overloads()[0]._schema.is_mutable


def differentiable(operator) -> bool:
    return operator.derivative is not None


def not_differentiable(operator) -> bool:
    return operator.derivative is None


def all_arguments(operator, backend, dtype=torch.float64) -> list[tuple]:
    torch.manual_seed(0)
    size = cases.of(operator).sizes[0]
    return list(cases.of(operator).arguments(size, Inputs(dtype, device_of(backend))))


def is_floating(value) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def variables(operator, arguments) -> list[int]:
    """Where the arguments are that a derivative is for."""
    names = [argument.name for argument in operator.overloads()[0]._schema.arguments]
    return [i for i, value in enumerate(arguments) if is_floating(value) and names[i] not in CONSTANT]


def copies(arguments, leaves=()) -> list:
    """Of the same layout; those at ``leaves`` require a gradient."""
    return [
        value.detach().clone().requires_grad_(i in leaves) if isinstance(value, Tensor) else value
        for i, value in enumerate(arguments)
    ]


def as_tuple(results) -> tuple[Tensor, ...]:
    return results if isinstance(results, tuple) else () if results is None else (results,)


def function_of_variables(operator, call, arguments):
    """``call`` as a function of the tensors that can be differentiated, and these."""
    leaves = variables(operator, arguments)
    fixed = copies(arguments, leaves)

    def function(*tensors):
        filled = list(fixed)
        for i, tensor in zip(leaves, tensors, strict=True):
            filled[i] = tensor
        return call(*filled)

    return function, [fixed[i] for i in leaves]


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_has_cases(operator):
    assert cases.of(operator).sizes


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pairs()
def test_opcheck(operator, name, dtype):
    with sk.backend(name):
        for arguments in all_arguments(operator, name, dtype):
            torch.library.opcheck(operator.overload(name), copies(arguments))
            if operator.derivative is not None:
                leaves = variables(operator, arguments)
                torch.library.opcheck(operator.overload(name), copies(arguments, leaves))


@pytest.mark.parametrize("way", ["eager", "dispatcher"])
@pairs(differentiable)
def test_derivative(operator, name, way):
    """Twice, or once and a refusal: never a silent zero. With the first options, whose floor is inactive.

    Every element, as the fast mode allows for errors that are larger than second derivatives may be.
    """
    call = operator.on(name) if way == "eager" else operator.overload(name)
    function, tensors = function_of_variables(operator, call, all_arguments(operator, name)[0])
    with sk.backend(name):
        assert torch.autograd.gradcheck(function, tensors)
        try:
            assert torch.autograd.gradgradcheck(function, tensors)
        except RuntimeError as error:
            assert "has no derivative" in str(error), error


@pytest.mark.parametrize("way", ["eager", "dispatcher"])
@pairs(not_differentiable, lambda operator: not writes(operator))
def test_without_a_derivative_it_says_so(operator, name, way):
    call = operator.on(name) if way == "eager" else operator.overload(name)
    for dtype in DTYPES:
        for arguments in all_arguments(operator, name, dtype):
            for leaf in variables(operator, arguments):
                with sk.backend(name):
                    results = as_tuple(call(*copies(arguments, [leaf])))
                floating = [result for result in results if is_floating(result)]
                assert floating
                for result in floating:
                    with pytest.raises(RuntimeError, match=f"{operator.name} has no derivative"):
                        result.sum().backward(retain_graph=True)


@pairs(not_differentiable, writes)
def test_in_place_it_says_so_or_is_right(operator, name):
    """In the middle of a graph, whose other operators do not know that their result was changed."""
    first, *others = all_arguments(operator, name)[0]

    def function(x):
        changed = x * 1
        operator.on(name)(changed, *others)
        return changed

    try:
        assert torch.autograd.gradcheck(function, first.clone().requires_grad_())
    except RuntimeError as error:
        assert "has no derivative" in str(error), error


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pairs()
def test_compiled_it_is_the_same(operator, name, dtype):
    """As one graph; also what is written into arguments, and gradients where there are any."""
    torch._dynamo.reset()
    compiled = torch.compile(lambda *arguments: operator(*arguments), fullgraph=True, backend="aot_eager")
    for arguments in all_arguments(operator, name, dtype):
        leaves = variables(operator, arguments) if operator.derivative is not None else []
        outcomes = []
        with sk.backend(name):
            for function in operator, compiled:
                given = copies(arguments, leaves)
                results = as_tuple(function(*given))
                loss = sum(result.double().square().sum() for result in results if result.requires_grad)
                gradients = torch.autograd.grad(loss, [given[i] for i in leaves]) if leaves else ()
                outcomes.append([*results, *gradients, *(each for each in given if isinstance(each, Tensor))])
        for mine, expected in zip(*outcomes, strict=True):
            assert mine.stride() == expected.stride()
            torch.testing.assert_close(mine, expected, rtol=0, atol=0)


def sum_of_squares(operator, used, *arguments):
    """Of the results at the places ``used``."""
    results = as_tuple(operator(*arguments))
    return sum(results[i].square().sum() for i in used)


@pairs(differentiable)
def test_transforms_differentiate_the_formula(operator, name):
    """torch.func gives the gradients of the kernels, for the results that have one."""
    for arguments in all_arguments(operator, name):
        leaves = variables(operator, arguments)
        given = copies(arguments, leaves)
        with sk.backend(name):
            used = [i for i, result in enumerate(as_tuple(operator(*given))) if result.requires_grad]
            function = functools.partial(sum_of_squares, operator, used)
            expected = torch.autograd.grad(function(*given), [given[i] for i in leaves], materialize_grads=True)
            gradients = torch.func.grad(function, argnums=tuple(leaves))(*copies(arguments))
        for mine, theirs in zip(gradients, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@pairs()
def test_tensors_on_two_devices_are_an_error(operator, name):
    """Beside a tensor on "meta" torch asks for shapes alone, and what is in memory would pass for a result."""
    arguments = all_arguments(operator, name, torch.float32)[0]  # which all operators take
    places = [i for i, value in enumerate(arguments) if isinstance(value, Tensor)]
    if len(places) < 2:
        pytest.skip("one tensor")
    given = copies(arguments)
    given[places[-1]] = given[places[-1]].to("meta")
    with sk.backend(name), pytest.raises((ValueError, RuntimeError), match="on one device|same device|on the device"):
        operator(*given)
