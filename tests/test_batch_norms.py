"""Batch norms in repeated passes: their running statistics are left alone where nothing else uses them."""

from __future__ import annotations

import copy
import pickle
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd

import sgr_kernels as sk
from sgr_kernels.engines import batch_norms
from sgr_kernels.engines.batch_norms import by_batch_alone
from sgr_kernels.engines.reach import Reach
from sgr_kernels.engines.state import Snapshot
from sgr_kernels.torch_internals import outside_of_all_modes

STEPS = 3  # nothing is left alone in the first


@pytest.fixture
def alone(monkeypatch) -> list[nn.Module]:
    """The batch norms that were left alone, once for every pass."""
    seen, call = [], batch_norms._ByBatch.__call__
    monkeypatch.setattr(batch_norms._ByBatch, "__call__", lambda self, x: (seen.append(self.norm), call(self, x))[1])
    return seen


class Body(nn.Module):
    """``use(body, z)`` is added to what is normalised after it."""

    def __init__(self, use=lambda body, z: 0.0, make=nn.BatchNorm1d, **options) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(6, 6), make(6, **options)
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        shape = (1,) * (2 * isinstance(self.norm, nn.BatchNorm2d) + 3 * isinstance(self.norm, nn.BatchNorm3d))
        z = self.linear(x).view(*x.shape, *shape)
        other = self.use(self, z)
        return torch.tanh(self.norm(z).flatten(1) + other)


def head(features: Tensor, y: Tensor) -> Tensor:
    return (features - y).square().mean()


def steps(body: nn.Module, engine: str = "directional") -> None:
    torch.manual_seed(1)
    for _ in range(STEPS):
        x, y, delta_pre = torch.randn(3, 8, 6, dtype=torch.float64).unbind(0)
        more = {"order": 2, "radius": 1e-5} if engine == "directional" else {}
        sk.local_step(body, head, x, y, delta_pre, weight=5.0, engine=engine, **more)


def assert_as_algorithm_1(body: Body) -> None:
    """State exactly, gradients up to the truncation of a central difference."""
    body = body.double()
    body.zero_grad()
    twin = copy.deepcopy(body)
    steps(body)
    steps(twin, "autograd")
    for name, expected in twin.state_dict().items():
        torch.testing.assert_close(body.state_dict()[name], expected, rtol=1e-12, atol=0, msg=name)
    found, exact = (torch.cat([p.grad.flatten() for p in each.parameters()]) for each in (body, twin))
    assert (found - exact).norm() < 1e-6 * exact.norm()
    assert "forward" not in vars(body.norm)


KINDS = [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d]


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"momentum": 0.3, "eps": 0.1}], ids=str)
def test_left_alone_after_the_first_step(make, options, alone):
    body = Body(make=make, **options)
    assert_as_algorithm_1(body)
    assert alone == [body.norm] * 2 * (STEPS - 1)  # in both passes of the difference


@pytest.mark.parametrize("options", [{"momentum": None}, {"track_running_stats": False}], ids=str)
def test_one_that_reads_or_has_no_statistics_is_not(options, alone):
    assert_as_algorithm_1(Body(**options))
    assert not alone


def test_a_frozen_one_is_not(alone):
    body = Body()
    body.norm.eval()
    assert_as_algorithm_1(body)
    assert not alone


def test_one_that_is_frozen_or_trained_later(alone):
    """What was looked at in the first step is that of batch norms that were trained then."""
    body = Body().double()
    steps(body)
    assert alone
    alone.clear()
    body.norm.eval()
    assert_as_algorithm_1(body)
    assert not alone
    body = Body().double()
    body.norm.eval()
    steps(body)
    body.norm.train()
    assert_as_algorithm_1(body)
    assert not alone


def test_a_subclass_is_not(alone):
    class Own(nn.BatchNorm1d):
        pass

    assert_as_algorithm_1(Body(make=Own))
    assert not alone


def test_one_with_a_forward_of_its_own_is_not(alone):
    body = Body()
    body.norm.forward = lambda x: nn.BatchNorm1d.forward(body.norm, x)
    own, twin = body.norm.forward, copy.deepcopy(body).double()
    twin.norm.forward = lambda x: nn.BatchNorm1d.forward(twin.norm, x)
    steps(body.double())
    steps(twin, "autograd")
    assert not alone and body.norm.forward is own
    assert torch.equal(body.norm.running_mean, twin.norm.running_mean)


def test_their_buffers_are_neither_kept_nor_put_back(monkeypatch):
    kept, of = [], Snapshot.of
    monkeypatch.setattr(Snapshot, "of", lambda *args: (kept.append(snapshot := of(*args)), snapshot)[1])
    steps(Body().double())
    assert [len(snapshot.buffers) for snapshot in kept] == [3, 3] + [0, 0] * (STEPS - 1)


def read(body, z):
    return 1.0 * body.norm.running_mean


