"""What users bring: a file each, registered like what is there; flags come from their keywords."""

from __future__ import annotations

import json
import sys
from typing import Literal

import pytest
from sgr_train import plugins
from sgr_train.config import REGISTRIES
from sgr_train.errors import UsageError
from sgr_train.options import Count, Positive, options_of, shape_of
from sgr_train.registry import Registry

PLUGIN = '''
"""A method, a network, a head and a data set."""
import torch
from torch import nn

import sgr_kernels as sk
from sgr_train import data, heads, methods, networks
from sgr_train.data.splits import Images


@methods.register("plugged_method")
class PluggedMethod:
    """Every module on its own, with a loss that is scaled.

    Args:
        factor: of the gradients.
    """

    def __init__(self, *, factor: float = 1.0) -> None:
        self.factor = factor

    def step(self, network, x, y, update=lambda k: None):
        losses = []
        for k, module in enumerate(network):
            step = sk.local_step(module.body, module.head, x, y, None, weight=0.0, grad_scale=self.factor)
            update(k)
            x = step.output
            losses.append(step.loss)
        return losses


@networks.register("plugged_model", head="plugged_head")
def plugged_model(image_shape, *, width: int = 8):
    """Two convolutions.

    Args:
        width: channels.
    """
    pairs = ((image_shape[0], width), (width, width))
    return [nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.Tanh()) for a, b in pairs]


@heads.register("plugged_head")
def plugged_head(features, num_classes, *, width: int = 4):
    """Average, linear, linear.

    Args:
        width: of what is between.
    """
    layers = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features.channels, width), nn.Linear(width, num_classes))
    return heads.FromModule(nn.Sequential(*layers))


@data.register("plugged_data")
def plugged_data(argument, *, images: int = 90):
    """Noise in three classes.

    Args:
        images: how many.
    """
    pixels = torch.randint(0, 256, (images, 1, 6, 6), dtype=torch.uint8)
    split = Images(pixels, torch.arange(images) % 3)
    return data.Splits(split, None, split)
'''


@pytest.fixture(autouse=True)
def own_entries(monkeypatch):
    """What a test registers is forgotten after it."""
    for registry in REGISTRIES.values():
        monkeypatch.setattr(registry, "_entries", {name: registry.find(name) for name in registry.names()})


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    return path


FLAGS = ("--method", "plugged_method", "--model", "plugged_model", "--data", "plugged_data")


def test_one_file_joins_in_all_places(sgr_train, tmp_path, plugin):
    out = tmp_path / "run"
    own = ("--factor", 2, "--model-width", 5, "--head-width", 3, "--images", 60)
    common = ("--epochs", 1, "--batch-size", 16, "--lr", 0.01, "--out", out)
    status, text, errors = sgr_train("run", "--plugin", plugin, *FLAGS, *own, *common)
    assert (status, errors) == (0, "") and "test accuracy" in text
    config = json.loads((out / "config.json").read_text())
    chosen = {kind: config["options"][kind] for kind in ("method", "model", "head", "data")}
    assert chosen == {
        "method": {"plugged_method": {"factor": 2.0}},
        "model": {"plugged_model": {"width": 5}},
        "head": {"plugged_head": {"width": 3}},
        "data": {"plugged_data": {"images": 60}},
    }
    assert sgr_train("run", "--resume", out)[0] == 0  # finds the plug-in again


def test_help_shows_its_flags(capsys, plugin):
    from sgr_train.cli import main

    with pytest.raises(SystemExit):
        main(["run", "--plugin", str(plugin), *FLAGS, "--help"])
    text = capsys.readouterr().out
    for flag in ("--factor X", "--model-width N", "--head-width N", "--images N"):
        assert flag in text
    assert "--reduction" not in text


def test_without_it_the_name_is_unknown(tmp_path):
    registry = Registry("method", "sgr_train.methods")
    with pytest.raises(UsageError, match="--method must be one of"):
        registry.find("nobody")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nothing_of_this_name", "fails: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("1 / 0", "fails: ZeroDivisionError: division by zero"),
        (PLUGIN.replace("plugged_method", "sgr"), "there is a method 'sgr' already, of sgr_train.methods.sgr"),
        (PLUGIN.replace("        factor: of the gradients.\n", ""), "has no explanation under 'Args:'"),
        (PLUGIN.replace("width: int = 8", "width=8"), "has no type"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(sgr_train, tmp_path, text, words):
    path = tmp_path / "wrong.py"
    path.write_text(text)
    status, _, errors = sgr_train("run", "--plugin", path, "--out", tmp_path / "run")
    assert status == 2 and f"--plugin {path}" in errors and words in errors and errors.count("\n") == 1


def test_a_file_that_is_not_there(sgr_train, tmp_path):
    for name in ("none.py", "none.txt"):
        status, _, errors = sgr_train("run", "--plugin", tmp_path / name, "--out", tmp_path / "run")
        assert status == 2 and f"--plugin {tmp_path / name}" in errors and errors.count("\n") == 1


def test_a_module_of_an_installed_package(monkeypatch):
    class Point:
        name, value = "other", "other.module"

        def load(self):
            raise RuntimeError("broken")

    monkeypatch.setattr(plugins.importlib.metadata, "entry_points", lambda group: [Point()])
    with pytest.raises(UsageError, match=r"plug-in other \(other.module\) fails: broken"):
        plugins.load_installed()


@pytest.mark.parametrize("registry", REGISTRIES.values(), ids=lambda registry: registry.kind)
def test_an_attribute_is_the_entry_and_not_the_file_of_its_name(registry):
    package = sys.modules[registry.package]
    for name in registry.names():
        if name.isidentifier():
            assert callable(getattr(package, name)), name


def test_options_are_read_off_the_signature():
    def entry(x, *, depth: Count = 3, rate: Positive | None = None, sizes: tuple[int, ...] = (1,),
              kind: Literal["a", "b"] = "a"):  # fmt: skip
        """Does something.

        Args:
            depth, rate: of both,
                on two lines.
            sizes: of some.
            kind: which.
        """

    found = options_of(entry)
    assert [(o.name, o.default, o.help) for o in found] == [
        ("depth", 3, "of both, on two lines."),
        ("rate", None, "of both, on two lines."),
        ("sizes", (1,), "of some."),
        ("kind", "a", "which."),
    ]
    depth, rate, sizes, kind = (shape_of(o.type) for o in found)
    assert depth.kind is int and depth.range.least == 1 and not depth.optional
    assert rate.kind is float and rate.optional and rate.range.open
    assert sizes.several and sizes.kind is int and kind.choices == ("a", "b")
