"""Passes over one module that differ in x only: same decisions, same random numbers, same buffers."""

import contextlib
import itertools
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..gates import Record, Replay
from ..gates.checkpointing import recomputing_along
from ..gates.declarations import refuse_unseen
from ..gates.origins import nodes_behind
from ..gates.randomness import Stretch, is_capturing, refuse_capture
from ..products import Spacing, spacing_of
from ..torch_internals import is_fake
from .batch_norms import Users, by_batch_alone, only_writes_statistics
from .common import (
    StepInputs,
    indices_behind,
    leaves_of,
    loss_of,
    output_of,
    refuse_gradient_hooks,
    require_graph,
    scaled,
)
from .gradient_check import Summands, check_gradient, require_step_before
from .per_callables import PerCallables
from .reach import Reach
from .state import Snapshot
from .streams import Streams

_VERIFIED = PerCallables()  # pairs of body and head that gave the same in two passes; value: _Verified
_COMPILED = "compiled code"


class _Verified(NamedTuple):
    """What the first step of a pair found out for later ones."""

    rewinding: list[str]  # names of what sets torch's random streams back
    norms: list[weakref.ref[nn.Module]]  # batch norms whose running statistics nothing else uses


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
        parameters: those that the step trains; known after :meth:`record`, as are the others.
        body: which of the parameters are those of the body, by index, where ``record`` was asked for them.
        spacing: of the numbers of the recorded pass.
    """

    def __init__(self, inputs: StepInputs, grad_scale: float) -> None:
        self.inputs, self.grad_scale = inputs, grad_scale
        known = _VERIFIED.get(inputs.body, inputs.head)
        self.verified, self.capturing = known is not None, is_capturing(inputs.x.device)
        if self.capturing:
            require_step_before(self.verified)
            refuse_capture(known.rewinding)
        norms = [norm() for norm in known.norms] if known else []
        self.norms = [norm for norm in norms if norm is not None and only_writes_statistics(norm)]
        self.reach = partial(Reach, inputs.body, inputs.head, without={id(norm) for norm in self.norms})
        reach = self.reach()
        self.inspected = None if known else (Summands(), Users(reach.modules))
        self.start, self.streams = Snapshot.of(reach), Streams()
        devices = set() if self.capturing or is_fake(inputs.x) else {torch.device("cpu"), inputs.x.device}
        self.stretches = [Stretch(device) for device in devices]
        self.tape: list = []
        self.parameters: list[Tensor] = []
        self.body: set[int] = set()
        self.spacing = Spacing(0.0, 0.0)

    def record(self, find_body: bool = False) -> _Recorded:
        """The pass at the x of the step."""
        x = self.inputs.x.detach().requires_grad_()
        gates = Record(x, [each.see for each in self.inspected or ()])
        with torch.enable_grad(), recomputing_along(gates):
            with gates:
                output = output_of(self.inputs.body, x)
                loss = loss_of(self.inputs.head, output, self.inputs.y)
            gates.note_compiled_code()
            refuse_unseen(gates.calls, loss, x)
            nodes = set() if self.verified else set(nodes_behind([loss]))
            require_graph(loss)
            self.tape, self.parameters = gates.tape, [leaf for leaf in gates.calls.leaves if leaf is not x]
            self.body = indices_behind(output, self.parameters) if find_body else set()
            dtypes = {parameter.dtype for parameter in self.parameters}
            _check_precision(dtypes)
            refuse_gradient_hooks(self.parameters, "directional")
            self.spacing = spacing_of(x.device.type, dtypes.union(gates.dtypes), gates.products)
            wanted = [*self.parameters, x, *([output] if output.requires_grad else [])]
            gradients = list(torch.autograd.grad(scaled(loss, self.grad_scale), wanted, allow_unused=True))
        delta_out = gradients.pop() if output.requires_grad else None
        delta = gradients.pop()
        if delta is None:
            raise ValueError(
                f"the local loss does not depend on x, a tensor of shape {tuple(x.shape)}: there is no gradient to "
                "reconcile; compute the output from x without detach(), or give delta_pre=None"
            )
        self.end = Snapshot.of(self.reach(), self.start)
        self.streams.end_first_pass()
        if self.capturing:
            self.streams.refuse_capture()
            refuse_capture([_COMPILED] if gates.draws_compiled else [])
        self.stretches = [stretch for stretch in self.stretches if gates.draws_compiled and stretch.ended()]
        recorded = _Recorded(loss.detach(), output.detach(), gradients, delta, delta_out)
        if not self.verified and not is_fake(x):  # a fake tensor has no numbers to compare
            self._verify(nodes, x.detach(), recorded, ran_compiled=bool(gates.calls.compiled))
        return recorded

    def gradients(self, x: Tensor) -> list[Tensor | None]:
        """Those of the scaled loss for the parameters, at another x with the recorded decisions."""
        with self._replayed(x.requires_grad_()) as (output, loss):
            del output  # the backward pass needs the memory
            return list(torch.autograd.grad(scaled(loss, self.grad_scale), self.parameters, allow_unused=True))

    @contextlib.contextmanager
    def _replayed(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Output and loss at another x with the recorded decisions. On leaving, the state is that after one pass."""
        self.start.restore()
        gates = Replay(self.tape, rewound=bool(self.stretches))
        try:
            with torch.enable_grad(), recomputing_along(gates), by_batch_alone(self.norms):
                yield self._forward(x, gates)
        finally:
            self.end.restore()

    def _forward(self, x: Tensor, gates: Replay) -> tuple[Tensor, Tensor]:
        moved = [*([self.streams] if self.streams.moved else []), *self.stretches]
        with _again(moved) if moved else contextlib.nullcontext(), gates:
            output = self.inputs.body(x)
            loss = self.inputs.head(output, self.inputs.y)
        gates.check_finished()
        return output, loss

    def _verify(self, nodes: set, x: Tensor, recorded: _Recorded, ran_compiled: bool) -> None:
        """Check, once for each body and head, what the difference of two passes relies on.

        A second pass over the same x must give the output and loss recorded: a change by hidden state or an unknown
        random stream would pass for a derivative. And the gradient must be that of the loss.
        """
        if not all(tensor.isfinite().all() for tensor in (recorded.output, recorded.loss, recorded.delta)):
            return
        with self._replayed(x.requires_grad_()) as repeated:
            if drifted := self.end.drifted():
                raise RuntimeError(
                    f"a pass writes in place what is no buffer ({drifted}), and another one changes it again: use "
                    "register_buffer, assign a new value instead, or use engine='autograd'"
                )
            for name, before, now in zip(("output", "loss"), (recorded.output, recorded.loss), repeated, strict=True):
                change, size = (t.abs().double().norm() for t in (now.detach() - before, before))
                # Products round the same operands the same way in both passes: what they round to allows no change.
                if not change <= size * self.spacing.tensors**0.5:
                    raise RuntimeError(
                        f"two passes over the same input differ by {float(change / size):.0e} in their {name}: the "
                        "module is not deterministic, or keeps state outside of its buffers; use engine='autograd'"
                    )
            self._check_graph(nodes, repeated[1], x)
        summands, users = self.inspected
        delta, eps = recorded.delta / self.grad_scale, self.spacing.coarsest
        check_gradient(self._loss_at, x.detach(), delta, recorded.loss, summands.tensors, eps)
        drawing = (func for func, entry in itertools.pairwise(self.tape) if isinstance(entry, Stretch))
        rewinding = [func.__name__ for func in drawing] + [_COMPILED] * bool(self.stretches)
        # Compiled code would be compiled anew for passes that leave the statistics alone.
        norms = [] if ran_compiled else users.none_but_themselves()
        _VERIFIED.put(_Verified(rewinding, norms), self.inputs.body, self.inputs.head)

    def _loss_at(self, x: Tensor) -> Tensor:
        with self._replayed(x.requires_grad_()) as (_, loss):
            return loss.detach()

    def _check_graph(self, nodes: set, loss: Tensor, x: Tensor) -> None:
        """Check that the graph of another pass has the leaves of the first one, and nothing else of its ``nodes``."""
        leaves = {*leaves_of(loss, x)} if loss.requires_grad else {*self.parameters}
        if other := leaves.symmetric_difference(self.parameters):
            shapes = ", ".join(str(tuple(leaf.shape)) for leaf in other)
            raise RuntimeError(
                "two passes do not use the same parameters: make them before the first step, and use them in every "
                f"pass; only one pass uses those of shape {shapes}"
            )
        shared = nodes.intersection(nodes_behind([loss]))
        if names := sorted(node.name() for node in shared if not _is_of_a_leaf(node)):
            raise RuntimeError(
                "body or head uses a tensor that was computed before the step and has a graph "
                f"({names[0]}): compute it in every pass, detach it, or use engine='autograd'"
            )


@contextlib.contextmanager
def _again(moved: list[Streams | Stretch]) -> Iterator[None]:
    """Inside, streams that are set back for whole passes give the numbers of the recorded one."""
    with contextlib.ExitStack() as streams:
        for stream in moved:
            streams.enter_context(stream.again())
        yield


def _is_of_a_leaf(node: Any) -> bool:
    """Whether it is the node of a leaf, or of its conversion to another dtype, which autocast keeps for later calls."""
    converted = node.name().startswith("ToCopyBackward") and node.next_functions[0][0]
    return hasattr(converted or node, "variable")


def _check_precision(dtypes: set[torch.dtype]) -> None:
    """Of the parameters."""
    for dtype in dtypes.intersection((torch.bfloat16, torch.float16)):
        raise ValueError(
            f"engine='directional' cannot take differences of {dtype} gradients: keep the parameters in float32 and "
            "use autocast, or use engine='autograd'"
        )
