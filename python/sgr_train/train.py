"""One training run, top to bottom: data, model, optimizers, loop."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from . import checkpoint, interrupts, methods, report
from .build import build, learning_rate, make_optimizers, own_options
from .config import RunConfig, to_json
from .errors import Diverged, UsageError, note, one_line
from .files import exists, write_json
from .loader import Data, load_data
from .measure import PROBE, PeakMemory, accuracy, measure_sgr, reduction_of
from .memory.enough import enough_memory
from .networks.network import Network

CURVES = "curves.png"
CHECK_EVERY = 100  # steps between two looks at the losses, for which a GPU has to be awaited


@dataclass
class Training:
    """Everything that moves while training goes on, and the history of what was measured."""

    network: Network
    method: methods.Method
    optimizers: list[torch.optim.Optimizer]
    generator: torch.Generator  # batch order and augmentation
    epochs: int  # of all phases of the method
    classes: tuple[str, ...]  # their names
    history: list[dict[str, Any]] = field(default_factory=list)  # one row an epoch
    run_id: str = ""  # which its files carry

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "generator": self.generator.get_state(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "epochs": self.epochs,
            "history": self.history,
            "classes": self.classes,
            "image_shape": self.network.image_shape,
            "cuts": self.network.cuts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["rng"])
        if torch.cuda.is_available() and state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        self.history = state["history"]


@enough_memory()
def setup(config: RunConfig) -> tuple[Training, Data]:
    """Data, network and optimizers of a run that has not begun. Writes nothing."""
    device = pick_device(config.device)
    torch.backends.cudnn.deterministic = True

    data = load_data(config, device)

    torch.manual_seed(config.seed)
    network, method = build(config, data.num_classes, data.image_shape)
    network = network.to(device)
    network.mean, network.std = data.mean / 255, data.std / 255
    epochs = config.epochs * methods.phases(method, network)

    generator = torch.Generator().manual_seed(config.seed)
    return Training(network, method, make_optimizers(config, network), generator, epochs, data.classes), data


@enough_memory()
def train(config: RunConfig, label: str = "", verbose: bool = False) -> tuple[Training, Data]:
    """Train in the folder ``config.out``, from its checkpoint if it has one. Never looks at the test images.

    Raises:
        Diverged: no longer finite; the epochs before are kept.
        UsageError: the folder holds another run, or a damaged one.
    """
    run, data = setup(config)
    run.run_id = checkpoint.enter(config, data.fingerprint)
    state = checkpoint.load_latest(config.out, run.run_id)
    if state is None:
        save(run, config)
    else:
        restore(run, state, config)

    images = data.images_per_epoch(config.batch_size)
    with report.Progress(label, images, len(run.history), run.epochs, verbose) as progress:
        for epoch in range(len(run.history) + 1, run.epochs + 1):
            memory, started = PeakMemory(data.mean.device), time.perf_counter()
            with advice(config, f"in epoch {epoch}"):
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
                    **measure(run.network, config, data),
                }
            run.history.append(row)
            checkpoint.write_metrics(config.out, run.history)
            save(run, config)
            progress.epoch(row)
    return run, data


def save(run: Training, config: RunConfig) -> None:
    state = {"settings": to_json(config), **run.state_dict()}
    checkpoint.save_state(config.out / checkpoint.CHECKPOINT, state, run.run_id)


def restore(run: Training, state: dict[str, Any], config: RunConfig) -> None:
    try:
        run.load_state_dict(state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"{config.out} was written by another version of sgr-train or for another GPU ({one_line(error)}); "
            f"{checkpoint.again(config.out)}"
        ) from error
    checkpoint.restore_metrics(config.out, run.history)


@contextlib.contextmanager
def advice(config: RunConfig, when: str) -> Iterator[None]:
    """Adds to :class:`Diverged` when it happened and what to change."""
    try:
        yield
    except Diverged as error:
        own = own_options(config) | config.options["optimizer"][config.optimizer]
        too_large = {
            "lr": True,
            "weight": "weight" in own,
            "momentum": own.get("momentum", 0) >= 1,
            "weight_decay": config.lr * config.weight_decay >= 1,
            "clip_grad_norm": config.clip_grad_norm is not None,
        }
        flags = [name for name, possible in too_large.items() if possible]
        values = {**own, **vars(config)}
        changes = [f"lower --{name.replace('_', '-')} (now {values[name]:g})" for name in flags]
        if config.clip_grad_norm is None:
            changes.append("set --clip-grad-norm")
        raise Diverged(f"training diverged {when}: {error}; {' or '.join(changes)}, and start again") from error


def train_epoch(run: Training, config: RunConfig, data: Data, progress: report.Progress) -> list[float]:
    """One pass over the training images; the mean loss of every module.

    Raises:
        Diverged: a loss, or what the last step left in the network, is not finite.
    """
    device = data.mean.device
    sums, seen = torch.zeros((), device=device), 0
    steps = math.ceil(data.images_per_epoch(config.batch_size) / config.batch_size)
    updated: set[int] = set()  # modules

    def update(k: int) -> None:
        updated.add(k)
        if config.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(run.network[k].parameters(), config.clip_grad_norm)
        run.optimizers[k].step()
        run.optimizers[k].zero_grad()

    methods.begin_epoch(run.method, len(run.history), config.epochs)
    for index, (x, labels) in enumerate(data.shuffled(config.batch_size, run.generator)):
        interrupts.check()
        if index % CHECK_EVERY == 0:
            check_losses(sums, updated)
        rate = learning_rate(config, len(run.history) + index / steps)
        for group in (group for optimizer in run.optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        losses = run.method.step(run.network, x, labels, update)
        sums = sums + torch.stack(losses) * len(labels)
        seen += len(labels)
        progress.batch(len(labels), sums[-1] / seen)
    check_losses(sums, updated)
    check_weights(run.network)
    return (sums / seen).tolist()


def check_losses(losses: Tensor, updated: set[int]) -> None:
    """Raises Diverged where a loss, or a sum of them, is not finite; they are of the last modules that were updated."""
    count = losses.numel()
    modules = sorted(updated)[-count:] if len(updated) >= count else range(count)
    for k, loss in zip(modules, losses.flatten(), strict=True):
        if not loss.isfinite():
            raise Diverged(f"the loss of module {k + 1} is {loss.item()}")


def check_weights(network: Network) -> None:
    """Raises Diverged where a weight or a running statistic is not finite, as the last step may have left it."""
    for k, module in enumerate(network, 1):
        for name, tensor in module.state_dict().items():
            if isinstance(tensor, Tensor) and not tensor.isfinite().all():
                raise Diverged(f"{name} of module {k} is not finite")


def measure(network: Network, config: RunConfig, data: Data) -> dict[str, Any]:
    """Accuracies of every head on training and validation images, and the SGR loss between neighbours."""
    probe = max(PROBE // config.batch_size, 1) * config.batch_size
    whole_batches = min(data.images_per_epoch(config.batch_size), probe)  # as in training
    return {
        "sgr": measure_sgr(network, data.ordered(data.train, config.batch_size, whole_batches), config),
        "train_accuracy": accuracy(network, data.ordered(data.train, config.batch_size, PROBE)),
        "val_accuracy": accuracy(network, data.ordered(data.val, config.batch_size)),
    }


@enough_memory()
def test(run: Training, config: RunConfig, data: Data) -> dict[str, Any]:
    """The one look at the test images, after training. Writes the summary and the curves."""
    last = run.history[-1]
    with advice(config, "on the test images"):
        test_accuracy = accuracy(run.network, data.ordered(data.test, config.batch_size))
    summary = {
        "method": config.method,
        "seed": config.seed,
        "modules": len(run.network),
        "cuts": list(run.network.cuts),
        "parameters": sum(p.numel() for p in run.network.parameters()),
        "epochs": run.epochs,
        "images": {"train": len(data.train), "val": len(data.val), "test": len(data.test)},
        "test_accuracy": test_accuracy[-1],
        "test_accuracy_per_module": test_accuracy,
        "val_accuracy": last["val_accuracy"][-1],
        "train_accuracy": last["train_accuracy"][-1],
        "sgr": report.mean(last["sgr"]),
        "seconds_per_epoch": report.mean([row["seconds"] for row in run.history]),
        "peak_memory_bytes": max(row["peak_memory_bytes"] or 0 for row in run.history) or None,
        "peak_memory_kind": last["peak_memory_kind"],
    }
    write_json(config.out / checkpoint.SUMMARY, summary, run.run_id)
    checkpoint.draw(config.out / CURVES, run.run_id, lambda: plot(run.history, config))
    return summary


def train_and_test(config: RunConfig, label: str = "", verbose: bool = False) -> dict[str, Any]:
    """Summary of the run in ``config.out``: trained, resumed, or read where it has been finished before."""
    summary = finished(config)
    if summary is None:
        run, data = train(config, label, verbose)
        summary = test(run, config, data)
    return summary


def finished(config: RunConfig) -> dict[str, Any] | None:
    """Summary of a run whose files are in order, what follows from others made anew; None of any other run.

    Without checkpoints, as somebody removes them to save space, nothing can be made anew.
    """
    if not exists(config.out / checkpoint.SUMMARY):
        return None
    run_id = checkpoint.id_of(config)
    summary = checkpoint.read_summary(config.out, run_id)
    if summary is None:
        return None
    if not any(exists(config.out / name) for name in checkpoint.CHECKPOINTS):
        note(f"{config.out} has no checkpoint any more; its summary is shown, its metrics and pictures are as found")
        return summary
    state = checkpoint.load_latest(config.out, run_id)
    if len(state["history"]) < state["epochs"]:
        return None
    checkpoint.restore_metrics(config.out, state["history"])
    checkpoint.redraw(config.out / CURVES, run_id, lambda: plot(state["history"], config))
    return summary


def plot(history: list[dict[str, Any]], config: RunConfig) -> bytes:
    return report.plot_run(history, config, reduction_of(config))


def pick_device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch finds no GPU here; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
