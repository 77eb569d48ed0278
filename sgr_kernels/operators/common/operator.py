"""What an operator is: a schema, the shapes of its results, a derivative, and who implements it.

An operator is registered once for every backend that has it, in a namespace of torch.ops: ``sgr`` (the compiled
libraries: csrc/<operator>/cpu.cpp and cuda.cu), ``sgr_triton`` and ``sgr_reference``. All follow one contract. Schemas
are written here and not in C++, because the other two need them where nothing was compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ...backends import select
from ...torch_internals import below_autograd, in_function_mode, in_function_transform, writes_into_arguments

NAMESPACES = {"reference": "sgr_reference", "cpu": "sgr", "triton": "sgr_triton", "cuda": "sgr"}

_ALL: dict[str, Operator] = {}


@dataclass(frozen=True)
class Derivative:
    """The derivative of an operator: the two functions of :func:`torch.library.register_autograd`.

    Attributes:
        save: ``(ctx, inputs, output)``, keeps what ``backward`` needs.
        backward: ``(ctx, alike, *grads)``, one gradient an input. ``alike(operator)`` is another operator, as
            implemented by the backend of the forward pass.
    """

    save: Callable[[Any, tuple, Any], None]
    backward: Callable[..., tuple]


class Operator:
    """An operator of this library, called as a function.

    Args:
        schema: name, arguments and results.
        fake: shapes, dtypes and strides of the results, from the arguments.
        reference: implementation in plain torch; None: the reference backend has none.
        triton: implementation in Triton. It must import the kernels when it is called, because importing Triton takes
            a second, and Triton may be absent.
        compiled: whether the compiled libraries implement it.
        composed: implementation from torch's and other operators, for all backends in the place of the three above.
        derivative: None: differentiating the results raises.
    """

    def __init__(
        self,
        schema: str,
        *,
        fake: Callable[..., Any],
        reference: Callable[..., Any] | None = None,
        triton: Callable[..., Any] | None = None,
        compiled: bool = True,
        composed: Callable[..., Any] | None = None,
        derivative: Derivative | None = None,
    ) -> None:
        self.name, _, arguments = schema.partition("(")
        self.fake, self.derivative, self.reference = fake, derivative, reference
        self._schema = f"({arguments}"
        self._overloads: dict[str, Callable[..., Any]] = {}
        self._calls: dict[str, Callable[..., Any]] = {}
        if compiled or composed is not None:
            self._define("sgr", composed)
        if triton is not None:
            self._define("sgr_triton", triton)
        if reference is not None:
            self._define("sgr_reference", reference)
        if composed is not None:
            self._calls = dict.fromkeys(NAMESPACES.values(), self._calls["sgr"])
            self._overloads = dict.fromkeys(NAMESPACES.values(), self._overloads["sgr"])
        _ALL[self.name] = self

    def __call__(self, *args: Any) -> Any:
        """By the backend that is responsible for the first argument."""
        return self._calls[NAMESPACES[select(args[0])]](*args)

    def on(self, backend: str) -> Callable[..., Any]:
        """The operator as one backend implements it.

        Raises:
            NotImplementedError: the backend does not.
        """
        self._require(backend)
        return self._calls[NAMESPACES[backend]]

    def overload(self, backend: str) -> Callable[..., Any]:
        """As :meth:`on`, but what torch knows the operator as: for graphs, and for torch's checks."""
        self._require(backend)
        return self._overloads[NAMESPACES[backend]]

    def has(self, backend: str) -> bool:
        """Whether a backend implements the operator."""
        return NAMESPACES[backend] in self._calls

    def overloads(self) -> list[Callable[..., Any]]:
        """Those of all backends, each once."""
        return list(dict.fromkeys(self._overloads.values()))

    def _require(self, backend: str) -> None:
        if not self.has(backend):
            raise NotImplementedError(f"backend {backend!r} does not implement {self.name}")

    def _define(self, namespace: str, implementation: Callable | None) -> None:
        qualified = f"{namespace}::{self.name}"
        torch.library.define(qualified, self._schema, tags=torch.Tag.pt2_compliant_tag)
        torch.library.register_fake(qualified, self.fake)
        if implementation is not None:
            torch.library.impl(qualified, "CompositeExplicitAutograd", implementation)
        overload = getattr(getattr(torch.ops, namespace), self.name).default
        self._overloads[namespace] = self._calls[namespace] = overload
        if self.derivative is not None:
            self._calls[namespace] = self._differentiable(namespace, overload, self.derivative)
        elif not writes_into_arguments(overload):  # torch takes no derivative for those, and warns by itself
            torch.library.register_autograd(qualified, self._refuse)

    def _differentiable(self, namespace: str, overload: Callable[..., Any], derivative: Derivative) -> Callable:
        """The derivative, for the dispatcher and, faster, for eager code: see :class:`_Eager`."""

        def alike(operator: Operator) -> Callable[..., Any]:
            return operator._calls[namespace]

        def backward(ctx: Any, *grads: Any) -> tuple:
            return derivative.backward(ctx, alike, *grads)

        torch.library.register_autograd(overload.name(), backward, setup_context=derivative.save)

        def call(*args: Any) -> Any:
            if torch.compiler.is_compiling() or in_function_mode():  # which see the overload, and no autograd Function
                return overload(*args)
            function = _Transformed if in_function_transform() else _Eager
            return function.apply(*args, overload, derivative.save, backward)

        return call

    def _refuse(self, ctx: Any, *grads: Any) -> tuple:
        raise RuntimeError(f"{self.name} has no derivative (of this order)")


class _Eager(torch.autograd.Function):
    """An operator with its derivative, without the dispatcher's way through Python, which takes longer than a small
    problem. What is no argument of the operator comes last, so that the derivative finds its inputs where they are.
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        *inputs, overload, save, ctx.derivative = args
        output = without_derivative(overload, *inputs)
        save(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple:
        return *ctx.derivative(ctx, *grads), None, None, None


class _Transformed(torch.autograd.Function):
    """The same for the transforms of torch.func, which want these three functions. Calls take 10 microseconds more."""

    @staticmethod
    def forward(*args: Any) -> Any:
        *inputs, overload, _, _ = args
        return without_derivative(overload, *inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
        *inputs, _, save, ctx.derivative = inputs
        save(ctx, inputs, output)

    backward = _Eager.backward


def without_derivative(operator: Callable, *args: Any) -> Any:
    """Call an operator from a derivative, which takes care of differentiation itself."""
    with below_autograd():
        return operator(*args)


def registered() -> Iterator[Operator]:
    """Every operator there is."""
    yield from _ALL.values()
