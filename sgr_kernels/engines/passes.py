"""Passes over one module that differ in x only: same decisions, same random numbers, same buffers."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..gates import Record, Replay
from ..gates.checkpointing import recomputing_along
from ..gates.declarations import refuse_undeclared
from ..gates.tape import nodes_behind
from ..torch_internals import is_fake
from .common import StepInputs, leaves_of, loss_of, output_of
from .per_callables import PerCallables
from .reach import Reach
from .state import State

# Pairs of body and head that gave the same in two passes; value: whether they draw random numbers
_VERIFIED = PerCallables()


class _Recorded(NamedTuple):
    """Results of the recorded pass, detached. Gradients are those of the scaled loss."""

    loss: Tensor  # 0-d
    output: Tensor
    gradients: list[Tensor | None]  # for the parameters
    delta: Tensor  # for x
    delta_out: Tensor | None  # for the output; None where the loss does not depend on it


class Passes:
    """Passes over the module of a step, from the same state. The first records decisions, the others replay them.

    Attributes:
        parameters: those that the step trains; known after :meth:`record`, as is ``eps``.
        eps: relative spacing of numbers in the lowest precision that takes part.
    """

    def __init__(self, inputs: StepInputs, grad_scale: float) -> None:
        self.inputs, self.grad_scale = inputs, grad_scale
        device = inputs.x.device
        draws_numbers = _VERIFIED.get(inputs.body, inputs.head)
        self.verified = draws_numbers is not None
        captured = is_capturing(device)
        if captured:
            self._check_capture(draws_numbers)
        self.state = State(device, rewind_device=not captured)
        self.start = self.state.save(Reach(inputs.body, inputs.head))
        self.tape: list = []
        self.parameters: list[Tensor] = []
        self.eps = 0.0

    def record(self) -> _Recorded:
        """The pass at the x of the step."""
        x = self.inputs.x.detach().requires_grad_()
        gates = Record(x)
        with torch.enable_grad(), recomputing_along(gates):
            with gates:
                output = output_of(self.inputs.body, x)
                loss = loss_of(self.inputs.head, output, self.inputs.y)
            if not self.verified:
                refuse_undeclared(loss)
            nodes = set() if self.verified else set(nodes_behind([loss]))
            self.tape, self.parameters = gates.tape, leaves_of(loss, x)
            _check_precision(self.parameters)
            self.eps = _coarsest(x.device.type, [*gates.dtypes, *(p.dtype for p in self.parameters)])
            wanted = [*self.parameters, x, *([output] if output.requires_grad else [])]
            gradients = list(torch.autograd.grad(self.grad_scale * loss, wanted, allow_unused=True))
        delta_out = gradients.pop() if output.requires_grad else None
        delta = gradients.pop()
        if delta is None:
            raise ValueError("the local loss does not depend on x: there is no gradient to reconcile")
        self.end = self.state.save(Reach(self.inputs.body, self.inputs.head), self.start)
        if not self.verified and not is_fake(x):  # a fake tensor has no numbers to compare
            self._verify(nodes, x.detach(), output.detach(), loss.detach())
        return _Recorded(loss.detach(), output.detach(), gradients, delta, delta_out)

    def gradients(self, x: Tensor) -> list[Tensor | None]:
        """Those of the scaled loss for the parameters, at another x with the recorded decisions."""
        with self._replayed(x) as (_, loss):
            return list(torch.autograd.grad(self.grad_scale * loss, self.parameters, allow_unused=True))

    @contextlib.contextmanager
    def _replayed(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Output and loss at another x with the recorded decisions. On leaving, the state is that after one pass."""
        self.state.load(self.start)
        gates = Replay(self.tape)
        try:
            with torch.enable_grad(), recomputing_along(gates):
                with gates:
                    output = self.inputs.body(x)
                    loss = self.inputs.head(output, self.inputs.y)
                gates.check_finished()
                yield output, loss
        finally:
            self.state.load(self.end)

    def _verify(self, nodes: set, x: Tensor, *recorded: Tensor) -> None:
        """Check, once for each body and head, that a second pass over the same x gives the output and loss recorded.

        Otherwise a change by hidden state or an unknown random stream would pass for a derivative.
        """
        if not all(tensor.isfinite().all() for tensor in recorded):
            return
        with self._replayed(x) as repeated:
            if drifted := self.state.drifted(self.end):
                raise RuntimeError(
                    f"a pass writes in place what is no buffer ({drifted}), and another one changes it again: use "
                    "register_buffer, assign a new value instead, or use engine='autograd'"
                )
            for name, before, now in zip(("output", "loss"), recorded, repeated, strict=True):
                change, size = (now.detach() - before).double().norm(), before.double().norm()
                if not change <= size * self.eps**0.5:
                    raise RuntimeError(
                        f"two passes over the same input differ by {float(change / size):.0e} in their {name}: the "
                        "module is not deterministic, or keeps state outside of its buffers; use engine='autograd'"
                    )
            self._check_graph(nodes, repeated[1])
        _VERIFIED.put(self.state.drew_numbers(self.start, self.end), self.inputs.body, self.inputs.head)

    def _check_graph(self, nodes: set, loss: Tensor) -> None:
        """Check that the graph of another pass has the leaves of the first one, and nothing else of its ``nodes``."""
        if loss.requires_grad and {*leaves_of(loss)} != {*self.parameters}:
            raise RuntimeError("two passes do not use the same parameters: make them before the first step")
        if any(not hasattr(node, "variable") for node in nodes.intersection(nodes_behind([loss]))):
            raise RuntimeError(
                "body or head uses a tensor that was computed before the step and has a graph: compute it in every "
                "pass, detach it, or use engine='autograd'"
            )

    def _check_capture(self, draws_numbers: bool | None) -> None:
        if not self.verified:
            raise RuntimeError("a first step outside of the capture is needed: it checks that two passes do the same")
        if draws_numbers:
            raise RuntimeError("random layers cannot be captured in a CUDA graph: its random stream cannot be rewound")


def is_capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _coarsest(device: str, dtypes: Iterable[torch.dtype]) -> float:
    """Relative spacing of numbers in the lowest of these precisions and that of autocast."""
    found = {dtype for dtype in dtypes if dtype.is_floating_point}
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        found.add(torch.get_autocast_dtype(device))
    return max(torch.finfo(dtype).eps for dtype in found)


def _check_precision(parameters: Iterable[Tensor]) -> None:
    for parameter in parameters:
        if parameter.dtype in (torch.bfloat16, torch.float16):
            raise ValueError(
                f"engine='directional' cannot take differences of {parameter.dtype} gradients: keep the parameters in "
                "float32 and use autocast, or use engine='autograd'"
            )
