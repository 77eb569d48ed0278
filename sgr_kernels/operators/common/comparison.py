"""Kernels compared with the reference on small inputs, where they run: whether they can be trusted on this machine."""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from .checks import FLOATING, loss_dtype

# From the dtype of an operator's input to the arguments of a few calls, on the CPU; none if the operator refuses it.
Example = Callable[[torch.dtype], Iterable[tuple]]

_PERIOD = 4099  # of the numbers of examples: a prime, which no row and no block is a multiple of
_STEPS = 16  # no result takes more roundings on its way, but for sums, which are float64


def numbers(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Multiples of 1/8 from -2 to 15/8, which every dtype holds exactly, in no order; the same every time."""
    count, first = math.prod(shape), 101 * seed
    repeated = _numbers().repeat((first + count) // _PERIOD + 1)
    return repeated[first : first + count].view(shape).to(dtype, copy=True)


@functools.cache
def _numbers() -> Tensor:
    index = torch.arange(_PERIOD, device="cpu")
    return (((index * 2654435761) >> 15) % 32 - 16) / 8


def fault(kernel: Callable[..., Any], reference: Callable[..., Any], example: Example, device: torch.device) -> str:
    """What is wrong with a kernel on a device; "" for nothing.

    In a thread of its own, which has none of the caller's modes, transforms and settings (autocast, gradients, default
    device, stream). Nothing is drawn at random.

    Raises:
        torch.OutOfMemoryError: too little memory is free to tell.
    """
    found, no_memory = [], []

    def run() -> None:
        try:
            with _waiting_allowed(device):
                found.append(_first_fault(kernel, reference, example, device))
        except Exception as error:  # of a kernel: it is wrong, and another backend goes on
            if "out of memory" in str(error):
                no_memory.append(str(error))
            found.append(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")

    thread = threading.Thread(target=run, name="sgr_kernels comparison")
    thread.start()
    thread.join()
    if no_memory:
        raise torch.OutOfMemoryError(no_memory[0])
    return found[0]


@contextlib.contextmanager
def _waiting_allowed(device: torch.device) -> Iterator[None]:
    """Numbers are read from a device, which torch.cuda.set_sync_debug_mode may have made an error, in all threads."""
    mode = torch.cuda.get_sync_debug_mode() if device.type == "cuda" else 0
    if mode == 0:
        yield
        return
    torch.cuda.set_sync_debug_mode(0)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def _first_fault(
    kernel: Callable[..., Any], reference: Callable[..., Any], example: Example, device: torch.device
) -> str:
    # Examples hold the same numbers in every dtype, so that one truth does for all.
    truths = [_outcome(reference, [_exact(each) for each in arguments]) for arguments in example(torch.float32)]
    for dtype in FLOATING:
        for arguments, truth in zip(example(dtype), truths, strict=False):
            moved = [each.to(device) if isinstance(each, Tensor) else each for each in arguments]
            size = max(each.numel() for each in arguments if isinstance(each, Tensor))
            for what, value in _outcome(kernel, moved).items():
                if value.shape != truth[what].shape:
                    return f"{what} for {dtype} has shape {tuple(value.shape)}, not {tuple(truth[what].shape)}"
                error, bound = _error(value, truth[what]), _bound(value.dtype, dtype, size)
                if not error <= bound:  # NaN is wrong
                    return f"{what} for {dtype} is off by {error:.1e}, where rounding is at most {bound:.1e}"
    return ""


def _outcome(function: Callable[..., Any], arguments: list) -> dict[str, Tensor]:
    """The results of a call, and its arguments, some of which it may change."""
    results = function(*arguments)
    results = () if results is None else results if isinstance(results, tuple) else (results,)
    named = {f"result {place}": each for place, each in enumerate(results)}
    named |= {f"argument {place}": each for place, each in enumerate(arguments) if isinstance(each, Tensor)}
    return named


def _exact(argument: Any) -> Any:
    return argument.double() if isinstance(argument, Tensor) and argument.is_floating_point() else argument


def _error(value: Tensor, truth: Tensor) -> float:
    """The largest, relative to the largest number."""
    if truth.numel() == 0:
        return 0.0
    truth = truth.double()
    return float((value.cpu().double() - truth).abs().amax() / truth.abs().amax().clamp_min(1e-300))


def _bound(result: torch.dtype, given: torch.dtype, size: int) -> float:
    """What rounding may amount to, relatively: a result is computed in float32 (float64 for float64) from sums in
    float64 of no more than ``size`` numbers, and rounded to its dtype. Integers are exact.
    """
    if not result.is_floating_point:
        return 0.0
    eps = {dtype: torch.finfo(dtype).eps for dtype in FLOATING}
    return eps[result] + _STEPS * eps[loss_dtype(torch.empty(0, dtype=given))] + size * eps[torch.float64]