def read_a_view(body, z):
    if not hasattr(body, "view"):
        object.__setattr__(body, "view", body.norm.running_var[None].detach())
    return 1.0 * body.view


def read_the_counter(body, z):
    return 0.1 * int(body.norm.num_batches_tracked)


def read_by_a_list(body, z):
    return torch.stack([body.norm.running_mean, body.norm.running_var]).sum(0)


def normalised_once_more(body, z):
    norm = body.norm
    return F.batch_norm(z, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=True)


def normalised_by_the_statistics(body, z):
    body.norm.eval()
    with torch.no_grad():
        normalised = body.norm(z)
    body.norm.train()
    return normalised


def set_back(body, z):
    with torch.no_grad():
        body.norm.running_mean.mul_(0.5)
    return 0.0


def replaced(body, z):
    body.norm.running_mean = torch.zeros_like(body.norm.weight.detach())
    return 0.0


USES = [
    read, read_a_view, read_the_counter, read_by_a_list, normalised_once_more, normalised_by_the_statistics, set_back,
    replaced,
]  # fmt: skip


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
def test_one_whose_statistics_are_used_elsewhere_is_not(use, alone):
    assert_as_algorithm_1(Body(use))
    assert not alone


def test_one_whose_statistics_a_hook_uses_is_not(alone):
    body = Body()
    body.norm.register_forward_pre_hook(lambda norm, args: (args[0] * (1 + norm.running_mean),))
    assert_as_algorithm_1(body)
    assert not alone


def test_one_whose_statistics_may_be_in_a_transform_is_not(alone):
    """torch.func hides what its tensors are around."""
    body = Body(lambda body, z: torch.func.vmap(lambda mean: torch.sin(mean))(body.norm.running_mean))
    assert_as_algorithm_1(body)
    assert not alone


def test_one_with_another_ones_statistics_is_not(alone):
    body = Body(lambda body, z: body.other(z)).double()
    body.other = nn.BatchNorm1d(6).double()
    body.other.running_mean = body.norm.running_mean
    assert_as_algorithm_1(body)
    assert not alone


def test_one_that_is_called_twice(alone):
    assert_as_algorithm_1(Body(lambda body, z: body.norm(2 * z + 1)))
    assert len(alone) == 4 * (STEPS - 1)


def without_calls(graph, inputs):
    """As most compilers run a graph: modes see nothing of it, nor of what it writes."""

    def run(*args):
        with outside_of_all_modes():
            return graph(*args)

    return make_boxed_func(run)


UNSEEN = aot_autograd(fw_compiler=without_calls, keep_inference_input_mutations=True)


@pytest.mark.parametrize("compiler", ["eager", "aot_eager", UNSEEN], ids=["eager", "aot_eager", "unseen"])
def test_compiled_ones_are_not(compiler, alone):
    torch._dynamo.reset()
    body = Body().double()
    steps(torch.compile(body, backend=compiler))
    assert not alone and body.norm.num_batches_tracked == STEPS


@pytest.mark.parametrize("cast", [nullcontext, lambda: torch.autocast("cpu", torch.bfloat16)], ids=["", "autocast"])
def test_other_passes_compute_the_same(cast, alone):
    """A first step, in which nothing is left alone, and a second one of the same batch."""
    x, y, delta_pre = torch.randn(3, 8, 6).unbind(0)
    body, gradients = Body(), []
    for _ in range(2):
        body.zero_grad()
        with cast():
            sk.local_step(body, head, x, y, delta_pre, weight=5.0)
        gradients.append([p.grad.clone() for p in body.parameters()])
    assert alone and all(map(torch.equal, *gradients))


def test_a_pass_that_fails_leaves_no_trace():
    body = Body().double()
    steps(body)

    def fail(body, z):
        if "forward" in vars(body.norm):
            raise MemoryError
        return 0.0

    body.use = fail
    with pytest.raises(MemoryError):
        steps(body)
    assert "forward" not in vars(body.norm) and body.norm.num_batches_tracked == STEPS + 1


def test_what_is_no_batch_is_refused_as_ever():
    body = Body().double()
    steps(body)
    x, y, delta_pre = torch.randn(3, 1, 6, dtype=torch.float64).unbind(0)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        sk.local_step(body, head, x, y, delta_pre, weight=5.0)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda norm: pickle.loads(pickle.dumps(norm))])
def test_a_copy_that_another_thread_makes_meanwhile(copied):
    norm, x = nn.BatchNorm1d(6), torch.randn(8, 6)
    with by_batch_alone([norm]):
        twin = copied(norm)
    twin.eval()
    assert torch.equal(twin(x), F.batch_norm(x, norm.running_mean, norm.running_var, eps=norm.eps))


def test_a_step_that_another_thread_begins_meanwhile():
    norm = nn.BatchNorm1d(6)
    with by_batch_alone([norm]), by_batch_alone([norm]):
        snapshot = Snapshot.of(Reach(norm))
    snapshot.restore()
    assert "forward" not in vars(norm)
