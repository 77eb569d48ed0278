"""Every setting, its default (the digits recipe), its meaning, and the checks on it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Suppress, arg

import sgr_kernels.engines
from sgr_kernels.functional.relu_sgr import CURVATURES

from .errors import UsageError

METHODS = ("bp", "layerwise", "sgr")
MODELS = ("plainnet", "resnet32", "mlp")
NORMS = ("batch", "none")
HEADS = ("conv", "etf")
REDUCTIONS = ("mean", "batchmean", "sum")
ENGINES = ("auto", *sgr_kernels.engines.ENGINES)
DEVICES = ("auto", "cpu", "cuda")
DATA = ("digits", "cifar10", "cifar100", "npz:PATH", "folder:DIR")
LARGEST_INTEGER = 2**31 - 1  # far beyond any sensible size, and products of two still have 64 bits
LARGEST_FLOAT = 3.4e38  # of float32
LARGEST_SEED = 2**32 - 1  # the generator takes 32 bits: seeds that differ in others would be the same run
NOT_SETTINGS = {"run", "sha256", "data_sha256"}  # what config.json holds beside them


def choice(names: tuple[str, ...]) -> Any:
    """Help shows the names; :func:`check` refuses others in one line."""
    return arg(metavar="{" + ",".join(names) + "}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is shared by all runs of one command. Nothing here depends on the method or the seed."""

    data: Annotated[str, choice(DATA)] = "digits"
    """Data set.
    digits: scikit-learn's 1797 handwritten digits, no download.
    npz: the MedMNIST layout, uint8, gray or RGB: train_images, train_labels, test_images, test_labels and,
    if there are any, val_images, val_labels.
    folder: an ImageFolder tree with train/, test/ and, if there is one, val/."""
    data_dir: Path = Path("data")
    """Where torchvision looks for cifar10 and cifar100."""
    download: bool = False
    """Let torchvision download cifar10 or cifar100 into data-dir."""
    image_size: int = 32
    """Side length in pixels to which the images of folder:DIR are resized and cropped."""
    train_subset: int | None = None
    """Train on this many training images (a fixed, class-balanced subset, the same for every seed); None: all."""

    model: Annotated[str, choice(MODELS)] = "plainnet"
    """Network.
    plainnet: conv-BN-ReLU blocks in three stages.
    resnet32: He et al.'s CIFAR ResNet, a stem and 15 residual blocks with parameter-free (option A) shortcuts.
    mlp: linear-ReLU blocks, all of one width."""
    depth: int = 6
    """Number of blocks of plainnet or mlp."""
    width: int = 16
    """Units of mlp's blocks; channels of plainnet's first stage (each of the two further stages halves the resolution
    and doubles them)."""
    norm: Annotated[str | None, choice(NORMS)] = None
    """Normalisation inside the blocks of plainnet and resnet32. None: batch, but none with bp-free; mlp has none."""
    modules: int | None = None
    """K, the number of gradient-isolated modules; None: every block is one.
    Modules get equal numbers of blocks, but resnet32 is cut by stage: 3, one each; 2, the last stage alone."""
    cuts: tuple[int, ...] = ()
    """Explicit cuts instead of modules: the indices (from 0) of the blocks that begin a new module."""
    head: Annotated[str, choice(HEADS)] = "etf"
    """Classifier of every module.
    conv: 3x3 conv, BN, ReLU, average pool, linear.
    etf: average pool and a fixed simplex equiangular tight frame."""

    sgr_weight: float = 0.1
    """lambda, the weight of the SGR loss; `sgr-train choose` finds one.
    It goes with the reduction: lambda under batchmean is lambda * n under mean, for n elements a sample."""
    reduction: Annotated[str, choice(REDUCTIONS)] = "batchmean"
    """How the SGR loss is averaged.
    batchmean: over samples (Eq. 6 for each).
    mean: over samples and elements (Algorithm 1). sum: not at all."""
    relative_floor: float = 0.0
    """Fade samples out of the SGR loss whose gradient norm is below this fraction of the batch's rms; 0: the paper."""
    engine: Annotated[str, choice(ENGINES)] = "auto"
    """How the SGR gradient is computed; see sgr_kernels.local_step.
    auto: fused where it applies, else directional."""
    sgr_every: int = 1
    """Reconcile at every so many steps only, with lambda times as much; 1: the paper."""
    curvature: Annotated[str, choice(CURVATURES)] = "exact"
    """exact: the gradient of the SGR loss.
    none: Eq. 35, which takes the upstream gradient for a constant; cheaper, for engine fused."""
    bp_free: bool = False
    """BP-free training (Table 4): every linear-ReLU block is a module with a fixed ETF head, updates are analytic and
    no autograd graph is built. For plainnet and mlp, methods layerwise and sgr."""

    epochs: int = 20
    """Passes over the training images."""
    batch_size: int = 64
    """Images a step. An incomplete last batch is left out (a few images make poor batch statistics)."""
    lr: float = 0.1
    """Initial learning rate of every module's SGD; cosine decay to 0, one step an epoch."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """Weight decay of SGD."""
    clip_grad_norm: float | None = None
    """Largest gradient norm of a module; None: no clipping."""
    device: Annotated[str, choice(DEVICES)] = "auto"
    """auto: the GPU if there is one."""

    out: Path | None = None
    """Folder for everything that is written; it must be new or empty. None: runs/<date>-<time>-<command>."""
    resume: Path | None = None
    """Go on in this folder, with the settings and the data it began with; takes no other flag."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(Settings):
    """Train one network and test it once, at the end."""

    method: Annotated[str, choice(METHODS)] = "sgr"
    """How to train.
    bp: end to end, on the loss of the last head.
    layerwise: every module on the loss of its own head.
    sgr: layerwise with successive gradient reconciliation."""
    seed: int = 0
    """Of initial weights, batch order and augmentation."""


