"""The first run of a head whose second derivative the fused engine takes: whether its gradient is that of its loss."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..gates.constants import RecordConstants, ReplayConstants
from ..gates.randomness import is_capturing
from ..products import spacing_of
from ..torch_internals import is_fake
from .gradient_check import Summands, check_gradient, require_step_before
from .per_callables import PerCallables
from .reach import Reach
from .state import Snapshot
from .streams import Streams

_CHECKED = PerCallables()  # heads whose gradient is that of their loss


def is_first_run(head: nn.Module | Callable, features: Tensor) -> bool:
    """Whether the run is to be checked: later ones of the same head are not, nor those of tensors without numbers.

    Raises:
        RuntimeError: a CUDA graph is captured, in which no value can be read.
    """
    checked = bool(_CHECKED.get(head))
    if is_capturing(features.device):
        require_step_before(checked)
    return not (checked or is_fake(features))


class FirstRun:
    """A context for the run; :meth:`check` repeats it at other features, and leaves everything else as it was."""

    def __init__(self, head: nn.Module | Callable, features: Tensor) -> None:
        self.head, self.features = head, features
        self.start, self.streams = Snapshot.of(Reach(head)), Streams()
        self.summands = Summands()
        self.gates = RecordConstants(features, [self.summands.see])

    def __enter__(self) -> None:
        self.gates.__enter__()

    def __exit__(self, *error) -> None:
        self.gates.__exit__(*error)

    def check(self, run: Callable[[Tensor], Tensor], gradient: Tensor, loss: Tensor) -> None:
        """After the run.

        Args:
            run: the loss of the head, 0-d, as a function of its features.
            gradient: its gradient for the features.
            loss: its value.

        Raises:
            RuntimeError: ``gradient`` is not that of the loss.
        """
        end = Snapshot.of(Reach(self.head), self.start)
        self.streams.end_first_pass()

        def loss_at(features: Tensor) -> Tensor:
            features = features.detach().requires_grad_()
            self.start.restore()
            try:
                with ReplayConstants(self.gates.tape), self.streams.again(), torch.enable_grad():
                    loss = run(features)
                return loss.detach()
            finally:
                end.restore()

        features, gradient, loss = self.features.detach(), gradient.detach(), loss.detach()
        if all(tensor.isfinite().all() for tensor in (features, gradient, loss)):
            dtypes = [features.dtype, loss.dtype]
            spacing = spacing_of(features.device.type, dtypes, self.gates.products)
            check_gradient(loss_at, features, gradient, loss, self.summands.tensors, spacing.coarsest)
            _CHECKED.put(True, self.head)
