"""Frozen gates: several passes over a network take the same side of every kink.

:mod:`.tape` records and replays; :mod:`.checkpointing` does so where a backward pass computes again.
:mod:`.lists` names the functions of torch that need no gate, :mod:`.rules` has a rule for each function with kinks,
:mod:`.pooling` those of max pooling, and :mod:`.table` registers them.
:mod:`.declarations` is how a network declares operations of its own.
"""

from . import table  # noqa: F401  (registers the rules)
from .declarations import gate as gate
from .declarations import smooth as smooth
from .tape import Record as Record
from .tape import Replay as Replay
