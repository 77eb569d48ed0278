"""A run of a study: its settings, the command that starts it, and what sets it apart from the paper's."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgr_train import plugins, recipes
from sgr_train.config import REGISTRIES, RunConfig, Settings, absolute, fields_of, to_json
from sgr_train.settings import changed, make

from .studies import Row, Study

# What a run may differ in from its recipe without being another experiment.
NEUTRAL = {"seed", "threads", "device", "log", "channels_last", "val_every", "out", "resume", "plugin"}
NEUTRAL |= {"save_every", "save_minutes"}
KINDS_OF_NO_RESULT = {"data", "log"}  # entries that say where data are, and who is told
FOLDER = Path(__file__).parent  # of plug-ins
SAVED = {"save_minutes": 1}  # so that little is lost when a run is stopped


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What all runs of a command have in common, and results should not depend on.

    Attributes:
        work: folder for the folders of runs.
        data: as of ``sgr-train run``; None: what the recipe has.
        data_dir: where cifar10 and cifar100 are; None: where the recipe looks for them.
        device, threads: of every run.
        changes: "key=value" each, in all rows.
    """

    work: Path
    data: str | None = None
    data_dir: Path | None = None
    device: str = "cpu"
    threads: int = 1
    changes: Sequence[str] = ()


@dataclass(frozen=True)
class Run:
    """One row with one seed."""

    study: str
    row: Row
    seed: int
    changes: tuple[str, ...]  # "key=value" each, that show on the page
    places: tuple[str, ...]  # those that say where the data are
    work: Path

    @property
    def name(self) -> str:
        return f"{self.study} {self.row.name} seed {self.seed}"

    @property
    def folder(self) -> Path:
        return self.work / self.study / self.row.name / f"seed{self.seed}"

    @property
    def command(self) -> str:
        """What to type for the same numbers, where the data are at hand."""
        plugin = ["--plugin", f"bench/training/{self.row.plugin}"] if self.row.plugin else []
        words = ["sgr-train", "recipe", self.row.recipe, *plugin, "--set", *self.changes, f"seed={self.seed}"]
        return shlex.join(words)

    @property
    def words(self) -> list[str]:
        """Behind sgr-train, to begin."""
        own = (*self.changes, f"seed={self.seed}", *self.places, *texts(SAVED))
        plugin = ["--plugin", str(FOLDER / self.row.plugin)] if self.row.plugin else []
        return ["recipe", self.row.recipe, *plugin, "--set", *own, "--out", str(self.folder)]

    def config(self) -> RunConfig:
        """Settings of the run, but for its folder. Raises UsageError: a change is none of a flag."""
        own = (*self.changes, f"seed={self.seed}", *self.places, *texts(SAVED))
        plugin = (FOLDER / self.row.plugin,) if self.row.plugin else ()
        plugins.load(plugin)
        return make(RunConfig, **changed(RunConfig, recipes.find(self.row.recipe).settings, own), plugin=plugin)


def runs_of(name: str, study: Study, rows: Sequence[str], seeds: Sequence[int], around: Surroundings) -> list[Run]:
    """Those of some rows, in the order in which they are run: every row with the first seed, then with the next."""
    places = {key: value for key in ("data", "data_dir") if (value := getattr(around, key)) is not None}
    always = {"device": around.device, "threads": around.threads}
    return [
        Run(
            name,
            row,
            seed,
            _last(*texts({**study.changes, **row.changes, **always}), *around.changes),
            tuple(texts(places)),
            around.work,
        )
        for seed in seeds
        for row in study.rows
        if not rows or row.name in rows
    ]


def texts(values: Mapping[str, Any]) -> list[str]:
    """ "key=value", as ``sgr-train recipe --set`` reads it."""
    return [f"{key}={_text(value)}" for key, value in values.items()]


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _last(*changes: str) -> tuple[str, ...]:
    """The last one of every key."""
    return tuple({change.partition("=")[0]: change for change in changes}.values())


def conflicts(found: dict[str, Any], wanted: RunConfig) -> list[str]:
    """Settings in a config.json that are others than those wanted. What it does not know yet was as by default."""
    default = {
        (kind, name, option.name): option.default
        for kind, entries in wanted.options.items()
        for name in entries
        for option in REGISTRIES[kind].options(name)
    }
    before, now = dict(_leaves(found)), dict(_leaves(to_json(absolute(wanted))))
    other = [path for path, value in now.items() if before.get(path, default.get(path[1:])) != value]
    return [path[-1] for path in other if path[0] not in SAVED]


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _leaves(each, (*path, name))
    else:
        yield path, value


def differences(recipe: str, changes: Sequence[str], plugin: str | None = None) -> dict[str, tuple[Any, Any]]:
    """Settings of a run that are others than those of its recipe, the paper's: by name, here and there.

    None stands for what one of them does not have.
    """
    plugins.load((FOLDER / plugin,) if plugin else ())
    settings = recipes.find(recipe).settings
    paper, here = (flat(make(RunConfig, **changed(RunConfig, settings, own))) for own in ((), changes))
    names = [name for name in {**here, **paper} if here.get(name) != paper.get(name)]
    return {name: (here.get(name), paper.get(name)) for name in names}


def flat(config: Settings) -> dict[str, Any]:
    """Settings that results depend on, those of entries beside the others; of several with one name, by their kind."""
    values = {option.name: getattr(config, option.name) for option in fields_of(type(config))}
    for kind, entries in config.options.items():
        for options in entries.values() if kind not in KINDS_OF_NO_RESULT else ():
            for name, value in options.items():
                values[f"{kind}_{name}" if name in values else name] = value
    return {name: value for name, value in values.items() if name not in NEUTRAL}
