"""--cuda-graph: steps are those that are not captured, as far as that shows without a GPU; what cannot be is named."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from capture_check import CaptureCheck, NotCapturable
from sgr_train import graphs, methods, networks, train
from sgr_train.config import RunConfig
from sgr_train.errors import UsageError
from sgr_train.memory.step import Sizes
from sgr_train.settings import make
from sgr_train.updates import Updates
from torch._subclasses.fake_tensor import DataDependentOutputException
from train_helpers import TINY_FLAGS

CUDA = torch.device("cuda")
STEPS = {"batch_size": 8, "per_step": True, "lr": 0.05, "warmup": 0.2, "epochs": 2, "train_subset": 64}


@pytest.fixture
def replays(monkeypatch) -> list[int]:
    """In the place of a graph: what was captured runs again, with the tensors of the capture; one entry a capture."""
    found: list[int] = []

    def capture(run, device):
        result = torch.full((graphs.CapturedSteps.losses_of,), torch.nan)
        found.append(0)

        def replay() -> None:
            found[-1] += 1
            result.copy_(run())

        return replay, result

    def warmed_up(run, device):
        losses = run()
        graphs.CapturedSteps.losses_of = len(losses)
        return losses

    monkeypatch.setattr(graphs.CapturedSteps, "losses_of", 0, raising=False)
    monkeypatch.setattr(graphs, "capture", capture)
    monkeypatch.setattr(graphs, "warmed_up", warmed_up)
    monkeypatch.setattr(train, "require_capturable", lambda *_: None)
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "bp", "clip_grad_norm": 0.5},
        {"method": "greedy", "modules": 2},
        {"method": "sgr", "ema": 0.5},
        {"method": "layerwise", "optimizer": "adamw", "augment": ("mixup",)},
    ],
)
def test_replays_are_steps(tiny, replays, settings):
    """With the batch, the learning rate and the module of each: one capture an epoch, from the fourth step on."""
    expected, _ = train.train(tiny("eager", **STEPS, **settings))
    run, _ = train.train(tiny("captured", cuda_graph=True, **STEPS, **settings))
    assert replays == [5] * run.epochs
    rates = [group["lr"] for optimizer in run.optimizers for group in optimizer.param_groups]
    assert all(isinstance(rate, torch.Tensor) for rate in rates)  # which replays read
    for found, other in zip(run.network.parameters(), expected.network.parameters(), strict=True):
        torch.testing.assert_close(found, other, rtol=1e-4, atol=1e-6)
    for name in ("loss", "lr", "val_accuracy"):
        assert [row[name] for row in run.history] == [pytest.approx(row[name], rel=1e-4) for row in expected.history]


def test_a_batch_of_another_size_is_taken_as_it_is(replays):
    seen = []

    def step(x, labels):
        seen.append((x.clone(), labels.clone()))
        return x.sum().reshape(1)

    steps = graphs.CapturedSteps(step)
    batches = [torch.full((size, 2), float(i)) for i, size in enumerate((3, 3, 2, 3, 3, 1, 3))]
    losses = [steps(x, x[:, 0].long()).clone() for x in batches]
    assert [x.tolist() for x, _ in seen] == [x.tolist() for x in batches]
    assert [y.tolist() for _, y in seen] == [x[:, 0].tolist() for x in batches]
    assert [loss.item() for loss in losses] == [x.sum().item() for x in batches] and replays == [2]


# --- what a capture refuses -------------------------------------------------------------------------------------------

METHODS = {name: {} for name in methods.names()} | {"layerwise": {"engine": "directional"}}
METHODS["sgr"] = {"engine": "directional"}


def require_captured(name: str, amp: bool = False) -> None:
    """On what stands for a GPU: a step outside, then one that is checked, with its updates."""
    model, more = ("pepita_conv", {}) if name == "pepita" else ("plainnet", {"depth": 3, "width": 8})
    network = networks.create(model, num_classes=10, image_shape=(3, 32, 32), head="linear", **more)
    network = network.whole() if methods.is_whole(name) else network
    method, x, y = methods.REGISTRY.make(name, **METHODS[name]), torch.zeros(8, 3, 32, 32), torch.zeros(8).long()
    methods.prepare(method, network, x)
    sizes = Sizes(gpu=True)
    network, method = sizes.copy((network, method), [network])
    x, y = sizes.tensor(x), sizes.tensor(y)
    with sizes.only():
        optimizers = [torch.optim.SGD(module.parameters(), 0.1, 0.9) for module in network]
        graphs.prepare_optimizers(optimizers, x.device)
        updates = Updates(network, optimizers, 1, 1.0)
        rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
        for checked in (False, True):
            moving = [[value for state in o.state.values() for value in state.values()] for o in optimizers]
            updates.begin(last=False)
            check = CaptureCheck(network, x, y, rates, moving) if checked else nullcontext()
            with check, torch.autocast("cpu", torch.bfloat16, enabled=amp):
                method.step(network, x, y, updates)


@pytest.mark.parametrize("name", METHODS)
def test_whole_steps_can_be_captured(name):
    require_captured(name)


@pytest.mark.parametrize("name", ["bp", "sgr"])
def test_whole_steps_in_half_precision_can_be_captured(name):
    require_captured(name, amp=True)


def test_a_learning_rate_that_is_read_would_be_seen(monkeypatch):
    """By an optimizer that is not fused."""

    def not_fused(optimizers, device):
        prepare(optimizers, device)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["fused"] = False

    prepare = graphs.prepare_optimizers
    monkeypatch.setattr(graphs, "prepare_optimizers", not_fused)
    with pytest.raises((NotCapturable, DataDependentOutputException)):
        require_captured("bp")


REFUSED = {
    "--accumulate 2": "gradients would have to outlive a step; drop it or --accumulate",
    "--checkpoint-blocks": "read the random stream, which a capture does not allow; drop it or --checkpoint-blocks",
    "--compile": "one of the two is enough; drop it or --compile",
    "--amp fp16": "the loss scale of --amp fp16 is a number that changes; take --amp bf16",
    "--every 2": "steps with and without reconciliation are two graphs; take --every 1",
}


@pytest.mark.parametrize("flags", REFUSED)
def test_what_cannot_be_captured_is_refused_by_name(flags):
    name, _, value = flags.removeprefix("--").replace("-", "_").partition(" ")
    config = make(RunConfig, **{name: True if not value else int(value) if value.isdigit() else value})
    method = methods.SGR(every=config.options["method"]["sgr"]["every"])
    with pytest.raises(UsageError, match=f"^--cuda-graph: .*{REFUSED[flags]}$"):
        graphs.require_capturable(config, method, [], CUDA)
    graphs.require_capturable(make(RunConfig, amp="bf16"), methods.SGR(), [optimizer(torch.optim.SGD)], CUDA)


def optimizer(kind: type[torch.optim.Optimizer], **options) -> torch.optim.Optimizer:
    return kind([torch.nn.Parameter(torch.zeros(1))], **options)


def test_optimizers_that_read_the_learning_rate_are_refused_by_name():
    """As those of other packages may, whose groups have neither of the two."""
    config, method, given = make(RunConfig), methods.BP(), optimizer(torch.optim.SGD)
    graphs.require_capturable(config, method, [given, optimizer(torch.optim.AdamW)], CUDA)
    del given.param_groups[0]["fused"]
    with pytest.raises(UsageError, match="^--cuda-graph: --optimizer sgd reads its learning rate; take sgd or adamw"):
        graphs.require_capturable(config, method, [given], CUDA)


@pytest.mark.parametrize(
    ("raised", "error", "message"),
    [
        (RuntimeError, UsageError, r"--cuda-graph: the step cannot be captured \(not permitted when capturing\)"),
        (torch.OutOfMemoryError, torch.OutOfMemoryError, "not permitted"),  # told, or a smaller batch is tried
    ],
)
def test_a_capture_that_fails_is_an_error_of_one_line(monkeypatch, raised, error, message):
    def refuse(*_, **__):
        raise raised("not permitted\nwhen capturing")

    for name, stand_in in (("CUDAGraph", object), ("Stream", lambda device: None), ("graph", refuse)):
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(graphs, "_streams", {})
    with pytest.raises(error, match=f"^{message}"):
        graphs.capture(lambda: torch.zeros(1), CUDA)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command", [("run",), ("recipe", "digits-bp")])
def test_the_cpu_is_refused(sgr_train, tmp_path, command):
    flags = ("--cuda-graph", *TINY_FLAGS) if command[0] == "run" else ("--set", "cuda_graph=true")
    status, text, errors = sgr_train(*command, *flags, "--out", tmp_path / "run")
    assert (status, text) == (2, "") and not (tmp_path / "run").exists()
    assert errors == "sgr-train: --cuda-graph needs a GPU, and this run is on the CPU; drop it\n"


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU captures here")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("method", [name for name in methods.names() if name not in ("pepita", "infopro")])
def test_captured_runs_are_those_that_are_not(tiny, method, optimizer):
    settings = {**STEPS, "method": method, "modules": 2, "optimizer": optimizer, "lr": 1e-3, "device": "cuda"}
    expected, _ = train.train(tiny("eager", **settings))
    run, _ = train.train(tiny("captured", cuda_graph=True, **settings))
    for found, other in zip(run.history, expected.history, strict=True):
        assert found["loss"] == pytest.approx(other["loss"], rel=1e-2) and found["lr"] == pytest.approx(other["lr"])
