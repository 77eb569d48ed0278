"""Who computes an operator: the backend asked for, else the first of the device that is right; and what there is."""

import contextlib
import os
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from . import verdicts
from .discovery import NAMES, device_of, status
from .registry import OPERATORS
from .torch_internals import constant_when_compiled, is_fake

# By the type of a device, the fastest first.
PREFERRED = {"cpu": ("cpu",), "cuda": ("cuda", "triton")}
# Types of devices on which an operator is compared with the reference before its kernel is chosen for the first time:
# there are more GPUs, drivers and compilers than any test has seen.
CHECKED = ("cuda",)

_choices: dict[tuple[str | None, str, torch.device], str] = {}
_warned: set[str] = set()


def backends(check: bool = False) -> dict[str, str]:
    """Report what every backend can do here.

    The first call of an operator on a GPU compares it with the float64 reference on small inputs, so that wrong
    kernels are not used unless they are asked for. What was right is remembered, for this build and this device, in
    the folder ``sgr_kernels`` of the user's cache ($XDG_CACHE_HOME, else ~/.cache).

    Args:
        check: compare every operator of every backend that can run here now, on each of its devices; else the report
            knows what the calls of this process have found.

    Returns:
        A dict from "reference", "cpu", "triton" and "cuda" to ``"ok"``, ``"wrong: which operators"`` or
        ``"missing: why"``.
    """
    if check:
        for name in NAMES[1:]:
            for device in _devices(name) if status(name) == "ok" else ():
                for operator in OPERATORS.values():
                    if operator.has(name) and operator.composed is None:
                        verdicts.check(operator, name, device)
        _choices.clear()
    return {name: _report(name) for name in NAMES}


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Use one backend for everything inside the ``with`` block, in every thread, whether it is right or not.

    What torch.func or forward mode transforms goes by formulas in plain torch, whatever the backend.

    Args:
        name: "reference", "cpu", "triton" or "cuda".

    Raises:
        ValueError: unknown name.
        RuntimeError: the backend cannot run here (the message says why).
    """
    global _requested
    _check_request(name, "sgr_kernels.backend()")
    previous, _requested = _requested, name
    try:
        yield
    finally:
        _requested = previous


def preferred(device: str) -> str:
    """The backend that computes on a type of device where nobody asks for another one and its operators are right."""
    return next(iter(_able(device)), "reference")


def choose(operator: str, tensor: Tensor) -> str:
    """Name of the backend for a call of an operator whose first argument is ``tensor``."""
    return _choice(_requested, operator, tensor.device) or _first_choice(_requested, operator, tensor)


@constant_when_compiled  # compiled code is guarded by its arguments
def _choice(requested: str | None, operator: str, device: torch.device) -> str | None:
    return _choices.get((requested, operator, device))


def _first_choice(requested: str | None, operator: str, tensor: Tensor) -> str:
    device = tensor.device
    if not torch.compiler.is_compiling() and requested is None and device.type in CHECKED:
        if is_fake(tensor):
            return next(iter(_able(device.type, operator)), "reference")  # nothing is computed
        capturing = torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
        if capturing and not _is_known(operator, device):  # a comparison reads results, which a capture forbids
            _warn(
                f"{operator} was not called on {device} before this capture, so nobody knows whether its kernels are "
                "right, and the reference is captured; call it once before, or sgr_kernels.backends(check=True)"
            )
            return "reference"
    return _choose(requested, operator, device)


@constant_when_compiled
def _choose(requested: str | None, operator: str, device: torch.device) -> str:
    """The choice from now on, unless there is no memory to make it."""
    if requested is not None:
        _check_device(requested, device.type)
        _choices[requested, operator, device] = requested
        return requested
    choice, wrong = "reference", []
    for name in _able(device.type, operator):
        try:
            fault = _fault(operator, name, device)
        except torch.OutOfMemoryError:
            _warn(f"no memory is left to compare {operator} on {device}: the reference computes until there is some")
            return "reference"
        if fault is None:
            choice = name
            break
        wrong.append(fault)
    _choices[None, operator, device] = choice
    for fault in wrong:
        _warn(f"{fault}; {operator} is left to backend {choice!r}")
    if choice == "reference" and device.type in CHECKED and not wrong:
        why = "; ".join(f"{name} is {status(name)}" for name in PREFERRED[device.type])
        _warn(f"no kernels for {device.type} tensors ({why}): the float64 reference computes, which takes long")
    return choice


def _is_known(operator: str, device: torch.device) -> bool:
    """Whether :func:`_choose` has nothing to check."""
    for name in _able(device.type, operator):
        faults = [verdicts.known(part, name, device) for part in _parts(operator)]
        if None in faults or not any(faults):
            return None not in faults
    return True


def _fault(operator: str, name: str, device: torch.device) -> str | None:
    """What is wrong with an operator, or with those that its derivative calls, on a backend; None: nothing."""
    for part in _parts(operator):
        if device.type in CHECKED:
            fault = verdicts.known(part, name, device)
            fault = verdicts.check(OPERATORS[part], name, device) if fault is None else fault
        else:
            fault = verdicts.found(part, name, device)
        if fault:
            return f"{part} of backend {name!r} is wrong on {device}: {fault}"
    return None


def _parts(operator: str) -> list[str]:
    derivative = OPERATORS[operator].derivative
    return [operator, *(each.name for each in (derivative.operators if derivative else ()))]


def _able(device: str, operator: str | None = None) -> list[str]:
    """Backends with kernels for a type of device (and an operator) that can run here, the fastest first."""
    return [
        name
        for name in PREFERRED.get(device, ())
        if status(name) == "ok" and device_of(name) == device and (operator is None or OPERATORS[operator].has(name))
    ]


def _devices(name: str) -> list[torch.device]:
    if device_of(name) == "cuda":
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [torch.device("cpu")]


def _report(name: str) -> str:
    wrong = verdicts.wrong(name)
    return f"wrong: {', '.join(wrong)}" if wrong else status(name)


def _warn(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        warnings.warn(f"sgr_kernels: {message}", stacklevel=2)


def _check_request(name: str, source: str) -> None:
    if name not in NAMES:
        raise ValueError(f"{source}: unknown backend {name!r}; choose one of {', '.join(NAMES)}")
    if status(name) != "ok":
        raise RuntimeError(f"{source}: backend {name!r} cannot run here ({status(name)}); choose another one")


def _check_device(name: str, device: str) -> None:
    runs_on = device_of(name) or device
    if device not in (runs_on, "meta"):  # tensors without numbers have shapes on every backend
        given = f"got a {device} tensor: move it, or choose another backend"
        raise RuntimeError(f"backend {name!r} works on {runs_on} tensors here, {given}")


_requested = os.environ.get("SGR_BACKEND") or None
if _requested is not None:
    _check_request(_requested, "SGR_BACKEND")
