"""``--batch-size auto``: the largest that fits, by trial or by sizes.

No GPU is needed: in its place a step that is out of memory above a size.
"""

from __future__ import annotations

import json

import pytest
import torch
from sgr_train import checkpoint, graphs, methods, train
from sgr_train.config import RunConfig
from sgr_train.errors import Diverged
from sgr_train.loader import Facts, facts_of
from sgr_train.memory import batch_size
from sgr_train.memory.estimate import step_cost
from sgr_train.settings import make
from train_helpers import TINY_FLAGS

TINY_FLAGS = [*TINY_FLAGS, "--epochs", "1"]
AUTO = (*TINY_FLAGS, "--batch-size", "auto")


@pytest.fixture
def gpu(monkeypatch):
    """``gpu(method=40)``: something to try on, on which a step of the method with more than 40 images raises.

    Of a method with phases after the first one.
    """
    tried = []

    def limit(**most: int) -> list[tuple[str, int]]:
        for name, images in most.items():
            entry = methods.REGISTRY.find(name)

            def step(self, network, x, *rest, name=name, images=images, step=entry.step):
                tried.append((name, len(x)))
                if len(x) > images and getattr(self, "active", True):
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
                return step(self, network, x, *rest)

            monkeypatch.setattr(entry, "step", step)
        monkeypatch.setattr(batch_size, "on_gpu", lambda config: True)
        return tried

    return limit


@pytest.mark.parametrize("most", [2, 3, 7, 8, 15, 16, 100, 128, 1000])
@pytest.mark.parametrize("memory", [1, 2, 3, 4, 7, 8, 9, 63, 64, 100, 129, 5000])
def test_it_is_the_largest_of_all(memory, most):
    tried = []
    candidates = {2, 4, *range(8, most + 1, 8)}
    found = batch_size.largest(lambda size: tried.append(size) or size <= memory, most)
    assert found == max((size for size in candidates if size <= min(memory, most)), default=0)
    assert {*tried} <= candidates | {4} and max(tried) <= most and len(tried) == len({*tried}) <= 16


@pytest.mark.parametrize(
    "settings", [{}, {"amp": "bf16"}, {"accumulate": 3}, {"ema": 0.9, "optimizer": "adamw", "method": "bp"}]
)
def test_by_sizes_what_is_chosen_fits_and_more_would_not(settings):
    config = make(RunConfig, batch_size="auto", memory=0.002, depth=3, width=12, train_subset=640, **settings)
    chosen = batch_size.with_batch_size(config)
    peaks = [step_cost(make(RunConfig, batch_size=size, depth=3, width=12, **settings), 10, (1, 8, 8)).peak_bytes
             for size in (chosen.batch_size, chosen.batch_size + 8)]  # fmt: skip
    assert chosen.memory is None and 8 <= chosen.batch_size < 640
    assert peaks[0] < 0.002 * 2**30 <= peaks[1]


def test_half_precision_takes_less_memory():
    costs = (step_cost(make(RunConfig, amp=amp, method="bp"), 10, (1, 32, 32)) for amp in (None, "bf16"))
    full, half = (cost.step_bytes for cost in costs)
    assert half < 0.8 * full


def test_an_average_of_the_weights_takes_memory():
    costs = [step_cost(make(RunConfig, ema=ema), 10, (1, 8, 8)) for ema in (None, 0.9)]
    weights = sum(t.nbytes for t in costs[0].network.state_dict().values() if isinstance(t, torch.Tensor))
    assert costs[1].kept_bytes - costs[0].kept_bytes == weights > 0


def test_gradients_of_batches_in_a_row_take_memory():
    costs = [step_cost(make(RunConfig, accumulate=batches), 10, (1, 8, 8)) for batches in (1, 2, 3)]
    network = costs[0].network
    others = sum(p.nbytes for p in network.parameters()) - max(sum(p.nbytes for p in m.parameters()) for m in network)
    assert costs[1].peak_bytes - costs[0].peak_bytes >= others > 0
    assert costs[1].peak_bytes == costs[2].peak_bytes
    assert costs[0].flops == costs[1].flops


def test_a_trial_goes_on_after_being_out_of_memory(sgr_train, tmp_path, gpu):
    """And leaves nothing behind: the run is that with the number."""
    with_number, auto = tmp_path / "number", tmp_path / "auto"
    assert sgr_train("run", *TINY_FLAGS, "--batch-size", 40, "--out", with_number)[0] == 0
    tried = gpu(sgr=47)
    status, text, errors = sgr_train("run", *AUTO, "--save-every", 1, "--out", auto)
    assert (status, errors) == (0, "") and {("sgr", 40), ("sgr", 48), ("sgr", 64)} <= {*tried}
    first = "batch size 40: the largest that fits in a trial, of at most 128 images; lr stays 0.1"
    assert text.splitlines()[0] == first
    networks = [checkpoint.load_state(out / "checkpoint.pt")["network"] for out in (with_number, auto)]
    tensors = [[t for t in network.values() if isinstance(t, torch.Tensor)] for network in networks]
    assert all(a.equal(b) for a, b in zip(*tensors, strict=True))
    assert json.loads((auto / "config.json").read_text())["batch_size"] == 40
    (auto / "summary.json").unlink()
    tried.clear()
    assert sgr_train("run", "--resume", auto)[0] == 0
    assert sgr_train("extend", auto, "--epochs", 2)[0] == 0 and {size for _, size in tried} == {40}