@dataclass(frozen=True, kw_only=True)
class CompareConfig(Settings):
    """Train with several methods and seeds; end with a table, paired differences and a plot.

    Runs of the same seed share initial weights, batch order, and the split of the data, hence the pairing.
    """

    methods: tuple[Annotated[str, choice(METHODS)], ...] = METHODS
    """Methods to compare."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    """Every method runs once with every seed."""


@dataclass(frozen=True, kw_only=True)
class ChooseConfig(Settings):
    """Choose lambda (sgr-weight) by validation accuracy; the test images are not looked at."""

    sgr_weight: Suppress[float] = 0.0
    weights: tuple[float, ...] = (0.03, 0.1, 0.3, 0.5)
    """Candidates for sgr-weight. 0 (layerwise) is measured with them, for reference."""
    seeds: tuple[int, ...] = (100, 101, 102)
    """Every weight runs once with every seed. Keep them apart from the seeds that are compared afterwards."""


def check(config: Settings) -> None:
    """Refuse settings that have no meaning.

    Raises:
        UsageError: names the flag, what was given and what is allowed.
    """
    for flag, allowed in (
        ("method", METHODS),
        ("model", MODELS),
        ("norm", (None, *NORMS)),
        ("head", HEADS),
        ("reduction", REDUCTIONS),
        ("engine", ENGINES),
        ("curvature", CURVATURES),
        ("device", DEVICES),
    ):
        names = ", ".join(filter(None, allowed))
        _require(getattr(config, flag, allowed[0]) in allowed, config, flag, f"one of {names}")
    for method in getattr(config, "methods", ()):
        _require(method in METHODS, config, "methods", f"among {', '.join(METHODS)}")
    kind, colon, path = config.data.partition(":")
    known = bool(path) if kind in ("npz", "folder") else not colon and kind in DATA
    _require(known, config, "data", f"one of {', '.join(DATA)}")
    _check_numbers(config)
    for flag in ("methods", "seeds", "weights"):
        values = getattr(config, flag, (0,))
        _require(len(values) > 0 and len(set(values)) == len(values), config, flag, "a list without repetitions")
    weights = getattr(config, "weights", ())
    names = {f"{weight:g}" for weight in weights}  # of their folders
    _require(len(names) == len(weights), config, "weights", "numbers that differ in their first six digits")
    _require(config.model != "resnet32" or config.norm != "none", config, "norm", "batch for --model resnet32")
    _require(config.model != "mlp" or config.head == "etf", config, "head", "etf for --model mlp")
    closed_form = config.bp_free or config.engine == "fused"
    _require(closed_form or config.curvature == "exact", config, "curvature", "exact without --engine fused")
    if config.bp_free:
        _check_bp_free(config)


def _check_numbers(config: Settings) -> None:
    for least, flags in (
        (1, ("depth", "width", "epochs", "image_size", "sgr_every")),
        (2, ("batch_size", "train_subset")),
        (0, ("seed", "seeds")),
    ):
        most = LARGEST_SEED if least == 0 else LARGEST_INTEGER
        for flag in flags:
            for value in _numbers(config, flag):
                _require(value >= least, config, flag, f"at least {least}")
                _require(value <= most, config, flag, f"at most {most}")
    for flag in ("sgr_weight", "relative_floor", "momentum", "weight_decay"):
        _require(0 <= getattr(config, flag) < float("inf"), config, flag, "a number >= 0")
    for flag, kind in (("lr", "a number"), ("clip_grad_norm", "a number"), ("weights", "numbers")):
        _require(all(0 < value < float("inf") for value in _numbers(config, flag)), config, flag, f"{kind} > 0")
    for flag in ("sgr_weight", "relative_floor", "momentum", "weight_decay", "lr", "clip_grad_norm", "weights"):
        most = LARGEST_FLOAT / config.sgr_every if flag in ("sgr_weight", "weights") else LARGEST_FLOAT
        _require(all(value <= most for value in _numbers(config, flag)), config, flag, f"at most {most:g}")


def _numbers(config: Settings, flag: str) -> tuple[float, ...]:
    """What a flag gives: one number, several, or none."""
    value = getattr(config, flag, None)
    return value if isinstance(value, tuple) else () if value is None else (value,)


def _check_bp_free(config: Settings) -> None:
    for flag, allowed in (
        ("model", ("plainnet", "mlp")),
        ("norm", (None, "none")),
        ("head", ("etf",)),
        ("modules", (None, config.depth)),
        ("cuts", ((),)),
        ("engine", ("auto", "fused")),
        ("method", ("layerwise", "sgr")),
    ):
        value = getattr(config, flag, allowed[0])
        names = " or ".join(str(name) for name in allowed if name) or "left out"
        _require(value in allowed, config, flag, f"{names} with --bp-free")
    _require("bp" not in getattr(config, "methods", ()), config, "methods", "among layerwise, sgr with --bp-free")


def _require(holds: bool, config: Settings, field: str, expected: str) -> None:
    if not holds:
        raise UsageError(f"--{field.replace('_', '-')} must be {expected}, got {getattr(config, field)!r}")


def expand(path: Path | str) -> Path:
    """``~`` is the home folder, also where the shell leaves it alone, as in ``npz:~/x.npz``."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path}: there is no such home folder; give the whole path") from error


