"""What operators are checked, compiled and timed on: a file with ``CASES`` for each folder of sgr_kernels.operators."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from sgr_kernels.operators import Operator

from .case import Cases

__all__ = ["Cases", "all_of_them", "of"]


def of(operator: Operator) -> Cases:
    """The cases of an operator.

    Raises:
        KeyError: it has none.
    """
    return all_of_them()[operator]


@functools.cache
def all_of_them() -> dict[Operator, Cases]:
    """By operator."""
    modules = (importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    return {operator: cases for module in modules for operator, cases in getattr(module, "CASES", {}).items()}
