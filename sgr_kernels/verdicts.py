"""Whether operators are right, as comparisons with the reference have found; what was right is remembered in a file.

One file for a backend, its build and a device, in the folder ``sgr_kernels`` of the user's cache. What was wrong is not
written down: the next process tries it again. A file that cannot be read or written is none.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import platform
import tempfile
from typing import TYPE_CHECKING, Any

import torch

from ._version import __version__
from .discovery import library_of

if TYPE_CHECKING:
    from .operators import Operator

_OPERATORS = pathlib.Path(__file__).parent / "operators"
_DRIVER = pathlib.Path("/proc/driver/nvidia/version")  # torch does not say

# What is wrong, "" for nothing, by operator, backend and device.
_faults: dict[tuple[str, str, torch.device], str] = {}


def found(operator: str, backend: str, device: torch.device) -> str | None:
    """What is wrong with an operator, "" for nothing; None: this process has not compared it."""
    return _faults.get((operator, backend, device))


def known(operator: str, backend: str, device: torch.device) -> str | None:
    """As :func:`found`, and what is written down counts; None: nobody knows."""
    if found(operator, backend, device) is None and operator in _remembered(backend, device):
        _faults[operator, backend, device] = ""
    return found(operator, backend, device)


def check(operator: Operator, backend: str, device: torch.device) -> str:
    """Compare an operator with the reference now; what is wrong, "" for nothing."""
    fault = operator.fault(backend, device)
    _faults[operator.name, backend, device] = fault
    _remember(operator.name, backend, device, not fault)
    return fault


def wrong(backend: str) -> list[str]:
    """Names of the operators of a backend that are known to be wrong, on any device."""
    return sorted({operator for (operator, name, _), fault in _faults.items() if name == backend and fault})


def _remembered(backend: str, device: torch.device) -> set[str]:
    """Names of the operators that were right."""
    try:
        path, facts = _file(backend, device)
        stored = json.loads(path.read_text())
        return set(stored["right"]) if stored["of"] == facts else set()
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):  # unreadable, no home, no JSON, or another one
        return set()


def _remember(operator: str, backend: str, device: torch.device, is_right: bool) -> None:
    before = _remembered(backend, device)
    right = before | {operator} if is_right else before - {operator}
    if right == before:
        return
    with contextlib.suppress(OSError, RuntimeError):
        path, facts = _file(backend, device)
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, json.dumps({"of": facts, "right": sorted(right)}, indent=1) + "\n")


def _replace(path: pathlib.Path, text: str) -> None:
    """Other processes see the old file or the new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with open(handle, "w") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise


def _file(backend: str, device: torch.device) -> tuple[pathlib.Path, dict[str, Any]]:
    """Where the verdicts on a build and a device are, and what tells them from others."""
    facts = {"backend": backend, **_build(backend), **_device(device)}
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    given = os.environ.get("XDG_CACHE_HOME", "")  # to be ignored where it is relative
    cache = pathlib.Path(given) if os.path.isabs(given) else pathlib.Path.home() / ".cache"
    return cache / "sgr_kernels" / f"{backend}-{digest}.json", facts


@functools.cache
def _build(backend: str) -> dict[str, Any]:
    digest = hashlib.sha256()
    for path in (library_of(backend), *sorted(_OPERATORS.rglob("*.py"))):
        if path.exists():
            digest.update(path.read_bytes())
    versions = {"sgr_kernels": __version__, "torch": torch.__version__}
    if backend == "triton":
        import triton  # takes a second

        versions["triton"] = triton.__version__
    return {**versions, "sources": digest.hexdigest()}


@functools.cache
def _device(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {"device": platform.machine(), "capability": torch.backends.cpu.get_cpu_capability()}
    facts = {
        "device": torch.cuda.get_device_name(device),
        "capability": list(torch.cuda.get_device_capability(device)),  # as JSON has it
        "cuda": torch.version.cuda,
    }
    with contextlib.suppress(OSError):
        facts["driver"] = _DRIVER.read_text().partition("\n")[0]
    return facts
