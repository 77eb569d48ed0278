"""Frozen gates: several passes over a network take the same side of every kink.

:mod:`.tape` records and replays, and :mod:`.packing` is how it keeps decisions; :mod:`.checkpointing` does so where a
backward pass computes again. :mod:`.lists` names the functions of torch that need no gate, :mod:`.randomness` those
that draw numbers. :mod:`.rules` has a rule for each function with kinks, :mod:`.pooling` those of max pooling,
:mod:`.dropout` that of dropout, and :mod:`.table` registers them. :mod:`.declarations` is how a network declares
operations of its own, and refuses what :mod:`.origins` finds unseen. :mod:`.constants` shares no kinks.
"""

from . import table  # noqa: F401  (registers the rules)
from .declarations import gate as gate
from .declarations import smooth as smooth
from .tape import Record as Record
from .tape import Replay as Replay
