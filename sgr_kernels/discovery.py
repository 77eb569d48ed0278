"""Which backends there are on this machine: the compiled libraries, Triton, and a GPU to run them."""

import functools
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import pathlib

import torch

from ._version import __version__

NAMES = ("reference", "cpu", "triton", "cuda")

_HERE = pathlib.Path(__file__).parent


@functools.cache
def status(name: str) -> str:
    """Whether a backend can run here: "ok", or "missing: why"."""
    return {"reference": lambda: "ok", "cpu": lambda: _compiled("cpu"), "triton": _triton, "cuda": _cuda}[name]()


def device_of(name: str) -> str | None:
    """Type of the device where a backend works, None: everywhere. The interpreter of Triton works on the CPU."""
    return {"cpu": "cpu", "cuda": "cuda", "triton": "cpu" if _interpreting() else "cuda"}.get(name)


def library_of(name: str) -> pathlib.Path:
    """Where the compiled library of a backend is, if it has one."""
    return _HERE / f"libsgr_{name}.so"


def _interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _triton() -> str:
    if importlib.util.find_spec("triton") is None:
        return "missing: triton is not installed"
    if _interpreting():
        return "ok"
    return _on_gpu("; TRITON_INTERPRET=1 runs the kernels slowly on the CPU")


def _cuda() -> str:
    status = _compiled("cuda")
    return _on_gpu() if status == "ok" else status


def _on_gpu(otherwise: str = "") -> str:
    if not torch.cuda.is_available():
        return f"missing: no CUDA device is available{otherwise}"
    return "ok"


def _compiled(kind: str) -> str:
    """Load libsgr_<kind>.so once; "ok" or why it is missing."""
    library = library_of(kind)
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


status("cpu")  # loads the library now: operators must be there before anything is traced
