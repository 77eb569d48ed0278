"""Registration of custom operators: schema, fake kernel and autograd formula, once for every backend.

The schemas live here and not in C++ because the Triton backend needs them where nothing was compiled; the shared
libraries only add implementations. An operator exists in up to two namespaces with one contract: ``sgr``, implemented
by the compiled libraries (or in Python, from ATen and other operators), and ``sgr_triton``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import SimpleNamespace

import torch

from .. import torch_internals

# Operators by name; those with a derivative are called as ``differentiable_<name>``.
native = SimpleNamespace()
triton = SimpleNamespace()


def of(backend: str) -> SimpleNamespace:
    """The operators that a backend other than the reference implements."""
    return triton if backend == "triton" else native


def register(
    name: str,
    schema: str,
    fake: Callable,
    *,
    formula: Callable[[SimpleNamespace], tuple[Callable, Callable]] | None = None,
    python: Callable | None = None,
    triton_file: str | None = None,
    only_triton: bool = False,
) -> None:
    """Define an operator.

    Args:
        schema: arguments and results, without the name.
        fake: shapes, dtypes and strides of the results.
        formula: from the operators of a namespace to ``(setup_context, backward)``. None: differentiating it raises
            (torch warns instead where the operator works in place).
        python: implementation for every device, where the compiled libraries have none.
        triton_file: module of :mod:`sgr_kernels.triton` with a function ``name``; None: not in ``sgr_triton``.
        only_triton: not in ``sgr``.
    """
    if not only_triton:
        _define("sgr", native, name, schema, fake, formula)
    if python is not None:
        torch.library.impl(f"sgr::{name}", "CompositeExplicitAutograd", python)
    if triton_file is not None:
        _define("sgr_triton", triton, name, schema, fake, formula)
        torch.library.impl(f"sgr_triton::{name}", "CompositeExplicitAutograd", _lazy(triton_file, name))


def below_autograd(operator, *args):
    """Call an operator from a formula that takes care of its derivative."""
    with torch_internals.below_autograd():
        return operator(*args)


def _define(namespace: str, operators: SimpleNamespace, name: str, schema: str, fake: Callable, formula) -> None:
    qualified = f"{namespace}::{name}"
    torch.library.define(qualified, schema, tags=torch.Tag.pt2_compliant_tag)
    torch.library.register_fake(qualified, fake)
    operator = getattr(getattr(torch.ops, namespace), name).default
    setattr(operators, name, operator)
    if formula is None:
        if not torch_internals.writes_into_arguments(operator):  # torch takes no formula for those
            torch.library.register_autograd(qualified, _not_differentiable(name))
    else:
        setattr(operators, f"differentiable_{name}", _differentiable(operator, *formula(operators)))


def _lazy(file: str, name: str) -> Callable:
    def kernel(*args):
        # Imported at the first call: importing triton costs a second, and it may be absent.
        return getattr(importlib.import_module(f"sgr_kernels.triton.{file}"), name)(*args)

    return kernel


def _differentiable(operator, setup_context: Callable, backward: Callable) -> Callable:
    """``operator`` with its autograd formula.

    Registered with the dispatcher and, for eager code, made an autograd Function: the dispatcher's way through Python
    takes longer than a small problem.
    """
    torch.library.register_autograd(operator.name(), backward, setup_context=setup_context)

    def forward(ctx, *args):
        output = below_autograd(operator, *args)
        setup_context(ctx, args, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    function = type(operator.name(), (torch.autograd.Function,), methods)

    def call(*args):
        return operator(*args) if torch.compiler.is_compiling() else function.apply(*args)

    return call


def _not_differentiable(name: str) -> Callable:
    def backward(ctx, *grads):
        raise RuntimeError(f"{name} has no derivative (of this order)")

    return backward
