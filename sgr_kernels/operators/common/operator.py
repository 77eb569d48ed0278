"""What an operator is: a schema, the shapes of its results, a derivative, and who implements it.

An operator is registered once for every backend that has it, in a namespace of torch.ops: ``sgr`` (the compiled
libraries: csrc/<operator>/cpu.cpp and cuda.cu), ``sgr_triton`` and ``sgr_reference``. All follow one contract. Schemas
are written here and not in C++, because the other two need them where nothing was compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...backends import choose
from ...registry import OPERATORS
from ...torch_internals import below_autograd, in_function_mode, in_jit_trace, in_transform
from .comparison import Example, fault

NAMESPACES = {"reference": "sgr_reference", "cpu": "sgr", "triton": "sgr_triton", "cuda": "sgr"}


@dataclass(frozen=True)
class Derivative:
    """The derivative of an operator: the two functions of :func:`torch.library.register_autograd`.

    Attributes:
        save: ``(ctx, inputs, output)``, keeps what ``backward`` needs.
        backward: ``(ctx, alike, *grads)``, one gradient an input. ``alike(operator)`` is another operator, as
            implemented by the backend of the forward pass; composed operators choose a backend for their parts anew.
        operators: those that ``alike`` is asked for: a backend that has one of them wrong is not chosen.
    """

    save: Callable[[Any, tuple, Any], None]
    backward: Callable[..., tuple]
    operators: tuple[Operator, ...] = ()


class Operator:
    """An operator of this library, called as a function.

    Args:
        schema: name, arguments and results.
        fake: shapes, dtypes and strides of the results, from the arguments.
        reference: implementation in plain torch; None: the reference backend has none. What torch.func and forward
            mode transform, on every backend: the first result must be differentiable, to any order.
        triton: implementation in Triton. It must import the kernels when it is called, because importing Triton takes
            a second, and Triton may be absent.
        compiled: whether the compiled libraries implement it.
        composed: implementation from torch's and other operators, for all backends in the place of the three above.
        derivative: None: differentiating the results raises.
        example: small arguments on which kernels are compared with the reference, by dtype: see :mod:`.comparison`.
            Composed operators need none, as their parts have one.
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
        example: Example | None = None,
    ) -> None:
        self.name, _, arguments = schema.partition("(")
        if composed is None and (example is None or reference is None):
            raise ValueError(f"{self.name}: an operator that is not composed needs a reference and an example")
        self.reference, self.composed, self.derivative, self.example = reference, composed, derivative, example
        self._schema, self._fake = f"({arguments}", fake
        self._plain = reference or composed
        # By namespace: what torch knows the operator as, and the function to call.
        self._overloads: dict[str, Callable[..., Any]] = {}
        self._calls: dict[str, Callable[..., Any]] = {}
        if compiled or composed is not None:
            self._register("sgr", composed)
        if triton is not None:
            self._register("sgr_triton", triton)
        if reference is not None:
            self._register("sgr_reference", reference)
        OPERATORS[self.name] = self

    def __call__(self, *args: Any) -> Any:
        """By the backend that is responsible for the first argument."""
        if self.composed is not None:
            return self._calls["sgr"](*args)
        backend = choose(self.name, args[0])
        namespace = NAMESPACES[backend]
        if namespace not in self._calls:
            self._namespace(backend)  # raises
        return self._calls[namespace](*args)

    def has(self, backend: str) -> bool:
        """Whether a backend implements the operator."""
        return self.composed is not None or NAMESPACES[backend] in self._calls

    def on(self, backend: str) -> Callable[..., Any]:
        """The operator as one backend implements it.

        Raises:
            NotImplementedError: the backend does not.
        """
        return self._calls[self._namespace(backend)]

    def overload(self, backend: str) -> Callable[..., Any]:
        """As :meth:`on`, but what torch knows the operator as: for graphs, and for torch's checks."""
        return self._overloads[self._namespace(backend)]

    def fault(self, backend: str, device: torch.device) -> str:
        """What is wrong with the operator as a backend computes it on a device; "" for nothing."""
        return fault(self.on(backend), self.reference, self.example, device)

    def overloads(self) -> list[Callable[..., Any]]:
        """Those of all backends."""
        return list(self._overloads.values())

    def _namespace(self, backend: str) -> str:
        if not self.has(backend):
            raise NotImplementedError(f"backend {backend!r} does not implement {self.name}; choose another one")
        return "sgr" if self.composed is not None else NAMESPACES[backend]

    def _register(self, namespace: str, implementation: Callable | None) -> None:
        qualified = f"{namespace}::{self.name}"
        torch.library.define(qualified, self._schema, tags=torch.Tag.pt2_compliant_tag)
        torch.library.register_fake(qualified, self._checked_fake)
        if implementation is not None:
            torch.library.impl(qualified, "CompositeExplicitAutograd", implementation)
        overload = getattr(getattr(torch.ops, namespace), self.name).default
        self._overloads[namespace] = overload
        if self.derivative is not None:
            self._calls[namespace] = self._differentiable(namespace, overload, self.derivative)
        else:
            if "!" in self._schema:  # torch takes no derivative for those
                torch.library.impl(qualified, "Autograd", self._refuse_to_write(overload))
            else:
                torch.library.register_autograd(qualified, self._refuse)
            self._calls[namespace] = _constant(overload, self._plain or overload)

    def _checked_fake(self, *args: Any) -> Any:
        """Shapes are also what torch asks for where one tensor among others is on "meta", and nothing is computed."""
        devices = {str(arg.device) for arg in args if isinstance(arg, Tensor)}
        if len(devices) > 1:
            raise ValueError(f"{self.name}: all tensors must be on one device, got {' and '.join(sorted(devices))}")
        return self._fake(*args)

    def _differentiable(self, namespace: str, overload: Callable[..., Any], derivative: Derivative) -> Callable:
        def alike(operator: Operator) -> Callable[..., Any]:
            if operator not in derivative.operators:
                raise ValueError(f"{operator.name} is not among the operators of the derivative of {self.name}")
            return operator._calls[namespace]

        def backward(ctx: Any, *grads: Any) -> tuple:
            return derivative.backward(ctx, alike, *grads)

        torch.library.register_autograd(overload.name(), backward, setup_context=derivative.save)
        parts, plain = (overload, derivative.save, backward), self._plain or overload

        def call(*args: Any) -> Any:
            if in_transform():
                return plain(*args)
            # What records calls sees the overload, and no autograd Function.
            if torch.compiler.is_compiling() or in_function_mode() or in_jit_trace():
                return overload(*args)
            if _is_differentiated(args):
                return _Eager.apply(*args, parts)
            return computed(overload, args)

        return call

    def _refuse(self, ctx: Any, *grads: Any) -> tuple:
        raise RuntimeError(f"{self.name} has no derivative (of this order); detach its arguments")

    def _refuse_to_write(self, overload: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if _is_differentiated(args):
                raise RuntimeError(
                    f"{self.name} has no derivative: it cannot write into what is differentiated; detach that"
                )
            return computed(overload, args)

        return call


# The dispatcher's way to a derivative goes through Python and takes longer than a small problem. Eager code has shorter
# ones: operators with a derivative are an autograd Function, those without one skip autograd (_constant). The Function
# gets the overload and its derivative as the last argument: ctx.needs_input_grad counts from the first input. The
# transforms of torch.func (grad, vmap, jvp, ...) and forward mode need rules that kernels do not have, and transform
# the formulas in plain torch.


class _Eager(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        *inputs, (overload, save, ctx.derivative) = args
        output = computed(overload, inputs)
        save(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple:
        return *ctx.derivative(ctx, *grads), None


def _constant(overload: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        if in_transform():
            return plain(*args)
        if torch.compiler.is_compiling() or _is_differentiated(args):
            return overload(*args)
        return computed(overload, args)

    return call


def computed(overload: Callable[..., Any], args: Iterable[Any]) -> Any:
    """``overload(*args)``, without its derivative.

    Raises:
        torch.OutOfMemoryError: of a device. The compiled libraries can hand on no more of an error than its text.
    """
    try:
        with below_autograd():
            return overload(*args)
    except RuntimeError as error:
        if "out of memory" not in str(error) or isinstance(error, torch.OutOfMemoryError):
            raise
        raise torch.OutOfMemoryError(str(error)) from error


def _is_differentiated(args: tuple) -> bool:
    if torch.is_grad_enabled():
        for arg in args:  # any() makes a generator, which takes as long as all of its answers
            if isinstance(arg, Tensor) and arg.requires_grad:
                return True
    return False


def registered() -> Iterator[Operator]:
    """Every operator there is."""
    yield from OPERATORS.values()
