"""From what flags give to a config: which entries are chosen, which options go to which, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from . import augmentations, methods, networks
from .config import REGISTRIES, ChooseConfig, Options, Settings, fields_of
from .errors import UsageError
from .options import Option, check, from_text, refusal, to_words

Entries = dict[str, tuple[str, ...]]  # names of the chosen entries, by kind
WITH_BP_FREE = {  # what else is allowed
    "head": ("etf",),
    "modules": (None,),
    "cuts": ((),),
    "checkpoint_blocks": (False,),
    "label_smoothing": (0.0,),
}
FOLDERS = {"out", "resume"}
SWEPT = {"rhos": "rho", "weights": "weight"}  # the options of sgr that choose tries, by its own


class Target(NamedTuple):
    """Where the value of a flag goes: an option of an entry."""

    kind: str
    entry: str
    option: Option


def make(kind: type[Settings], **given: Any) -> Settings:
    """Settings of a command.

    Args:
        kind: of the command.
        given: by name of the setting, or of the flag of an option of a chosen entry.

    Raises:
        UsageError: a name or value is not allowed; it names the flag.
    """
    fields = {option.name: option for option in fields_of(kind)}
    entries = chosen(kind, given)
    targets = entry_flags(kind, entries)
    options: Options = {
        each: {name: {o.name: o.default for o in REGISTRIES[each].options(name)} for name in names}
        for each, names in entries.items()
    }
    if given.get("bp_free"):
        _closed_form(targets, options)
    own = {}
    for name, value in given.items():
        if name in fields:
            own[name] = value
        elif name in targets:
            for target in targets[name]:
                options[target.kind][target.entry][target.option.name] = value
        else:
            raise UsageError(f"--{name.replace('_', '-')} is no flag of {', '.join(sum(entries.values(), ()))}")
    config = kind(**{**own, "head": entries["head"][0]}, options=options)
    validate(config)
    return config


def changed(kind: type[Settings], given: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """What is given to :func:`make`, with others in its place. Options of entries that are replaced go with them.

    Args:
        changes: "key=value" each, the key by the name of the flag.

    Raises:
        UsageError: one is written otherwise, or it is no value of its flag.
    """
    if not all("=" in change for change in changes):
        raise UsageError(f"--set must be KEY=VALUE ..., got {' '.join(changes)!r}")
    texts = {key.replace("-", "_"): text for key, _, text in (change.partition("=") for change in changes)}
    own = {option.name: option for option in fields_of(kind)}
    before = entry_flags(kind, chosen(kind, given))
    given = {**given, **{name: from_text(own[name], text) for name, text in texts.items() if name in own}}
    targets = entry_flags(kind, chosen(kind, given))
    given = {name: value for name, value in given.items() if name not in before or name in targets}
    of_entries = {name: from_text(targets[name][0].option, text) for name, text in texts.items() if name in targets}
    return {**given, **of_entries, **{name: text for name, text in texts.items() if name not in {*own, *targets}}}


def differing(config: Settings) -> dict[str, Any]:
    """What to give to :func:`make` for these settings, but for what stands there anyway, and the folder."""
    kind = type(config)
    own = {option.name: option for option in fields_of(kind) if option.name not in FOLDERS}
    given = {name: getattr(config, name) for name, option in own.items() if getattr(config, name) != option.default}
    head = given.pop("head")
    if chosen(kind, given)["head"] != (head,):
        given["head"] = head
    plain = make(kind, **given).options
    for flag, targets in entry_flags(kind, chosen(kind, given)).items():
        for each, entry, option in targets:
            if config.options[each][entry][option.name] != plain[each][entry][option.name]:
                given[flag] = config.options[each][entry][option.name]
    return given


def words_of(config: Settings) -> list[str]:
    """The words of a command line that gives the settings of :func:`differing`."""
    kind, given = type(config), differing(config)
    options = {name: targets[0].option for name, targets in entry_flags(kind, chosen(kind, given)).items()}
    options |= {option.name: option for option in fields_of(kind)}
    return [word for name, value in given.items() for word in to_words(options[name]._replace(name=name), value)]


def chosen(kind: type[Settings], given: dict[str, Any]) -> Entries:
    """The entries that the settings name, or that stand where they name none.

    Raises:
        UsageError: there is no such entry.
    """
    value = {option.name: given.get(option.name, option.default) for option in fields_of(kind)}
    if kind is ChooseConfig:
        names = ("sgr", "layerwise")
    else:
        names = tuple(value["methods"]) if "methods" in value else (value["method"],)
    model = value["model"]
    entries = {
        "method": names,
        "model": (model,),
        "head": (value["head"] or ("etf" if value["bp_free"] else networks.facts(model).head),),
        "data": (value["data"].partition(":")[0],),
        "augment": augmentations.OF_COLOUR if value["augment"] is None else value["augment"],
        "optimizer": (value["optimizer"],),
        "schedule": (value["schedule"],),
        "log": value["log"],
    }
    for kind_of_entry, wanted in entries.items():
        for name in wanted:
            REGISTRIES[kind_of_entry].find(name)
    return entries


def entry_flags(kind: type[Settings], entries: Entries) -> dict[str, list[Target]]:
    """The flags of the chosen entries. What several kinds have, or the command itself, is told apart by the kind."""
    targets = [
        Target(each, name, option)
        for each, names in entries.items()
        for name in names
        for option in REGISTRIES[each].options(name)
        if not (kind is ChooseConfig and each == "method" and option.name in SWEPT.values())
    ]
    taken = {option.name for option in fields_of(kind)}
    flags: dict[str, list[Target]] = {}
    for target in targets:
        name = target.option.name
        kinds = {other.kind for other in targets if other.option.name == name}
        flag = f"{target.kind}_{name}" if name in taken or len(kinds) > 1 else name
        flags.setdefault(flag, []).append(target)
    return flags


def _closed_form(targets: dict[str, list[Target]], options: Options) -> None:
    """Other defaults with --bp-free."""
    for flag, value in (("norm", "none"), ("engine", "fused")):
        for kind, entry, option in targets.get(flag, ()):
            options[kind][entry][option.name] = value


def validate(config: Settings) -> None:
    """Refuse settings that have no meaning.

    Raises:
        UsageError: names the flag, what was given and what is allowed.
    """
    fields = {option.name: option for option in fields_of(type(config))}
    for name, option in fields.items():
        check(option, getattr(config, name))
    for name in ("methods", "seeds", *SWEPT):
        values = getattr(config, name, (0,))
        if (len(values) == 0 and name not in SWEPT) or len(set(values)) < len(values):
            raise refusal(fields[name], "a list without repetitions", values)
    for name in SWEPT:
        values = getattr(config, name, ())
        if len({f"{value:g}" for value in values}) < len(values):  # names of their folders
            raise refusal(fields[name], "numbers that differ in their first six digits", values)
    if config.cuts == ("auto",) and config.modules is None:
        raise UsageError("--cuts auto needs --modules, the number of modules; add it")
    _check_batch_size(config, fields)
    for kind, entries in config.options.items():
        for name, values in entries.items():
            for option in REGISTRIES[kind].options(name):
                check(option, values[option.name])
    phased = [name for name in config.options["method"] if methods.in_phases(name)]
    if config.patience is not None and phased:
        expected = f"left out with --method {phased[0]}, which trains in phases"
        raise refusal(fields["patience"], expected, config.patience)
    if config.bp_free:
        _check_bp_free(config, fields)


def _check_batch_size(config: Settings, fields: dict[str, Option]) -> None:
    auto = config.batch_size == "auto"
    if isinstance(config.batch_size, str) and not auto:
        raise refusal(fields["batch_size"], "a number or auto", config.batch_size)
    if auto and config.cuts == ("auto",):
        raise UsageError("--batch-size auto needs cuts, and --cuts auto a batch size: give numbers for one of them")
    if config.memory is not None and not auto:
        raise UsageError("--memory is what --batch-size auto is held against; drop it, or add that")


def _check_bp_free(config: Settings, fields: dict[str, Option]) -> None:
    analytic = tuple(name for name in REGISTRIES["method"].names() if "engine" in _options("method", name))
    for name in config.options["method"]:
        if name not in analytic:
            flag = fields.get("methods") or fields["method"]
            raise refusal(flag, f"{' or '.join(analytic)} with --bp-free", name)
    for name, allowed in WITH_BP_FREE.items():
        value = getattr(config, name)
        if value not in allowed:
            what = "left out" if not allowed[0] else allowed[0]
            raise refusal(fields[name], f"{what} with --bp-free", value)
    if "mixup" in config.options["augment"]:
        raise refusal(fields["augment"], "without mixup with --bp-free", config.augment)
    for kind, flag, value in (("model", "norm", "none"), ("method", "engine", "fused")):
        for name, options in config.options[kind].items():
            if options.get(flag, value) != value:
                raise refusal(_options(kind, name)[flag], f"{value} with --bp-free", options[flag])


def _options(kind: str, name: str) -> dict[str, Option]:
    return {option.name: option for option in REGISTRIES[kind].options(name)}
