"""Engines: ways to compute the parameter gradients of L_k + weight * L_k^SGR (Eq. 5) for one module.

Each engine is a module with one function, ``run(inputs, options) -> LocalStep``.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..functional.relu_sgr import check_curvature
from ..gates.randomness import is_capturing
from ..operators.common.checks import check_device, check_number, check_number_or_tensor
from ..operators.common.options import check_reduction
from ..relative_weight import RelativeWeight
from . import autograd, directional, fused, overlap
from .common import LocalStep, StepInputs, StepOptions, as_constant
from .overlap import overlapping
from .reach import Reach
from .wrappers import refuse_wrapped

__all__ = ["ENGINES", "LocalStep", "automatic", "local_step", "overlapping"]
ENGINES = {"autograd": autograd, "fused": fused, "directional": directional}


def local_step(
    body: nn.Module | Callable[[Tensor], Tensor],
    head: nn.Module | Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    delta_pre: Tensor | None,
    *,
    weight: float | Tensor | RelativeWeight,
    engine: str = "auto",
    normalize: bool = True,
    reduction: str = "mean",
    relative_floor: float = 0.0,
    grad_scale: float = 1.0,
    radius: float | None = None,
    order: int = 1,
    curvature: str = "exact",
    need_delta_out: bool = True,
) -> LocalStep:
    """Forward and backward of one gradient-isolated module with the SGR regulariser (Eq. 5, Algorithm 1).

    Adds ``grad_scale * d(loss + weight * sgr)/d theta`` into ``.grad`` of every leaf behind the loss, parameter or not,
    but not of x and y, and changes nothing else: buffers, attributes and random streams move as in one ordinary step.
    All gradients are written or, where the step raises, none. Wrappers that reduce gradients in hooks (DDP, FSDP) are
    refused: the caller reduces them. So are hooks on tensors, but for engine="autograd". Step the optimizer afterwards.

    The directional engine, which runs body and head several times, looks for what they change behind methods,
    ``functools.partial``, closures, defaults and the globals of a function, in attributes and in containers. It does
    not find what is kept in C++, in NumPy arrays, by iterators, by hooks, in the global variables of other files, in
    objects inside of objects that cannot be called, and in containers of more than 10,000 items; nor does it put back a
    global that is assigned anew.
    It does not see what scripted code computes without gradients. What another thread puts into a container while a
    step runs may be lost.

    At the first step of a pair (body, head) two passes must give the same, and the gradient for x must be that of the
    loss; in the fused engine, that of a head for its input. Lambdas, partials and methods of the same modules are the
    same pair. Random numbers of torch are recorded in the first pass. Where those of fused attention, recurrent layers,
    functions declared smooth, Python or NumPy are drawn again, the stream must move as it did: another thread that
    draws from it is an error.

    Steps can be captured in a CUDA graph, after one outside of it: see docs/cuda-graphs.md.

    Args:
        body: x_{k-1} -> x_k, one floating-point tensor. Must not write into x in place.
        head: (x_k, y) -> loss, a tensor with one element. Must not write into x_k in place.
        x: (B, ...) input x_{k-1}; treated as a constant.
        y: whatever the head takes. Tensors in it, or in containers in it, are treated as constants.
        delta_pre: ``delta_out`` of the previous module's step, shape of ``x``. None: no SGR term (the first module, or
            plain local learning).
        weight: the paper's lambda, a number >= 0 or a 0-d tensor; see :class:`sgr_kernels.SGRLoss` for its scale. Or a
            :class:`sgr_kernels.RelativeWeight` of this module, which finds lambda by itself; it costs the autograd
            engine one backward pass more, and the fused one a product more for every layer.
        engine: "fused" (closed form: chains of linear layers, convolutions and ReLU, any head; no graph of the body is
            built), "directional" (one more ordinary pass in place of the double backward, for float32 and float64
            parameters: any module whose kinks are known, see :func:`sgr_kernels.smooth`), "autograd" (Algorithm 1, any
            twice differentiable module) or "auto" (fused where it applies, else directional:
            ``sgr_kernels.engines.automatic(body)`` is its name, and "fused" in its place says which layer is in the
            way).
        normalize, reduction: as in :func:`sgr_kernels.sgr_loss`.
        relative_floor: fades out samples whose |delta_b| is below this fraction of the batch's rms; 0 is the paper.
        grad_scale: factor on the gradients written (and inside the backward pass): the loss scale of mixed precision,
            or 1 / accumulation steps. The results come back without it. Do not scale the loss in the head instead: a
            normalised residual does not follow.
        radius: of the directional engine: the largest distance from x to the other point of the difference, relative
            to the norm of the sample. None: from the precision (of tensors, of autocast, and of what torch permits
            convolutions and matrix products to round to), the spread of the gradient norms, the gain of the module
            and its loss, at most 0.05 (0.06 with TF32, 0.08 in float16, 0.22 in bfloat16).
        order: of the directional engine: 1, or 2 for central differences, at the cost of one more pass.
        curvature: of the fused engine: "exact" is the gradient of Eq. 5; "none" treats the upstream gradient as
            constant (Eq. 35), which is cheaper.
        need_delta_out: False saves a little where no module follows.

    Returns:
        :class:`LocalStep` (loss, sgr, output, delta_out), all detached and unscaled.

    Raises:
        TypeError: x or ``delta_pre`` is no tensor of floating-point numbers (x may be of integers where there is no
            ``delta_pre``), body or head returns something else than one tensor, a head takes no labels, or ``weight``,
            ``relative_floor``, ``grad_scale`` or ``radius`` is no number.
        ValueError: unknown engine, an option this engine cannot honour or a number out of range, a module it cannot
            take (the message names the layer or the operation), a loss of more than one element or without a gradient,
            a body or head that writes into its input, a wrapper, a hook on a tensor, ``delta_pre`` that does not match
            ``x``.
        RuntimeError: a gradient that is not that of the loss (see above). Directional engine: two passes over the same
            input differ (checked at the first step of a body and a head, in each mode), in their results, in their
            parameters or in what they write outside of buffers, they share a graph made before the step, a pass calls
            other functions than the first, or a random stream that is set back moves otherwise. In the capture of a
            CUDA graph: a body and a head that were not checked before, or random numbers that are not recorded.
    """
    if engine not in ("auto", *ENGINES):
        raise ValueError(f"engine must be one of auto, {', '.join(ENGINES)}, got {engine!r}")
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order}")
    if radius is not None:
        check_number("radius", radius, "> 0")
    check_curvature(curvature)
    check_reduction(reduction)
    check_number("relative_floor", relative_floor)
    check_number("grad_scale", grad_scale, "> 0")
    _check_tensors(x, delta_pre)
    _check_weight(weight, x)
    refuse_wrapped(body, head)
    if steps := overlap.current(x):
        steps.begin(Reach(body, head, weight))
    weight = weight.detach() if isinstance(weight, Tensor) else weight
    chosen = automatic(body) if engine == "auto" else engine
    options = StepOptions(
        weight, normalize, reduction, relative_floor, grad_scale, radius, order, curvature, need_delta_out
    )
    _check_options_of(chosen, options, asked_for=engine)
    inputs = StepInputs(body, head, x, as_constant(y), target=delta_pre)
    run = ENGINES[chosen].run
    return _captured(run, inputs, options) if is_capturing(x.device) else run(inputs, options)


def _captured(
    run: Callable[[StepInputs, StepOptions], LocalStep], inputs: StepInputs, options: StepOptions
) -> LocalStep:
    """A step in a CUDA graph. Autocast keeps the casts of weights that it has made, and calls later find them: one from
    before the capture would be stale at every replay, and one from inside has no numbers before the first.
    """
    torch.clear_autocast_cache()
    try:
        return run(inputs, options)
    finally:
        torch.clear_autocast_cache()


def _check_options_of(engine: str, options: StepOptions, asked_for: str) -> None:
    """Raises ValueError where an option belongs to another engine than this one, which is to run."""
    named = f"engine={engine!r}" + (" (what 'auto' is for this body)" if asked_for == "auto" else "")
    if engine != "directional" and (options.radius is not None or options.order != 1):
        given = f"radius={options.radius} and order={options.order}"
        raise ValueError(f"radius and order belong to engine='directional', got {given} with {named}: leave them out")
    if engine != "fused" and options.curvature != "exact":
        given = f"curvature={options.curvature!r}"
        raise ValueError(f"{named} always includes the curvature, got {given}: leave it out, or take engine='fused'")


def _check_weight(weight: float | Tensor | RelativeWeight, x: Tensor) -> None:
    if isinstance(weight, RelativeWeight):
        check_device("weight.norms", weight.norms, "x", x)
    else:
        check_number_or_tensor("weight", weight)


def _check_tensors(x: Tensor, delta_pre: Tensor | None) -> None:
    for name, tensor in (("x", x), ("delta_pre", delta_pre)):
        if not isinstance(tensor, Tensor | None):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if delta_pre is None:
        return
    if delta_pre.shape != x.shape:
        raise ValueError(f"delta_pre must have the shape of x {tuple(x.shape)}, got {tuple(delta_pre.shape)}")
    if not x.is_floating_point():
        raise TypeError(
            f"x must be a floating-point tensor where there is a delta_pre, got {x.dtype}; give delta_pre=None"
        )


def automatic(body: nn.Module | Callable) -> str:
    """The name of the engine that "auto" stands for: "fused" or "directional"."""
    try:
        fused.chain_of(body)
    except ValueError:
        return "directional"
    return "fused"
