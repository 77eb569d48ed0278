"""The measurement of live tensor memory that benchmarks rest on."""

from __future__ import annotations

import math

import torch
from sgr_train.memory.live import peak_live_bytes, peak_live_bytes_below

MIB = 2**20


def tensor() -> torch.Tensor:
    return torch.ones(MIB // 4)


def test_peak_counts_what_lives_together():
    def two_at_a_time():
        for _ in range(3):
            a = tensor()
            b = a + 1
            del a, b

    assert peak_live_bytes(two_at_a_time) == 2 * MIB
    assert peak_live_bytes(lambda: [tensor() for _ in range(5)]) == 5 * MIB


def test_views_and_in_place_operations_are_free():
    def work():
        a = tensor()
        a.add_(1)
        return a.view(2, -1).T[1:]

    assert peak_live_bytes(work) == MIB


def test_a_graph_keeps_what_it_saved():
    x = torch.ones(MIB // 4, requires_grad=True)

    def chain(length: int):
        y = x
        for _ in range(length):
            y = y.exp()
        return y

    assert peak_live_bytes(lambda: chain(4)) == 4 * MIB
    with torch.no_grad():
        assert peak_live_bytes(lambda: chain(4)) == 2 * MIB


def test_a_limit_ends_the_run():
    seen = []

    def work():
        for _ in range(5):
            seen.append(tensor())

    assert peak_live_bytes_below(6 * MIB, work) == 5 * MIB
    seen.clear()
    assert peak_live_bytes_below(3 * MIB, work) == math.inf
    assert len(seen) == 2


def test_a_limit_ends_a_backward_pass():
    x = torch.ones(MIB // 4, requires_grad=True)
    assert peak_live_bytes_below(3 * MIB, lambda: x.exp().exp().sum().backward()) == math.inf
