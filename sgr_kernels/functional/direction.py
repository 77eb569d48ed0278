"""The gradient v of an SGR loss as a direction to go, without v in memory, or times a weight; and the norms of rows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..operators.common.checks import loss_dtype
from ..operators.common.options import Options
from ..operators.row_norms import row_norms as norms_operator
from ..operators.sgr_loss import sgr_loss as loss_operator
from ..operators.sgr_loss import sgr_loss_backward as gradient_operator
from ..operators.sgr_shift import sgr_shift as shift_operator
from .rows import as_rows, from_rows
from .sgr_loss import check_pair, residual


@dataclass(frozen=True)
class Direction:
    """The rows v_b = alpha_b delta_b + beta_b target_b of the gradient of an SGR loss.

    Attributes:
        delta, target: (B, ...).
        coef: alpha, beta, alpha_target and |v_b| of the rows, (4, B) float64.
    """

    delta: Tensor
    target: Tensor
    coef: Tensor

    def shift(self, x: Tensor, step: float | Tensor) -> Tensor:
        """x + step * v. In half precision v itself may overflow where the sum does not.

        Args:
            x: shape and dtype of ``delta``.
            step: a number or a 0-d float64 tensor.
        """
        is_number = isinstance(step, float)
        return self.combine(x, self.coef if is_number else step * self.coef, step if is_number else 1.0)

    def combine(self, x: Tensor, coef: Tensor, factor: float) -> Tensor:
        """x + factor * (alpha_b delta_b + beta_b target_b).

        Args:
            x: shape and dtype of ``delta``.
            coef: alpha and beta of the rows, and perhaps more, (2 or more, B) float64.
        """
        alpha, beta, *_ = coef.unbind()
        return from_rows(shift_operator(*as_rows(x, self.delta, self.target), alpha, beta, factor), x)

    def times(self, weight: float | Tensor) -> Tensor:
        """weight * v in the dtype of ``delta``, to which it is rounded once.

        Args:
            weight: a number or a 0-d tensor.
        """
        is_number = not isinstance(weight, Tensor)
        # Filled in on the device: a copy from the host would stall a GPU.
        factor = self.delta.new_full((), weight if is_number else 1.0, dtype=loss_dtype(self.delta))
        factor = factor if is_number else factor.mul_(weight)
        rows = as_rows(self.delta, self.target)
        return from_rows(gradient_operator(factor, *rows, self.coef[0], self.coef[1]), self.delta)

    def norms(self) -> Tensor:
        """|v_b|, (B,) float64."""
        return self.coef[3]


def sgr_direction(delta: Tensor, target: Tensor, options: Options) -> tuple[Tensor, Direction]:
    """The SGR loss, and its gradient v for ``delta`` as a direction. Args and errors: as :func:`sgr_residual`."""
    check_pair(delta, target, options)
    delta, target = delta.detach(), target.detach()
    loss, coef = loss_operator(*as_rows(delta, target), *options.arguments(delta))
    return loss, Direction(delta, target, coef)


def sgr_gradient(
    delta: Tensor, target: Tensor, options: Options, weight: float | Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The SGR loss, and ``weight`` times its gradient v for ``delta``, in memory of its own.

    v comes in the dtype of ``delta``; that of float16, the range of which it may exceed, in float32.

    Args:
        weight: a number or a 0-d tensor; None: v itself.
        delta, target, options: as in :func:`sgr_direction`.
    """
    if delta.dtype == torch.bfloat16:
        # By its coefficients, delta and target are read twice and v is written once. v in float32 would be written,
        # weighted and rounded: more than twice the bytes. In other dtypes the residual, which finds v in one pass, is
        # as good with a weight and better without one.
        loss, direction = sgr_direction(delta, target, options)
        return loss, direction.times(1.0 if weight is None else weight)
    loss, v = residual(delta, target, options)
    return loss, v if weight is None else v.mul_(weight)


def row_norms(tensor: Tensor) -> Tensor:
    """|row_b| of a tensor (B, ...), (B,) float64."""
    return norms_operator(*as_rows(tensor))
