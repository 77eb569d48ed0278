"""Every setting of a command, its default (the digits recipe), its meaning, and the checks on it.

Settings of a method, a network, a head, an optimizer and the like are the options of its entry, in its own file.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from . import augmentations, heads, loggers, methods, networks, optimizers, plugins, schedules
from . import data as data_sets
from .options import Count, NotNegative, Option, Positive, Range, Share, from_plain, sections
from .paths import expand
from .registry import Registry

LARGEST_SEED = 2**32 - 1  # the generator takes 32 bits: seeds that differ in others would be the same run
NOT_SETTINGS = {"run", "sha256", "data_sha256", "plugin_sha256", "environments"}  # what config.json holds beside them
REGISTRIES: dict[str, Registry] = {
    "method": methods.REGISTRY,
    "model": networks.REGISTRY,
    "head": heads.REGISTRY,
    "data": data_sets.REGISTRY,
    "augment": augmentations.REGISTRY,
    "optimizer": optimizers.REGISTRY,
    "schedule": schedules.REGISTRY,
    "log": loggers.REGISTRY,
}
HIDDEN = {"options", "patience_from"}  # fields that are no flags

AtLeastTwo = Annotated[int, Range(2, 2**31 - 1)]
BatchSize = Annotated[int | str, Range(2, 2**31 - 1)]
Seed = Annotated[int, Range(0, LARGEST_SEED)]
Options = dict[str, dict[str, dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is shared by all runs of one command. Nothing here depends on the method or the seed.

    The headings are those of the help.

    Data:
        data: Data set, for some with a path behind a colon.
        train_subset: Train on this many training images (a fixed, class-balanced subset, the same for every seed);
            left out: all.

    Network:
        model: Network.
        modules: K, the number of gradient-isolated modules; left out: every block is one. Cut where the network has
            cuts of its own for this number, or as many stages, else into about equal numbers of blocks.
        cuts: Cuts in the place of modules: the indices (from 0) of the blocks that begin a new module, or "stages";
            with modules, "auto" looks for those of least peak memory for this method and batch, which may take minutes.
        head: Classifier of every module; left out: the network's own.
        bp_free: BP-free training (Table 4): every linear-ReLU block is a module with a fixed ETF head, updates are
            analytic and no autograd graph is built.
        checkpoint_blocks: Keep the input of every block alone and compute the rest again in the backward pass: less
            memory, more time.

    Training:
        epochs: Passes over the training images.
        batch_size: Images a step. Those that make no whole update are left out (few images make poor batch statistics).
            "auto" looks for the largest that fits, up to all training images: on a GPU by trial, or by the sizes of
            tensors with memory. The learning rate stays as it is given: more images a step may ask for a larger one.
        memory: GiB that weights, optimizers and a step may take, for a batch size of "auto"; images and what
            operators need inside of them come on top. Left out: it is tried on the GPU.
        accumulate: Batches of which the mean gradient makes an update: the memory of one, the update of all of them,
            but for statistics of a batch.
        augment: What is done to training images, in this order; without a name: nothing. Left out: crop and flip for
            colour images, nothing for gray ones.
        label_smoothing: Share of every label that is spread evenly over all classes.
        optimizer: How the weights of every module are updated.
        schedule: How the learning rate changes. A method that trains in phases goes through it in every one.
        lr: Learning rate, before the schedule.
        weight_decay: Weight decay.
        clip_grad_norm: Largest gradient norm of a module; left out: no clipping.
        ema: Measure, test and export an exponential average of the weights with this decay a step, in place of the last
            ones; left out: none.

    Validation:
        val_every: Measure the accuracy on the validation images after every so many epochs, and after the last one.
        patience: End the run after so many epochs without a better validation accuracy of the last head; left out:
            never. extend goes on with such a run too, and counts anew.

    Precision and speed:
        amp: Precision of the training steps by autocast: bf16, or fp16 with a loss scale that follows the gradients: it
            falls where those of a module overflow, whose step is skipped; left out: float32. What is measured is in
            float32.
        compile: Compile the blocks with torch.compile, for the training steps; what is measured is not compiled.
        cuda_graph: Capture whole training steps in CUDA graphs, which helps small networks on a GPU: an epoch captures
            its fourth step. What is not the same at every step is refused.
        channels_last: Images and convolutions in this memory format, which convolutions on a GPU are fastest in.
        device: auto: the GPU if there is one.
        threads: Of the CPU that PyTorch computes with, which change the last digits; left out: its own choice.

    Saving:
        out: Folder for everything that is written; it must be new or empty. Left out: runs/<date>-<time>-<command>.
        save_every: Keep the state after every so many steps of an epoch, and not at its end alone.
        save_minutes: The same, after so many minutes.
        resume: Go on in this folder, with the settings and the data it began with; takes no other flag.

    Logging:
        log: Where else the epochs are told of than in metrics.jsonl and on the screen.

    Entries of your own:
        plugin: Python files whose methods, networks, heads and others join those that are there.
    """

    data: str = "digits"
    train_subset: AtLeastTwo | None = None
    model: str = "plainnet"
    modules: int | None = None
    cuts: tuple[int | str, ...] = ()
    head: str | None = None
    bp_free: bool = False
    checkpoint_blocks: bool = False
    epochs: Count = 20
    batch_size: BatchSize = 64
    memory: Positive | None = None
    accumulate: Count = 1
    augment: tuple[str, ...] | None = None
    label_smoothing: Share = 0.0
    optimizer: str = "sgd"
    schedule: str = "cosine"
    lr: Positive = 0.1
    weight_decay: NotNegative = 5e-4
    clip_grad_norm: Positive | None = None
    ema: Share | None = None
    val_every: Count = 1
    patience: Count | None = None
    amp: Literal["bf16", "fp16"] | None = None
    compile: bool = False
    cuda_graph: bool = False
    channels_last: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Count | None = None
    out: Path | None = None
    save_every: Count | None = None
    save_minutes: Positive | None = None
    resume: Path | None = None
    log: tuple[str, ...] = ()
    plugin: tuple[Path, ...] = ()
    patience_from: int = 0
    """Epochs of a run that were there before it was extended last."""
    options: Options = field(default_factory=dict)
    """Of the entries: by kind (of REGISTRIES), name of the entry and name of the option."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(Settings):
    """Train one network and test it once, at the end.

    Method:
        method: How to train.
        seed: Of initial weights, batch order and augmentation.
    """

    method: str = "sgr"
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class CompareConfig(Settings):
    """Train with several methods and seeds; end with a table, paired differences and a plot.

    Runs of the same seed share initial weights, batch order, and the split of the data, hence the pairing.

    Methods:
        methods: Methods to compare.
        seeds: Every method runs once with every seed.
    """

    methods: tuple[str, ...] = ("bp", "layerwise", "sgr")
    seeds: tuple[Seed, ...] = (0, 1, 2, 3, 4, 5)


@dataclass(frozen=True, kw_only=True)
class ChooseConfig(Settings):
    """Choose rho or lambda (weight) of sgr by validation accuracy; the test images are not looked at.

    Layerwise (lambda 0) is measured with the candidates, for reference.

    Choice:
        rhos: Candidates for rho; 0.03, 0.1 and 0.3 where there are no others.
        weights: Candidates for lambda.
        seeds: Every candidate runs once with every seed. Keep them apart from those that are compared afterwards.
    """

    rhos: tuple[Positive, ...] = ()
    weights: tuple[Positive, ...] = ()
    seeds: tuple[Seed, ...] = (100, 101, 102)


COMMANDS: dict[str, type[Settings]] = {"run": RunConfig, "compare": CompareConfig, "choose": ChooseConfig}


def command_of(config: Settings) -> str:
    return next(name for name, kind in COMMANDS.items() if type(config) is kind)


def fields_of(kind: type[Settings]) -> tuple[Option, ...]:
    """The settings of a command that are flags of their own, its own before those that others share."""
    types = typing.get_type_hints(kind, include_extras=True)
    explained = {
        name: (text, group)
        for documented in kind.__mro__
        for group, texts in sections(documented).items()
        for name, text in texts.items()
    }
    defaults = {each.name: each.default for each in dataclasses.fields(kind) if each.name not in HIDDEN}
    in_order = sorted(defaults, key=list(explained).index)
    return tuple(Option(name, types[name], defaults[name], *explained[name]) for name in in_order)


def run_of(config: Settings, out: Path, method: str, seed: int, **method_options: Any) -> RunConfig:
    """The settings of one of the runs of a command, with other options of its method. It knows those of all methods."""
    names = {each.name for each in dataclasses.fields(Settings)} - {"out", "resume", "options"}
    of_methods = {**config.options["method"], method: {**config.options["method"][method], **method_options}}
    return RunConfig(
        **{name: getattr(config, name) for name in names},
        method=method,
        seed=seed,
        out=out,
        options={**config.options, "method": of_methods},
    )


def absolute(config: Settings) -> Settings:
    """The same files, also for another process in another folder."""
    kind, _, path = config.data.partition(":")
    options = {
        registry: {
            name: {key: _absolute(value) if isinstance(value, Path) else value for key, value in values.items()}
            for name, values in entries.items()
        }
        for registry, entries in config.options.items()
    }
    return dataclasses.replace(
        config,
        data=f"{kind}:{_absolute(path)}" if path else config.data,
        plugin=tuple(map(_absolute, config.plugin)),
        options=options,
    )


def _absolute(path: Path | str) -> Path:
    return expand(path).absolute()


def to_json(config: Settings) -> dict[str, Any]:
    """All settings but the folder, which may move, as JSON gives them back."""
    values = {"command": command_of(config), **dataclasses.asdict(config)}
    del values["out"], values["resume"]
    return _plain(values)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def from_json(values: dict[str, Any]) -> Settings:
    """Inverse of :func:`to_json`; keys in NOT_SETTINGS are passed over. Loads the plug-ins it names.

    Raises:
        KeyError, TypeError, AttributeError, ValueError: not what :func:`to_json` wrote.
        UsageError: a plug-in or an entry is not there any more.
    """
    values = {name: value for name, value in values.items() if name not in NOT_SETTINGS}
    kind = COMMANDS[values.pop("command")]
    plugins.load(tuple(Path(path) for path in values["plugin"]))
    types = {option.name: option for option in fields_of(kind)}
    options = {
        registry: {
            name: {
                option.name: from_plain(option, chosen[option.name]) for option in REGISTRIES[registry].options(name)
            }
            for name, chosen in entries.items()
        }
        for registry, entries in values.pop("options").items()
    }
    own = {name: from_plain(types[name], value) if name in types else value for name, value in values.items()}
    return kind(**own, options=options)
