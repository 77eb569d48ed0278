"""The command line: flags of a command and of the entries it chooses, and their help."""

from __future__ import annotations

import argparse
import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch

from sgr_kernels import __version__

from . import methods, plugins, recipes, report
from .config import COMMANDS, REGISTRIES, RunConfig, Settings, fields_of
from .errors import UsageError, say
from .extend import extend
from .options import Option, help_of_flag, number_or_name, shape_of, switch
from .settings import changed, chosen, entry_flags, make

METAVARS = {int: "N", float: "X", str: "NAME", Path: "PATH", number_or_name: "N"}
READERS = {
    "evaluate": "Print the accuracy of a run's network on the test images, class by class.",
    "predict": "Print the class of image files.",
    "export": "Write a run's network as a program that runs without this package, pixels from 0 to 1 -> logits.",
}
TABLES = {"methods": "Print what every method does without, and what it costs."}
RECIPE = "Train a network of the paper, by the name of its recipe."
EXTEND = "Train a run for more epochs than it was begun with."
OTHERS = {"recipe": RECIPE, "extend": EXTEND, **READERS, **TABLES}
NOT_IN_A_RECIPE = {  # settings that --set does not take, and what to do instead
    "out": "--out FOLDER is a flag of recipe itself",
    "plugin": "--plugin FILE is a flag of recipe itself, which files are loaded by before recipes are looked for",
    "resume": "sgr-train run --resume FOLDER goes on with the run of a recipe",
}
FIRST = {*REGISTRIES, "methods", "bp_free", "plugin"}  # they decide which flags there are


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **options,
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; sgr-train COMMAND --help shows all flags")


def parse(words: Sequence[str]) -> Settings | Callable[[], Settings | None]:
    """The settings that a command line gives; of other commands what they do, which may give settings to go on with.

    Raises:
        UsageError: one line about what is wrong.
        SystemExit: help was asked for and printed.
    """
    plugins.load_installed()
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        raise SystemExit(0)
    if words[0] == "--version":
        print(f"sgr-train {__version__}, PyTorch {torch.__version__}")
        raise SystemExit(0)
    command, *words = words
    if command in TABLES:
        return _table(command, words)
    if command in READERS:
        return _reader(command, words)
    if command == "recipe":
        return _recipe(words)
    if command == "extend":
        return _extend(words)
    if command not in COMMANDS:
        raise UsageError(f"the command must be one of {', '.join((*COMMANDS, *OTHERS))}, got {command!r}")
    kind = COMMANDS[command]
    first = _Parser(add_help=False)
    for option in fields_of(kind):
        if option.name in FIRST:
            _add(first, option)
    known = vars(first.parse_known_args(words)[0])
    plugins.load(known.get("plugin", ()))
    given = vars(_parser(command, kind, known).parse_args(words))
    if "resume" in given and len(given) > 1:
        raise UsageError("--resume takes every setting from its folder; drop the other flags")
    return make(kind, **given)


def _reader(command: str, words: Sequence[str]) -> Callable[[], None]:
    parser = _Parser(prog=f"sgr-train {command}", description=READERS[command])
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    which = "the network after the last epoch (default), or after that of the best validation accuracy"
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last", help=which)
    if command == "predict":
        parser.add_argument("images", type=Path, metavar="IMAGE", nargs="+", help="image files")
    if command == "export":
        parser.add_argument("--out", type=Path, metavar="FILE", required=True, help="file that ends in .pt2")
    given = vars(parser.parse_args(words))
    folder, which, *others = (given[name] for name in ("run", "checkpoint", "images", "out") if name in given)
    from . import finished  # torchvision, which nothing else needs

    actions = {"evaluate": finished.evaluate, "predict": finished.predict, "export": finished.export}
    return partial(actions[command], folder, which, *others)


