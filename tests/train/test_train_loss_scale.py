"""float16: one loss scale for all modules of a run, which skips steps whose gradients overflow."""

from __future__ import annotations

import json
import math

import pytest
import torch
from sgr_train import checkpoint, loader, loss_scale, methods, networks, train
from sgr_train.errors import Diverged
from sgr_train.loss_scale import LossScale
from sgr_train.updates import Updates
from test_train_loop import assert_same_state
from torch import nn
from train_helpers import TINY_FLAGS

SCALE = 2.0**30
FP16 = {"amp": "fp16", "modules": 3}


def test_the_scale_moves_as_that_of_torch(monkeypatch):
    """With steps of two modules, of which one, both or none overflow."""
    monkeypatch.setattr(loss_scale, "RISE_AFTER", 3)
    ours, theirs = LossScale(), torch.amp.GradScaler("cpu", growth_interval=3)
    theirs.scale(torch.zeros(()))
    nets = [nn.Linear(2, 1, bias=False) for _ in range(2)]
    optimizers = [torch.optim.SGD(net.parameters(), 0.1) for net in nets]
    skipped = 0
    for bad in ["", "", "", "0", "1", "", "01", "", "", "", "", "1"]:
        for k, (net, optimizer) in enumerate(zip(nets, optimizers, strict=True)):
            gradient = torch.tensor([[1.0, math.inf if str(k) in bad else 2.0]])
            net.weight.grad, before = gradient * ours.value, net.weight.detach().clone()
            assert ours.unscale([net.weight.grad], k) == (str(k) not in bad)
            if str(k) not in bad:
                assert net.weight.grad.equal(gradient)
            net.weight.grad = gradient * theirs.get_scale()
            theirs.step(optimizer)
            skipped += net.weight.equal(before)
        ours.update(), theirs.update()
        assert ours.value == theirs.get_scale()
        restored = LossScale()
        restored.load_state_dict(ours.state_dict())
        ours = restored
    assert ours.skipped == skipped == 5


def test_modules_without_gradients_are_updated():
    """As those of layers that only pool."""
    net, scale = nn.Sequential(nn.ReLU()), LossScale()
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    updates = Updates(net, [optimizer], 1, None, scale)
    updates.begin(last=True)
    updates(0)
    updates.end()
    assert (scale.value, scale.skipped) == (loss_scale.FIRST, 0)


def gradients(
    name: str, scale: float, dtype: torch.dtype = torch.float64, half: bool = False, **options
) -> list[torch.Tensor | None]:
    torch.manual_seed(0)
    model = "pepita_conv" if name == "pepita" else "plainnet"
    sizes = {} if name == "pepita" else {"depth": 3, "width": 8, "norm": "none"}
    network = networks.create(model, num_classes=10, image_shape=(3, 32, 32), modules=None, head="linear", **sizes)
    network = (network.whole() if methods.is_whole(name) else network).to(dtype)
    x, y = torch.randn(8, 3, 32, 32, dtype=dtype), torch.arange(8)
    method = methods.REGISTRY.make(name, **options)
    methods.prepare(method, network, x[:2])
    for _ in range(2):  # generators of dni begin with 0
        method.grad_scale = scale
        with torch.autocast("cpu", torch.float16, enabled=half):
            losses = method.step(network, x, y)
    assert all(loss < 100 for loss in losses)
    return [None if p.grad is None else p.grad / scale for p in network.parameters()]


ENGINES = ["autograd", "fused", "directional"]


@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in methods.names()), *(("sgr", {"engine": e}) for e in ENGINES)]
)
def test_every_method_scales_all_its_gradients_and_nothing_else(name, options):
    norm = {"rtol": 1e-3, "atol": 1e-6} if name == "sgr" else {"rtol": 1e-9, "atol": 1e-15}  # directional: a difference
    plain, scaled = gradients(name, 1.0, **options), gradients(name, SCALE, **options)
    assert sum(g is not None and g.abs().max() > 0 for g in plain) > 2
    torch.testing.assert_close(scaled, plain, **norm)


@pytest.mark.parametrize("name", methods.names())
def test_every_method_steps_in_float16(name):
    """Its gradients point the same way, all parameters together."""
    half, full = (gradients(name, scale, torch.float32, scale > 1) for scale in (2.0**10, 1.0))
    found, expected = (torch.cat([g.flatten() for g in each if g is not None]) for each in (half, full))
    assert torch.cosine_similarity(found, expected, dim=0) > 0.99


