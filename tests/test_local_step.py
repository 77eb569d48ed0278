"""local_step with the autograd engine against Algorithm 1 written out, and its promises about state."""

from __future__ import annotations

import copy

import pytest
import torch
from sgr_bench import reference
from torch import nn

import sgr_kernels as sk


class Head(nn.Module):
    def __init__(self, features: int, classes: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes)

    def forward(self, features, y):
        return nn.functional.cross_entropy(self.linear(features.flatten(2).mean(2)), y)


def module(dtype=torch.float64):
    body = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()).to(dtype)
    head = Head(4).to(dtype)
    x, y = torch.randn(5, 2, 6, 6, dtype=dtype), torch.randint(3, (5,))
    return body, head, x, y, torch.randn_like(x)


def gradients(*parts):
    return [p.grad for part in parts for p in part.parameters()]


@pytest.mark.parametrize("reconcile", [False, True])
def test_equals_algorithm_1(reconcile):
    body, head, x, y, delta_pre = module()
    delta_pre = delta_pre if reconcile else None
    twin_body, twin_head = copy.deepcopy(body), copy.deepcopy(head)
    loss, sgr, output, delta_out = reference.algorithm1_step(twin_body, twin_head, x, y, delta_pre, weight=7.0)
    step = sk.local_step(body, head, x, y, delta_pre, weight=7.0, engine="autograd")
    torch.testing.assert_close(step.loss, loss)
    torch.testing.assert_close(step.output, output)
    torch.testing.assert_close(step.delta_out, delta_out)
    assert (step.sgr is None) if not reconcile else torch.isclose(step.sgr, sgr)
    for mine, theirs in zip(gradients(body, head), gradients(twin_body, twin_head), strict=True):
        torch.testing.assert_close(mine, theirs)
    for mine, theirs in zip(body.buffers(), twin_body.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs)  # BatchNorm statistics move once
    assert all(not t.requires_grad for t in step if t is not None)
    assert not x.requires_grad
    assert x.grad is None


def test_gradients_add_up_and_scale():
    body, head, x, y, delta_pre = module()
    body.eval()  # the same statistics in both calls
    sk.local_step(body, head, x, y, delta_pre, weight=2.0)
    once = [g.clone() for g in gradients(body, head)]
    step = sk.local_step(body, head, x, y, delta_pre, weight=2.0, grad_scale=8.0)
    for first, total in zip(once, gradients(body, head), strict=True):
        torch.testing.assert_close(total, 9 * first)
    plain = sk.local_step(body, head, x, y, delta_pre, weight=2.0)
    for scaled, unscaled in zip(step, plain, strict=True):
        torch.testing.assert_close(scaled, unscaled)


def test_relative_floor_is_a_fraction_of_the_rms_norm():
    body, head, x, y, delta_pre = module()
    body.eval()
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        delta_now = torch.autograd.grad(head(body(leaf), y), leaf)[0]
    floor = 1.5 * delta_now.flatten(1).norm(dim=1).square().mean().sqrt()
    step = sk.local_step(body, head, x, y, delta_pre, weight=1.0, relative_floor=1.5)
    torch.testing.assert_close(step.sgr, sk.sgr_loss(delta_now, delta_pre, floor=floor))
    assert step.sgr < sk.sgr_loss(delta_now, delta_pre)


def test_frozen_and_unused_parameters_are_left_alone():
    body, head, x, y, delta_pre = module()
    body[0].weight.requires_grad_(False)
    head.unused = nn.Linear(2, 2).double()
    sk.local_step(body, head, x, y, delta_pre, weight=1.0)
    assert body[0].weight.grad is None
    assert head.unused.weight.grad is None
    assert body[0].bias.grad is not None


def test_head_may_be_any_callable():
    body, head, x, y, delta_pre = module()
    twin_body, twin_head = copy.deepcopy(body), copy.deepcopy(head)
    sk.local_step(body, lambda f, target: head(f, target), x, y, delta_pre, weight=1.0)
    sk.local_step(twin_body, twin_head, x, y, delta_pre, weight=1.0)
    for mine, theirs in zip(gradients(body, head), gradients(twin_body, twin_head), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_body_without_parameters_in_the_first_module():
    _, head, _, y, _ = module()
    x = torch.randn(5, 4, 6, 6, dtype=torch.float64)
    step = sk.local_step(nn.AvgPool2d(2), head, x, y, None, weight=1.0)
    assert step.delta_out.shape == step.output.shape == (5, 4, 3, 3)
    assert head.linear.weight.grad.any()


def test_need_delta_out_false_changes_only_delta_out():
    for reconcile in (False, True):
        body, head, x, y, delta_pre = module()
        twin_body, twin_head = copy.deepcopy(body), copy.deepcopy(head)
        delta_pre = delta_pre if reconcile else None
        step = sk.local_step(body, head, x, y, delta_pre, weight=1.0, need_delta_out=False)
        sk.local_step(twin_body, twin_head, x, y, delta_pre, weight=1.0)
        assert step.delta_out is None
        for mine, theirs in zip(gradients(body, head), gradients(twin_body, twin_head), strict=True):
            torch.testing.assert_close(mine, theirs)


def test_works_under_no_grad_and_autocast():
    body, head, x, y, delta_pre = module(torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        step = sk.local_step(body, head, x, y, delta_pre, weight=1.0)
    assert step.sgr.isfinite()
    assert body[0].weight.grad.dtype == torch.float32
    assert body[0].weight.grad.any()


@pytest.mark.parametrize("engine", ["autograd", "fused", "directional"])
def test_grad_scaler_skips_what_overflows_and_then_trains(engine):
    """The loop of the README in float16, with a scale that is too large at first, and gradients that are clipped."""
    body, head = nn.Sequential(sk.LinearReLU(6, 16), nn.Linear(16, 8)), sk.CrossEntropyHead(nn.Linear(8, 3))
    parameters = [*body.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    x, y, delta_pre = torch.randn(16, 6), torch.randint(3, (16,)), torch.randn(16, 6)
    expected = copy.deepcopy((body, head))
    sk.local_step(*expected, x, y, delta_pre, weight=0.1, engine=engine)
    before = [parameter.detach().clone() for parameter in parameters]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    scaler.scale(torch.zeros(()))
    scales = []
    while not scales or scales[-1] != scaler.get_scale():
        assert len(scales) < 24
        scales.append(scaler.get_scale())
        assert all(map(torch.equal, parameters, before))
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            sk.local_step(body, head, x, y, delta_pre, weight=0.1, engine=engine, grad_scale=scaler.get_scale())
        scaler.unscale_(optimizer)
        found = torch.cat([gradient.flatten() for gradient in gradients(body, head)])
        nn.utils.clip_grad_norm_(parameters, 1e3)
        scaler.step(optimizer)
        scaler.update()
    assert scales == [2.0 ** (24 - skipped) for skipped in range(len(scales))] and len(scales) > 2
    truth = torch.cat([gradient.flatten() for gradient in gradients(*expected)])
    assert (found - truth).norm() < 0.05 * truth.norm()
    assert not any(map(torch.equal, parameters, before))
