"""Frozen gates: two passes over a network that take the same side of every kink.

:mod:`.tape` records and replays, :mod:`.smooth` lists what needs no gate, :mod:`.rules` holds the functions with kinks,
:mod:`.relu` and :mod:`.pooling` those of them that need care; :mod:`.table` says which is which in torch.
:mod:`.functions` looks for custom autograd Functions, :mod:`.checkpointing` serves recomputation.
"""

from . import table  # noqa: F401  (fills the table of the tape)
from .smooth import smooth
from .tape import Record, Replay

__all__ = ["Record", "Replay", "smooth"]