def test_a_method_without_a_scale_is_refused_by_name(sgr_train, tmp_path):
    plugin, out = tmp_path / "mine.py", tmp_path / "run"
    plugin.write_text(
        "from sgr_train.methods import bp, register\n\n\n@register('unscaled')\nclass Unscaled:\n"
        "    'As bp.'\n\n    def step(self, network, x, y, update):\n        return bp().step(network, x, y, update)\n"
    )
    flags = ("--plugin", plugin, *TINY_FLAGS, "--amp", "fp16", "--out", out)
    try:
        for command in (("run", "--method"), ("compare", "--seeds", 0, "--methods", "bp")):
            status, text, errors = sgr_train(*command, "unscaled", *flags)
            assert (status, text) == (2, "") and errors.count("\n") == 1
            assert "--amp fp16: --method unscaled has no grad_scale" in errors and not out.exists()
    finally:
        methods.REGISTRY._entries.pop("unscaled", None)


@pytest.mark.parametrize("name", ["bp", "layerwise", "sgr", "dni"])
def test_a_run_whose_scale_is_too_large_goes_on(sgr_train, tmp_path, monkeypatch, name):
    """The first steps overflow: they are counted, nothing is not finite, and then it learns."""
    monkeypatch.setattr(loss_scale, "FIRST", 2.0**40)
    out = tmp_path / "run"
    flags = ("--method", name, "--amp", "fp16", "--batch-size", 8, "--epochs", 2, "--out", out)
    status, text, errors = sgr_train("run", *TINY_FLAGS, *flags)
    assert (status, errors) == (0, "")
    first, second = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    assert first["skipped_steps"] > 3 and first["loss_scale"] <= 2.0**37
    assert second["loss"][-1] < first["loss"][-1]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["skipped_steps"] == first["skipped_steps"] + second["skipped_steps"]
    assert f", {summary['skipped_steps']} steps of modules skipped" in text


def test_a_comparison_tells_of_skipped_steps(sgr_train, tmp_path, monkeypatch):
    monkeypatch.setattr(loss_scale, "FIRST", 2.0**40)
    out = tmp_path / "all"
    flags = ("--methods", "bp", "--seeds", 0, "--amp", "fp16", "--epochs", 1, "--out", out)
    status, text, errors = sgr_train("compare", *TINY_FLAGS, *flags)
    count = json.loads((out / "bp-seed0" / "summary.json").read_text())["skipped_steps"]
    assert (status, errors) == (0, "") and count > 1 and f"%, {count} steps of modules skipped\n" in text


@pytest.mark.parametrize("more", [{}, {"accumulate": 2, "clip_grad_norm": 0.1}])
def test_a_run_goes_on_with_its_scale(tiny, monkeypatch, more):
    """Interrupted in the middle of an epoch, while the scale still falls."""
    monkeypatch.setattr(loss_scale, "FIRST", 2.0**40)
    settings = {"method": "layerwise", "batch_size": 8, "save_every": 1, "epochs": 2, **FP16, **more}
    whole, _ = train.train(tiny("whole", **settings))
    config, save, kept = tiny("run", **settings), train.save, []

    def save_and_die(run, config):
        save(run, config)
        kept.append(run.scale.value)
        if len(kept) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(train, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        train.train(config)
    monkeypatch.setattr(train, "save", save)
    resumed, _ = train.train(config)
    assert kept == [2.0**40, 2.0**39, 2.0**38, 2.0**37] and whole.scale.value < 2.0**37
    assert_same_state(resumed, whole)


def too_large(monkeypatch, steps):
    """Images of these steps of every epoch have no logits in float16."""
    augmented = loader.Data.augmented

    def scaled(self, batches, generator):
        for step, (x, y) in enumerate(augmented(self, batches, generator), 1):
            yield (x * 1e7 if step in steps else x), y

    monkeypatch.setattr(loader.Data, "augmented", scaled)


@pytest.mark.parametrize("name", ["bp", "layerwise"])
def test_a_loss_that_overflows_is_no_divergence(tiny, monkeypatch, name):
    """Its step is skipped, and the mean of the epoch is that of the others."""
    too_large(monkeypatch, {1, 3})
    run, _ = train.train(tiny(method=name, norm="none", batch_size=16, epochs=1, **FP16))
    row, modules = run.history[0], len(run.network)
    assert all(0.5 < loss < 3 for loss in row["loss"])
    assert row["skipped_steps"] == 2 * modules and run.scale.value == loss_scale.FIRST / 4


def test_losses_that_all_overflow_are_a_divergence(tiny, monkeypatch):
    too_large(monkeypatch, range(100))
    config = tiny(method="layerwise", norm="none", batch_size=16, **FP16)
    with pytest.raises(Diverged, match="in epoch 1: the loss of module 1 is nan in step 8 .*or take --amp bf16"):
        train.train(config)
    assert checkpoint.load_state(config.out / "checkpoint.pt")["history"] == []
    monkeypatch.setattr(loss_scale, "SMALLEST", loss_scale.FIRST / 4)
    with pytest.raises(Diverged, match="the gradients of module 1 are not finite, down to a loss scale of 16384"):
        train.train(config)
