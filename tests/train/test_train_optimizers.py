"""Optimizers and schedules of the driver."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from sgr_train import optimizers, schedules, train
from sgr_train.build import learning_rate
from sgr_train.config import RunConfig
from sgr_train.errors import UsageError
from sgr_train.settings import make
from torch import nn


def rates(every: float, **given) -> list[float]:
    config = make(RunConfig, lr=1.0, **given)
    return [learning_rate(config, index * every) for index in range(int(config.epochs / every))]


def test_cosine_by_epoch_and_by_step():
    by_epoch = rates(0.5, epochs=4)
    assert by_epoch[::2] == by_epoch[1::2] == pytest.approx([1.0, 0.853553, 0.5, 0.146447], rel=1e-5)
    by_step = rates(0.5, epochs=4, per_step=True)
    assert by_step[::2] == by_epoch[::2] and all(a > b for a, b in zip(by_step, by_step[1:], strict=False))
    assert by_step[3] == pytest.approx(0.691342, rel=1e-5)


def test_cosine_ends_where_it_should_after_a_warm_up():
    found = rates(0.25, epochs=10, warmup=2, final=0.1, per_step=True)
    assert found[0] == pytest.approx(0.01) and found[4] == pytest.approx(0.505) and found[8] == 1.0
    assert found[:9] == sorted(found[:9]) and found[8:] == sorted(found[8:], reverse=True)
    assert found[24] == pytest.approx(0.55) and 0.1 < found[-1] < 0.105


def test_steps_after_a_warm_up():
    found = rates(0.5, epochs=6, schedule="step", milestones=(2, 4), gamma=0.1, warmup=1)
    assert found == pytest.approx([0.01, 0.505, *[1.0] * 2, *[0.1] * 4, *[0.01] * 4])


@pytest.mark.parametrize("schedule", schedules.names())
def test_every_phase_has_the_whole_schedule(schedule):
    config = make(RunConfig, epochs=40, schedule=schedule)
    assert learning_rate(config, 41.5) == learning_rate(config, 1.5)
    assert learning_rate(config, 39) < learning_rate(config, 40)


def test_every_step_has_its_own_rate_in_all_groups(tiny, monkeypatch):
    """The optimizer's own step sees it; what the history says is the last one."""
    seen = []

    class Spy(torch.optim.SGD):
        def step(self, *args):
            seen.append([group["lr"] for group in self.param_groups])

    def spy(parameters, lr, weight_decay):
        """Notes learning rates."""
        first, *others = parameters
        return Spy([{"params": [first]}, {"params": others}], lr)

    monkeypatch.setitem(optimizers.REGISTRY._entries, "spy", spy)
    config = tiny(method="bp", epochs=2, per_step=True, optimizer="spy", lr=1.0)
    run, _ = train.train(config)
    assert [first for first, _ in seen] == [second for _, second in seen]
    assert [first for first, _ in seen] == pytest.approx([learning_rate(config, index / 4) for index in range(8)])
    assert [row["lr"] for row in run.history] == [seen[3][0], seen[7][0]]


def test_adamw_is_torchs():
    model, other = (nn.Linear(3, 2, bias=False) for _ in range(2))
    other.load_state_dict(model.state_dict())
    ours = optimizers.adamw(model.parameters(), 0.1, 0.2, beta1=0.5, beta2=0.6, eps=0.01)
    theirs = torch.optim.AdamW(other.parameters(), lr=0.1, betas=(0.5, 0.6), eps=0.01, weight_decay=0.2)
    for _ in range(3):
        x = torch.randn(4, 3)
        for network, optimizer in ((model, ours), (other, theirs)):
            optimizer.zero_grad()
            network(x).square().sum().backward()
            optimizer.step()
    assert model.weight.equal(other.weight)


class StandIn(torch.optim.Optimizer):
    """timm.optim.Lars by its paper, with the arguments of timm: a group without weight decay is left to plain SGD."""

    def __init__(self, params, lr=1.0, momentum=0, dampening=0, weight_decay=0, nesterov=False, trust_coeff=0.001,
                 eps=1e-8, trust_clip=False, always_adapt=False):  # fmt: skip
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust_coeff": trust_coeff}
        defaults |= {"nesterov": nesterov, "eps": eps, "trust_clip": trust_clip, "always_adapt": always_adapt}
        super().__init__(params, {**defaults, "dampening": dampening})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                ratio = 1.0
                if group["weight_decay"] or group["always_adapt"]:
                    length = p.grad.norm() + group["weight_decay"] * p.norm() + group["eps"]
                    ratio = group["trust_coeff"] * p.norm() / length
                step = ratio * (p.grad + group["weight_decay"] * p)
                velocity = self.state[p].get("velocity", torch.zeros_like(p)) * group["momentum"] + step
                self.state[p]["velocity"] = velocity
                p.sub_(velocity, alpha=group["lr"])


