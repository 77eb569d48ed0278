"""Which kernels run: discovery of the compiled libraries, the report, and the choice for a tensor."""

import contextlib
import functools
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import pathlib
from collections.abc import Iterator

import torch
from torch import Tensor

from ._version import __version__
from .torch_internals import constant_when_compiled

NAMES = ("reference", "cpu", "triton", "cuda")

# The result file of the test run on a real GPU that vouches for a backend's kernels. While there is none, "auto" does
# not choose the backend and the report says "unverified".
GPU_EVIDENCE: dict[str, str | None] = {"triton": None, "cuda": None}

_HERE = pathlib.Path(__file__).parent


def backends() -> dict[str, str]:
    """Report what every backend can do here.

    Returns:
        A dict from "reference", "cpu", "triton" and "cuda" to ``"ok"``, ``"unverified: why"`` (not tested on a GPU
        yet, used on request only) or ``"missing: why"``.
    """
    return {name: _status(name) for name in NAMES}


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Use one backend for everything inside the ``with`` block, in every thread.

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


def select(tensor: Tensor) -> str:
    """Name of the backend that works on ``tensor``: the requested one, else the first of the device that is "ok"."""
    return _choose(_requested, tensor.device.type)


@constant_when_compiled  # compiled code is guarded by its arguments
def _choose(requested: str | None, device: str) -> str:
    return _chosen(requested, device)


@functools.cache
def _chosen(requested: str | None, device: str) -> str:
    if requested is not None:
        _check_device(requested, device)
        return requested
    candidates = {"cpu": ("cpu",), "cuda": ("cuda", "triton")}.get(device, ())  # in the order of preference
    able = (name for name in candidates if _status(name) == "ok" and _device_of(name) == device)
    return next(able, "reference")


@functools.cache
def _status(name: str) -> str:
    return {"reference": lambda: "ok", "cpu": lambda: _compiled("cpu"), "triton": _triton, "cuda": _cuda}[name]()


def _check_request(name: str, source: str) -> None:
    if name not in NAMES:
        raise ValueError(f"{source}: unknown backend {name!r}; choose one of {', '.join(NAMES)}")
    status = _status(name)
    if status.startswith("missing"):
        raise RuntimeError(f"{source}: backend {name!r} cannot run here ({status})")


def _check_device(name: str, device: str) -> None:
    runs_on = _device_of(name) or device
    if device not in (runs_on, "meta"):  # tensors without numbers have shapes on every backend
        raise RuntimeError(f"backend {name!r} works on {runs_on} tensors here, got a {device} tensor")


def _device_of(name: str) -> str | None:
    """Where a backend works, None: everywhere. The interpreter of Triton works on the CPU."""
    return {"cpu": "cpu", "cuda": "cuda", "triton": "cpu" if _interpreting() else "cuda"}.get(name)


def _interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _triton() -> str:
    if importlib.util.find_spec("triton") is None:
        return "missing: triton is not installed"
    if _interpreting():
        return "ok"
    return _on_gpu("triton", no_gpu="; TRITON_INTERPRET=1 runs the kernels slowly on the CPU")


def _cuda() -> str:
    status = _compiled("cuda")
    return _on_gpu("cuda") if status == "ok" else status


def _on_gpu(name: str, no_gpu: str = "") -> str:
    if not torch.cuda.is_available():
        return f"missing: no CUDA device is available{no_gpu}"
    if GPU_EVIDENCE[name] is None:
        return "unverified: its kernels have not been tested on a GPU yet"
    return "ok"


def _compiled(kind: str) -> str:
    """Load libsgr_<kind>.so once; "ok" or why it is missing."""
    library = _HERE / f"libsgr_{kind}.so"
    info = _build_info()
    if info is None:
        return f"missing: {_why_not_built()}"
    if info["version"] != __version__:
        return f"missing: built for version {info['version']}, this is {__version__}; build again"
    if not library.exists():
        return f"missing: this build has no {kind.upper()} kernels ({info[f'{kind}_reason']})"
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return f"missing: {library.name} does not load: {error}"
    return "ok"


def _build_info() -> dict[str, str] | None:
    # Only beside this file: the finder of an editable install would answer from another folder.
    spec = importlib.machinery.PathFinder.find_spec("sgr_kernels._C", [str(_HERE)])
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build_info()


def _why_not_built() -> str:
    installed = _installed_elsewhere()
    if installed is not None:
        return f"{_HERE} shadows the built package in {installed}; start Python from another folder"
    return "sgr_kernels was installed without its compiled part (no compiler, SGR_BUILD_CPP=0, or not on Linux)"


def _installed_elsewhere() -> pathlib.Path | None:
    """Folder of an installed build that the imported source tree hides."""
    for distribution in importlib.metadata.distributions(name="sgr-kernels"):
        for file in distribution.files or ():
            folder = pathlib.Path(str(distribution.locate_file(file))).parent
            if file.name == "libsgr_cpu.so" and folder.resolve() != _HERE.resolve():
                return folder
    return None


_status("cpu")  # loads the library now: operators must be there before anything is traced
_requested = os.environ.get("SGR_BACKEND") or None
if _requested is not None:
    _check_request(_requested, "SGR_BACKEND")
