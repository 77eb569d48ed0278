"""What ``sgr-train recipe`` tells without training."""

from __future__ import annotations

import torch

from . import data, recipes, report
from .config import RunConfig
from .errors import say
from .loader import load_data
from .memory.batch_size import with_batch_size
from .memory.estimate import step_cost
from .recipes import Recipe


def show_all() -> None:
    """Names, and what the paper has for them."""
    width = max(map(len, recipes.names()))
    say("\n".join(f"{name:{width}}  {recipes.find(name).paper}" for name in recipes.names()))


def show(name: str, recipe: Recipe, config: RunConfig) -> None:
    """The network and what a step of it takes. Needs the images only where their size is not known beforehand."""
    config = with_batch_size(config, dry=True)
    known = data.facts(config.data.partition(":")[0])
    if known is None:
        loaded = load_data(config, torch.device("cpu"))
        known = data.Facts(loaded.num_classes, loaded.image_shape)
    cost = step_cost(config, *known)
    network = cost.network
    parameters = {part: _count(getattr(module, part) for module in network) for part in ("body", "head")}
    given = {"model": config.model, "head": config.head, "method": config.method}
    lines = {
        "paper": recipe.paper,
        **{f"choice {number}": choice for number, choice in enumerate(recipe.choices, 1)},
        **{kind: " ".join([entry, *_words(config.options[kind][entry])]) for kind, entry in given.items()},
        "modules": f"{len(network)}, of {' '.join(str(len(module.body)) for module in network)} blocks",
        "cuts": " ".join(map(str, network.cuts)) or "none",
        "parameters": f"{sum(parameters.values()):,} ({parameters['head']:,} in heads)",
        "FLOPs a step": f"{cost.flops / 1e9:,.2f} G (products, batch {config.batch_size})",
        "peak memory": f"about {report.mebibytes(cost.peak_bytes)} MiB ({report.mebibytes(cost.kept_bytes)} at rest)",
    }
    say("\n".join([name, *(f"  {key:13} {text}" for key, text in lines.items())]))


def _count(modules) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def _words(options: dict[str, object]) -> list[str]:
    return [f"{name}={value}" for name, value in options.items()]
