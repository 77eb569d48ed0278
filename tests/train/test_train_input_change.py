"""The logger of Figure 3: what it measures, that it leaves the run alone, and that it survives an interrupt."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from sgr_train import networks
from sgr_train.loggers.input_change import FILE, InputChange, changes, measured_steps
from sgr_train.train import train_and_test


def read(config) -> list[dict]:
    return [json.loads(line) for line in (config.out / FILE).read_text().splitlines()]


def pairs(network):
    return [(module.body, module.head) for module in network]


def test_the_change_is_that_of_the_old_module_on_the_new_input():
    """In plain torch: BatchNorm by the batch, all weights in double."""
    options = {"num_classes": 3, "image_shape": (1, 8, 8), "depth": 3, "width": 4, "head": "conv"}
    before = networks.plainnet(**options).double()
    after = copy.deepcopy(before)
    with torch.no_grad():
        for parameter in after.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    x, y = torch.randn(12, 1, 8, 8, dtype=torch.float64), torch.arange(12) % 3

    state = {name: value.clone() for name, value in before.state_dict().items()}
    found = changes(pairs(before), pairs(after), x, y)
    assert all(torch.equal(value, state[name]) for name, value in before.state_dict().items())

    expected, old, new = [], x, x
    for own, stepped in zip(copy.deepcopy(before), copy.deepcopy(after), strict=True):
        at_new, at_old = (F.cross_entropy(own.head.logits(own.body(given)), y).item() for given in (new, old))
        expected.append(at_new - at_old)
        old, new = own.body(old), stepped.body(new)
    assert expected[0] == 0 and len(found) == 2
    assert found == pytest.approx(expected[1:], rel=1e-9) and all(abs(each) > 1e-3 for each in found)


def test_random_layers_draw_the_same_for_both_and_nothing_from_the_run():
    body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 64), torch.nn.Dropout())
    modules = [(body, torch.nn.CrossEntropyLoss()), (torch.nn.Dropout(), torch.nn.CrossEntropyLoss())]
    x, y, random = torch.randn(8, 1, 2, 2), torch.arange(8), torch.get_rng_state()
    assert changes(modules, modules, x, y) == [0.0]
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(
    ("images", "batch_size", "accumulate", "expected"),
    [
        (9984, 128, 1, {10, 30, 49, 69}),
        (128, 64, 1, {1, 2}),
        (96, 128, 1, {1}),
        (1024, 64, 4, {4, 8, 12, 16}),  # only these steps update
        (64, 64, 4, {1}),
    ],
)
def test_steps_are_spread_over_the_epoch(tiny, images, batch_size, accumulate, expected):
    config = tiny(batch_size=batch_size, accumulate=accumulate)
    assert measured_steps(images, config) == expected


@pytest.mark.parametrize("options", [{}, {"bp_free": True, "method": "layerwise", "accumulate": 2}])
def test_a_run_is_what_it_is_without_it(tiny, options):
    plain, logged = tiny("plain", epochs=2, **options), tiny("logged", epochs=2, log=("input_change",), **options)
    summaries = [train_and_test(config) for config in (plain, logged)]
    timed = ("seconds_per_epoch", "peak_memory_bytes")
    assert [{k: v for k, v in summary.items() if k not in timed} for summary in summaries[:1]] == [
        {k: v for k, v in summary.items() if k not in timed} for summary in summaries[1:]
    ]
    rows, modules = read(logged), summaries[0]["modules"]
    assert len({(row["epoch"], row["step"]) for row in rows}) == len(rows)
    assert {row["epoch"] for row in rows} == {1, 2}
    assert all(len(row["change"]) == modules - 1 and any(row["change"]) for row in rows)


def test_a_network_of_one_module_has_no_change(tiny):
    config = tiny(method="bp", log=("input_change",), epochs=1)
    train_and_test(config)
    assert not (config.out / FILE).exists()


@pytest.mark.parametrize(("calls", "save"), [(2, {}), (2, {"save_every": 1}), (4, {"save_every": 1}), (6, {})])
def test_an_interrupted_run_goes_on_with_the_same_rows(tiny, monkeypatch, calls, save):
    """Interrupted after a step that the checkpoint does not know of. An epoch has four, all measured."""
    whole, config = (tiny(name, log=("input_change",), epochs=2, **save) for name in ("whole", "stopped"))
    train_and_test(whole)
    batch, seen = InputChange.batch, []

    def interrupted(self, images, loss):
        batch(self, images, loss)
        seen.append(images)
        if len(seen) == calls:
            raise KeyboardInterrupt

    monkeypatch.setattr(InputChange, "batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_and_test(config)
    assert len(read(config)) == calls < len(read(whole)) == 8
    train_and_test(config)
    assert read(config) == read(whole)
