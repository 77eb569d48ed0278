"""What the engines share: the types of what a step gets and gives, and how gradients reach the parameters."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..functional.direction import row_norms
from ..gates.origins import nodes_behind
from ..operators.common.options import Options
from ..relative_weight import RelativeWeight
from ..torch_internals import (
    WRITES_LEAF,
    before_compiling,
    foreach_add_,
    gradient_hooks,
    outside_of_all_modes,
    storage_keys,
    tree_map,
    version_of,
)


class LocalStep(NamedTuple):
    """Result of :func:`sgr_kernels.local_step`; every tensor is detached.

    Attributes:
        loss: 0-d local loss L_k.
        sgr: 0-d unweighted SGR loss L_k^SGR; None where ``delta_pre`` was None.
        output: x_k, the next module's input.
        delta_out: dL_k/dx_k, the next module's ``delta_pre``; None where ``need_delta_out`` was False.
    """

    loss: Tensor
    sgr: Tensor | None
    output: Tensor
    delta_out: Tensor | None


class StepInputs(NamedTuple):
    """The module and the batch of one step, as :func:`sgr_kernels.local_step` documents and checks them.

    Attributes:
        target: ``delta_pre``, shape of ``x``; None: no SGR term.
    """

    body: nn.Module | Callable[[Tensor], Tensor]
    head: nn.Module | Callable[[Tensor, Tensor], Tensor]
    x: Tensor
    y: Tensor
    target: Tensor | None


class StepOptions(NamedTuple):
    """The options of one step, as :func:`sgr_kernels.local_step` documents and checks them."""

    sgr_weight: float | Tensor | RelativeWeight
    normalize: bool
    reduction: str
    relative_floor: float
    grad_scale: float
    radius: float | None
    order: int
    curvature: str
    need_delta_out: bool

    def comparison(self, delta: Tensor) -> Options:
        """How ``delta`` (B, ...), without the gradient scale, is compared with the target; the floor is a constant."""
        floor: float | Tensor = 0.0
        if self.relative_floor > 0 and delta.numel() > 0:
            floor = self.relative_floor * row_norms(delta.detach()).square().mean().sqrt()
        return Options(self.normalize, self.reduction, floor)


def output_of(body: Callable, x: Tensor) -> Tensor:
    """``body(x)``.

    Raises:
        TypeError: it is no tensor of numbers that can have a gradient.
        ValueError: ``body`` writes into ``x``.
    """
    output = _without_writing("body", body, x)
    with outside_of_all_modes():
        if not isinstance(output, Tensor) or not (output.is_floating_point() or output.is_complex()):
            raise TypeError(f"body must return one floating-point tensor, got {_described(output)}")
    return output


def loss_of(head: Callable, output: Tensor, y: Any) -> Tensor:
    """``head(output, y)``, 0-d.

    Raises:
        TypeError: it is no tensor, or ``head`` does not take two arguments.
        ValueError: it has more than one element, or ``head`` writes into ``output``.
    """
    try:
        loss = _without_writing("head", head, output, y)
    except TypeError as error:
        if _takes_two_arguments(head):
            raise
        raise TypeError(_NO_LOSS.format(type(head).__name__, _signature_of(head))) from error
    if not isinstance(loss, Tensor):
        raise TypeError(f"head must return a scalar loss, a tensor with one element, got {_described(loss)}")
    with outside_of_all_modes():
        if loss.numel() != 1:
            raise ValueError(f"head must return a scalar loss, got shape {tuple(loss.shape)}: take its mean")
        is_scalar = loss.dim() == 0
    return loss if is_scalar else loss.reshape(())


_NO_LOSS = (
    "head must take two arguments, as head(output, y), and return the loss; got a {} that takes {}: where it gives "
    "logits, pass lambda output, y: torch.nn.functional.cross_entropy(head(output), y)"
)


def _takes_two_arguments(function: Callable) -> bool:
    try:
        _signature_of(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # built in, without a signature
        return True
    return True


def _signature_of(function: Callable) -> inspect.Signature:
    function = before_compiling(function)
    return inspect.signature(function.forward if isinstance(function, nn.Module) else function)


def _without_writing(name: str, function: Callable, argument: Tensor, *others: Any) -> Any:
    """``function(argument, *others)``, which must leave ``argument`` as it is."""
    with outside_of_all_modes():  # they have no business with the checks, and take ten times as long
        version = version_of(argument)
    try:
        result = function(argument, *others)
    except RuntimeError as error:
        if WRITES_LEAF not in str(error):
            raise
        raise ValueError(_WRITES.format(name, " (or into a parameter)")) from error
    with outside_of_all_modes():
        if version_of(argument) != version:
            raise ValueError(_WRITES.format(name, ""))
    return result


_WRITES = (
    "{} must not write in place into its input{}, which other modules need: begin it with an operation that does not, "
    "for example nn.ReLU(inplace=False)"
)


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}"
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of {', '.join(type(each).__name__ for each in value)}: take one of them"
    return type(value).__name__


def as_constant(y: Any) -> Any:
    """``y`` without what its tensors were computed from: labels are no parameters."""
    if isinstance(y, Tensor):
        return y.detach() if y.requires_grad else y
    return y if y is None else tree_map(lambda leaf: as_constant(leaf) if isinstance(leaf, Tensor) else leaf, y)


def in_wider_dtype(delta: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the wider of their dtypes: the two modules may have run in different precisions."""
    if delta.dtype == target.dtype:
        return delta, target.detach()
    dtype = torch.promote_types(delta.dtype, target.dtype)
    return delta.to(dtype), target.detach().to(dtype)


