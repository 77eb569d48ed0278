"""What is done to training images and labels, always with the numbers of the generator that is given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sgr_train import augmentations, train
from sgr_train.config import RunConfig
from sgr_train.errors import UsageError
from sgr_train.loader import load_data
from sgr_train.settings import make
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

EVERY = ("crop", "resized_crop", "flip", "randaugment", "erasing", "mixup")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def colour(write_npz):
    """Random colour images that are normalised, labels, and their data set."""
    images = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    path = write_npz(train_images=images, test_images=images[:20])
    data = load_data(make(RunConfig, data=f"npz:{path}", augment=EVERY), torch.device("cpu"))
    return *next(data.ordered(data.train, 54)), data


def test_all_are_tried_here():
    assert set(EVERY) <= set(augmentations.names())


@pytest.mark.parametrize("name", EVERY)
def test_what_is_drawn_comes_from_the_generator(colour, name):
    augment = augmentations.REGISTRY.find(name)
    before, used = torch.get_rng_state(), generator()
    x, y = augment(*colour, used)
    assert torch.get_rng_state().equal(before)  # dropout must not depend on it
    assert x.shape == colour[0].shape and x.dtype == torch.float32 and len(y) == len(x) and x.isfinite().all()
    assert not x.equal(colour[0])
    again, labels = augment(*colour, generator())
    assert again.equal(x) and labels.equal(y)
    assert not augment(*colour, generator(1))[0].equal(x)
    assert not augment(*colour, used)[0].equal(x)  # it has moved on


@pytest.mark.parametrize("name", [name for name in EVERY if name != "mixup"])
def test_every_image_is_changed_in_another_way(colour, name):
    x, y, data = colour
    same = x[:1].repeat(32, 1, 1, 1)
    assert len(augmentations.REGISTRY.find(name)(same, y[:32], data, generator())[0].unique(dim=0)) > 1


class Copies(TorchDispatchMode):
    """Bytes that go from the CPU to the device that stands for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = [leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if isinstance(result, torch.Tensor) and result.device.type == "meta" and "cpu" in given:
            self.bytes.append(result.nbytes)
        return result


def test_images_in_memory_are_taken_cropped_and_flipped_on_the_device(write_npz):
    """Of every batch their numbers and what was drawn for them are copied there, a few bytes an image; never pixels."""
    config = make(RunConfig, data=f"npz:{write_npz()}", augment=("crop", "flip"))
    data = load_data(config, torch.device("meta"))
    copies, count, pixels = Copies(), 0, data.train.pixels[0].nbytes
    with copies:
        for x, y in data.shuffled(9, generator()):
            assert (x.device.type, y.device.type, x.shape[1:]) == ("meta", "meta", (3, 8, 8))
            count += len(x)
    assert count == 54 and len(copies.bytes) == 3 * 6  # an index, a shift and a flip
    assert sum(copies.bytes) == count * (8 + 2 * 8 + 1) and sum(copies.bytes) < count * pixels / 7


def test_pixels_are_back_from_the_normalised(colour):
    x, _, data = colour
    assert data.pixels(x).equal(data.train.pixels) and data.normalise(data.pixels(x)).equal(x)


def test_erased_are_as_many_as_asked_for(colour):
    x, y, data = colour
    for share in (0.0, 1.0):
        erased, _ = augmentations.erasing(x, y, data, generator(), erasing_probability=share)
        changed = (erased != x).flatten(1).any(1)
        assert changed.float().mean() == share and not erased[erased != x].any()  # 0 is the mean colour


def test_the_largest_crop_is_as_much_as_there_is(colour):
    x, y, data = colour
    ramp = torch.arange(16.0).expand(8, 3, 16, 16)
    widths = {}
    for least in (0.9, 0.08):
        cropped, _ = augmentations.resized_crop(ramp, y[:8], data, generator(), least_area=least)
        assert cropped.shape == ramp.shape and cropped.min() >= 0 and cropped.max() <= 15
        widths[least] = (cropped.amax(3) - cropped.amin(3)).min()  # of 15, times the root of area and shape
    assert widths[0.9] > 11 > 9 > widths[0.08]


def test_labels_are_mixed_as_images_are(colour):
    x, y, data = colour
    mixed, probabilities = augmentations.mixup(x, y, data, generator(), mixup_alpha=1.0)
    hot = F.one_hot(y, data.num_classes).float()
    share = ((probabilities - hot.roll(1, 0)) * (hot - hot.roll(1, 0))).sum() / (hot - hot.roll(1, 0)).square().sum()
    assert 0.01 < share < 0.99
    torch.testing.assert_close(probabilities, share * hot + (1 - share) * hot.roll(1, 0))
    torch.testing.assert_close(mixed, share * x + (1 - share) * x.roll(1, 0))


def test_a_run_does_what_it_is_told(write_npz):
    def first(**given):
        data = load_data(make(RunConfig, data=f"npz:{write_npz()}", **given), torch.device("cpu"))
        return next(data.shuffled(54, generator()))[0]

    x = first(augment=())
    assert first(augment=("crop", "flip")).equal(first()) and not first().equal(x)
    assert not first(augment=("crop",), padding=1).equal(first(augment=("crop",)))
    order = torch.randperm(54, generator=generator())
    data = load_data(make(RunConfig, data=f"npz:{write_npz()}"), torch.device("cpu"))
    assert x.equal(next(data.ordered(data.train, 54))[0][order])


def test_on_the_command_line(sgr_train, tmp_path, write_npz):
    flags = ("run", "--data", f"npz:{write_npz()}", "--epochs", 1, "--depth", 3, "--method", "bp", "--head", "conv")
    status, _, errors = sgr_train(*flags, "--augment", "mixup", "--mixup-alpha", 0.5, "--out", tmp_path / "mixed")
    assert (status, errors) == (0, "")
    assert sgr_train(*flags, "--out", tmp_path / "plain", "--augment")[0] == 0
    for words, said in (
        (("--augment", "flop"), "--augment must be one of crop, "),
        (("--augment", "flip", "--mixup-alpha", 1), "unrecognized arguments: --mixup-alpha"),
        (("--augment", "mixup", "--mixup-alpha", 0), "--mixup-alpha must be a number > 0"),
        (("--label-smoothing", 1.5), "--label-smoothing must be at most 1"),
    ):
        status, _, errors = sgr_train(*flags, *words, "--out", tmp_path / "refused")
        assert status == 2 and said in errors and errors.count("\n") == 1


SOFT = {"label_smoothing": 0.1, "augment": EVERY, "optimizer": "adamw", "lr": 1e-3, "schedule": "step", "warmup": 1.5}


@pytest.mark.parametrize("method", ["bp", "greedy", "layerwise", "reforward", "sgr"])
def test_every_method_learns_from_soft_labels(tiny, write_npz, method):
    config = tiny(data=f"npz:{write_npz()}", train_subset=40, batch_size=8, method=method, head="conv", **SOFT)
    run, _ = train.train(config)
    assert all(torch.tensor(row["loss"]).isfinite().all() for row in run.history)


def test_closed_forms_without_a_graph_have_none_for_soft_labels():
    for settings, words in (
        ({"label_smoothing": 0.1}, "--label-smoothing must be left out with --bp-free, got 0.1"),
        ({"augment": ("mixup",)}, "--augment must be without mixup with --bp-free"),
    ):
        with pytest.raises(UsageError, match=words):
            make(RunConfig, bp_free=True, **settings)


def test_heads_of_others_that_cannot_smooth_are_named(monkeypatch, tiny):
    from sgr_train import heads

    plain = heads.REGISTRY.find("linear")

    def hard(features, num_classes):
        """A head that takes labels as they are."""
        head = plain(features, num_classes)
        del head.label_smoothing
        return head

    monkeypatch.setitem(heads.REGISTRY._entries, "hard", hard)
    with pytest.raises(UsageError, match="--label-smoothing: --head hard cannot smooth labels"):
        train.setup(tiny(head="hard", label_smoothing=0.1))
