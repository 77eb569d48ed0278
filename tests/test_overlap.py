"""Steps beside each other: on a GPU, and what of it shows without one, with streams that note who waits for whom."""

from __future__ import annotations

import contextlib
import gc
import weakref
from unittest import mock

import pytest
import torch
from networks import module
from torch import Tensor, nn

import sgr_kernels as sk
from sgr_kernels.engines import overlap
from sgr_kernels.engines.passes import Passes

MAIN = "main"


class Streams:
    """In the place of those of torch: ``waits`` has (who, for whom), in order."""

    def __init__(self) -> None:
        self.waits: list[tuple[str, str]] = []
        self.count, self.now = 0, self._stream(MAIN)

    def _stream(self, name: str):
        streams = self

        class Stream:
            device = torch.device("cpu")

            def wait_stream(self, other) -> None:
                streams.waits.append((name, other.name))

        Stream.name = name
        return Stream()

    def create(self, device: torch.device):
        self.count += 1
        return self._stream(f"side {self.count}")

    @contextlib.contextmanager
    def use(self, stream):
        before, self.now = self.now, stream
        yield
        self.now = before


@pytest.fixture
def streams(monkeypatch) -> Streams:
    """CPU tensors are overlapped as those of a GPU are."""
    found = Streams()
    monkeypatch.setattr(torch.cuda, "Stream", found.create)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: found.now)
    monkeypatch.setattr(torch.cuda, "stream", found.use)
    monkeypatch.setattr(overlap, "current", lambda device: overlap._CURRENT.get())
    return found


def network(device: str = "cpu") -> tuple[list[tuple[nn.Module, nn.Module]], Tensor, Tensor]:
    """Three modules with buffers, and a batch."""
    torch.manual_seed(0)

    def body(channels: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.1), nn.Tanh())

    modules = [(body(channels), sk.CrossEntropyHead(nn.Linear(4, 3))) for channels in (3, 4, 4)]
    x, y = torch.randn(6, 3, 8, 8), torch.arange(6) % 3
    return [(body.to(device), head.to(device)) for body, head in modules], x.to(device), y.to(device)


def steps(modules, x: Tensor, y: Tensor) -> list[Tensor]:
    """One step of every module; the losses."""
    delta_pre, losses = None, []
    for body, head in modules:
        step = sk.local_step(body, head, x, y, delta_pre, weight=100.0, engine="directional")
        x, delta_pre = step.output, step.delta_out
        losses += [step.loss] if step.sgr is None else [step.loss, step.sgr]
    return losses


def state(modules) -> list[Tensor]:
    """Gradients and buffers."""
    parts = [part for pair in modules for part in pair]
    return [p.grad for part in parts for p in part.parameters()] + [b for part in parts for b in part.buffers()]


def results(context: contextlib.AbstractContextManager, device: str = "cpu") -> list[Tensor]:
    """Of two steps, each in the context, of which the second adds up gradients."""
    modules, x, y = network(device)
    losses = []
    for seed in range(2):
        torch.manual_seed(seed)
        with context:
            losses += steps(modules, x, y)
    return losses + state(modules)


class Overlapping:
    """``overlapping``, which can be entered again."""

    def __enter__(self) -> None:
        self.inner = sk.overlapping()
        self.inner.__enter__()

    def __exit__(self, *error) -> None:
        self.inner.__exit__(*error)


def require_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_the_stream_of_the_steps_waits_and_so_does_the_one_that_goes_on(streams):
    modules, x, y = network()
    with sk.overlapping():
        steps(modules, x, y)
        streams.now = streams.create(torch.device("cpu"))
    assert streams.waits[2:] == [(MAIN, "side 1"), ("side 3", MAIN), (MAIN, "side 2"), ("side 3", MAIN)]


@pytest.mark.usefixtures("streams")
def test_results_are_those_of_steps_one_after_the_other():
    require_equal(results(Overlapping()), results(contextlib.nullcontext()))


def test_nothing_changes_on_a_cpu():
    modules, x, y = network()
    with sk.overlapping():
        steps(modules, x, y)
        assert all(p.grad is not None for body, _ in modules for p in body.parameters())


