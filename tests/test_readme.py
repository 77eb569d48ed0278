"""The code of the README runs as printed, given the names it assumes."""

from __future__ import annotations

import pathlib
import re

import pytest
import torch
from torch import nn

README = pathlib.Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def surroundings() -> dict:
    """What a training loop has at hand where the README's snippets start."""
    torch.manual_seed(0)
    bodies = [nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(2)]
    linears = [nn.Linear(6, 3) for _ in bodies]
    heads = [lambda f, y, linear=linear: nn.functional.cross_entropy(linear(f), y) for linear in linears]
    pairs = [nn.ModuleList(pair) for pair in zip(bodies, linears, strict=True)]
    x, y = torch.randn(4, 6, requires_grad=True), torch.randint(3, (4,))
    return {
        "torch": torch,
        "bodies": bodies,
        "heads": heads,
        "optimizers": [torch.optim.SGD(pair.parameters(), lr=0.1) for pair in pairs],
        "x": x,
        "y": y,
        "loss": heads[0](bodies[0](x), y),
        "delta_pre": torch.randn(4, 6),
    }


@pytest.mark.parametrize("until", range(1, len(BLOCKS) + 1))
def test_snippets_run(until):
    names = surroundings()
    before = names["bodies"][0][0].weight.clone()
    for block in BLOCKS[:until]:
        exec(compile(block, str(README), "exec"), names)
    weight = names["bodies"][0][0].weight
    assert weight.grad.isfinite().all()
    assert weight.grad.any()
    assert (until == 1) == torch.equal(weight, before)  # the loop of the second snippet steps its optimizers


def test_there_are_snippets():
    assert len(BLOCKS) == 2
