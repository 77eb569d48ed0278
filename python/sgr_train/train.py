"""One training run, top to bottom: data, model, optimizers, loop."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import sgr_kernels as sk

from . import checkpoint, report
from .config import RunConfig
from .data import Data, load_data
from .errors import UsageError
from .measure import PROBE, PeakMemory, accuracy, measure_sgr
from .models import build


@dataclass
class Training:
    """Everything that moves while training goes on, and the history of what was measured."""

    modules: nn.ModuleList
    optimizers: list[torch.optim.Optimizer]
    schedules: list[torch.optim.lr_scheduler.LRScheduler]
    generator: torch.Generator  # batch order and augmentation
    history: list[dict[str, Any]] = field(default_factory=list)  # one row an epoch

    def state_dict(self) -> dict[str, Any]:
        return {
            "modules": self.modules.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedules": [schedule.state_dict() for schedule in self.schedules],
            "generator": self.generator.get_state(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "history": self.history,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.modules.load_state_dict(state["modules"])
        for part, saved in zip(self.optimizers + self.schedules, state["optimizers"] + state["schedules"], strict=True):
            part.load_state_dict(saved)
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["rng"])
        if torch.cuda.is_available() and state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        self.history = state["history"]


def setup(config: RunConfig) -> tuple[Training, Data]:
    """Data, network and optimizers of a run that has not begun. Writes nothing."""
    device = pick_device(config.device)
    torch.backends.cudnn.deterministic = True

    data = load_data(config, device)

    torch.manual_seed(config.seed)
    modules = build(config, data.image_shape, data.num_classes).to(device)

    optimizers = [
        torch.optim.SGD(m.parameters(), config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
        for m in modules
    ]
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(o, config.epochs) for o in optimizers]
    return Training(modules, optimizers, schedules, torch.Generator().manual_seed(config.seed)), data


def train(config: RunConfig, label: str = "", verbose: bool = False) -> tuple[Training, Data]:
    """Train in the folder ``config.out``, from its checkpoint if it has one. Never looks at the test images."""
    run, data = setup(config)
    saved = config.out / checkpoint.CHECKPOINT
    if saved.exists():
        run.load_state_dict(checkpoint.load_state(saved))
    else:
        checkpoint.write_config(config)
        checkpoint.save_state(saved, run.state_dict())

    images = data.images_per_epoch(config.batch_size)
    with report.Progress(label, images, len(run.history), config.epochs, verbose) as progress:
        for epoch in range(len(run.history) + 1, config.epochs + 1):
            memory, started = PeakMemory(data.mean.device), time.perf_counter()
            losses = train_epoch(run, config, data, progress)
            seconds = time.perf_counter() - started
            row = {
                "epoch": epoch,
                "lr": run.optimizers[0].param_groups[0]["lr"],
                "loss": losses,  # nats, one a module, mean over the epoch
                "seconds": seconds,  # of training; measurements excluded
                "images_per_second": images / seconds,
                "peak_memory_bytes": memory.read(),
                "peak_memory_kind": memory.kind,
                **measure(run.modules, config, data),
            }
            for schedule in run.schedules:
                schedule.step()
            run.history.append(row)
            checkpoint.write(config.out / checkpoint.METRICS, "".join(json.dumps(r) + "\n" for r in run.history))
            checkpoint.save_state(saved, run.state_dict())
            progress.epoch(row)
    return run, data


def train_epoch(run: Training, config: RunConfig, data: Data, progress: report.Progress) -> list[float]:
    """One pass over the training images; the mean loss of every module."""
    sums, seen = [torch.zeros((), device=data.mean.device) for _ in run.modules], 0
    first_step = len(run.history) * data.images_per_epoch(config.batch_size) // config.batch_size
    for index, (x, labels) in enumerate(data.shuffled(config.batch_size, run.generator), first_step):
        reconcile = config.method == "sgr" and index % config.sgr_every == 0
        delta_pre = None
        for k, (module, optimizer) in enumerate(zip(run.modules, run.optimizers, strict=True)):
            need_delta_out = reconcile and k + 1 < len(run.modules)
            optimizer.zero_grad()
            step = module_step(module, x, labels, delta_pre, config, need_delta_out)
            if config.clip_grad_norm is not None:
                nn.utils.clip_grad_norm_(module.parameters(), config.clip_grad_norm)
            optimizer.step()
            x, delta_pre = step.output, step.delta_out
            sums[k] += step.loss * len(labels)
        seen += len(labels)
        progress.batch(len(labels), sums[-1] / seen)
    losses = [(total / seen).item() for total in sums]
    for k, loss in enumerate(losses, 1):
        if not math.isfinite(loss):
            raise UsageError(f"training diverged: the loss of module {k} is {loss}; lower --lr or set --clip-grad-norm")
    return losses


def module_step(
    module: nn.Module, x: Tensor, labels: Tensor, delta_pre: Tensor | None, config: RunConfig, need_delta_out: bool
) -> sk.LocalStep:
    """Gradients of one module. Without ``delta_pre`` (first module, "layerwise", "bp") there is no SGR term."""
    engine = "fused" if config.bp_free else config.engine
    try:
        return sk.local_step(
            module.body,
            module.head,
            x,
            labels,
            delta_pre,
            weight=config.sgr_weight * config.sgr_every,
            engine=engine,
            reduction=config.reduction,
            relative_floor=config.relative_floor,
            curvature=config.curvature,
            need_delta_out=need_delta_out,
        )
    except ValueError as error:  # what an engine cannot do with these modules
        raise UsageError(f"--engine {engine}: {error}") from error


def measure(modules: nn.ModuleList, config: RunConfig, data: Data) -> dict[str, Any]:
    """Accuracies of every head on training and validation images, and the SGR loss between neighbours."""
    whole_batches = min(len(data.train), max(PROBE // config.batch_size, 1) * config.batch_size)
    return {
        "sgr": measure_sgr(modules, data.ordered(data.train, config.batch_size, whole_batches), config),
        "train_accuracy": accuracy(modules, data.ordered(data.train, config.batch_size, PROBE)),
        "val_accuracy": accuracy(modules, data.ordered(data.val, config.batch_size)),
    }


def test(run: Training, config: RunConfig, data: Data) -> dict[str, Any]:
    """The one look at the test images, after training. Writes the summary and the curves."""
    last = run.history[-1]
    test_accuracy = accuracy(run.modules, data.ordered(data.test, config.batch_size))
    summary = {
        "method": config.method,
        "seed": config.seed,
        "modules": len(run.modules),
        "parameters": sum(p.numel() for p in run.modules.parameters()),
        "images": {"train": len(data.train), "val": len(data.val), "test": len(data.test)},
        "test_accuracy": test_accuracy[-1],
        "test_accuracy_per_module": test_accuracy,
        "val_accuracy": last["val_accuracy"][-1],
        "train_accuracy": last["train_accuracy"][-1],
        "sgr": report.mean(last["sgr"]),
        "seconds_per_epoch": report.mean([row["seconds"] for row in run.history]),
        "peak_memory_bytes": max(row["peak_memory_bytes"] for row in run.history),
        "peak_memory_kind": last["peak_memory_kind"],
    }
    report.plot_run(run.history, config, config.out / "curves.png")
    checkpoint.write_json(config.out / checkpoint.SUMMARY, summary)
    return summary


def train_and_test(config: RunConfig, label: str = "", verbose: bool = False) -> dict[str, Any]:
    """Summary of the run in ``config.out``: trained, resumed, or read where it has been finished before."""
    path = config.out / checkpoint.SUMMARY
    if not path.exists():
        run, data = train(config, label, verbose)
        return test(run, config, data)
    return json.loads(path.read_text())


def pick_device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch finds no GPU here; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
