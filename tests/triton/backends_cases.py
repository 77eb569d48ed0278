"""Triton kernels are chosen unasked where they are right; runs as sgr_loss_cases.py does."""

from __future__ import annotations

import os

import pytest
import torch
from helpers import begin_anew, choosing, replace_operator

import sgr_kernels as sk
from sgr_kernels.operators.row_norms import row_norms

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE, COMPILED = ("cpu", "cpu") if INTERPRETED else ("cuda", "cuda")
ROWS = torch.tensor([[3.0, 4.0], [6.0, 8.0]], device=DEVICE)


@pytest.fixture(autouse=True)
def new_process(monkeypatch, tmp_path):
    """On a GPU, or on a CPU in its place."""
    monkeypatch.setattr(choosing, "PREFERRED", {DEVICE: (COMPILED, "triton")})
    monkeypatch.setattr(choosing, "CHECKED", (DEVICE,))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    begin_anew(monkeypatch)


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """Grows with every call of the Triton kernel."""
    seen, kernel = [], row_norms.on("triton")

    def call(rows):
        seen.append(1)
        return kernel(rows)

    monkeypatch.setitem(row_norms._calls, "sgr_triton", call)
    return seen


def wrong(rows):
    return rows.new_ones(len(rows), dtype=torch.float64)


def test_without_a_compiled_library_it_is_chosen(monkeypatch, calls, recwarn):
    monkeypatch.setattr(choosing, "PREFERRED", {DEVICE: ("triton",)})
    assert row_norms(ROWS).tolist() == [5.0, 10.0]
    compared = len(calls) - 1
    assert row_norms(ROWS).tolist() == [5.0, 10.0]
    assert compared > 0 and len(calls) == compared + 2
    assert not [each for each in recwarn if "sgr_kernels" in str(each.message)]


def test_it_is_next_where_the_compiled_kernel_is_wrong(monkeypatch, calls):
    replace_operator(monkeypatch, row_norms, wrong)
    here = sk.backends()[COMPILED]
    if here == "ok":
        with pytest.warns(UserWarning, match=f"row_norms of backend '{COMPILED}' is wrong .* backend 'triton'"):
            row_norms(ROWS)
    assert row_norms(ROWS).tolist() == [5.0, 10.0] and calls
    assert sk.backends()["triton"] == "ok" and sk.backends()[COMPILED] == ("wrong: row_norms" if here == "ok" else here)


def test_the_reference_is_last(monkeypatch):
    replace_operator(monkeypatch, row_norms, wrong)
    monkeypatch.setitem(row_norms._calls, "sgr_triton", wrong)
    with pytest.warns(UserWarning, match="row_norms of backend 'triton' is wrong .* backend 'reference'"):
        assert row_norms(ROWS).tolist() == [5.0, 10.0]


def test_all_of_it_is_right():
    assert sk.backends(check=True)["triton"] == "ok"
