"""sgr-bench roofline: the limits of a device, on a small scale."""

from __future__ import annotations

import json
import shlex

import pytest
import torch
from sgr_bench import cli, roofline
from sgr_bench.timing import Timing

CACHE = 2**20


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(roofline, "CACHED_COPIES", (2**16, 2**18))
    monkeypatch.setattr(roofline, "GEMM_SIZES", {"cpu": (32, 64)})
    monkeypatch.setattr(roofline, "last_level_cache", lambda device: CACHE)


def run(tmp_path, *options: str) -> list[dict]:
    assert cli.main(["roofline", "--threads", "1", "--quick", "--out", str(tmp_path), *options]) == 0
    return json.loads((tmp_path / "roofline-cpu.json").read_text())["rows"]


def identity(row: dict) -> tuple:
    return row["limit"], row["dtype"], row["size"]


def test_rows_are_rates_of_what_was_timed(tmp_path):
    rows = run(tmp_path)
    copies = [("copy", "float32", size) for size in (2**16, 2**18, 4 * CACHE)]
    products = [("gemm", dtype, size) for dtype in ("float32", "bfloat16") for size in (32, 64)]
    assert list(map(identity, rows)) == copies + products
    for row in rows:
        assert 0 < row["low"] <= row["seconds"] <= row["high"] and row["repeats"] >= 3
        if row["limit"] == "copy":
            assert row["gbps"] == pytest.approx(2 * row["size"] / row["seconds"] / 1e9)
        else:
            assert row["tflops"] == pytest.approx(2 * row["size"] ** 3 / row["seconds"] / 1e12)


def test_the_command_of_a_row_repeats_it_alone(tmp_path):
    for row in run(tmp_path)[1::3]:
        program, *command = shlex.split(row["command"])
        assert program == "sgr-bench"
        assert cli.main([*command, "--out", str(tmp_path / "again")]) == 0
        [again] = json.loads((tmp_path / "again" / "roofline-cpu.json").read_text())["rows"]
        assert identity(again) == identity(row) and again["command"] == row["command"]


def pretend(monkeypatch, seconds) -> None:
    """Every run takes ``seconds(size of its operand)``."""

    def timed(runs, repeats, device):
        [(name, function)] = runs.items()
        time = seconds(name, function.args[0])
        return {name: Timing(time, time, time, repeats)}

    monkeypatch.setattr(roofline, "interleaved", timed)


def test_limits_are_those_of_memory_and_of_the_best_product(monkeypatch):
    """Copies in the cache are ten times as fast, and the first of two products is the better one."""
    rates = {"copy": lambda t: 1e9 if t.nbytes > CACHE else 1e10, "gemm": lambda t: 2e9 if len(t) == 32 else 1e9}
    work = {"copy": lambda t: 2 * t.nbytes, "gemm": lambda t: 2 * len(t) ** 3}
    pretend(monkeypatch, lambda limit, t: work[limit](t) / rates[limit](t))
    limits = roofline.limits("cpu", quick=False)
    assert limits.copy_bytes_per_second == pytest.approx(1e9)
    assert limits.gemm_flops_per_second == pytest.approx({"float32": 2e9, "bfloat16": 2e9})


def test_products_grow_until_one_takes_long(tmp_path, monkeypatch):
    pretend(monkeypatch, lambda limit, t: 5.0 if t.dtype == torch.bfloat16 else 1e-6)
    assert [identity(row)[1:] for row in run(tmp_path, "--limits", "gemm")] == [
        ("float32", 32),
        ("float32", 64),
        ("bfloat16", 32),
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_wrong_product_is_not_timed(dtype, monkeypatch, capsys):
    """float32 with the precision of TF32 is wrong; bfloat16 with a lost term is."""
    mm = torch.mm

    def wrong(a, b):
        return mm(a, b) * 1.0005 if dtype == "float32" else mm(a[:, 1:], b[1:])

    monkeypatch.setattr(torch, "mm", wrong)
    assert cli.main(["roofline", "--threads", "1", "--quick", "--limits", "gemm", "--dtypes", dtype]) == 1
    output = capsys.readouterr()
    assert output.out == "" and f"a {dtype} product is wrong" in output.err


def test_a_wrong_copy_is_not_timed(monkeypatch, capsys):
    monkeypatch.setattr(torch.Tensor, "copy_", lambda copy, source: copy.zero_())
    assert cli.main(["roofline", "--threads", "1", "--quick", "--limits", "copy"]) == 1
    output = capsys.readouterr()
    assert output.out == "" and "a copy is wrong" in output.err


def test_copies_fit_into_the_memory(monkeypatch):
    """A virtual machine is told the cache of its host, and has a part of the memory."""
    assert 2**28 < roofline.memory("cpu") < 2**46
    monkeypatch.setattr(roofline, "memory", lambda device: 8 * CACHE * roofline.PART)
    assert roofline.out_of_cache("cpu") == [4 * CACHE, 8 * CACHE]
    monkeypatch.setattr(roofline, "memory", lambda device: CACHE * roofline.PART)
    assert roofline.out_of_cache("cpu") == [CACHE, CACHE]
    assert roofline.limits("cpu", quick=True).copy_bytes_per_second > 0


def test_nothing_to_measure_is_an_error(capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(["roofline", "--sizes", "5"])
    assert exit.value.code == 2 and "nothing" in capsys.readouterr().err


def test_the_last_level_cache_is_found(monkeypatch):
    monkeypatch.undo()
    assert 2**15 <= roofline.last_level_cache("cpu") <= 2**32
