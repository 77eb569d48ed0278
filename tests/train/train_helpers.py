"""Settings of a run that takes a second, and a look into its folder."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

TINY = {"train_subset": 128, "depth": 3, "width": 12, "epochs": 3, "batch_size": 32}
TINY_FLAGS = [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def isolated_losses(network, x: Tensor, y: Tensor) -> list[Tensor]:
    """Of all modules, each trained by itself in plain torch, which adds the gradients into ``.grad``."""
    losses = []
    for module in network:
        output = module.body(x.detach())
        losses.append(F.cross_entropy(module.head.logits(output), y))
        losses[-1].backward()
        x = output
    return [loss.detach() for loss in losses]


def files(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
