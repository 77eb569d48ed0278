"""Everything of this package that leans on parts of torch which torch does not promise to keep.

Tried with torch 2.11 to 2.14. Each entry says why a public way does not do; tests/test_torch_internals.py fails with a
sentence about the entry that a new version of torch breaks.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

# Maps over nested containers: torch has no public module for them in every version we support.
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["tree_leaves", "tree_map"]

# In-place arithmetic on lists of tensors, a few kernels for all: public torch has it one tensor at a time only.
foreach_add_ = torch._foreach_add_
foreach_sub_ = torch._foreach_sub_
foreach_mul_ = torch._foreach_mul_
foreach_copy_ = torch._foreach_copy_

# Functions that function modes see in place of public ones: there is no public name for them.
LAYER_FUNCTIONS = torch._C._nn
SET_GRAD_ENABLED = torch._C._set_grad_enabled

# Where torch keeps autograd Functions of its own: they are marked by nothing but the names of their modules.
OWN_AUTOGRAD_FUNCTIONS = ("torch.utils.checkpoint.", "torch._functorch.", "torch._dynamo.", "torch._inductor.")

# () -> bool: whether torch.func.vmap, grad or the like is active: public torch does not tell.
in_function_transform = torch._C._are_functorch_transforms_active
# A context in which operators skip their derivatives: under public torch.no_grad() they still go through them.
below_autograd = torch._C._AutoDispatchBelowAutograd

_Replacement = Callable[[Callable], Callable]


def constant_when_compiled(function: Callable) -> Callable:
    """Public torch.compiler.assume_constant_result does the same, but imports the compiler, which takes a second."""
    function._dynamo_marked_constant = True
    return function


def in_compiled_graph() -> bool:
    """Whether a graph of torch.compile is running: torch.compiler.is_compiling() speaks of its compilation only.

    Such graphs run without gradients, which makes the usual answer, no, cheap.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    frame = sys._getframe(1)
    while frame is not None and "_aot_autograd" not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None


def in_function_mode() -> bool:
    """Public has_torch_function says so only if given a tensor, and not while the compiler traces."""
    return torch.overrides._is_torch_function_mode_enabled()


def announce_when_compiled(function: Callable) -> None:
    """Let modes see ``function`` of torch in compiled code too, as they do in eager code.

    The compiler announces what torch lists as overridable, and the list lacks a few functions (hardswish, relu_, ...).
    It is public; the copy that a compiler makes when it is first used is not.
    """
    torch.overrides.get_overridable_functions().setdefault(torch, []).append(function)
    compiler = sys.modules.get("torch._dynamo.variables.torch")
    if compiler is not None:
        compiler.get_overridable_functions().add(function)


def outside_of_all_modes() -> contextlib.AbstractContextManager:
    """Public torch lets a mode step aside for calls from its handler only."""
    return torch._C.DisableTorchFunction()


def autograd_function_of(node: Any) -> type[torch.autograd.Function] | None:
    """The autograd Function that made a node of a graph: publicly a node has a name only, which is not unique."""
    return getattr(node, "_forward_cls", None)


def will_be_executed(node: Any) -> bool:
    """Whether the running backward pass goes on to ``node``: public ctx.needs_input_grad says whether some pass may."""
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # a leaf that torch.autograd.grad was asked for
        return True


def writes_into_arguments(operator: torch._ops.OpOverload) -> bool:
    """Public torch shows the schema of an operator only as text."""
    return operator._schema.is_mutable


def is_fake(tensor: Tensor) -> bool:
    """Whether it is one of the tensors without numbers that tracing works with: they have no public type."""
    return isinstance(tensor, FakeTensor)


def storage_key(tensor: Tensor) -> int:
    """A number that tells apart the storages of living tensors: fake tensors have no public data_ptr()."""
    return tensor.untyped_storage()._cdata


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of the module runs hooks of its own: publicly hooks can be added and removed, not listed."""
    return any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks))


def intercept_checkpoints(recomputed_by: _Replacement, inputs_kept_by: _Replacement) -> None:
    """From now on, what ``torch.utils.checkpoint(use_reentrant=False)`` computes again goes through ours.

    Public context_fn is an argument of the network's own calls, which are not ours to change.

    Args:
        recomputed_by: from the function that computes a region again to the one to be called in its place; called
            where a forward pass enters the region.
        inputs_kept_by: from the function that keeps the inputs of a region to the one to be called in its place.
    """
    checkpoint = torch.utils.checkpoint
    frame = checkpoint._CheckpointFrame
    initialize = frame.__init__

    @functools.wraps(initialize)
    def initialize_with(self, recompute: Callable, *args: Any, **kwargs: Any) -> None:
        initialize(self, recomputed_by(recompute), *args, **kwargs)

    frame.__init__ = initialize_with
    if hasattr(frame, "save_inputs"):
        frame.save_inputs = inputs_kept_by(frame.save_inputs)
    else:  # older versions keep the inputs in an autograd Function
        checkpoint._NoopSaveInputs.apply = inputs_kept_by(checkpoint._NoopSaveInputs.apply)
