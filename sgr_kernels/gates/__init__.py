"""Frozen gates: several passes over a network take the same side of every kink.

:mod:`.tape` records and replays; :mod:`.checkpointing` does so where a backward pass computes again.
:mod:`.lists` names the functions of torch that need no gate, :mod:`.rules` has a rule for each function with kinks,
:mod:`.relu` and :mod:`.pooling` have the longer ones, and :mod:`.table` registers them.
:mod:`.declarations` is how a network declares operations of its own.
"""

from . import table  # noqa: F401  (registers the rules)
from .declarations import gate, smooth
from .tape import Record, Replay

__all__ = ["Record", "Replay", "gate", "smooth"]
