"""What a method is and what it costs: the attributes of the paper's Table 1, and more."""

from __future__ import annotations

from typing import Literal, NamedTuple

BP_FREE = "with --bp-free"
Answer = Literal["yes", "partly", "no", "with --bp-free"]


class Facts(NamedTuple):
    """Of a method, as its class has them in ``facts``.

    Attributes:
        transport_free: no weight that learns is used to send an error back.
        update_unlocking: yes: the gradient of a module does not depend on the modules after it, so that it may be
            updated before they run; partly: it depends on what they compute, but not on a backward pass through them.
        bp_free: no autograd graph of more than one block.
        passes: through the network or its modules, one step.
        extra: what is there beside the network and its last head.
        keeps: the activations that are alive at once.
    """

    transport_free: Answer
    update_unlocking: Answer
    bp_free: Answer
    passes: str
    extra: str
    keeps: str


COLUMNS = ("method", "transport free", "update unlocking", "BP-free", "passes", "extra parameters", "keeps")
