"""When a run is over: after its epochs, or before them where validation has not become better for long."""

from __future__ import annotations

from typing import Any

from .config import RunConfig

Rows = list[dict[str, Any]]


def is_validated(epoch: int, epochs: int, config: RunConfig) -> bool:
    """Whether accuracy on the validation images is measured after an epoch, from 1, of so many."""
    return epoch % config.val_every == 0 or epoch == epochs


def is_over(history: Rows, epochs: int, config: RunConfig) -> bool:
    """Whether no epoch follows those of the history. A resumed run finds the same."""
    return len(history) >= epochs or has_stopped(history, config)


def has_stopped(history: Rows, config: RunConfig) -> bool:
    """Whether --patience is at an end: so many epochs since the best one, of those that were validated.

    The last head counts, and the first of equals. Epochs before an extension are not looked at.
    """
    validated = [row for row in history[config.patience_from :] if row["val_accuracy"] is not None]
    if config.patience is None or not validated:
        return False
    best = max(validated, key=lambda row: row["val_accuracy"][-1])
    return validated[-1]["epoch"] - best["epoch"] >= config.patience
