"""A recipe: a run that is known by name."""

from __future__ import annotations

from sgr_train.recipes import Recipe, register


@register("stripes")
def stripes() -> Recipe:
    settings = {"method": "noisy", "share": 0.05, "model": "funnel", "data": "stripes", "epochs": 10}
    settings |= {"optimizer": "adamw", "lr": 0.003, "schedule": "cosine", "warmup": 1, "augment": ("flip", "erasing")}
    return Recipe(paper="not in the paper", settings=settings, choices=("Everything is chosen here.",))
