"""Loss scaling for float16, whose smallest numbers are larger than many gradients.

The rule is that of ``torch.amp.GradScaler``: the scale falls where a gradient overflows, and rises after many updates
without. But one scale serves all modules of a run, which share what they give each other in a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .errors import Diverged

FIRST, SMALLEST = 2.0**16, 2.0**-14  # what overflows below this is no matter of the scale
RISE_AFTER = 2000  # updates in a row
FACTOR = 2.0  # powers of two round nothing


class LossScale:
    """The factor on the gradients of a step, ``value``, and what overflowed.

    Attributes:
        value: constant in all batches of an update.
        skipped: optimizer steps of modules that were not taken, over the whole run.
    """

    def __init__(self) -> None:
        self.value, self.skipped = FIRST, 0
        self._without = 0  # updates in a row in which nothing overflowed
        self._overflowed: list[int] = []  # modules, in this update

    def unscale(self, gradients: Sequence[Tensor], module: int) -> bool:
        """Divide the gradients of a module, float32, in place; False: they are not finite and no step is to be taken.

        Waits for the device.
        """
        if not gradients:
            return True
        overflowed = torch.zeros((), device=gradients[0].device)
        inverse = torch.full((), 1 / self.value, device=overflowed.device)
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, overflowed, inverse)
        if not overflowed:
            return True
        self._overflowed.append(module)
        self.skipped += 1
        return False

    def update(self) -> None:
        """Call after all modules were updated.

        Raises:
            Diverged: gradients are not finite at any scale.
        """
        if not self._overflowed:
            self._without += 1
            if self._without == RISE_AFTER:
                self.value, self._without = self.value * FACTOR, 0
            return
        if self.value <= SMALLEST:
            module = self._overflowed[0] + 1
            raise Diverged(f"the gradients of module {module} are not finite, down to a loss scale of {self.value:g}")
        self.value, self._without, self._overflowed = self.value / FACTOR, 0, []

    def state_dict(self) -> dict[str, Any]:
        """After :meth:`update`."""
        return {"value": self.value, "skipped": self.skipped, "without": self._without}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value, self.skipped, self._without = state["value"], state["skipped"], state["without"]
