"""Sizes, layouts and inputs of an operator: one list for tests, ahead-of-time compilation, the check of all kernels and
benchmarks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

LARGEST_CHECKED = 3_000_000  # elements


@dataclass(frozen=True)
class Size:
    """One size of an operator's arguments.

    Attributes:
        shape: what it means is the operator's affair.
        row_kib: KiB more in the last dimension, for kernels that go by the bytes of a row.
        late: elements between an aligned address and the first one of an argument.
        apart: elements between its rows.
        channels_last: memory format of images.
        timed: in which benchmarks: "quick" (always), "full" (not with --quick), "gpu" (also not on a CPU), or none.
        halves: whether it is timed in bfloat16 as well.
        once: whether its second derivative is not timed.
    """

    shape: tuple[int, ...]
    row_kib: int = 0
    late: int = 0
    apart: int = 0
    channels_last: bool = False
    timed: str = ""
    halves: bool = False
    once: bool = False

    def of(self, dtype: torch.dtype) -> tuple[int, ...]:
        """The shape for elements of a dtype."""
        return *self.shape[:-1], self.shape[-1] + self.row_kib * 1024 // dtype.itemsize

    def __str__(self) -> str:
        more = {"KiB more": self.row_kib, "late": self.late, "apart": self.apart}
        return " ".join(["x".join(map(str, self.shape)), *(f"{value} {name}" for name, value in more.items() if value)])


class Compared(NamedTuple):
    """One result of an operator beside the truth.

    Attributes:
        what: which result.
        value: as the operator computes it.
        truth: float64, from float64 copies of the arguments.
        rounded: dtype to which the operator may round on the way; None: that of ``value``.
    """

    what: str
    value: Tensor
    truth: Tensor
    rounded: torch.dtype | None = None


class Inputs:
    """Makes arguments: random numbers, or tensors without numbers on the device "meta".

    Args:
        dtype: of floating-point arguments that are not given another one.
        device: where they are.
    """

    def __init__(self, dtype: torch.dtype, device: str) -> None:
        self.dtype, self.device = dtype, device

    def normal(
        self, shape: Iterable[int], *, late: int = 0, apart: int = 0, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Standard normal numbers; NaN where ``late`` and ``apart`` leave gaps."""
        shape, dtype = tuple(shape), dtype or self.dtype
        strides = torch.empty(shape, device="meta").stride()
        stride = strides[0] + apart
        if self.device == "meta":
            memory = torch.empty(late + shape[0] * stride, dtype=dtype, device="meta")
            return memory.as_strided(shape, (stride, *strides[1:]), late)
        values = torch.randn(shape).to(self.device, dtype)
        if not late and not apart:
            return values
        memory = values.new_full((late + len(values) * stride,), math.nan)
        return memory.as_strided(shape, (stride, *strides[1:]), late).copy_(values)

    def integers(self, below: int, *shape: int) -> Tensor:
        """int64, 0 to ``below`` - 1."""
        if self.device == "meta":
            return torch.empty(shape, dtype=torch.int64, device="meta")
        return torch.randint(below, shape).to(self.device)

    def scalar(self, value: float, dtype: torch.dtype) -> Tensor:
        return torch.tensor(value, dtype=dtype).to(self.device)


@dataclass(frozen=True)
class Cases:
    """What an operator is checked, compiled and timed on.

    Attributes:
        sizes: the first is small enough for numerical derivatives.
        arguments: from a size and :class:`Inputs` to the arguments of one or more calls.
        compare: ``(results, *arguments)``, with the arguments in float64 as they were before the call: every result
            beside the truth, which comes from the plain functions and never from a backend.
        in_place: whether the operator works in place: its first result is the changed first argument.
    """

    sizes: tuple[Size, ...]
    arguments: Callable[[Size, Inputs], Iterable[tuple]]
    compare: Callable[..., Iterable[Compared]]
    in_place: bool = False

    def check(
        self,
        operator: Callable[..., Any],
        dtype: torch.dtype,
        device: str,
        largest: int = LARGEST_CHECKED,
        truth: str | None = None,
    ) -> Iterator[Compared]:
        """Run ``operator`` on all sizes up to ``largest`` elements and yield its results beside the truth.

        Not on those that are timed: benchmarks compare results too. The truth is computed on the device ``truth``, if
        it is not that of the arguments.
        """
        for size in self.sizes:
            if size.timed or math.prod(size.of(dtype)) > largest:
                continue
            for arguments in self.arguments(size, Inputs(dtype, device)):
                before = [exact(argument, truth) for argument in arguments]
                results = operator(*arguments)
                results = () if results is None else results if isinstance(results, tuple) else (results,)
                results = (arguments[0], *results) if self.in_place else results
                for compared in self.compare(results, *before):
                    rounded = compared.rounded or compared.value.dtype
                    yield compared._replace(what=f"{compared.what} {size}", rounded=rounded)


def exact(argument: Any, device: str | None = None) -> Any:
    """A copy, on the device of the argument if no other is given, floating-point numbers in float64."""
    if not isinstance(argument, Tensor):
        return argument
    copy = argument.detach().to(device or argument.device, copy=True)
    return copy.double() if copy.is_floating_point() else copy


def against(function: Callable[..., Any], *names: str) -> Callable[..., Iterator[Compared]]:
    """Compares the results, one by one, with those of a plain function of the same arguments."""

    def compare(results: tuple[Tensor, ...], *arguments: Any) -> Iterator[Compared]:
        truths = function(*arguments)
        truths = truths if isinstance(truths, tuple) else (truths,)
        for name, value, truth in zip(names, results, truths, strict=True):
            yield Compared(name, value, truth)

    return compare