@pytest.mark.parametrize("more", [("--method", "greedy"), ("--ema", 0.9, "--accumulate", 2, "--amp", "bf16")])
def test_a_trial_is_training_with_these_settings(sgr_train, tmp_path, gpu, more):
    """Of a method with phases in all of them; updates of several batches have images for one at least."""
    method = "greedy" if "greedy" in more else "sgr"
    gpu(**{method: 100})
    status, text, errors = sgr_train("run", *AUTO, "--depth", 2, *more, "--out", tmp_path / "run")
    assert (status, errors) == (0, "") and text.startswith(f"batch size {64 if '--accumulate' in more else 96}: ")


def test_a_trial_captures_a_step(monkeypatch):
    """With --cuda-graph, whose warm-up alone takes more steps than other trials."""
    steps = []

    def train_epoch(run, config, data, told):
        steps.append(len(data.train) // config.batch_size)
        raise Diverged("on noise")

    monkeypatch.setattr(train, "require_capturable", lambda *_: None)
    monkeypatch.setattr(batch_size, "train_epoch", train_epoch)
    for captured in (False, True):
        config = make(RunConfig, cuda_graph=captured, device="cpu")
        assert batch_size.fits_in_a_trial(config, Facts(64, 10, (1, 8, 8)))(8)
    assert steps == [batch_size.STEPS, graphs.WARM_UP + batch_size.STEPS]


@pytest.mark.parametrize("said", ["cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "cuDNN error: CUDNN_STATUS_BAD_PARAM"])
def test_libraries_are_out_of_memory_in_their_own_way(monkeypatch, said):
    """Any other error is one."""
    monkeypatch.setattr(batch_size, "_try", lambda config, facts: (_ for _ in ()).throw(RuntimeError(said)))
    fits = batch_size.fits_in_a_trial(make(RunConfig), facts=None)
    if "ALLOC" in said:
        assert not fits(8)
    else:
        with pytest.raises(RuntimeError, match=said):
            fits(8)


def test_methods_that_are_compared_have_the_same(sgr_train, tmp_path, gpu):
    gpu(bp=70, layerwise=20)
    flags = ("--methods", "bp", "layerwise", "--seeds", 0)
    status, text, errors = sgr_train("compare", *AUTO, *flags, "--out", tmp_path / "all")
    assert (status, errors) == (0, "") and text.startswith("batch size 16: ")
    for folder in ("", "bp-seed0", "layerwise-seed0"):
        assert json.loads((tmp_path / "all" / folder / "config.json").read_text())["batch_size"] == 16
    assert sgr_train("compare", "--resume", tmp_path / "all")[0] == 0


def test_a_recipe_takes_it(sgr_train, tmp_path):
    changes = ("--set", "batch_size=auto", "memory=0.01", "epochs=1", "train_subset=64")
    status, text, errors = sgr_train("recipe", "digits-sgr", *changes, "--dry-run")
    assert (status, errors) == (0, "") and text.startswith("batch size 64: the largest that fits into 0.01 GiB")
    assert "batch 64)" in text
    status, text, _ = sgr_train("recipe", "digits-sgr", *changes, "--out", tmp_path / "run")
    assert status == 0 and text.startswith("batch size 64: ")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "--batch-size auto is tried on a GPU, or held against --memory GIB: give that, or a number"),
        (("--memory", 1e-6), "--batch-size auto: not even 2 images fit; lower --width, --depth or --image-size"),
        (("--memory", 1, "--accumulate", 10**6), "images a batch; lower it"),
        (("--memory", 0), "--memory must be a number > 0, got 0.0"),
        (("--memory", 1, "--batch-size", 8), "--memory is what --batch-size auto is held against; drop it"),
        (("--batch-size", "all"), "--batch-size must be a number or auto, got 'all'"),
        (("--memory", 1, "--cuts", "auto", "--modules", 2), "give numbers for one of them"),
    ],
)
def test_what_cannot_be_chosen_is_refused(sgr_train, tmp_path, flags, said):
    status, text, errors = sgr_train("run", *AUTO, *flags, "--device", "cpu", "--out", tmp_path / "run")
    assert (status, text) == (2, "") and said in errors and errors.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_method_that_looks_at_numbers_is_refused_by_name(sgr_train, tmp_path, monkeypatch):
    def step(self, network, x, *rest):
        return x.sum().item()

    monkeypatch.setattr(methods.REGISTRY.find("sgr"), "step", step)
    status, _, errors = sgr_train("run", *AUTO, "--memory", 1, "--out", tmp_path / "run")
    assert status == 2 and "--batch-size auto cannot measure this --method (" in errors and errors.count("\n") == 1


def test_facts_are_those_of_the_data(write_npz):
    facts = facts_of(make(RunConfig, data=f"npz:{write_npz()}", train_subset=50))
    assert facts == (50, 3, (3, 8, 8))
