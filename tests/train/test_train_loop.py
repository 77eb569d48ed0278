"""The loop against loops written out by hand; reproducibility; interruption and resuming."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from sgr_train import checkpoint, finished, train
from sgr_train import state as state_of_training
from sgr_train.build import build
from sgr_train.errors import Diverged, UsageError
from sgr_train.loader import load_data
from sgr_train.measure import accuracy
from sgr_train.updates import Updates

import sgr_kernels as sk

MEASURED_TIME = {"seconds", "waited", "images_per_second", "peak_memory_bytes"}


def state(run):
    """Everything that training moves, as one flat list of tensors and numbers."""
    leaves = []

    def visit(value):
        if isinstance(value, dict):
            for key in value:
                if key not in MEASURED_TIME:
                    visit(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                visit(item)
        else:
            leaves.append(value)

    visit(run.state_dict())
    return leaves


def assert_same_state(one, other):
    for a, b in zip(state(one), state(other), strict=True):
        assert a.equal(b) if isinstance(a, torch.Tensor) else a == b


def by_hand(config, update):
    """Plain PyTorch: the data and the network of ``config``, ``update(modules, optimizers, x, y)`` for every batch."""
    data = load_data(config, torch.device("cpu"))
    torch.manual_seed(config.seed)
    modules, _ = build(config, data.num_classes, data.image_shape)
    optimizers = [torch.optim.SGD(m.parameters(), config.lr, momentum=0.9, weight_decay=5e-4) for m in modules]
    generator = torch.Generator().manual_seed(config.seed)
    for epoch in range(config.epochs):
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = config.lr * 0.5 * (1 + math.cos(math.pi * epoch / config.epochs))
        for x, y in data.shuffled(config.batch_size, generator):
            update(modules, optimizers, x, y)
    return modules


def assert_same_weights(run, modules):
    for (name, a), b in zip(run.network.state_dict().items(), modules.state_dict().values(), strict=True):
        if name in ("mean", "std") or name.endswith("_extra_state"):  # of the data, and steps counted
            continue
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_bp_is_end_to_end_training(tiny):
    def update(modules, optimizers, x, y):
        [module], [optimizer] = modules, optimizers
        optimizer.zero_grad()
        F.cross_entropy(module.head.logits(module.body(x)), y).backward()
        optimizer.step()

    config = tiny(method="bp", epochs=2, head="conv")
    assert_same_weights(train.train(config)[0], by_hand(config, update))


def test_layerwise_is_one_isolated_step_a_module(tiny):
    def update(modules, optimizers, x, y):
        for module, optimizer in zip(modules, optimizers, strict=True):
            optimizer.zero_grad()
            output = module.body(x.detach())
            F.cross_entropy(module.head.logits(output), y).backward()
            optimizer.step()
            x = output

    config = tiny(method="layerwise", epochs=2, head="conv")
    assert_same_weights(train.train(config)[0], by_hand(config, update))


@pytest.mark.parametrize("reduction", ["mean", "batchmean"])
def test_sgr_is_algorithm_1(tiny, reduction):
    def normalised(delta):
        return delta.flatten(1) / delta.flatten(1).norm(dim=1, keepdim=True)

    def update(modules, optimizers, x, y):
        delta_pre = None
        for module, optimizer in zip(modules, optimizers, strict=True):
            x = x.detach().requires_grad_()
            output = module.body(x)
            loss = sk.cross_entropy(module.head.logits(output), y)
            now, out = torch.autograd.grad(loss, [x, output], create_graph=True)
            if delta_pre is not None:
                sgr = F.mse_loss(normalised(now), normalised(delta_pre), reduction="sum")
                loss = loss + weight * sgr / (now.numel() if reduction == "mean" else len(now))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            x, delta_pre = output, out.detach()

    weight = 50.0 if reduction == "mean" else 0.3
    settings = {"head": "conv", "weight": weight, "reduction": reduction, "engine": "autograd"}
    config = tiny(method="sgr", epochs=1, **settings)
    run, _ = train.train(config)
    assert_same_weights(run, by_hand(config, update))
    plain, _ = train.train(tiny("layerwise", method="layerwise", epochs=1, head="conv"))
    with pytest.raises(AssertionError):  # and the term is large enough to be seen
        assert_same_weights(run, plain.network)


def test_the_gradient_of_every_module_is_clipped(tiny):
    config = tiny(method="sgr", epochs=1, clip_grad_norm=1e-3, momentum=0.0, weight_decay=0.0, batch_size=128)
    before = [[p.clone() for p in m.parameters()] for m in train.setup(config)[0].network]
    run, _ = train.train(config)  # one step
    for old, module in zip(before, run.network, strict=True):
        moved = math.sqrt(sum((p - q).square().sum().item() for p, q in zip(module.parameters(), old, strict=True)))
        assert moved == pytest.approx(config.lr * 1e-3, rel=1e-2)


@pytest.mark.parametrize("method", ["bp", "layerwise", "sgr"])
def test_a_seed_reproduces_bitwise(tiny, method):
    one, _ = train.train(tiny("one", method=method, seed=3))
    torch.randn(5)  # whatever happened before must not matter
    same, _ = train.train(tiny("same", method=method, seed=3))
    assert_same_state(one, same)
    other, _ = train.train(tiny("other", method=method, seed=4))
    with pytest.raises(AssertionError):
        assert_same_state(one, other)


def test_learning_rate_follows_a_cosine(tiny):
    run, _ = train.train(tiny(epochs=4))
    assert [row["lr"] for row in run.history] == pytest.approx([0.1, 0.0853553, 0.05, 0.0146447], rel=1e-5)


def test_rows_of_the_history(tiny):
    config = tiny(epochs=2)
    run, _ = train.train(config)
    lines = (config.out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == run.history
    for row, epoch in zip(run.history, (1, 2), strict=True):
        assert row["epoch"] == epoch and row["peak_memory_kind"] == "peak resident set"
        assert [len(row[name]) for name in ("loss", "sgr", "train_accuracy", "val_accuracy")] == [3, 2, 3, 3]
        assert row["images_per_second"] == pytest.approx(128 / row["seconds"])
        assert 0 < row["waited"] < 1
        assert not any("test" in name for name in row)
    assert run.history[1]["loss"][-1] < run.history[0]["loss"][-1]


def test_rows_have_the_lambda_of_every_module(tiny):
    run, _ = train.train(tiny(method="sgr", epochs=2))
    assert run.history[1]["lambda"] == [float(module.aux.value) for module in list(run.network)[1:]]
    assert run.history[0]["lambda"] != run.history[1]["lambda"] and all(run.history[0]["lambda"])
    given, _ = train.train(tiny("given", method="sgr", weight=0.2, epochs=1))
    assert given.history[0]["lambda"] == [0.2, 0.2]
    without, _ = train.train(tiny("without", method="layerwise", epochs=1))
    assert "lambda" not in without.history[0]


class Untouchable:
    def __getattr__(self, name):
        raise AssertionError("the test images were touched")

    __len__ = __iter__ = __getitem__ = __getattr__


def test_test_images_are_not_touched_by_training(tiny, monkeypatch):
    def without_test(config, device):
        data = load_data(config, device)
        data.test = Untouchable()
        return data

    monkeypatch.setattr(train, "load_data", without_test)
    run, data = train.train(tiny())
    with pytest.raises(AssertionError, match="touched"):
        train.test(run, tiny("other"), data)


def test_test_images_are_evaluated_once(tiny, monkeypatch):
    config = tiny()
    calls = []
    original = train.test
    monkeypatch.setattr(train, "test", lambda *args: calls.append(1) or original(*args))
    first = train.train_and_test(config)
    assert train.train_and_test(config) == first and calls == [1]
    assert first["test_accuracy"] == first["test_accuracy_per_module"][-1]


def interrupt_in_epoch(monkeypatch, number, after_batches):
    """Raise KeyboardInterrupt after some batches of one epoch."""
    original = train.train_epoch
    epochs = iter(range(1, 100))

    def train_epoch(run, config, data, progress):
        if next(epochs) == number:
            batches = []

            def batch(images, loss):
                batches.append(images)
                if len(batches) == after_batches:
                    raise KeyboardInterrupt

            progress.batch = batch
        return original(run, config, data, progress)

    monkeypatch.setattr(train, "train_epoch", train_epoch)


EVERYTHING = {"augment": ("crop", "flip", "randaugment", "erasing", "mixup"), "label_smoothing": 0.1, "warmup": 1.5}
EVERYTHING |= {"optimizer": "adamw", "lr": 1e-3, "per_step": True}


@pytest.mark.parametrize("method, more", [("bp", {}), ("layerwise", {}), ("sgr", {}), ("sgr", EVERYTHING)])
@pytest.mark.parametrize("epoch", [1, 3])
def test_interrupted_and_resumed_equals_uninterrupted(tiny, monkeypatch, write_npz, method, more, epoch):
    settings = {"method": method, "epochs": 4, "head": "conv", "train_subset": 40, "batch_size": 8, **more}
    settings["data"] = f"npz:{write_npz()}"  # colour: augmentation draws random numbers too
    whole, _ = train.train(tiny("whole", **settings))
    config = tiny("interrupted", **settings)
    with monkeypatch.context() as patch:
        interrupt_in_epoch(patch, epoch, after_batches=2)
        with pytest.raises(KeyboardInterrupt):
            train.train(config)
    assert len(checkpoint.load_state(config.out / "checkpoint.pt")["history"]) == epoch - 1
    resumed, _ = train.train(config)
    assert len(resumed.history) == 4
    assert_same_state(whole, resumed)


def test_interrupted_while_the_checkpoint_is_written(tiny, monkeypatch):
    config = tiny()
    with monkeypatch.context() as patch:
        original, calls = os.replace, []

        def replace(source, target):
            if Path(target).name == "checkpoint.pt":
                calls.append(target)
                if len(calls) == 3:
                    raise KeyboardInterrupt
            original(source, target)

        patch.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            train.train(config)
    assert len(checkpoint.load_state(config.out / "checkpoint.pt")["history"]) == 1
    assert not list(config.out.glob("*.part"))
    resumed, _ = train.train(config)
    assert_same_state(resumed, train.train(tiny("whole"))[0])
    assert len((config.out / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("when", [{"save_every": 2}, {"save_minutes": 1e-9}])
@pytest.mark.parametrize("method", ["sgr", "greedy"])
def test_a_run_goes_on_from_the_middle_of_an_epoch(tiny, monkeypatch, when, method):
    """Of 3 steps: with those already taken in the means, and everything that is random as it would have been."""
    settings = {"method": method, "batch_size": 40, "augment": ("crop",), "ema": 0.9, **when}
    settings |= {"every": 2} if method == "sgr" else {}
    whole, _ = train.train(tiny("whole", **settings))
    config, save = tiny("run", **settings), train.save

    def save_and_die(run, config):
        save(run, config)
        if run.epoch is not None and len(run.history) == 1 and run.epoch.steps == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(train, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        train.train(config)
    monkeypatch.setattr(train, "save", save)
    torch.randn(5)
    resumed, _ = train.train(config)
    assert_same_state(resumed, whole)


def test_sums_of_an_epoch_are_where_the_network_is(tiny):
    """They are read to the CPU."""
    run, _ = train.setup(tiny())
    run.epoch = state_of_training.Epoch.begin(torch.arange(3), torch.device("cpu"))
    state = run.state_dict()
    run.network.mean = run.network.mean.to("meta")
    run.load_state_dict(state)
    assert {run.epoch.losses.device.type, run.epoch.counted.device.type} == {"meta"}
    assert run.epoch.order.device.type == "cpu"


def test_the_time_without_a_batch_is_waiting(monkeypatch):
    """Also of a resumed epoch; that between two batches is not."""
    clock = iter([10.0, 13.0, 20.0, 20.5, 30.0, 31.0])
    monkeypatch.setattr(state_of_training.time, "perf_counter", lambda: next(clock))
    epoch = state_of_training.Epoch.begin(torch.arange(2), torch.device("cpu"))
    epoch.waited = 2.0
    assert list(epoch.timed(["one", "two"])) == ["one", "two"] and epoch.waited == 2 + 3 + 0.5 + 1


def test_an_average_of_the_weights_is_what_is_measured_and_kept(tiny, monkeypatch):
    """After every update, from the first one on: checked against the weights of every step."""
    steps, step = [], Updates.__call__

    def record(self, k):
        step(self, k)
        if k + 1 == len(self.network):
            steps.append([p.detach().clone() for p in self.network.parameters()])

    monkeypatch.setattr(Updates, "__call__", record)
    config = tiny(method="layerwise", ema=0.5, epochs=2)
    run, data = train.train(config)
    average = steps[0]
    for weights in steps[1:]:
        average = [0.5 * a + 0.5 * w for a, w in zip(average, weights, strict=True)]
    for found, expected in zip(run.result.parameters(), average, strict=True):
        torch.testing.assert_close(found, expected)
    assert run.history[-1]["val_accuracy"] == accuracy(run.result, data.ordered(data.val, 32))
    train.test(run, config, data)
    kept = finished.load(config.out).network
    assert all(a.equal(b) for a, b in zip(kept.parameters(), run.result.parameters(), strict=True))
    assert not all(a.equal(b) for a, b in zip(kept.parameters(), run.network.parameters(), strict=True))


def test_what_is_not_finite_is_not_kept_within_an_epoch(tiny, monkeypatch):
    config = tiny(save_every=1, lr=1e38, method="bp")
    with pytest.raises(Diverged, match="in epoch 1: .* of module 1 is"):
        train.train(config)
    state = checkpoint.load_state(config.out / "checkpoint.pt")
    assert all(t.isfinite().all() for t in state["network"].values() if isinstance(t, torch.Tensor))


def test_a_full_disk_keeps_the_last_checkpoint(tiny, monkeypatch):
    config = tiny()
    train.train(config)
    saved = (config.out / "checkpoint.pt").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left on device; free some space"):
        checkpoint.save_state(config.out / "checkpoint.pt", {}, "")
    assert (config.out / "checkpoint.pt").read_bytes() == saved


def test_what_an_engine_cannot_do_is_an_error_of_one_line(tiny, monkeypatch):
    def refuse(*args, **kwargs):
        raise ValueError("no closed form")

    monkeypatch.setattr(sk, "local_step", refuse)
    with pytest.raises(UsageError, match="--engine fused: no closed form"):
        train.train(tiny(engine="fused"))


@pytest.mark.parametrize("every", [1, 4])
def test_sgr_at_every_so_many_steps(tiny, monkeypatch, every):
    """Counted over epochs, which have 3 steps here, of 3 modules; with as many times the weight."""
    calls, step = [], sk.local_step

    def spy(*args, weight, need_delta_out, **options):
        calls.append((args[4] is not None, need_delta_out, weight))
        return step(*args, weight=weight, need_delta_out=need_delta_out, **options)

    monkeypatch.setattr(sk, "local_step", spy)
    train.train(tiny(every=every, weight=0.2, train_subset=96, batch_size=32, epochs=2, modules=3))
    weight = 0.2 * every
    reconciling = [(False, True, weight), (True, True, weight), (True, False, weight)]
    layerwise = [(False, False, weight)] * 3
    expected = [reconciling if index % every == 0 else layerwise for index in range(len(calls) // 3)]
    assert calls == [call for step_calls in expected for call in step_calls]
    assert len(calls) == 2 * 3 * 3