def absolute(config: Settings) -> Settings:
    """The same data, also for another process in another folder."""
    kind, colon, path = config.data.partition(":")
    data = f"{kind}:{expand(path).absolute()}" if colon else config.data
    return dataclasses.replace(config, data=data, data_dir=expand(config.data_dir).absolute())


def shared(config: Settings) -> dict[str, Any]:
    """The settings that a command passes on to its runs."""
    names = {field.name for field in dataclasses.fields(Settings)} - {"out", "resume"}
    return {name: getattr(config, name) for name in names}


def to_json(config: Settings) -> dict[str, Any]:
    """All settings but the folder, which may move, as JSON gives them back."""
    values = {
        name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(config).items()
    }
    del values["out"], values["resume"]
    return {"command": command_of(config), **values, "data_dir": str(config.data_dir)}


def from_json(values: dict[str, Any]) -> Settings:
    """Inverse of :func:`to_json`; keys in NOT_SETTINGS are passed over.

    Raises:
        KeyError, TypeError: not what :func:`to_json` wrote.
    """
    values = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if name not in NOT_SETTINGS
    }
    values["data_dir"] = Path(values["data_dir"])
    return COMMANDS[values.pop("command")](**values)


def command_of(config: Settings) -> str:
    return next(name for name, kind in COMMANDS.items() if type(config) is kind)


COMMANDS: dict[str, type[Settings]] = {"run": RunConfig, "compare": CompareConfig, "choose": ChooseConfig}
