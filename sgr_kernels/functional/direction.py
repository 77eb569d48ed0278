"""The gradient v of an SGR loss as a direction to go, without v in memory, and the norms of rows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..operators.common.options import Options
from ..operators.row_norms import row_norms as norms_operator
from ..operators.sgr_loss import sgr_loss as loss_operator
from ..operators.sgr_shift import sgr_shift as shift_operator
from .rows import as_rows, from_rows
from .sgr_loss import check_pair


@dataclass(frozen=True)
class Direction:
    """The rows v_b = alpha_b delta_b + beta_b target_b of the gradient of an SGR loss.

    Attributes:
        delta, target: (B, ...).
        coef: alpha, beta and alpha_target of the rows, (3, B) float64.
        normalize: as of the loss.
    """

    delta: Tensor
    target: Tensor
    coef: Tensor
    normalize: bool

    def shift(self, x: Tensor, step: float | Tensor) -> Tensor:
        """x + step * v. In half precision v itself may overflow where the sum does not.

        Args:
            x: shape and dtype of ``delta``.
            step: a number or a 0-d float64 tensor.
        """
        is_number = isinstance(step, float)
        alpha, beta, _ = (self.coef if is_number else step * self.coef).unbind()
        rows = as_rows(x, self.delta, self.target)
        return from_rows(shift_operator(*rows, alpha, beta, step if is_number else 1.0), x)

    def norms(self) -> Tensor:
        """|v_b| = |target_b| sqrt(beta_b^2 - alpha_b alpha_target_b), (B,)."""
        if not self.normalize:
            return self.coef[0] * row_norms(self.delta - self.target)
        dead = self.coef[1] == 0  # rows without coefficients, whose target may be infinite
        alpha, beta, alpha_target = (self.coef * row_norms(self.target).masked_fill_(dead, 0.0)).unbind()
        return torch.addcmul(beta * beta, alpha, alpha_target, value=-1).clamp_(min=0).sqrt_()


def sgr_direction(delta: Tensor, target: Tensor, options: Options) -> tuple[Tensor, Direction]:
    """The SGR loss, and its gradient v for ``delta`` as a direction. Args and errors: as :func:`sgr_residual`."""
    check_pair(delta, target, options)
    delta, target = delta.detach(), target.detach()
    loss, coef = loss_operator(*as_rows(delta, target), *options.arguments(delta))
    return loss, Direction(delta, target, coef, options.normalize)


def row_norms(tensor: Tensor) -> Tensor:
    """|row_b| of a tensor (B, ...), (B,) float64."""
    return norms_operator(*as_rows(tensor))
