"""The weight of an SGR loss as a share of the local gradient: what a number means changes with everything, this hardly.

What lambda does depends on reduction, number of elements, head and depth, and on how far training has come. The norms
of the two gradients show it, and every engine has both at hand.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .operators.common.checks import check_number
from .torch_internals import foreach_norm


class RelativeWeight(nn.Module):
    """lambda = rho * |gradient of L| / |gradient of the SGR loss|, for the parameters of one module's body.

    For the ``weight`` of :func:`sgr_kernels.local_step`, one for each module. Both norms are exponential averages over
    the steps, as those of the loss balancer of EnCodec (Defossez et al., 2022). The present step counts, and one in
    which a norm is 0 or not finite is left out. Nothing waits for a GPU, and a CUDA graph may hold it. The averages are
    buffers: put it into the network for them to be in checkpoints and to move along. Where several processes average
    their gradients, each has a lambda of its own, close to those of the others.

    Args:
        rho: norm of the weighted SGR gradient of the body over that of its local gradient, >= 0.
        decay: of the averages, a step; 0 takes the norms of the step alone.

    Attributes:
        norms: the averages, of the local gradient and of the unweighted SGR gradient, (2,) float32.

    Raises:
        TypeError, ValueError: rho or decay is no such number.
    """

    norms: Tensor

    def __init__(self, rho: float, decay: float = 0.9) -> None:
        super().__init__()
        check_number("rho", rho)
        check_number("decay", decay)
        if decay >= 1:
            raise ValueError(f"decay must be below 1, got {decay}")
        self.rho, self.decay = float(rho), float(decay)
        self.register_buffer("norms", torch.zeros(2))

    @property
    def value(self) -> Tensor:
        """lambda after the last step, 0-d float32; 0 before the first."""
        local, sgr = self.norms.unbind()
        return (self.rho * local / sgr).masked_fill(sgr == 0, 0.0)

    @torch.no_grad()
    def update(self, local: Sequence[Tensor], sgr: Sequence[Tensor], factor: Tensor | float = 1.0) -> Tensor:
        """:attr:`value` after a step.

        Args:
            local: gradients of L for the parameters of the body, on the device of the buffers.
            sgr: those of the SGR loss, but for ``factor``.
        """
        if not (local and sgr):  # a body without parameters
            return self.value
        now = torch.stack([_norm(local), factor * _norm(sgr)]).to(self.norms.dtype)
        counts = ((now > 0) & (now < torch.inf)).all()
        average = torch.lerp(now, self.norms, self.decay)  # 0 in the beginning, which is no matter for their ratio
        self.norms.copy_(torch.where(counts, average, self.norms))
        return self.value

    def extra_repr(self) -> str:
        return f"rho={self.rho}, decay={self.decay}"


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean, of all elements of all tensors, 0-d float32 (float64 for float64)."""
    norms = foreach_norm([each.float() if each.dtype.itemsize < 4 else each for each in tensors])
    return torch.linalg.vector_norm(torch.stack(norms))