def test_other_passes_have_a_stream_of_their_own(streams):
    modules, x, y = network()
    steps(modules, x, y)
    for body, _ in modules:
        body.zero_grad()
    with sk.overlapping():
        steps(modules, x, y)
        assert streams.waits == [("side 1", MAIN), ("side 2", MAIN)]
        given = [all(p.grad is not None for p in body.parameters()) for body, _ in modules]
        assert given == [True, False, False]
    assert streams.waits[2:] == [(MAIN, "side 1"), (MAIN, "side 2")]
    assert all(p.grad is not None for body, _ in modules for p in body.parameters())


def test_what_another_stream_reads_is_kept_until_it_is_awaited(streams):
    body, head, x, y, delta_pre = module("resnet")
    kept = weakref.ref(x)
    with sk.overlapping():
        sk.local_step(body, head, x, y, delta_pre, weight=1.0, engine="directional")
        data = x.untyped_storage().data_ptr()
        [pending] = overlap._CURRENT.get().pending
        assert data in {each.untyped_storage().data_ptr() for each in pending.held[1]}
        assert len(pending.held[1]) == 2
        del x, pending
    gc.collect()
    assert kept() is None


def test_modules_that_share_a_tensor_wait(streams):
    modules, x, y = network()
    head = modules[1][1]
    modules[2] = modules[2][0], head
    with sk.overlapping():
        steps(modules, x, y)
        assert streams.waits == [("side 1", MAIN), (MAIN, "side 1"), ("side 2", MAIN)]


def test_modules_that_share_a_relative_weight_wait(streams):
    modules, x, y = network()
    weight, waits = sk.RelativeWeight(0.1), []
    with sk.overlapping():
        for body, head in modules[:2]:
            x, y = torch.randn(6, body[0].in_channels, 8, 8), y
            sk.local_step(body, head, x, y, torch.randn_like(x), weight=weight, engine="directional")
            waits.append(len(streams.waits))
    assert waits == [1, 3] and streams.waits[:3] == [("side 1", MAIN), (MAIN, "side 1"), ("side 2", MAIN)]


def test_a_pass_that_fails_is_awaited(streams, monkeypatch):
    modules, x, y = network()
    steps(modules, x, y)
    for body, _ in modules:
        body.zero_grad()
    monkeypatch.setattr(Passes, "gradients", mock.Mock(side_effect=ArithmeticError))
    with pytest.raises(ArithmeticError), sk.overlapping():
        steps(modules, x, y)
    assert streams.waits == [("side 1", MAIN), (MAIN, "side 1")]
    assert all(p.grad is None for p in modules[1][0].parameters())


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@needs_gpu
def test_gpu_results_are_those_of_steps_one_after_the_other():
    torch.backends.cudnn.deterministic = True
    require_equal(results(Overlapping(), "cuda"), results(contextlib.nullcontext(), "cuda"))


@needs_gpu
def test_gpu_steps_are_captured_side_by_side():
    """Replays on other numbers than those of the capture, against eager steps one after the other."""
    modules, x, y = network("cuda")
    for pair in modules:
        for each in (layer for part in pair for layer in part.modules() if isinstance(layer, nn.Dropout)):
            each.p = 0.0
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        steps(modules, x, y)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    for body, head in modules:
        body.zero_grad(), head.zero_grad()
    with torch.cuda.graph(graph, stream=side), sk.overlapping():
        steps(modules, x, y)
    for seed in range(3):
        torch.manual_seed(seed)
        x.normal_()
        graph.replay()
        found = [p.grad.clone() for body, head in modules for p in (*body.parameters(), *head.parameters())]
        twin, _, _ = network("cuda")
        for (body, head), (other, its_head) in zip(modules, twin, strict=True):
            other.load_state_dict(body.state_dict()), its_head.load_state_dict(head.state_dict())
            other[2].p = 0.0
        steps(twin, x, y)
        expected = [p.grad for body, head in twin for p in (*body.parameters(), *head.parameters())]
        for ours, theirs in zip(found, expected, strict=True):
            assert (ours - theirs).norm() <= 1e-3 * theirs.norm() + 1e-7
