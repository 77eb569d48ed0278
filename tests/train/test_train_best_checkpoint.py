"""``--checkpoint best``: the network after the epoch of the best validation accuracy."""

from __future__ import annotations

import shutil

import pytest
import torch
from PIL import Image
from sgr_train import best, checkpoint, finished, train
from train_helpers import files

ACCURACIES = [0.5, 0.75, 0.25, 0.75]  # of the last head, after each epoch


@pytest.fixture
def measured(monkeypatch):
    """Epochs are measured to have these validation accuracies; gives the weights of each."""
    original, weights = train.measure, []

    def measure(network, *rest):
        weights.append({name: value.clone() for name, value in network.state_dict().items() if name.endswith("weight")})
        row = original(network, *rest)
        return {**row, "val_accuracy": [0.0, 0.0, ACCURACIES[len(weights) - 1]]}

    monkeypatch.setattr(train, "measure", measure)
    return weights


def is_of(network, weights) -> bool:
    state = network.state_dict()
    return all(state[name].equal(value) for name, value in weights.items())


@pytest.mark.parametrize("more", [{}, {"ema": 0.9}, {"save_every": 1}])
def test_it_is_the_network_that_was_measured_best(tiny, measured, more):
    config = tiny(epochs=4, **more)
    train.train(config)
    assert is_of(finished.load(config.out, "best").network, measured[1])
    assert is_of(finished.load(config.out, "last").network, measured[3])
    assert not is_of(finished.load(config.out).network, measured[1])


@pytest.mark.parametrize(
    ("accuracies", "epoch"),
    [([], None), ([None], None), ([0.5], 1), ([None, 0.5, None], 2), ([0.5, 0.7, 0.7], 2), ([0.9, 0.7], 1)],
)
def test_epochs_without_validation_are_never_best(accuracies, epoch):
    """Whether they lack the key or the value."""
    history = [{"epoch": n, "val_accuracy": a and [1.0, a]} for n, a in enumerate(accuracies, 1)]
    assert best.best_epoch(history) == epoch
    assert best.best_epoch([{k: v for k, v in row.items() if v is not None} for row in history]) == epoch


def test_without_any_validation_it_is_refused(sgr_train, tiny, monkeypatch):
    monkeypatch.setattr(best, "best_epoch", lambda history: None)
    config = tiny(epochs=1)
    train.train(config)
    assert not (config.out / "checkpoint.best.pt").exists()
    status, _, errors = sgr_train("evaluate", config.out, "--checkpoint", "best")
    assert status == 2 and "has a validation accuracy; take --checkpoint last" in errors and errors.count("\n") == 1


def test_an_extended_run_keeps_it(sgr_train, tiny, measured):
    config = tiny(epochs=2)
    train.train(config)
    status, _, errors = sgr_train("extend", config.out, "--epochs", 4)
    assert (status, errors) == (0, "") and len(measured) == 4
    assert is_of(finished.load(config.out, "best").network, measured[1])


@pytest.mark.parametrize("epoch", [1, 2])
def test_an_interrupt_between_the_last_and_the_best_loses_none(tiny, measured, monkeypatch, epoch):
    config, write, calls = tiny(epochs=4), checkpoint.write_sealed, []

    def interrupted(path, *rest, **more):
        calls.append(path)
        if path.name == checkpoint.BEST and sum(path.name == checkpoint.BEST for path in calls) == epoch:
            raise KeyboardInterrupt
        write(path, *rest, **more)

    monkeypatch.setattr(checkpoint, "write_sealed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.train(config)
    monkeypatch.setattr(checkpoint, "write_sealed", write)
    assert is_of(finished.load(config.out, "best").network, measured[epoch - 1])  # that the last one is
    train.train(config)
    assert is_of(finished.load(config.out, "best").network, measured[1])


@pytest.fixture
def of_epoch_2(tiny, measured, monkeypatch):
    """A run of four epochs that was interrupted before the last one, and is best after the second."""
    config = tiny(epochs=4)

    def stop(run, *rest):
        if len(run.history) == 3:
            raise KeyboardInterrupt
        return original(run, *rest)

    original = train.train_epoch
    with monkeypatch.context() as patch:
        patch.setattr(train, "train_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            train.train(config)
    return config


@pytest.mark.parametrize("damage", ["removed", "emptied", "of an earlier epoch"])
def test_a_best_one_that_is_lost_is_told(of_epoch_2, sgr_train, damage):
    path = of_epoch_2.out / checkpoint.BEST
    if damage == "removed":
        path.unlink()
    elif damage == "emptied":
        path.write_bytes(b"")
    else:
        state = checkpoint.load_state(path)
        state["history"].pop()
        checkpoint.save_state(path, state, checkpoint.id_of(of_epoch_2))
    before = files(of_epoch_2.out)
    status, _, errors = sgr_train("evaluate", of_epoch_2.out, "--checkpoint", "best")
    assert status == 2 and f"{path} is " in errors and "take --checkpoint last" in errors and errors.count("\n") == 1
    assert files(of_epoch_2.out) == before
    status, _, errors = sgr_train("run", "--resume", of_epoch_2.out)
    assert status == 0 and errors.count("\n") == 1 and f"{path} is " in errors
    assert "the weights of epoch 2, the best so far, are lost" in errors
    assert (path.with_name(f"{path.name}.aside").exists()) == (damage == "emptied")


def test_a_damaged_one_that_is_the_last_is_made_anew(sgr_train, finished):
    path = finished / checkpoint.BEST
    expected = path.read_bytes()
    path.write_bytes(expected[:-1])
    assert sgr_train("evaluate", finished, "--checkpoint", "best")[0] == 0
    status, _, errors = sgr_train("run", "--resume", finished)
    assert status == 0 and errors.count("\n") == 1
    assert f"{path} is damaged" in errors and "kept as checkpoint.best.pt.aside; it is made anew" in errors
    assert path.read_bytes() == (finished / "checkpoint.pt").read_bytes()


def test_that_of_another_run_is_not_taken(sgr_train, of_epoch_2, finished):
    shutil.copy(finished / checkpoint.BEST, of_epoch_2.out / checkpoint.BEST)
    status, _, errors = sgr_train("export", of_epoch_2.out, "--checkpoint", "best", "--out", "net.pt2")
    assert status == 2 and "belongs to another run; take --checkpoint last" in errors


@pytest.mark.parametrize("command", ["evaluate", "predict", "export"])
def test_commands_take_the_one_that_is_asked_for(sgr_train, of_epoch_2, tmp_path, command):
    image, program = tmp_path / "image.png", tmp_path / "net.pt2"
    Image.new("L", (8, 8), 100).save(image)
    words, results = {"evaluate": (), "predict": (image,), "export": ("--out", program)}[command], []
    for flags in ((), ("--checkpoint", "last"), ("--checkpoint", "best")):
        status, text, errors = sgr_train(command, of_epoch_2.out, *words, *flags)
        assert (status, errors) == (0, "")
        parameters = torch.export.load(program).state_dict.values() if command == "export" else ()
        results.append((text, [value.sum().item() for value in parameters]))
    assert results[0] == results[1] != results[2]
    status, _, errors = sgr_train(command, of_epoch_2.out, *words, "--checkpoint", "first")
    assert status == 2 and "--checkpoint" in errors and errors.count("\n") == 1
