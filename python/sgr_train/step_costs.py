"""What a step costs each of the methods that are compared: its time, as it was, and its memory, by tensors alone."""

from __future__ import annotations

from typing import Any

from .config import RunConfig
from .errors import note, one_line
from .loader import Facts
from .memory.estimate import step_bytes
from .networks.cuts import Cuts

Row = dict[str, Any]


def with_step_costs(run: RunConfig, summaries: list[Row], facts: Facts) -> list[Row]:
    """Summaries of finished runs of one method, each with two entries more.

    seconds_per_step: of training alone, by the updates there were.
    step_memory_bytes: the peak of the tensors that a step makes, gradients included, parameters and scratch memory
        inside of operators not (:func:`sgr_train.memory.step.step_peak_bytes`). It is a matter of sizes, the same for
        every seed and on every machine, other than the resident set of a process. None: it could not be measured.

    Args:
        run: one of the runs.
        facts: of their data.
    """
    updates = facts.train // (run.batch_size * run.accumulate) or 1  # an epoch; few images make one
    memory = _step_memory(run, facts, tuple(summaries[0]["cuts"]))
    return [
        {**summary, "seconds_per_step": summary["seconds_per_epoch"] / updates, "step_memory_bytes": memory}
        for summary in summaries
    ]


def _step_memory(run: RunConfig, facts: Facts, cuts: Cuts) -> int | None:
    try:
        return step_bytes(run, facts.num_classes, facts.image_shape, cuts)
    except Exception as error:  # of a step that looks at numbers, for instance; it is not worth the result
        note(f"--method {run.method}: the memory of its step could not be measured ({one_line(error)})")
        return None