def _recipe(words: Sequence[str]) -> Settings | Callable[[], None]:
    parser = _Parser(prog="sgr-train recipe", description=f"{RECIPE} It is resumed like any other run.")
    parser.add_argument("name", metavar="NAME", nargs="?", help="name of a recipe")
    parser.add_argument("--list", action="store_true", help="print all names, and what the paper has for them")
    others = "other values for flags of run: epochs=2 'cuts=3 7' download=true clip_grad_norm=none"
    parser.add_argument("--set", nargs="+", action="extend", metavar="KEY=VALUE", help=others)
    parser.add_argument("--dry-run", action="store_true", help="train nothing: print the network and what it will take")
    parser.add_argument("--plugin", type=Path, nargs="+", action=_Tuple, metavar="PATH", help="files with more recipes")
    parser.add_argument("--out", type=Path, metavar="PATH", help="folder, as of run")
    given = vars(parser.parse_args(words))
    plugins.load(given.get("plugin", ()))
    from . import recipe_text

    if "list" in given:
        return recipe_text.show_all
    if "name" not in given:
        raise UsageError("recipe needs a NAME; sgr-train recipe --list shows all")
    recipe = recipes.find(given["name"])
    own = {name: given[name] for name in ("plugin", "out") if name in given}
    settings = changed(RunConfig, recipe.settings, given.get("set", ()))
    for name in settings.keys() & NOT_IN_A_RECIPE.keys():
        raise UsageError(f"--set {name} is for no recipe: {NOT_IN_A_RECIPE[name]}")
    config = make(RunConfig, **settings, **own)
    return partial(recipe_text.show, given["name"], recipe, config) if "dry_run" in given else config


def _extend(words: Sequence[str]) -> Callable[[], Settings]:
    parser = _Parser(prog="sgr-train extend", description=EXTEND)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--epochs", type=int, metavar="N", required=True, help="passes over the training images in all")
    given = parser.parse_args(words)
    return partial(extend, given.run, given.epochs)


def _table(command: str, words: Sequence[str]) -> Callable[[], None]:
    parser = _Parser(prog=f"sgr-train {command}", description=TABLES[command])
    parser.add_argument("--plugin", type=Path, metavar="PATH", nargs="+", default=(), help="files with more methods")
    plugins.load(parser.parse_args(words).plugin)
    return lambda: say(report.table(methods.table()))


def _parser(command: str, kind: type[Settings], known: dict[str, Any]) -> argparse.ArgumentParser:
    usage = f"sgr-train {command} [flags]"
    parser = _Parser(prog=f"sgr-train {command}", usage=usage, description=inspect.getdoc(kind).split("\n\n")[0])
    group = functools.cache(parser.add_argument_group)  # one of each name
    for option in fields_of(kind):
        _add(group(option.group), option, _names(option.name.removesuffix("s")))
    for flag, targets in entry_flags(kind, chosen(kind, known)).items():
        owners = dict.fromkeys(target.entry for target in targets)
        _add(group(f"Of {targets[0].kind} {', '.join(owners)}"), targets[0].option._replace(name=flag))
    return parser


def _names(kind: str) -> str:
    """The entries that a flag chooses from."""
    return f" One of {', '.join(REGISTRIES[kind].names())}; see sgr-train --help." if kind in REGISTRIES else ""


def _add(parser: Any, option: Option, more: str = "") -> None:
    """The flag of an option. Without it nothing is stored: the default is for whoever knows the others."""
    shape = shape_of(option.type)
    text = f"{help_of_flag(option)}{more}".replace("%", "%%")
    if shape.kind is bool:
        parser.add_argument(switch(option), dest=option.name, action="store_const", const=not option.default, help=text)
        return
    default = "" if option.default in (None, ()) else f" (default: {_shown(option.default)})"
    metavar = f"{{{','.join(shape.choices)}}}" if shape.choices else METAVARS[shape.kind]
    several = {"nargs": "*" if shape.optional else "+", "action": _Tuple} if shape.several else {}
    parser.add_argument(option.flag, dest=option.name, type=shape.kind, metavar=metavar, help=text + default, **several)


class _Tuple(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Iterable[Any], flag: str | None = None) -> None:
        setattr(namespace, self.dest, tuple(values))


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _overview() -> str:
    lines = ["usage: sgr-train COMMAND [flags]", "", "Local training with successive gradient reconciliation.", ""]
    for command, kind in COMMANDS.items():
        lines.append(f"  {command:8} {inspect.getdoc(kind).splitlines()[0]}")
    lines += [f"  {command:8} {text}" for command, text in OTHERS.items()]
    for kind, registry in REGISTRIES.items():
        lines += ["", f"--{kind}:"]
        lines += [f"  {name:16} {registry.summary(name)}" for name in registry.names()]
    more = "sgr-train --version; sgr-train COMMAND --help shows its flags and those of the entries given with it."
    return "\n".join([*lines, "", more])
