"""Every flag: it stands in a group of the help, the command line and a recipe set it, and a run with it ends well."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
import torch
from sgr_train import compiled, flags, loggers, recipes
from sgr_train.config import COMMANDS, REGISTRIES, RunConfig, Settings, fields_of, from_json
from sgr_train.options import Option, from_text, shape_of, switch
from sgr_train.settings import chosen, differing, entry_flags, make, words_of
from train_helpers import TINY_FLAGS

# A value for every setting, as --set has it; each dict is a run. With device=cuda it is left out where there is no GPU.
EXAMPLES: dict[str, list[dict[str, str]]] = {
    "run": [
        {"method": "layerwise", "seed": "3", "data": "npz:{npz}", "train_subset": "16", "out": "{out}"},
        {"model": "mlp", "modules": "2", "head": "linear", "checkpoint_blocks": "true"},
        {"cuts": "1"},
        {"bp_free": "true"},
        {"epochs": "2", "batch_size": "8", "accumulate": "2", "augment": "crop mixup", "label_smoothing": "0.1"},
        {"optimizer": "adamw", "schedule": "step", "lr": "0.001", "weight_decay": "0.01"},
        {"val_every": "2", "patience": "3", "log": "silent"},
        {"clip_grad_norm": "1", "ema": "0.9", "save_every": "1", "save_minutes": "0.001", "plugin": "{plugin}"},
        {"amp": "bf16", "channels_last": "true", "device": "cpu", "threads": str(torch.get_num_threads())},
        {"memory": "1", "batch_size": "auto"},
        {"compile": "true"},
        {"cuda_graph": "true", "device": "cuda"},
        {"resume": "{finished}"},
    ],
    "compare": [{"methods": "bp sgr", "seeds": "4 5"}],
    "choose": [{"weights": "0.2", "rhos": "0.1", "seeds": "7"}],
}
NEEDED = {"bp_free": ["head=etf"], "memory": ["batch_size=auto"]}  # with them, in a recipe
pytestmark = pytest.mark.usefixtures("silent", "quick_compiler")
RUNS = [pytest.param(command, run, id=" ".join(run)) for command, runs in EXAMPLES.items() for run in runs]
SETTINGS = {option.name: option for option in fields_of(RunConfig)}
ENTRIES = [(kind, entry) for kind, registry in REGISTRIES.items() for entry in registry.names()]


class Silent:
    """A logger."""


@pytest.fixture
def silent(monkeypatch):
    monkeypatch.setitem(loggers.REGISTRY._entries, "silent", Silent)


@pytest.fixture
def quick_compiler(monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", "eager")


@pytest.fixture
def places(tmp_path, write_npz, finished):
    """What stands in braces in EXAMPLES."""
    (tmp_path / "plugin.py").write_text("")
    return {"npz": write_npz(), "finished": finished, "plugin": tmp_path / "plugin.py", "out": tmp_path / "other"}


def words_for(option: Option, text: str) -> list[str]:
    """The words of a command line that give an option the value which --set has as ``text``."""
    shape = shape_of(option.type)
    if shape.kind is bool:
        return [switch(option)]
    return [option.flag, *(text.split() if shape.several else [text])]


def given_by(kind: type[Settings], texts: dict[str, str]) -> list[str]:
    """The words of a command line that give settings the values which --set has as ``texts``."""
    own = {option.name: option for option in fields_of(kind)}
    return [word for name, text in texts.items() for word in words_for(own[name], text)]


# --- the help ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_stands_below_its_heading(command, capsys):
    with pytest.raises(SystemExit):
        flags.parse([command, "--help"])
    headed = re.findall(r"^(\w[^\n]*):\n((?:  .*\n|$)*)", capsys.readouterr().out, re.MULTILINE)
    found = {flag: heading for heading, text in headed for flag in re.findall(r"^  (--[\w-]+)", text, re.MULTILINE)}
    own = fields_of(COMMANDS[command])
    assert {option.flag: found[option.flag] for option in own} == {option.flag: option.group for option in own}
    others = found.keys() - {option.flag for option in own} - {"--help"}
    assert others and all(found[flag].startswith("Of ") for flag in others)


def test_a_switch_that_is_on_reads_as_what_its_flag_switches_off(capsys):
    with pytest.raises(SystemExit):
        flags.parse(["run", "--head", "linear", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "--no-normalize switch this off: compare directions" in said
    assert "--no-bias switch this off: add a bias" in said
    assert "--flatten take every position" in said


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_setting_has_an_example(command):
    """A new one fails here until EXAMPLES has it."""
    own = [option.name for option in fields_of(COMMANDS[command]) if command == "run" or option.name not in SETTINGS]
    assert [name for name in own if not any(name in run for run in EXAMPLES[command])] == []


@pytest.mark.parametrize(("command", "run"), RUNS)
def test_a_run_with_it_ends_well(sgr_train, tmp_path, places, command, run):
    if run.get("device") == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    own = {option.name: option for option in fields_of(COMMANDS[command])}
    texts = {name: text.format(**places) for name, text in run.items()}
    words = given_by(COMMANDS[command], texts)
    first = [] if "resume" in run else [*TINY_FLAGS, "--train-subset", 64, "--epochs", 1, "--out", tmp_path / "run"]
    assert sgr_train(command, *first, *words)[::2] == (0, "")
    out = texts.get("out") or texts.get("resume") or tmp_path / "run"
    with open(f"{out}/config.json") as file:
        config = from_json(json.load(file))
    replaced = {"batch_size", "memory"} if "memory" in texts else set()  # by the number that was found
    for name in texts.keys() - {"out", "resume"} - replaced:
        value = from_text(own[name], texts[name])
        assert getattr(config, name) == value != own[name].default


def test_what_may_be_left_out_is_left_out_by_default():
    """No flag could say that it is."""
    options = [*SETTINGS.values(), *(o for kind, entry in ENTRIES for o in REGISTRIES[kind].options(entry))]
    optional = [option for option in options if shape_of(option.type).optional]
    assert optional and [option.name for option in optional if option.default is not None] == []


# --- recipes ----------------------------------------------------------------------------------------------------------


def test_what_a_recipe_does_not_set_exists():
    assert flags.NOT_IN_A_RECIPE.keys() <= SETTINGS.keys()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_recipe_sets_it(name):
    text = next(run[name] for run in EXAMPLES["run"] if name in run)
    words = ["recipe", "digits-sgr", "--set", f"{name}={text}", *NEEDED.get(name, [])]
    if name in flags.NOT_IN_A_RECIPE:
        with pytest.raises(flags.UsageError, match=f"--set {name} is for no recipe: {flags.NOT_IN_A_RECIPE[name]}"):
            flags.parse(words)
    else:
        assert getattr(flags.parse(words), name) == from_text(SETTINGS[name], text)


def another(option: Option) -> str:
    """A value that is not the default, as --set has it."""
    shape = shape_of(option.type)
    if shape.kind is bool:
        return "false" if option.default else "true"
    if shape.choices:
        return next(choice for choice in shape.choices if choice != option.default)
    if shape.kind is float:
        return "0.5" if option.default == 0.25 else "0.25"
    default = option.default[0] if shape.several else option.default
    return str(default + 1) if shape.kind is int and default is not None else "3"


@pytest.mark.parametrize(("kind", "entry"), ENTRIES)
def test_the_command_line_and_a_recipe_set_every_option_of_an_entry(kind, entry):
    choice = f"{entry}:x" if kind == "data" else entry
    given = {kind: from_text(SETTINGS[kind], choice)}
    for flag, targets in entry_flags(RunConfig, chosen(RunConfig, given)).items():
        option = next((target.option for target in targets if target.kind == kind), None)
        if option is None:
            continue
        text = another(option)
        words = ["run", f"--{kind}", choice, *words_for(option._replace(name=flag), text)]
        for each in words, ["recipe", "digits-sgr", "--set", f"{kind}={choice}", f"{flag}={text}"]:
            config = flags.parse(each)
            assert config.options[kind][entry][option.name] == from_text(option, text) != option.default
        assert flags.parse(["run", *words_of(config)]) == config


# --- what a run says of its settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipes.names())
def test_the_settings_of_a_recipe_are_said_as_the_flags_that_give_them(name):
    config = flags.parse(["recipe", name])
    assert make(RunConfig, **differing(config)) == config == flags.parse(["run", *words_of(config)])


@pytest.mark.parametrize("command", COMMANDS)
def test_settings_are_said_as_the_flags_that_give_them(places, command):
    assert words_of(make(COMMANDS[command])) == []
    for run in EXAMPLES[command]:
        texts = {name: text.format(**places) for name, text in run.items()}
        config = flags.parse([command, *given_by(COMMANDS[command], texts)])
        without_folder = dataclasses.replace(config, out=None, resume=None)
        assert flags.parse([command, *words_of(config)]) == without_folder
    assert words_of(make(RunConfig, bp_free=True)) == ["--bp-free"]
