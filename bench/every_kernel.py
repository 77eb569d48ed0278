"""Every operator of a backend on small inputs that reach each of its kernels, against float64.

For a first look at a new device, and for memory checkers, which are too slow for the tests. The inputs are those
of sgr_bench.cases. The exit status is 1 where a result is wrong.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import torch

import sgr_kernels as sk
from sgr_kernels.operators import Operator, registered

from . import cases
from .cases.case import Compared
from .checks import WrongResult, relative_error
from .precisions import products_in

BACKENDS = {"cpu": ("reference", "cpu"), "cuda": ("reference", "cuda", "triton")}
DTYPES = ("float64", "float32", "bfloat16", "float16")
# Largest relative error, by the dtype to which a result is rounded on the way. Products add up many rounding errors.
LIMITS = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
EXACT = 1e-12  # of integers
SANITIZED = "little work but that of our kernels: float64 on the CPU, and no operator that is made of others"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; exit status 1 where something is wrong or missing."""
    parser = argparse.ArgumentParser(prog="python -m sgr_bench.every_kernel", description=__doc__)
    parser.add_argument("--device", choices=BACKENDS, default="cpu")
    parser.add_argument("--backend", choices=("reference", "cpu", "triton", "cuda"), help="default: all of the device")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), metavar="DTYPE")
    parser.add_argument("--sanitized", action="store_true", help=SANITIZED)
    args = parser.parse_args(argv)
    problems = []
    with products_in("ieee", args.device):  # float32 is float32, in convolutions on a GPU too
        for backend in [args.backend] if args.backend else BACKENDS[args.device]:
            problems += check(backend, args.device, args.dtypes, sanitized=args.sanitized)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def check(
    backend: str, device: str, dtypes: Sequence[str] = DTYPES, sanitized: bool = False, **options: Any
) -> list[str]:
    """What is wrong with the operators of a backend. Options: as for :meth:`Cases.check`.

    ``sanitized`` is for memory checkers, which slow down what torch does on the device as well.
    """
    problems = []
    if sanitized:
        options["truth"] = "cpu"
    try:
        with sk.backend(backend):
            for operator in registered():
                if operator.has(backend) and not (sanitized and operator.composed is not None):
                    problems += _check_operator(operator, backend, dtypes, device, options)
    except RuntimeError as error:  # the backend does not run here
        return [str(error)]
    return problems


def _check_operator(
    operator: Operator, backend: str, dtypes: Sequence[str], device: str, options: dict[str, Any]
) -> list[str]:
    problems, count = [], 0
    for dtype in dtypes:
        torch.manual_seed(0)
        name, errors = f"{backend} {operator.name} {dtype}", []
        try:
            for compared in cases.of(operator).check(operator.on(backend), getattr(torch, dtype), device, **options):
                errors.append(_error(compared))
                if not errors[-1] < LIMITS.get(compared.rounded, EXACT):  # NaN is wrong
                    problems.append(f"{name}, {compared.what}: relative error {errors[-1]:.1e}")
        except Exception as error:  # the other operators are worth a look all the same
            traceback.print_exc()
            problems.append(f"{name}, after {len(errors)} results: {type(error).__name__}: {error}")
        print(f"{name}: {len(errors)} results, largest error {max(errors, default=0.0):.1e}", flush=True)
        count += len(errors)
    return problems if problems or count else [f"{backend}: {operator.name} has no case in {', '.join(dtypes)}"]


def _error(compared: Compared) -> float:
    if compared.value.shape != compared.truth.shape:
        raise WrongResult(f"shape {tuple(compared.value.shape)}, expected {tuple(compared.truth.shape)}")
    return relative_error(compared.value, compared.truth)


if __name__ == "__main__":
    sys.exit(main())
