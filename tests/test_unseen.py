"""Whatever the directional engine's function modes do not see: right to first order, or refused by name."""

from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F
from autograd_functions import Clipped, Reversal, StraightThrough
from networks import Apply, Hooked
from torch import Tensor, nn

import sgr_kernels as sk
from sgr_kernels.engines.gradient_check import LONGEST, RATIO, check_gradient


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    x, delta_pre = torch.randn(2, 16, 32, dtype=torch.float64).unbind(0)
    return x, torch.randint(4, (16,)), delta_pre


def head() -> nn.Module:
    return sk.CrossEntropyHead(nn.Linear(64, 4)).double()


def step(body, head=None, engine: str = "directional", **options):
    options = {"weight": 50.0} | options
    return sk.local_step(body, head or globals()["head"](), *inputs(), engine=engine, **options)


def sgr_gradient(engine: str, body: nn.Module, head, **options) -> Tensor:
    """What the SGR term adds to the gradients of the body, as one vector."""
    arguments, gradients = inputs(), []
    for delta_pre in (arguments[2], None):
        body.zero_grad()
        own = options if delta_pre is not None else {}
        torch.manual_seed(5)
        sk.local_step(body, head, *arguments[:2], delta_pre, weight=50.0, engine=engine, **own)
        gradients.append(torch.cat([p.grad.flatten() for p in body.parameters() if p.grad is not None]))
    return gradients[0] - gradients[1]


def relative_error(body: nn.Module, head=None) -> float:
    head = head or globals()["head"]()
    torch.manual_seed(1)
    expected = sgr_gradient("autograd", body, head)
    torch.manual_seed(1)
    result = sgr_gradient("directional", body, head, order=2, radius=1e-3)
    return float((result - expected).norm() / expected.norm())


# --- code that no function mode sees ----------------------------------------------------------------------------------


@torch.jit.script
def gated_by_hand(z: Tensor) -> Tensor:
    return z * (z > 0).double()


@torch.jit.script
def smooth_in_disguise(z: Tensor) -> Tensor:
    return z * 2.0 + z * z


class InAnotherThread(nn.Module):
    """Runs ``inside`` in a thread that has made ``made_before`` nodes of graphs already."""

    def __init__(self, inside: nn.Module, made_before: int = 0) -> None:
        super().__init__()
        self.inside, self.made_before = inside, made_before

    def forward(self, x: Tensor) -> Tensor:
        result = []

        def work():
            leaf = torch.zeros((), requires_grad=True)
            for _ in range(self.made_before):
                leaf.sin()
            result.append(self.inside(x))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return result[0]


def mlp(*kinks: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(32, 64), *kinks, nn.Linear(64, 64)).double()


