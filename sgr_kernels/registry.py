"""Every operator by its name, as it registers itself: backends choose among kernels without knowing who has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .operators import Operator

OPERATORS: dict[str, Operator] = {}
