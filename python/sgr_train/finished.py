"""What can be done with the network of a run: test it by class, classify images, take it elsewhere."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms import functional as pixels

from . import best, checkpoint
from .build import build
from .config import RunConfig
from .data import image_files
from .errors import UsageError, note, one_line, say
from .loader import load_data
from .measure import count_correct, shares
from .networks.network import Network
from .paths import expand
from .report import table
from .settings import validate
from .state import weights_of_result
from .train import pick_device

STATES = {"last": checkpoint.load_latest, "best": best.load_best}


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The network of a run as one of its checkpoints has it, in evaluation mode, on the CPU."""

    config: RunConfig
    network: Network
    classes: tuple[str, ...]


def load(folder: Path, which: str = "last") -> Trained:
    """Read a run folder.

    Args:
        which: of :data:`STATES`.

    Raises:
        UsageError: it holds no run, or a damaged one, or not this checkpoint.
    """
    folder = expand(folder)
    config = dataclasses.replace(checkpoint.read_config(folder, "run"), out=folder)
    validate(config)
    try:
        checkpoint.require_plugins(config)
    except UsageError as error:  # it may compute the same
        note(str(error))
    state = STATES[which](folder, checkpoint.id_of(config))
    if state is None:
        raise UsageError(f"{folder} has no checkpoint any more: there is no network to load; train it again")
    network, _ = build(config, len(state["classes"]), tuple(state["image_shape"]), tuple(state["cuts"]))
    try:
        network.load_state_dict(weights_of_result(state))
    except RuntimeError as error:
        reason = f"{one_line(error)}); use the version of sgr-train that trained it"
        raise UsageError(f"the network of {folder} is another one than it was ({reason}") from error
    return Trained(config=config, network=network.eval(), classes=tuple(state["classes"]))


def evaluate(folder: Path, which: str) -> None:
    """Print the accuracy on the test images, class by class."""
    trained = load(folder, which)
    device = pick_device(trained.config.device)
    data, network = load_data(trained.config, device), trained.network.to(device)
    correct, images = count_correct(network, data.ordered(data.test, trained.config.batch_size))
    accuracies = [*shares(correct[-1], images), (correct[-1].sum() / images.sum()).item()]
    counts = [*images.tolist(), images.sum().item()]
    rows = [["class", "images", "accuracy %"]]
    for name, count, share in zip((*trained.classes, "all"), counts, accuracies, strict=True):
        rows.append([name, f"{count:.0f}", "-" if share is None else f"{100 * share:.2f}"])
    say(table(rows))


@torch.no_grad()
def predict(folder: Path, which: str, images: tuple[Path, ...]) -> None:
    """Print the class of every image file, and how probable it is to the network."""
    trained = load(folder, which)
    classifier = trained.network.export()
    for path in images:
        probability, label = classifier(_read(path, trained.network.image_shape)).softmax(1)[0].max(0)
        say(f"{path}: {trained.classes[int(label)]} ({probability:.1%})")


def _read(path: Path, image_shape: tuple[int, int, int]) -> Tensor:
    """An image file as pixels from 0 to 1, (1, C, H, W), resized and cropped to the size of the network's images."""
    channels, height, width = image_shape
    image = image_files.read(str(expand(path)))
    if channels == 1:
        image = image.convert("L")
    image = pixels.center_crop(pixels.resize(image, max(height, width)), [height, width])
    return pixels.pil_to_tensor(image)[None].float() / 255


def export(folder: Path, which: str, out: Path) -> None:
    """Write a program of torch.export, pixels from 0 to 1 (B, C, H, W) -> logits, which runs without this package."""
    trained = load(folder, which)
    if out.suffix != ".pt2":
        raise UsageError(f"--out must end in .pt2, got {str(out)!r}")
    sample = torch.rand(2, *trained.network.image_shape)
    program = torch.export.export(
        trained.network.export(), (sample,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
    )
    try:
        torch.export.save(program, expand(out))
    except (OSError, RuntimeError) as error:
        raise UsageError(f"--out {out} cannot be written: {one_line(error)}; choose another --out") from error
    say(f"{out}: pixels from 0 to 1, {tuple(sample.shape[1:])} an image -> logits of {', '.join(trained.classes)}")
