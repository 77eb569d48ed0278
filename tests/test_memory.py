"""What the CPU kernels allocate: their results, and nothing that grows with the number of elements."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from helpers import release_free_memory

import sgr_kernels as sk

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or sk.backends()["cpu"] != "ok", reason="needs Linux and the compiled CPU kernels"
)

MIB = 2**20
SLACK = MIB  # pages that have nothing to do with it


def resident(kind: str) -> int:
    return 1024 * int(re.search(rf"{kind}:\s*(\d+) kB", Path("/proc/self/status").read_text())[1])


def extra_memory(function) -> int:
    """Peak of the resident set while ``function`` runs, less the resident set before, in bytes: the least of three
    times. Pages of code that a busy system took away come back at any time, and only add to it.
    """
    function()
    return min(_extra_memory(function) for _ in range(3))


def _extra_memory(function) -> int:
    release_free_memory()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    function()
    return resident("VmHWM") - before


@pytest.mark.parametrize("shape", [(1, 12 * MIB), (192, 64 * 1024)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("normalize", [True, False])
def test_peak_memory_is_that_of_the_results(shape, dtype, normalize):
    delta, target = torch.randn(2, *shape, dtype=dtype).unbind(0)
    size = delta.nbytes
    assert extra_memory(lambda: delta + target) > 0.95 * size  # the measurement sees what it should
    assert extra_memory(lambda: sk.sgr_loss(delta, target, normalize=normalize)) < SLACK
    assert extra_memory(lambda: sk.sgr_residual(delta, target, normalize=normalize)) < size + SLACK
    delta.requires_grad_()
    loss = sk.sgr_loss(delta, target, normalize=normalize)
    assert extra_memory(lambda: torch.autograd.grad(loss, delta, retain_graph=True)) < size + SLACK
