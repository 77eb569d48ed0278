"""Recording what Algorithm 1 treats as constant, and replaying it.

Algorithm 1 differentiates with frozen gates: which ReLU is open, which element a max pool takes, what a comparison
gives. Passes over a network share these decisions through a list, the tape: :class:`Record` writes it, :class:`Replay`
reads it. Both are function modes, so that torch.compile traces them with the network.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..mixed_precision import LAYERS
from ..torch_internals import autocast_is_on, in_compiled_graph, next_node_number, tree_leaves, tree_map
from .arguments import carries_gradient, has_floats, name_of, written_argument
from .lists import CONSTANT, NOT_SMOOTH_PROPERTIES, PRODUCTS, SHAPE_ONLY, SMOOTH
from .origins import Calls, nodes_behind
from .packing import PackedBools, bits_of, copied, packed, unpacked
from .randomness import BITS, DROPOUTS, HIDDEN, SOURCES, Stretch, may_draw

# Functions with kinks and their rules, called as rule(gates, *args, **kwargs); see sgr_kernels.gate()
RULES: dict[Callable, Callable] = {}

# What is asked of the user, in errors
DECLARED = (
    "declared with sgr_kernels.smooth() if it is smooth, with a backward pass that is its exact derivative, with "
    "sgr_kernels.gate() if it has kinks; or use engine='autograd'"
)

# Smooth functions that a pass does nothing but call, unless it is a layer under autocast
NO_GATES = SMOOTH - CONSTANT - SOURCES - HIDDEN

_RANDOM = SOURCES | DROPOUTS | HIDDEN  # where gradients are off


class _Constant(NamedTuple):
    """Result of a function that is constant in later passes."""

    value: Any
    written: bool  # whether the function wrote it into its first argument


class Gates(TorchFunctionMode):
    """What the two modes share: how each function is treated. Rules get one of them to call :meth:`decide`.

    Attributes:
        recording: whether this is the first pass.
        dtypes: of the input and of every layer of the first pass: the precisions of the network.
        products: the kinds of products in the first pass (:mod:`sgr_kernels.products`), in each that was called.
        rewound: whether random streams were set back for this pass, so that all numbers are drawn again.
        draws_compiled: whether compiled code drew numbers that it cannot share.
    """

    recording: bool
    dtypes: list[torch.dtype]
    products: list[str]
    rewound = False
    draws_compiled = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = {} if kwargs is None else kwargs
        # First what most calls are: for small tensors, each question takes as long as a kernel.
        if func in SHAPE_ONLY or (
            func in NO_GATES and torch.is_grad_enabled() and not (func in LAYERS and autocast_is_on())
        ):
            return func(*args, **kwargs)
        return self.call(func, args, kwargs)

    def call(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """The function as this pass calls it."""
        in_graph = in_compiled_graph()  # which was traced with its gates
        if func in RULES and not in_graph and torch.is_grad_enabled() and has_floats(args, kwargs):
            self.enter(func)
            return RULES[func](self, *args, **kwargs)
        if func.__name__ == "__get__":
            return self.without_rule(func, args, kwargs)
        if in_graph:
            return func(*args, **kwargs)
        if func is Tensor.register_hook:
            raise ValueError(
                "Tensor.register_hook may change a gradient, and engine='directional' needs that of the loss: remove "
                f"the hook on a tensor of shape {tuple(args[0].shape)}, or use engine='autograd'"
            )
        if func in CONSTANT or func in SOURCES or not torch.is_grad_enabled():
            return self.constant(func, args, kwargs)
        if func in LAYERS:
            result = (LAYERS[func] if autocast_is_on() else func)(*args, **kwargs)
            if self.recording:
                self.dtypes.append(result.dtype)
            return result
        if func in HIDDEN and may_draw(func, args, kwargs):
            if torch.compiler.is_compiling():
                self.draws_compiled = True
            elif not self.rewound:
                return self.drawing(func, args, kwargs)
        return self.without_rule(func, args, kwargs)

    def draw(self, choose: Callable[[], Tensor]) -> Tensor:
        """``choose()``, a tensor of bool of random numbers: as :meth:`decide`."""
        if not self.rewound:
            return self.decide(choose)
        self.recall()
        with torch.no_grad():
            return choose()

    def decide(self, choose: Callable[..., Tensor], *args: Any) -> Tensor:
        """``choose(*args)``, a tensor of bool or of indices: computed in the first pass, read from the tape in others.

        Raises:
            TypeError: ``choose`` gives something else than a tensor.
            RuntimeError: the rule makes more decisions than in the first pass.
        """
        if not self.recording:
            decision = unpacked(self.recall())
            if not isinstance(decision, Tensor):
                raise RuntimeError(
                    "the network is not the same in two passes: a rule makes more decisions than before, where "
                    f"{name_of(decision)} was recorded; make the same ones, or use engine='autograd'"
                )
            return decision
        with torch.no_grad():
            decision = choose(*args)
        if not isinstance(decision, Tensor):
            raise TypeError(f"gates.decide() expects a function that gives a tensor, got {type(decision).__name__}")
        self.keep(packed(decision))
        return decision


class Record(Gates):
    """Runs a network as it is and writes its decisions to ``tape``.

    Args:
        source: x; what does not depend on it is not refused.
        inspect: functions that are told of every call, as ``(args, kwargs, result)``, but of those about shapes and of
            compiled ones.

    Raises (inside the network):
        ValueError: an operation that depends on ``source`` is not known to be smooth and has no rule.
    """

    recording = True

    def __init__(self, source: Tensor, inspect: Sequence[Callable[[tuple, dict, Any], None]] = ()) -> None:
        super().__init__()
        self.source = source
        self.tape: list[Any] = []
        self.dtypes = [source.dtype]
        self.products: list[str] = []
        self.calls = Calls()
        self.inspect = inspect
        self.ran_compiled = False  # whether compiled code has run since the last call seen here

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = {} if kwargs is None else kwargs
        if func in SHAPE_ONLY:
            return func(*args, **kwargs)
        if func in PRODUCTS:
            self.products.extend(PRODUCTS[func])
        if torch.compiler.is_dynamo_compiling():
            self.ran_compiled = True
            return self.call(func, args, kwargs)
        if self.ran_compiled:
            self.note_compiled_code()
        first = next_node_number()
        # As in Gates, whose question is not a function of its own for the time that it would take.
        if func in NO_GATES and torch.is_grad_enabled() and not (func in LAYERS and autocast_is_on()):
            result = func(*args, **kwargs)
            if func in LAYERS:
                self.dtypes.append(result.dtype)
        else:
            result = self.call(func, args, kwargs)
        self.calls.numbers += first, next_node_number()
        for see in self.inspect:
            see(args, kwargs, result)
        return result

    def note_compiled_code(self) -> None:
        """To be called once more after the pass."""
        if self.ran_compiled:
            self.calls.add_compiled(next_node_number())
            self.ran_compiled = False

    @property
    def position(self) -> int:
        return len(self.tape)

    def enter(self, func: Callable) -> None:
        """Writes down that ``func``, which decides, is called."""
        self.tape.append(func)

    def keep(self, decision: Any) -> None:
        self.tape.append(decision)

    def constant(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        self.enter(func)
        changes = func in _RANDOM or carries_gradient((args, kwargs))
        result = func(*args, **kwargs)
        if not changes:
            self.keep(None)
            return result
        target = written_argument(func, args, kwargs, result)
        if func in SOURCES and target is None and not result.is_leaf:
            result = result.detach()  # torch.normal(mean, std) has a graph, of zeros
        value = result if target is None else target
        self.keep(_Constant(bits_of(value) if func in BITS else tree_map(copied, value), target is not None))
        return result

    def drawing(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        self.enter(func)
        stretch = Stretch.of(func, (args, kwargs))
        result = self.without_rule(func, args, kwargs)
        self.keep(stretch.ended() if stretch is not None else None)
        return result

    def without_rule(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        if not _is_smooth(func) and self._depends((args, kwargs)):
            raise ValueError(
                f"{name_of(func)} is on no list of smooth functions, and its gates are not known: engine='directional' "
                f"cannot differentiate along it; it must be {DECLARED}"
            )
        return func(*args, **kwargs)

    def _depends(self, arguments: Any) -> bool:
        """Whether one of them was computed from ``source``; compiled code tells only whether a gradient is wanted."""
        if not carries_gradient(arguments) or torch.compiler.is_compiling():
            return carries_gradient(arguments)
        leaves = [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]
        if any(leaf is self.source for leaf in leaves):
            return True
        return any(getattr(node, "variable", None) is self.source for node in nodes_behind(leaves))


class Replay(Gates):
    """Runs a network with the decisions on ``tape``, from ``position`` on.

    Raises (inside the network):
        RuntimeError: the network does not call the same functions as in the first pass.
    """

    recording = False

    def __init__(self, tape: list[Any], position: int = 0, rewound: bool = False) -> None:
        super().__init__()
        self.tape = tape
        self.position = position
        self.rewound = rewound

    def enter(self, func: Callable) -> None:
        """Checks that the same function is called as in the first pass."""
        expected = self.tape[self.position] if self.position < len(self.tape) else None
        self.position += 1
        if expected is not func:
            raise RuntimeError(
                f"the network is not the same in two passes: {name_of(func)} where {name_of(expected)} was recorded; "
                "take the same way in both, or use engine='autograd'"
            )

    def recall(self) -> Any:
        if self.position >= len(self.tape):
            return None
        entry = self.tape[self.position]
        self.position += 1
        return entry

    def constant(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        self.enter(func)
        recorded = self.recall()
        if recorded is None or (self.rewound and func in _RANDOM):
            return func(*args, **kwargs)
        in_bits = isinstance(recorded.value, PackedBools)
        value = unpacked(recorded.value) if in_bits else tree_map(copied, recorded.value)
        return kwargs.get("out", args[0] if args else None).copy_(value) if recorded.written else value

    def drawing(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        self.enter(func)
        stretch = self.recall()
        if stretch is None:
            return func(*args, **kwargs)
        with stretch.again():
            return func(*args, **kwargs)

    def without_rule(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        return func(*args, **kwargs)

    def check_finished(self) -> None:
        if self.position < len(self.tape):
            raise RuntimeError(
                f"the network is not the same in two passes: the second one makes fewer decisions, {self.position} of "
                f"{len(self.tape)} entries; make the same ones, or use engine='autograd'"
            )


def _is_smooth(func: Callable) -> bool:
    if func.__name__ != "__get__":
        return func in SMOOTH
    # The compiler cannot look up properties; it turns .data into a call of detach.
    return torch.compiler.is_compiling() or func not in NOT_SMOOTH_PROPERTIES
