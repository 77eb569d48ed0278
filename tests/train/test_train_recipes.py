"""Recipes: every one starts, and a dry run tells what a step takes."""

from __future__ import annotations

import json
import re

import pytest
import torch
from sgr_train import checkpoint, data, flags, methods, recipes, train
from sgr_train.config import RunConfig
from sgr_train.data.splits import Images
from sgr_train.errors import UsageError
from sgr_train.hooks import Hooks
from sgr_train.memory import estimate
from sgr_train.settings import make
from test_train_loop import assert_same_state
from torch.utils.flop_counter import FlopCounterMode

TABLE = re.compile(r"table\d-")
OF_PEPITA = ("fa", "drtp", "pepita")  # rows of its paper
AT_FIRST = {"greedy": slice(0, 1), "dni": slice(-1, None)}  # modules that learn in two steps: generators begin with 0
SMALL = ("epochs=1", "batch_size=4", "device=cpu")


@pytest.fixture(autouse=True)
def shrunken(monkeypatch):
    """--set data=shrunken: few small images, for eight of which the recipe trains."""

    def shrunken(argument, *, side: int = 8, classes: int = 10) -> data.Splits:
        """Random colour images.

        Args:
            side: in pixels.
            classes: their number.
        """
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, (9, 3, side, side), dtype=torch.uint8, generator=generator)
        images = Images(pixels, torch.arange(9) // 2)
        return data.Splits(images, None, images.subset(torch.arange(2)), tuple(map(str, range(classes))))

    monkeypatch.setitem(data.REGISTRY._entries, "shrunken", shrunken)


def shrink(name: str) -> list[str]:
    sizes = ["side=32", "width=4"] if "vgg" in name else ["side=8"]
    return ["data=shrunken", *sizes, *SMALL, *(["classes=100"] if "cifar100" in name else [])]


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_takes_two_steps(name):
    config = flags.parse(["recipe", name, "--set", *shrink(name)])
    run, images = train.setup(config)
    modules = list(run.network)[AT_FIRST.get(config.method, slice(None))]
    learning = [p for part in [*(module.body for module in modules), modules[-1].head] for p in part.parameters()]
    before = [p.clone() for p in learning]
    losses = train.train_epoch(run, config, images, Hooks())
    assert len(images.train) == 2 * config.batch_size and torch.tensor(losses).isfinite().all()
    assert learning and not any(p.equal(q) for p, q in zip(learning, before, strict=True))


PAPER = (200, 128, 0.1, 5e-4)  # epochs, batch, learning rate, weight decay
OF_METHOD = {
    "dgl": (50, 128, 0.1, 5e-4),
    "infopro": (160, 1024, 0.8, 1e-4),
    "pepita": (100, 50, 0.01, 0.0),
    **dict.fromkeys(("fa", "drtp"), (100, 50, 0.003, 0.0)),
}
SCHEDULES = {
    "dgl": {"step": {"milestones": (15, 30, 45), "gamma": 0.2, "warmup": 0.0}},
    "infopro": {"cosine": {"warmup": 10, "final": 0.0, "per_step": False}},
    **dict.fromkeys(OF_PEPITA, {"step": {"milestones": (10, 30, 60), "gamma": 0.1, "warmup": 0.0}}),
}


def test_recipes_are_the_rows_of_the_tables():
    tables = [name.partition("-")[0] for name in recipes.names() if name.startswith("table")]
    assert {table: tables.count(table) for table in tables} == {"table3": 6, "table4": 12, "table6": 32, "table7": 12}
    for name in filter(TABLE.match, recipes.names()):
        recipe, config = recipes.find(name), flags.parse(["recipe", name])
        assert re.match(r"\d\d\.\d\d( \+- \d\.\d\d)? \(Table|no number \(CIFAR|fail \(Table", recipe.paper)
        assert recipe.choices and all(choice.endswith(".") for choice in recipe.choices)
        training = (config.epochs, config.batch_size, config.lr, config.weight_decay)
        assert training == OF_METHOD.get(config.method, PAPER)
        assert config.options["optimizer"] == {"sgd": {"momentum": 0.9, "nesterov": config.method == "infopro"}}
        plain = {"cosine": {"warmup": 0.0, "final": 0.0, "per_step": False}}
        assert config.options["schedule"] == SCHEDULES.get(config.method, plain)
        assert config.augment == (() if config.method in OF_PEPITA else ("crop", "flip"))
        own = config.options["method"][config.method]
        assert config.method != "sgr" or (own["weight"], own["reduction"]) == (1.0, "batchmean")
        if config.modules is not None:
            assert f"-k{config.modules}-" in name and f"K={config.modules}," in recipe.paper
        if config.model == "vgg":
            assert f"-vgg{config.options['model']['vgg']['depth']}-" in name


def test_every_method_has_a_recipe_on_the_digits():
    named = {name for name in recipes.names() if not TABLE.match(name)}
    assert named == {f"digits-{method}" for method in methods.names()}
    for method in methods.names():
        config = flags.parse(["recipe", f"digits-{method}"])
        assert (config.method, config.data, config.epochs) == (method, "digits", 3)


@pytest.mark.parametrize(("modules", "weights"), [(2, "5 1 0 0"), (3, "6 0 1 2"), (16, "5 0.05 0.2 0.5")])
def test_infopro_says_how_it_weighs_its_losses(modules, weights):
    recipe = recipes.find(f"table6-resnet32-k{modules}-infopro")
    [said] = [choice for choice in recipe.choices if choice.startswith("ixx1, ixy1, ixx2, ixy2 are " + weights)]
    assert ("unpublished" in said) == (modules == 3)


def test_a_recipe_is_a_run_that_can_be_resumed(sgr_train, tmp_path, monkeypatch):
    name, changes = "table6-resnet32-k3-sgr", ("--set", *shrink(""), "model=resnet14", "epochs=2", "augment=crop mixup")
    status, text, errors = sgr_train("recipe", name, *changes, "--out", tmp_path / "whole")
    assert (status, errors) == (0, "") and "test accuracy" in text
    stored = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert stored["command"] == "run" and stored["augment"] == ["crop", "mixup"]
    assert stored["options"]["method"]["sgr"]["weight"] == 1.0 and stored["options"]["data"]["shrunken"]["side"] == 8
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_metrics", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert sgr_train("recipe", name, *changes, "--out", tmp_path / "resumed")[0] == 130
    assert sgr_train("run", "--resume", tmp_path / "resumed")[0] == 0
    whole, resumed = (train.setup(checkpoint.read_config(tmp_path / each, "run"))[0] for each in ("whole", "resumed"))
    for run, folder in ((whole, "whole"), (resumed, "resumed")):
        run.load_state_dict(checkpoint.load_state(tmp_path / folder / "checkpoint.pt"))
    assert_same_state(whole, resumed)


def test_a_list_names_all(sgr_train):
    status, text, errors = sgr_train("recipe", "--list")
    assert (status, errors) == (0, "")
    assert [line.split()[0] for line in text.splitlines()] == list(recipes.names())
    assert re.search(r"^table6-resnet32-k16-sgr +85\.65 \+- 0\.38 \(Table 6", text, re.MULTILINE)


def test_a_dry_run_tells_what_is_built(sgr_train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "table6-resnet32-k2-layerwise"
    status, text, errors = sgr_train("recipe", name, "--dry-run", "--set", "batch_size=4")
    assert (status, errors) == (0, "") and not list(tmp_path.iterdir())
    network, _ = train.build(flags.parse(["recipe", name]), 10, (3, 32, 32))
    parameters, in_heads = (
        sum(p.numel() for m in network for p in part(m).parameters()) for part in (lambda m: m, lambda m: m.head)
    )
    for words in (
        name,
        "no number (CIFAR-10, K=2",
        "2, of 11 5 blocks",
        "cuts          11\n",
        f"{parameters:,} ({in_heads:,} in heads)",
        "resnet32",
        "layerwise engine=auto",
        "batch 4)",
        "The last module has the head of the others",
    ):
        assert words in text
    assert re.search(r"FLOPs a step +[\d,.]+ G.*\n +peak memory +about \d+ MiB \(\d+ at rest\)", text)


def test_a_dry_run_of_other_images_looks_at_them(sgr_train):
    changes = ("--set", "data=shrunken", "side=16", "classes=4", "width=8", "batch_size=4")
    status, text, _ = sgr_train("recipe", "table4-plainnet-sgr", "--dry-run", *changes)
    network, _ = train.build(make(RunConfig, bp_free=True, depth=4, width=8), 4, (3, 16, 16))
    assert status == 0 and f"{sum(p.numel() for p in network.parameters()):,} (0 in heads)" in text


def test_flops_are_those_that_torch_counts():
    """Of back-propagation, whose counter it can run."""
    config = make(RunConfig, model="resnet14", method="bp", data="cifar10", batch_size=8)
    cost = estimate.step_cost(config, 10, (3, 32, 32))
    network, method = train.build(config, 10, (3, 32, 32))
    with FlopCounterMode(display=False) as counter:
        method.step(network, torch.randn(8, 3, 32, 32), torch.randint(10, (8,)))
    assert cost.flops == counter.get_total_flops() > 0
    assert all(p.device.type == "meta" for p in cost.network.parameters())


@pytest.mark.parametrize(("optimizer", "copies"), [("sgd", 2), ("adamw", 3)])
def test_memory_at_rest_is_that_of_parameters_and_optimizers(optimizer, copies):
    config = make(RunConfig, model="mlp", method="layerwise", head="linear", optimizer=optimizer, width=32)
    cost = estimate.step_cost(config, 10, (1, 8, 8))
    parameters = [p.nbytes for p in cost.network.parameters()]
    counters = 4 * len(parameters) if optimizer == "adamw" else 0
    assert cost.kept_bytes == copies * sum(parameters) + counters + cost.network.mean.nbytes + cost.network.std.nbytes
    assert cost.peak_bytes > cost.kept_bytes


def test_a_step_of_greedy_costs_as_much_as_that_of_its_dearest_module():
    """The first one, whose layer is the largest: its output, its weight gradient and three products of its head."""
    config = make(RunConfig, model="mlp", method="greedy", head="linear", width=32, depth=3)
    cost = estimate.step_cost(config, 10, (3, 32, 32))
    assert cost.flops == 2 * config.batch_size * (2 * 3072 * 32 + 3 * 320)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["table6"], "there is no recipe 'table6'; sgr-train recipe --list shows all"),
        ([], "recipe needs a NAME; sgr-train recipe --list shows all"),
        (["table7-vgg12-bp", "--set", "epochs"], "--set must be KEY=VALUE ..., got 'epochs'"),
        (["table7-vgg12-bp", "--set", "epochs=two"], "--epochs must be of type int, got 'two'"),
        (["table7-vgg12-bp", "--set", "epochs=0"], "--epochs must be at least 1, got 0"),
        (["table7-vgg12-bp", "--set", "bp_free=1"], "--bp-free must be true or false, got '1'"),
        (["table7-vgg12-bp", "--set", "width=4", "nobody=1"], "--nobody is no flag of"),
        (["table7-vgg12-bp", "--set", "optimizer=adamw", "momentum=0.5"], "--momentum is no flag of"),
        (["table7-vgg12-bp", "--set", "resume=x"], "--set resume is for no recipe: sgr-train run --resume"),
        (["table7-vgg12-bp", "--epochs", "3"], "unrecognized arguments: --epochs 3"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(sgr_train, words, said):
    status, _, errors = sgr_train("recipe", *words)
    assert status == 2 and said in errors and errors.count("\n") == 1


def test_values_of_every_type_can_be_set():
    changes = ["width=8", "norm=none", "clip_grad_norm=0.5", "download=true", "augment=flip mixup", "modules=none"]
    config = flags.parse(["recipe", "table7-vgg17-sgr", "--set", "cuts=2 5", *changes, "--out", "somewhere"])
    assert config.options["model"] == {"vgg": {"depth": 17, "width": 8, "norm": "none"}} and config.cuts == (2, 5)
    assert config.clip_grad_norm == 0.5 and config.modules is None and config.augment == ("flip", "mixup")
    assert config.options["data"]["cifar10"]["download"] is True and str(config.out) == "somewhere"
    other = flags.parse(["recipe", "table7-vgg17-sgr", "--set", "optimizer=adamw", "model=resnet14", "lr=0.001"])
    assert set(other.options["optimizer"]["adamw"]) == {"beta1", "beta2", "eps"}
    assert other.options["model"] == {"resnet14": {}}


def test_a_recipe_of_ones_own(sgr_train, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from sgr_train.recipes import Recipe, register\n\n\n@register('mine')\ndef mine():\n"
        "    return Recipe(paper='-', settings={'model': 'mlp', 'epochs': 1, 'train_subset': 64, 'oops': 1})\n"
    )
    status, _, errors = sgr_train("recipe", "mine", "--plugin", path, "--out", tmp_path / "run")
    assert status == 2 and "--oops is no flag of" in errors  # and not passed over
    with pytest.raises(UsageError):
        recipes.find("yours")
