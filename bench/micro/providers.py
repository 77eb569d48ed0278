"""Who computes: this library as it chooses and by each of its backends, and torch.compile."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch._functorch.config

import sgr_kernels as sk
from sgr_kernels.backends import preferred
from sgr_kernels.operators import Operator

from .case import Run, Way

ON_DEVICE = {"cpu": ("cpu",), "cuda": ("triton", "cuda")}
DEFAULT = "default"  # what a user gets who asks for no backend
KERNELS = (DEFAULT, "cpu", "triton", "cuda")  # of this library; the others are torch
# In the order of the rows.
NAMES = (
    *KERNELS,
    "torch.compile",
    "eager",
    "torch.relu",
    "Algorithm 1",
    "library GEMM",
    "library conv",
    "reference",
)


def backends(device: str) -> list[str]:
    """Those with kernels that can run on the device."""
    status = sk.backends()
    return [name for name in ON_DEVICE[device] if not status[name].startswith("missing")]


def of_backends(device: str, make: Callable[[], Run], truth: Run) -> dict[str, Way]:
    """The same run by every backend that has kernels for the device, and on a GPU, where there is a choice, by none.

    A CPU has one backend, which is the default.
    """
    ways = {name: Way(functools.partial(through, name, device, make), truth) for name in backends(device)}
    return {DEFAULT: Way(make, truth), **ways} if device == "cuda" else ways


def kernels(operator: Operator, device: str) -> dict[str, Callable]:
    """The same for a call of one operator."""
    forced = {name: operator.on(name) for name in backends(device) if operator.has(name)}
    return {DEFAULT: operator, **forced} if device == "cuda" else forced


def through(name: str, device: str, make: Callable[[], Run]) -> Run:
    """What ``make`` prepares, and its run, by one backend."""
    with sk.backend(name):
        run = make()
    if device == "cpu" and name == preferred(device) and sk.backends()[name] == "ok":
        return run  # chosen anyway, and the microseconds that asking for it takes would count for small tensors

    def run_there():
        with sk.backend(name):
            return run()

    return run_there


@functools.cache
def compiled(function: Callable) -> Callable:
    """By inductor, for one shape at a time; a graph break is an error. The backward pass can be run again and again."""
    torch._functorch.config.donated_buffer = False
    return torch.compile(function, dynamic=False, fullgraph=True)


def forget_compiled() -> None:
    """Between shapes: of a function, only so many versions are kept."""
    if compiled.cache_info().currsize:
        torch.compiler.reset()