def leaves_of(loss: Tensor, *constants: Tensor) -> list[Tensor]:
    """What a step trains: the leaves of the graph of ``loss``, each once, but for ``constants``.

    Raises:
        ValueError: there is no graph.
    """
    require_graph(loss)
    leaves = (getattr(node, "variable", None) for node in nodes_behind([loss]))
    return [leaf for leaf in leaves if leaf is not None and not any(leaf is constant for constant in constants)]


def indices_behind(output: Tensor, parameters: list[Tensor]) -> set[int]:
    """Which of the parameters ``output`` was computed from."""
    behind = {id(getattr(node, "variable", None)) for node in nodes_behind([output])}
    return {index for index, parameter in enumerate(parameters) if id(parameter) in behind}


def require_graph(loss: Tensor) -> None:
    if not loss.requires_grad:
        raise ValueError(
            "head must return a loss with a gradient: this one depends on no parameter and not on output; compute it "
            "from these, without detach() and item()"
        )


def add_gradients(parameters: list[Tensor], gradients: Iterable[Tensor | None]) -> None:
    """Add into ``.grad`` as ``backward`` would, but without running hooks. None leaves ``.grad`` as it is.

    All are written or none: what may fail is computed before the first is.
    """
    new, rounds = [], []
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            continue
        old = parameter.grad
        if old is None:
            new.append((parameter, _without_graph(gradient)))
        elif _takes_additions(old, gradient):
            _round_without(old, rounds)[id(old)] = old, gradient
        else:
            new.append((parameter, _sum(old.detach(), gradient.detach())))
    own = in_memory_of_their_own([gradient for _, gradient in new])
    for pairs in rounds:
        foreach_add_(*map(list, zip(*pairs.values(), strict=True)))
    for (parameter, _), gradient in zip(new, own, strict=True):
        parameter.grad = gradient


def _without_graph(gradient: Tensor) -> Tensor:
    return gradient.detach() if gradient.requires_grad else gradient


def _takes_additions(old: Tensor, gradient: Tensor) -> bool:
    """Whether ``gradient`` can be added to ``old`` in place."""
    dense = old.layout is gradient.layout is torch.strided
    return dense and 0 not in old.stride() and not old.is_inference()


def _round_without(old: Tensor, rounds: list[dict]) -> dict:
    """Where parameters share a gradient: a tensor that is twice in one multi-tensor addition would lose one of them."""
    for pairs in rounds:
        if id(old) not in pairs:
            return pairs
    rounds.append({})
    return rounds[-1]


def _sum(old: Tensor, gradient: Tensor) -> Tensor:
    """Of tensors in any layout; torch adds sparse ones to dense ones, but not the other way around."""
    return gradient + old if old.is_sparse else old + gradient


def in_memory_of_their_own(gradients: list[Tensor]) -> list[Tensor]:
    """The gradients, or copies of those that share memory with themselves (an expanded sum) or with an earlier one."""
    own, taken = [], set()
    for gradient, storage in zip(gradients, storage_keys(gradients), strict=True):
        if storage is None:
            own.append(gradient.clone())
        elif storage in taken or 0 in gradient.stride():
            own.append(gradient.clone(memory_format=torch.contiguous_format))
        else:
            taken.add(storage)
            own.append(gradient)
    return own


def refuse_gradient_hooks(parameters: Iterable[Tensor], engine: str) -> None:
    """Raises ValueError where ``Tensor.register_hook`` was called for one of them."""
    for parameter in parameters:
        if gradient_hooks(parameter):
            raise ValueError(
                f"a parameter of shape {tuple(parameter.shape)} has a hook (Tensor.register_hook), which may change "
                f"its gradient, and engine={engine!r} needs that of the loss: remove it and change .grad after the "
                "step, or use engine='autograd'"
            )


def scaled(loss: Tensor, scale: float) -> Tensor:
    return loss if scale == 1.0 else scale * loss


def unscale(gradient: Tensor | None, scale: float) -> Tensor | None:
    """``gradient / scale``, in float32 for a float16 gradient, which may underflow."""
    if gradient is None or scale == 1.0:
        return gradient
    if gradient.dtype == torch.float16:
        gradient = gradient.float()
    return gradient / scale
