"""The breakdown of steps: all of the time, by the operators that take it."""

from __future__ import annotations

import re

import pytest
import torch
from sgr_bench import breakdown


def test_blocks_and_steps(capfd):
    assert breakdown.main(["--quick", "--batch", "4", "--methods", "BP", "directional"]) == 0
    said = [line for line in capfd.readouterr().out.splitlines() if " ms" in line]  # not what the profiler says
    found = [line for line in said if " x " not in line]
    whats = [line.rpartition(":")[0] for line in found]
    assert whats[0].startswith("linear_relu_step none 128x256x256 bfloat16")
    assert whats[1] == "linear_relu_step none 128x256x256 bfloat16, library GEMM"
    assert {"resnet32, batch 4, K=3, float32, BP", "plainnet4, batch 4, K=4, float32, directional"} <= {*whats}
    assert sum("aten::convolution_backward" in line for line in said) == 4  # of the four steps


def test_the_longest_first_and_the_rest_together():
    calls = [breakdown.Calls(f"kernel {number}", 2, 1e-3 / 2**number) for number in range(breakdown.LARGEST + 2)]
    first, *lines = breakdown.table("a step", calls).splitlines()
    assert first == "a step: 2.000 ms" and len(lines) == breakdown.LARGEST + 1
    assert lines[0] == "    1.000 ms  50%     2 x kernel 0"
    assert re.fullmatch(r" +0\.000 ms +0% +4 x others", lines[-1])
    assert "others" not in breakdown.table("a step", calls[: breakdown.LARGEST])


def test_calls_are_counted_and_timed():
    x = torch.rand(512, 512)
    found = breakdown.calls(lambda: [torch.mm(x, x) for _ in range(3)] and x.neg(), "cpu")
    by_name = {each.kernel: each for each in found}
    assert by_name["aten::mm"].count == 3 and by_name["aten::neg"].count == 1
    assert found[0].kernel == "aten::mm"
    assert [each.seconds for each in found] == sorted((each.seconds for each in found), reverse=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_kernels_of_a_gpu():
    x = torch.rand(512, 512, device="cuda")
    [kernel] = breakdown.calls(lambda: torch.mm(x, x), "cuda")
    assert kernel.count == 1 and kernel.seconds > 0
