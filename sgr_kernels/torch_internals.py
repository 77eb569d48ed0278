"""The only module of this package that uses private parts of torch, which a new version may change.

Tried with torch 2.11 to 2.14. Each entry says why no public part will do. tests/test_torch_internals.py checks each and
names the one that a version breaks.
"""

import functools
import operator
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.fx import Proxy
from torch.overrides import handle_torch_function, has_torch_function

# Maps over nested containers: older versions have no public ones.
from torch.utils._pytree import tree_leaves as tree_leaves
from torch.utils._pytree import tree_map as tree_map

# Arithmetic on lists of tensors in a few kernels: public torch takes one tensor at a time.
foreach_add_ = torch._foreach_add_
foreach_sub_ = torch._foreach_sub_
foreach_mul_ = torch._foreach_mul_
foreach_copy_ = torch._foreach_copy_
foreach_norm = torch._foreach_norm

# Functions that function modes see when a public one is called; they have no public name.
LAYER_FUNCTIONS = torch._C._nn
SET_GRAD_ENABLED = torch._C._set_grad_enabled

# () -> bool: whether autocast is on for any device; public is_autocast_enabled() asks for one, and takes longer.
autocast_is_on = torch._C._is_any_autocast_enabled

# In the message of the RuntimeError for a leaf that is written in place where gradients are enabled.
WRITES_LEAF = "leaf Variable that requires grad"

# Modules in which torch has autograd Functions of its own; nothing else marks these.
# The last are those of torch.library.register_autograd; modes see the operators themselves.
OWN_AUTOGRAD_FUNCTIONS = (
    "torch.utils.checkpoint.", "torch._functorch.", "torch._dynamo.", "torch._inductor.", "torch._library.autograd.",
)  # fmt: skip

# () -> bool: whether torch.func.vmap, grad or the like is active; public torch does not say.
in_function_transform = torch._C._are_functorch_transforms_active
# () -> bool: whether torch.jit.trace is at work; public torch.jit.is_tracing() takes four times as long to say so.
in_jit_trace = torch._C._is_tracing
# () -> bool: whether a function mode is active; public has_torch_function needs a tensor, and fails in compiled code.
in_function_mode = torch.overrides._is_torch_function_mode_enabled
# A context in which operators skip their derivatives; under public torch.no_grad() they still go through them.
below_autograd = torch._C._AutoDispatchBelowAutograd
# A context in which no function mode sees a call; public torch disables a mode in the mode's own handler only.
outside_of_all_modes = torch._C.DisableTorchFunction


# () -> int: the number that the next node of an autograd graph made in this thread gets; nothing public counts them.
next_node_number = torch.autograd._get_sequence_nr
NUMBER_OF_LEAVES = 2**64 - 1  # of the nodes of all leaves


