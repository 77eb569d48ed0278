"""One training run, top to bottom: data, model, optimizers, loop."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from . import best, checkpoint, derived, hooks, interrupts, methods, plots, report
from .build import build, learning_rate, make_optimizers
from .compiled import compile_blocks, not_compiled
from .config import RunConfig, to_json
from .divergence import CHECK_EVERY, Watch, advice, check_weights
from .errors import UsageError, note, one_line
from .files import exists, write_json
from .graphs import CapturedSteps, prepare_optimizers, require_capturable
from .loader import Data, load_data
from .loss_scale import LossScale
from .measure import PROBE, PeakMemory, accuracy, count_correct, measure_sgr, reduction_of, shares
from .memory.enough import enough_memory
from .networks.cuts import Cuts
from .networks.network import Network
from .state import Epoch, Training
from .stopping import has_stopped, is_over, is_validated
from .updates import Updates

CURVES = "curves.png"
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@enough_memory()
def setup(config: RunConfig, cuts: Cuts = ()) -> tuple[Training, Data]:
    """Data, network and optimizers of a run that has not begun, or with the cuts it began with. Writes nothing."""
    data = load_data(config, prepare_device(config))
    return new_training(config, data, cuts), data


def prepare_device(config: RunConfig) -> torch.device:
    """That of the run, with what it is set to for all of PyTorch."""
    torch.backends.cudnn.deterministic = True
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    return pick_device(config.device)


def new_training(config: RunConfig, data: Data, cuts: Cuts = ()) -> Training:
    """A run on the device of the data before its first step. See :func:`setup`."""
    device = data.mean.device
    torch.manual_seed(config.seed)
    network, method = build(config, data.num_classes, data.image_shape, cuts)
    network = network.to(device, memory_format=memory_format(config))
    network.mean, network.std = data.mean / 255, data.std / 255
    if config.compile:
        compile_blocks(config, network, method)
    epochs = config.epochs * methods.phases(method, network)

    generator = torch.Generator().manual_seed(config.seed)
    run = Training(network, method, make_optimizers(config, network), generator, epochs, data.classes)
    if config.cuda_graph:
        require_capturable(config, method, run.optimizers, device)
    if config.ema is not None:
        run.average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True)
    if config.amp == "fp16":
        run.scale = LossScale()
    return run


def train(config: RunConfig, label: str = "", verbose: bool = False) -> tuple[Training, Data]:
    """Train in the folder ``config.out``, from its checkpoint if it has one. Never looks at the test images.

    Raises:
        Diverged: no longer finite; the epochs before are kept.
        UsageError: the folder holds another run, or a damaged one.
    """
    with hooks.of_run(config, label, verbose) as told:
        run, data = train_epochs(config, told)
        told.end({})
    return run, data


@enough_memory()
def train_epochs(config: RunConfig, told: hooks.Hooks) -> tuple[Training, Data]:
    """What :func:`train` does, which is ``told`` as it goes on, but for its end."""
    state = checkpoint.load_own(config)
    run, data = setup(config, () if state is None else tuple(state["cuts"]))
    run.run_id = checkpoint.enter(config, data.fingerprint, data.mean.device)
    checkpoint.keep_environment(config, data.mean.device)
    if state is None:
        save(run, config)
    else:
        restore(run, state, config)

    told.begin(run, config, data)
    images = data.images_per_epoch(config.batch_size * config.accumulate)
    while not is_over(run.history, run.epochs, config):
        epoch = len(run.history) + 1
        memory = PeakMemory(data.mean.device)
        with advice(config, f"in epoch {epoch}"):
            losses = train_epoch(run, config, data, told)
            seconds = run.epoch.seconds
            row = {
                **methods.observe(run.method, run.network),
                "epoch": epoch,
                "lr": float(run.optimizers[0].param_groups[0]["lr"]),
                "loss": losses,  # nats, one a module, mean over the epoch
                "skipped_steps": run.skipped - sum(row["skipped_steps"] for row in run.history),
                "loss_scale": None if run.scale is None else run.scale.value,
                "seconds": seconds,  # of training; measurements excluded
                "images_per_second": images / seconds,
                "waited": run.epoch.waited / seconds,  # for batches, a share of the seconds
                "peak_memory_bytes": memory.read(),
                "peak_memory_kind": memory.kind,
                **measure(run.result, config, data, is_validated(epoch, run.epochs, config)),
            }
        run.history.append(row)
        run.epoch = None
        save(run, config)
        told.epoch(row)
    return run, data


def save(run: Training, config: RunConfig) -> None:
    state = {"settings": to_json(config), **run.state_dict()}
    checkpoint.save_state(config.out / checkpoint.CHECKPOINT, state, run.run_id, best=best.is_best(state))
    run.saved = time.monotonic()


def restore(run: Training, state: dict[str, Any], config: RunConfig) -> None:
    try:
        run.load_state_dict(state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"{config.out} was written by another version of sgr-train or for another GPU ({one_line(error)}); "
            f"{checkpoint.again(config.out)}"
        ) from error
    best.restore_best(config.out, run.run_id, state)


def train_epoch(run: Training, config: RunConfig, data: Data, told: hooks.Hooks) -> list[float]:
    """One pass over the training images, or what is left of it; the mean loss of every module.

    Raises:
        Diverged: a loss, or what the last step left in the network, is not finite.
    """
    updates = Updates(run.network, run.optimizers, config.accumulate, config.clip_grad_norm, run.scale)
    watch = Watch(updates.modules)
    if run.epoch is None:
        order = data.order(config.batch_size * config.accumulate, run.generator)
        run.epoch = Epoch.begin(order, data.mean.device)
    epoch, started = run.epoch, time.perf_counter() - run.epoch.seconds

    def require_finite() -> None:
        """Awaits a GPU: the time is that of all steps."""
        watch.check()
        check_weights(run.network)
        epoch.seconds = time.perf_counter() - started

    def step(x: Tensor, labels: Tensor) -> Tensor:
        with autocast(config, x.device):
            return torch.stack(run.method.step(run.network, x, labels, updates)).float()

    if config.cuda_graph:  # one an epoch: methods may train other modules in another
        prepare_optimizers(run.optimizers, data.mean.device)
        step = CapturedSteps(step)
    methods.begin_epoch(run.method, len(run.history), config.epochs)
    batches = epoch.order.split(config.batch_size)
    steps = len(batches)
    for x, labels in epoch.timed(data.augmented(batches[epoch.steps :], run.generator)):
        interrupts.check()
        updates.begin(last=epoch.steps + 1 == steps)
        rate = learning_rate(config, len(run.history) + epoch.steps / steps)
        for group in (group for optimizer in run.optimizers for group in optimizer.param_groups):
            group["lr"] = group["lr"].fill_(rate) if config.cuda_graph else rate
        x = x.contiguous(memory_format=memory_format(config))
        if run.scale is not None:
            run.method.grad_scale = run.scale.value
        losses = step(x, labels)
        updates.end()
        if updates.complete and run.average is not None:
            run.average.update_parameters(run.network)
        epoch.add(losses, len(labels), may_overflow=run.scale is not None)
        watch.see(epoch.losses, epoch.steps)
        if epoch.steps % CHECK_EVERY == 0:
            watch.check()
        told.batch(len(labels), epoch.mean[-1])
        if updates.complete and epoch.steps < steps and is_due(run, config):
            require_finite()
            save(run, config)
    watch.see(epoch.mean, epoch.steps)
    require_finite()
    return epoch.mean.tolist()


def memory_format(config: RunConfig) -> torch.memory_format:
    return torch.channels_last if config.channels_last else torch.contiguous_format


def autocast(config: RunConfig, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, AUTOCAST.get(config.amp), enabled=config.amp is not None)


def is_due(run: Training, config: RunConfig) -> bool:
    """Whether the state is to be kept, before the epoch is over, after an update."""
    every, minutes = config.save_every, config.save_minutes
    late = minutes is not None and time.monotonic() - run.saved >= 60 * minutes
    return late or (every is not None and run.epoch.steps // config.accumulate % every == 0)


def measure(network: Network, config: RunConfig, data: Data, validate: bool = True) -> dict[str, Any]:
    """Accuracies of every head on training and validation images, and the SGR loss between neighbours."""
    probe = max(PROBE // config.batch_size, 1) * config.batch_size
    whole_batches = min(data.images_per_epoch(config.batch_size), probe)  # as in training
    with not_compiled(config):
        return {
            "sgr": measure_sgr(network, data.ordered(data.train, config.batch_size, whole_batches), config),
            "train_accuracy": accuracy(network, data.ordered(data.train, config.batch_size, PROBE)),
            "val_accuracy": accuracy(network, data.ordered(data.val, config.batch_size)) if validate else None,
        }


@enough_memory()
def test(run: Training, config: RunConfig, data: Data) -> dict[str, Any]:
    """The one look at the test images, after training. Writes the summary and the curves."""
    last = run.history[-1]
    with advice(config, "on the test images"), not_compiled(config):
        correct, images = count_correct(run.result, data.ordered(data.test, config.batch_size))
    test_accuracy = (correct.sum(1) / images.sum()).tolist()
    summary = {
        "method": config.method,
        "seed": config.seed,
        "modules": len(run.network),
        "cuts": list(run.network.cuts),
        "parameters": sum(p.numel() for p in run.network.parameters()),
        "epochs": len(run.history),
        "stopped_early": has_stopped(run.history, config) and len(run.history) < run.epochs,
        "images": {"train": len(data.train), "val": len(data.val), "test": len(data.test)},
        "test_accuracy": test_accuracy[-1],
        "test_accuracy_per_module": test_accuracy,
        "test_accuracy_per_class": shares(correct[-1], images),
        "classes": list(data.classes),
        "val_accuracy": last["val_accuracy"][-1],
        "train_accuracy": last["train_accuracy"][-1],
        "sgr": report.mean(last["sgr"]),
        "skipped_steps": run.skipped,
        "seconds_per_epoch": report.mean([row["seconds"] for row in run.history]),
        "peak_memory_bytes": max(row["peak_memory_bytes"] or 0 for row in run.history) or None,
        "peak_memory_kind": last["peak_memory_kind"],
    }
    write_json(config.out / checkpoint.SUMMARY, summary, run.run_id)
    derived.draw(config.out / CURVES, run.run_id, lambda: plot(run.history, config))
    return summary


def train_and_test(config: RunConfig, label: str = "", verbose: bool = False) -> dict[str, Any]:
    """Summary of the run in ``config.out``: trained, resumed, or read where it has been finished before."""
    summary = finished(config)
    if summary is None:
        with hooks.of_run(config, label, verbose) as told:
            run, data = train_epochs(config, told)
            summary = test(run, config, data)
            told.end(summary)
    return summary


def finished(config: RunConfig) -> dict[str, Any] | None:
    """Summary of a run whose files are in order, what follows from others made anew; None of any other run.

    Without checkpoints, as somebody removes them to save space, nothing can be made anew.
    """
    if not exists(config.out / checkpoint.SUMMARY):
        return None
    run_id = checkpoint.id_of(config)
    summary = derived.read_summary(config.out, run_id)
    if summary is None:
        return None
    if not any(exists(config.out / name) for name in checkpoint.CHECKPOINTS):
        note(f"{config.out} has no checkpoint any more; its summary is shown, its metrics and pictures are as found")
        return summary
    state = checkpoint.load_latest(config.out, run_id, repair=True)
    if not is_over(state["history"], state["epochs"], config):
        return None
    derived.restore_metrics(config.out, state["history"])
    best.restore_best(config.out, run_id, state)
    derived.redraw(config.out / CURVES, run_id, lambda: plot(state["history"], config))
    return summary


def plot(history: list[dict[str, Any]], config: RunConfig) -> bytes:
    return plots.of_run(history, config, reduction_of(config))


def pick_device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch finds no GPU here; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