UNSEEN = {
    "scripted module": lambda: torch.jit.script(mlp(nn.ReLU())),
    "scripted layer": lambda: nn.Sequential(mlp(), torch.jit.script(nn.ReLU())),
    "scripted kink by hand": lambda: mlp(Apply(gated_by_hand)),
    "scripted and smooth": lambda: mlp(Apply(smooth_in_disguise)),
    "traced": lambda: torch.jit.trace(mlp(nn.ReLU()), torch.randn(2, 32, dtype=torch.float64)),
    "another thread": lambda: InAnotherThread(mlp(nn.ReLU())),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_nodes_of_unseen_code_are_refused_by_name(name):
    body = UNSEEN[name]()
    with pytest.raises(ValueError, match=r"Backward\w* comes from code .* does not see .*sgr_kernels.smooth"):
        step(body)
    assert all(p.grad is None for p in body.parameters())


class WithUnused(nn.Module):
    """Makes nodes that are not in the graph of the loss."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(20):
            x.sin()
        return x


@pytest.mark.parametrize("before", [nn.Identity(), WithUnused()], ids=["all used", "unused nodes"])
@pytest.mark.parametrize("made_before", range(0, 40, 3))
def test_numbers_of_another_thread_may_be_those_of_a_call_here(made_before, before):
    """Threads count their nodes each for itself."""
    refused = []

    def first_step_of_a_thread():  # which has made as few nodes as the other one
        try:
            inside = nn.Sequential(nn.Linear(64, 64).double(), nn.ReLU())
            step(nn.Sequential(before, mlp(), InAnotherThread(inside, made_before)))
        except ValueError as error:
            refused.append(str(error))

    thread = threading.Thread(target=first_step_of_a_thread)
    thread.start()
    thread.join()
    assert len(refused) == 1 and "another thread" in refused[0]


def test_unseen_code_is_found_at_every_step():
    use_script = []

    class Sometimes(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return gated_by_hand(z) if use_script else F.relu(z)

    body, classifier = mlp(Sometimes()), head()
    step(body, classifier)
    use_script.append(True)
    with pytest.raises(ValueError, match="comes from code"):
        step(body, classifier)


def test_a_head_of_unseen_code_is_refused():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(64, 64), nn.ReLU()).double())
    with pytest.raises(ValueError, match="comes from code"):
        step(mlp(), lambda features, y: F.cross_entropy(scripted(features), y))


def test_unseen_code_passes_where_x_does_not_reach():
    scale = torch.jit.script(nn.ReLU())

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(64, 32, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(F.linear(x, scale(self.weight)))

    assert relative_error(Scaled()) < 1e-4


def test_declared_unseen_code_passes():
    assert relative_error(mlp(Apply(sk.smooth(smooth_in_disguise)))) < 1e-4


@pytest.mark.parametrize("made_in_place", [False, True])
def test_views_written_into_are_nodes_of_seen_calls(made_in_place):
    class Views(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            z = z * 1.0
            left, right = z[:, :32], z[:, 32:]
            left.mul_(2.0)
            if made_in_place:
                right.mul_(3.0)
                F.relu(left, inplace=True)
            return z + torch.cat([left, right], 1)

    assert relative_error(mlp(Views())) < 1e-4


# --- backward passes that are no gradients ----------------------------------------------------------------------------


@pytest.mark.parametrize("hook", [lambda g: -g, lambda g: g.clamp(-1e-3, 1e-3)], ids=["reversed", "clipped"])
def test_hooks_on_tensors_are_refused(hook):
    with pytest.raises(ValueError, match="Tensor.register_hook .* engine='autograd'"):
        step(mlp(Hooked(hook)))
    inside = Hooked(hook)
    with pytest.raises(ValueError, match="Tensor.register_hook"):
        step(mlp(), lambda features, y: F.cross_entropy(inside(features), y))


def test_hooks_on_parameters_are_refused():
    body = mlp(nn.Tanh())
    handle = body[0].weight.register_hook(lambda g: g.clamp(-1e-3, 1e-3))
    with pytest.raises(ValueError, match=r"shape \(64, 32\) has a hook"):
        step(body)
    handle.remove()
    step(body)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("function", [Reversal, StraightThrough, Clipped])
def test_declared_functions_whose_backward_is_no_derivative_are_found(function, dtype):
    declared = sk.smooth(function)
    body, classifier = mlp(nn.Tanh(), Apply(declared)).to(dtype), head().to(dtype)
    x, y, delta_pre = inputs()
    with pytest.raises(RuntimeError, match="not that of the loss: .* engine='autograd'"):
        sk.local_step(body, classifier, x.to(dtype), y, delta_pre.to(dtype), weight=50.0, engine="directional")
    assert all(p.grad is None for p in body.parameters())


def test_hooks_on_nodes_are_found():
    class Backstage(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            z = torch.tanh(z)
            z.grad_fn.register_hook(lambda gradients, _: tuple(-g for g in gradients))
            return z

    with pytest.raises(RuntimeError, match="not that of the loss"):
        step(mlp(Backstage()))


def test_messages_ask_for_an_exact_derivative():
    class Undeclared(StraightThrough):
        pass

    with pytest.raises(ValueError, match="Undeclared may have kinks.*a backward pass that is its exact derivative"):
        step(mlp(Apply(Undeclared.apply)))


@pytest.mark.parametrize("frequency", [1.0, 100.0, 3000.0])
def test_steep_smooth_losses_are_gradients(frequency):
    torch.manual_seed(0)
    step(mlp(Apply(lambda z: torch.sin(frequency * z))))


def check_slopes(slopes: list[float]) -> None:
    """The check of a gradient of 1e6 where the loss changes like this at ever shorter distances."""
    x, grad = torch.ones(64, dtype=torch.float64), torch.zeros(64, dtype=torch.float64)
    grad[0] = 1e6
    distances = (LONGEST * RATIO**k for k in range(len(slopes)))
    changes = (slope * distance for slope, distance in zip(slopes, distances, strict=True))
    losses = iter([0.0, 0.0, *(value for change in changes for value in (change, 0.0))])  # rounding first
    check_gradient(lambda _: torch.tensor(next(losses)), x, grad, torch.tensor(0.0), [], 1e-6)


def test_a_loss_that_bends_at_all_distances_proves_no_gradient_wrong():
    """As a network with statistics of few values does; that it is straight at two distances is chance."""
    check_slopes([-50.0, 900.0, 890.0, -1400.0, -19e3, -69e3, 250e3, 460e3])
    for slopes in ([890.0] * 8, [0.0] * 8, [-50.0, 400.0, *[890.0] * 6]):
        with pytest.raises(RuntimeError, match="not that of the loss"):
            check_slopes(slopes)