@pytest.fixture(params=["stand-in", "timm"])
def timm(request, monkeypatch):
    """The package, where it is installed, or in its place what is above."""
    if request.param == "timm":
        return pytest.importorskip("timm.optim")
    package = types.ModuleType("timm")
    package.optim = types.ModuleType("timm.optim")
    package.optim.Lars = StandIn
    monkeypatch.setitem(sys.modules, "timm", package)
    monkeypatch.setitem(sys.modules, "timm.optim", package.optim)
    return package.optim


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lars_adapts_weights_and_leaves_biases_and_norms_to_sgd(timm, decay):
    """Steps of the length that the paper gives them, with weight decay and without; against the updates written out."""
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    optimizer = optimizers.lars(model.parameters(), 0.5, decay, momentum=0.9, trust_coeff=0.01, eps=1e-8)
    assert isinstance(optimizer, timm.Lars)
    expected = [p.detach().clone() for p in model.parameters()]
    velocities = [torch.zeros_like(p) for p in expected]
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).exp().sum().backward()
        for p, old, velocity in zip(model.parameters(), expected, velocities, strict=True):
            step = p.grad
            if p.ndim > 1:
                length = 0.01 * old.norm() / (p.grad.norm() + decay * old.norm())
                step = length * (p.grad + decay * old)
            velocity.mul_(0.9).add_(step)
            old.sub_(0.5 * velocity)
        optimizer.step()
    for p, old in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), old)


def test_lars_trains_and_goes_on(timm, tiny):
    """Of modules with weights alone as well: heads of plainnet have no bias."""
    settings = {"optimizer": "lars", "lr": 1.0, "trust_coeff": 0.02, "batch_size": 64}
    config = tiny(epochs=1, **settings)
    run, _ = train.train(config)
    whole, _ = train.train(tiny("whole", epochs=1, **settings))
    assert all(a.equal(b) for a, b in zip(run.network.parameters(), whole.network.parameters(), strict=True))
    assert [len(optimizer.param_groups) for optimizer in run.optimizers] == [2] * 3
    again, _ = train.setup(config)
    again.load_state_dict(run.state_dict())
    for one, other in zip(run.optimizers, again.optimizers, strict=True):
        assert len(one.state) == len(other.state) > 0
    first, last = run.history[0]["loss"], train.train(tiny("long", epochs=4, **settings))[0].history[-1]["loss"]
    assert last[-1] < first[-1]


def test_lars_without_timm_is_refused_before_anything_is_written(sgr_train, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "timm.optim", None)
    for command in ("run", "compare"):
        status, text, errors = sgr_train(command, "--optimizer", "lars", "--out", tmp_path / "run")
        assert (status, text) == (2, "") and errors.startswith("sgr-train: --optimizer lars needs the package timm: ")
        assert errors.count("\n") == 1 and list(tmp_path.iterdir()) == []


def test_flags_belong_to_the_optimizer_that_has_them(sgr_train, tmp_path):
    for words, said in (
        (("--optimizer", "adamw", "--momentum", 0.9), "unrecognized arguments: --momentum"),
        (("--optimizer", "adam"), "--optimizer must be one of adamw, lars, sgd, got 'adam'"),
        (("--optimizer", "adamw", "--beta1", 1.0), "--beta1 must be at most 1"),
        (("--milestones", 3), "unrecognized arguments: --milestones"),
        (("--schedule", "step", "--milestones", 0), "--milestones must be at least 1"),
        (("--schedule", "step", "--gamma", -1), "--gamma must be a number >= 0"),
    ):
        status, _, errors = sgr_train("run", *words, "--out", tmp_path / "refused")
        assert status == 2 and said in errors and errors.count("\n") == 1


def test_nesterov_looks_ahead(tiny):
    """Two steps from one gradient, against the update written out: v = m v + g, then p - lr (g + m v)."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = optimizers.sgd([parameter], 0.1, 0.0, momentum=0.5, nesterov=True)
    for _ in range(2):
        parameter.grad = torch.ones(1)
        optimizer.step()
    assert parameter.item() == pytest.approx(-0.1 * (1 + 0.5) - 0.1 * (1 + 0.5 * 1.5))
    with pytest.raises(UsageError, match="--momentum must be above 0 with --nesterov, got 0.0"):
        train.setup(tiny(nesterov=True, momentum=0.0))