def batch_norm_of_batch(
    input: Tensor, weight: Tensor, bias: Tensor, mean: Tensor | None, var: Tensor | None, momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """F.batch_norm in training, with the mean and 1 / standard deviation (C,) that public functions do not give."""
    F._verify_batch_size(list(input.size()))
    of_cudnn = torch.backends.cudnn.enabled
    return torch._batch_norm_impl_index(input, weight, bias, mean, var, True, momentum, eps, of_cudnn)[:3]


def release_saved(ctx: Any) -> None:
    """Free, before the end of a backward pass, what its forward pass saved; publicly that is done at its end."""
    if not torch.compiler.is_compiling():  # a compiler keeps account itself
        ctx.maybe_clear_saved_tensors()


# (node) -> int: the number of a node of an autograd graph.
node_number = operator.methodcaller("_sequence_nr")


def constant_when_compiled(function: Callable) -> Callable:
    """Public torch.compiler.assume_constant_result does the same, but imports the compiler, which takes a second."""
    function._dynamo_marked_constant = True
    return function


@constant_when_compiled  # the compiler enters transforms while it traces, and guards its code by them
def in_transform() -> bool:
    """Whether torch.func transforms what is called, or forward mode, whose level is public to itself alone."""
    return in_function_transform() or forward_ad._current_level >= 0


def overridable(function: Callable) -> Callable:
    """Announce calls of ``function`` to the active modes, as torch's own functions do."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values()) if kwargs else args
        if in_function_mode() and not torch.compiler.is_dynamo_compiling() and _are_of_torch(given):
            result = _by_innermost_mode(call, args, kwargs)
            if result is not NotImplemented:
                return result
        if in_function_mode() or has_torch_function(given):
            return handle_torch_function(call, given, *args, **kwargs)
        return function(*args, **kwargs)

    return not_scriptable(call)


def _are_of_torch(values: tuple) -> bool:
    """Whether none is of a subclass of Tensor, which may have a say of its own."""
    return not any(isinstance(value, Tensor) and type(value) not in (Tensor, nn.Parameter) for value in values)


def _by_innermost_mode(function: Callable, args: tuple, kwargs: dict) -> Any:
    """As handle_torch_function, which takes as long as a small layer: its contexts are generators."""
    mode = torch._C._pop_torch_function_stack()
    try:
        return mode.__torch_function__(function, (), args, kwargs)
    finally:
        torch._C._push_on_torch_function_stack(mode)


def leaf_of_fx(function: Callable) -> Callable:
    """Let torch.fx write down a call of ``function`` as it is, for what it asks of a tensor a Proxy does not know.

    Public torch.fx.wrap does so for calls from one file. Modes see inside, unlike with :func:`overridable`.
    """

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        for arg in args:
            if isinstance(arg, Proxy):
                return arg.tracer.create_proxy("call_function", call, args, {})
        return function(*args)

    return not_scriptable(call)


def not_scriptable(function: Callable) -> Callable:
    """Have torch.jit.script refuse ``function`` in a sentence of ours; public torch.jit.unused compiles signatures."""
    function.__prepare_scriptable__ = refuse_scripting
    return function


def refuse_scripting(*_: Any) -> NoReturn:
    """For ``__prepare_scriptable__`` of functions and modules, which torch.jit.script calls first."""
    raise NotImplementedError("torch.jit.script cannot compile sgr_kernels; use torch.compile or torch.export")


def before_compiling(function: Callable) -> Callable:
    """What torch.compile was given, of a module that it has wrapped: the wrapper takes any arguments, and hides it."""
    return getattr(function, "_orig_mod", function)


def in_compiled_graph() -> bool:
    """Whether a graph of torch.compile is running; public torch.compiler.is_compiling() is about compiling one.

    Most compilers run graphs without gradients. Some run them as Python, a few frames up from the functions called.
    """
    if torch.compiler.is_dynamo_compiling() or "torch._dynamo.eval_frame" not in sys.modules:
        return False
    frame, left = sys._getframe(1), _FRAMES_OF_A_FUNCTION if torch.is_grad_enabled() else sys.maxsize
    while frame is not None and left > 0:
        file, caller = frame.f_code.co_filename, frame.f_back
        if file not in _WITHOUT_GRAPHS:
            if "_aot_autograd" in file:
                return True
            if not file.startswith("<eval_with_key>"):
                _WITHOUT_GRAPHS.add(file)
            elif caller and caller.f_code.co_filename.endswith(_RUNS_GRAPHS):
                return True
        frame, left = caller, left - 1
    return False


_WITHOUT_GRAPHS: set[str] = set()  # files
_FRAMES_OF_A_FUNCTION = 7  # at most, from a graph to a function mode
_RUNS_GRAPHS = os.path.join("torch", "_dynamo", "eval_frame.py")


def announce_when_compiled(function: Callable) -> None:
    """Let modes see ``function`` of torch in compiled code, as they do in eager code.

    The compiler announces the functions that torch lists as overridable; a few (hardswish, relu_, ...) are missing.
    The list is public, but not the copy of it that the compiler makes on first use.
    """
    torch.overrides.get_overridable_functions().setdefault(torch, []).append(function)
    compiler = sys.modules.get("torch._dynamo.variables.torch")
    if compiler is not None:
        compiler.get_overridable_functions().add(function)


def autograd_function_of(node: Any) -> type[torch.autograd.Function] | None:
    """The autograd Function that made a node of a graph, if one did. Public is only its name, which is not unique."""
    return getattr(node, "_forward_cls", None)


def will_be_executed(node: Any) -> bool:
    """Whether the running backward pass goes on to ``node``; public ctx.needs_input_grad says if any pass could."""
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # a leaf that torch.autograd.grad was asked for
        return True


def is_wanted(ctx: Any, index: int) -> bool:
    """Whether the running backward pass of an autograd Function uses the gradient of an argument."""
    return ctx.needs_input_grad[index] and will_be_executed(ctx.next_functions[index][0])


def is_fake(tensor: Tensor) -> bool:
    """Whether it is a tensor without numbers, as used in tracing; the type is not public."""
    return tensor.is_meta or isinstance(tensor, FakeTensor)


def storage_keys(tensors: Iterable[Tensor]) -> list[int | None]:
    """A number for each storage, unlike that of any other living one; None where a tensor has no strides, as a sparse
    one. Public data_ptr() fails for fake tensors.
    """
    return [tensor.untyped_storage()._cdata if tensor.layout is torch.strided else None for tensor in tensors]


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of the module runs hooks, its own or those of all modules; publicly they cannot be listed."""
    hooks = torch.nn.modules.module
    every = hooks._global_forward_hooks, hooks._global_forward_pre_hooks, hooks._global_backward_hooks
    own = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return any((*own, *every, hooks._global_backward_pre_hooks))


# (leaf) -> dict or None: the hooks of Tensor.register_hook; publicly they can be added and removed, not listed.
gradient_hooks = operator.attrgetter("_backward_hooks")


def parts_of(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[int, Callable]]:
    """Modules, parameters and buffers right inside of a module, and its hooks before its forward, or else after it.

    The dicts, by name, are those that the module itself uses, and have None for what is registered as such. Public
    iterators take ten times as long, and cannot put a buffer back.
    """
    hooks = module._forward_pre_hooks or module._forward_hooks
    modules, parameters, buffers = module._modules, module._parameters, module._buffers
    if not (isinstance(modules, dict) and isinstance(parameters, dict) and isinstance(buffers, dict)):
        # A scripted module, which keeps them in C++
        return dict(modules.items()), dict(parameters.items()), dict(buffers.items()), hooks
    return modules, parameters, buffers, hooks


def version_of(tensor: Tensor) -> int:
    """How many times it was written in place; 0 for a tensor made in inference mode, which does not count."""
    try:
        return tensor._version
    except RuntimeError:
        return 0


def versions_of(tensors: list[Tensor]) -> list[int]:
    try:
        return [tensor._version for tensor in tensors]
    except RuntimeError:
        return [version_of(tensor) for tensor in tensors]


def intercept_checkpoints(
    recomputed_by: Callable[[Callable], Callable], inputs_kept_by: Callable[[Callable], Callable]
) -> None:
    """Replace, from now on, two functions of ``torch.utils.checkpoint`` (``use_reentrant=False``).

    Public context_fn is an argument of calls in the network, which this package cannot change.

    Args:
        recomputed_by: gets the function that computes a region again, whenever a forward pass enters a region; returns
            the one to be called in its place.
        inputs_kept_by: gets the function that keeps the inputs of a region; returns the one to be called in its place.
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
