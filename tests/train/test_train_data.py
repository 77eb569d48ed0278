"""Splits, loaders and augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from sgr_train import augmentations, train
from sgr_train.config import RunConfig
from sgr_train.data.splits import stratified_order
from sgr_train.errors import UsageError
from sgr_train.loader import load_data
from sgr_train.settings import make
from sklearn.datasets import load_digits
from train_helpers import TINY_FLAGS

CPU = torch.device("cpu")


def test_every_slice_of_the_order_is_stratified():
    labels = torch.tensor([0] * 600 + [1] * 300 + [2] * 100)[torch.randperm(1000)]
    order = stratified_order(labels)
    assert sorted(order.tolist()) == list(range(1000))
    for start, stop in ((0, 100), (350, 600), (900, 1000)):
        counts = labels[order[start:stop]].bincount(minlength=3) / (stop - start)
        assert (counts - torch.tensor([0.6, 0.3, 0.1])).abs().max() <= 2 / (stop - start)


def test_stratified_order_is_random_within_a_class_and_fixed():
    labels = torch.zeros(100, dtype=torch.long)
    order = stratified_order(labels)
    assert order.tolist() != list(range(100))
    torch.manual_seed(7)
    assert stratified_order(labels).equal(order)


def test_digits_are_split_60_20_20_without_overlap():
    data = load_data(make(RunConfig), CPU)
    assert [len(split) for split in (data.train, data.val, data.test)] == [1078, 360, 359]
    pixels = torch.cat([split.pixels for split in (data.train, data.val, data.test)]).flatten(1)
    original = torch.tensor(load_digits().data, dtype=torch.uint8)
    assert sorted(map(bytes, pixels.numpy())) == sorted(map(bytes, original.numpy()))
    assert not data.test.pixels.flatten(1).equal(original[-359:])  # the file is sorted by writer
    assert (data.num_classes, data.image_shape) == (10, (1, 8, 8))
    for split in (data.train, data.val, data.test):
        assert (split.labels.bincount(minlength=10) / len(split) - 0.1).abs().max() < 0.01


def test_split_does_not_depend_on_the_seed():
    first, second = (load_data(make(RunConfig, seed=seed), CPU) for seed in (0, 1))
    assert first.test.pixels.equal(second.test.pixels) and first.train.pixels.equal(second.train.pixels)


def test_train_subset_is_balanced_and_part_of_the_training_images():
    small, whole = load_data(make(RunConfig, train_subset=100), CPU), load_data(make(RunConfig), CPU)
    assert small.train.pixels.equal(whole.train.pixels[:100])
    assert small.val.pixels.equal(whole.val.pixels)
    assert small.train.labels.bincount(minlength=10).tolist() == pytest.approx([10] * 10, abs=1)


def test_batches_are_normalised_by_the_training_images():
    data = load_data(make(RunConfig), CPU)
    x = torch.cat([x for x, _ in data.ordered(data.train, 100)])
    assert x.mean().item() == pytest.approx(0, abs=1e-5)
    assert x.std().item() == pytest.approx(1, abs=1e-3)


def test_an_epoch_is_a_permutation_in_whole_batches():
    data = load_data(make(RunConfig), CPU)
    batches = list(data.shuffled(64, torch.Generator().manual_seed(3)))
    assert [len(labels) for _, labels in batches] == [64] * 16
    again = list(data.shuffled(64, torch.Generator().manual_seed(3)))
    other = list(data.shuffled(64, torch.Generator().manual_seed(4)))
    assert all(a.equal(b) for (a, _), (b, _) in zip(batches, again, strict=True))
    assert not batches[0][0].equal(other[0][0])
    drawn = torch.cat([x for x, _ in batches]).flatten(1)
    assert len(drawn.unique(dim=0)) > 1000  # digits are almost all different: nothing was drawn twice


def test_augmented_images_are_shifted_and_flipped_originals():
    x = torch.rand(64, 3, 6, 5)
    labels, generator = torch.arange(64), torch.Generator().manual_seed(0)
    result, same = augmentations.flip(*augmentations.crop(x, labels, None, generator), None, generator)
    assert same.equal(labels)
    padded = torch.nn.functional.pad(x, [4] * 4)
    seen = set()
    for image, source in zip(result, padded, strict=True):
        matches = [
            (top, left, flip)
            for top in range(9)
            for left in range(9)
            for flip in (False, True)
            if torch.equal(image, source[:, top : top + 6, left : left + 5].flip([2] if flip else []))
        ]
        assert matches
        seen.add(matches[0])
    assert {flip for _, _, flip in seen} == {False, True}
    assert {top for top, _, _ in seen} >= {0, 8} and {left for _, left, _ in seen} >= {0, 8}


def test_only_colour_images_are_augmented(write_npz):
    gray = load_data(make(RunConfig), CPU)
    x, labels = next(gray.shuffled(1078, torch.Generator().manual_seed(0)))
    order = torch.randperm(1078, generator=torch.Generator().manual_seed(0))
    plain = torch.cat([x for x, _ in gray.ordered(gray.train, 1078)])
    assert x.equal(plain[order]) and labels.equal(gray.train.labels[order])
    colour = load_data(make(RunConfig, data=f"npz:{write_npz()}"), CPU)
    x, _ = next(colour.shuffled(54, torch.Generator().manual_seed(0)))
    order = torch.randperm(54, generator=torch.Generator().manual_seed(0))
    assert not x.equal(torch.cat([x for x, _ in colour.ordered(colour.train, 54)])[order])


def test_npz_without_validation_holds_out_a_tenth(write_npz):
    data = load_data(make(RunConfig, data=f"npz:{write_npz()}"), CPU)
    assert [len(split) for split in (data.train, data.val, data.test)] == [54, 6, 20]
    assert (data.num_classes, data.image_shape) == (3, (3, 8, 8))
    assert data.train.pixels.shape == (54, 3, 8, 8)


def test_npz_pixels_and_labels_stay_together(write_npz):
    images = np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None, None, None], (60, 8, 8, 3))
    labels = np.arange(60) * 7 % 3
    data = load_data(make(RunConfig, data=f"npz:{write_npz(train_images=images, train_labels=labels)}"), CPU)
    for split in (data.train, data.val):
        assert (split.pixels[:, 0, 0, 0].long() * 7 % 3).equal(split.labels)


def test_medmnist_layout_gray_with_validation(write_npz):
    gray = np.zeros((12, 28, 28), dtype=np.uint8)
    gray[::2] = 200
    labels = (np.arange(12) % 4)[:, None].astype(np.uint8)
    arrays = {f"{split}_{what}": value for split in ("train", "val", "test")
              for what, value in (("images", gray), ("labels", labels))}  # fmt: skip
    data = load_data(make(RunConfig, data=f"npz:{write_npz(**arrays)}"), CPU)
    assert [len(split) for split in (data.train, data.val, data.test)] == [12, 12, 12]
    assert (data.num_classes, data.image_shape[0]) == (4, 1)
    assert data.val.labels.equal(torch.arange(12) % 4)  # as it is in the file


def _image(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((40, 50, 3), value, dtype=np.uint8)).save(path)


@pytest.mark.parametrize("with_val", [False, True])
def test_image_folder(tmp_path, with_val):
    for split in ("train", "test", *(["val"] if with_val else [])):
        for label, name in enumerate(("cat", "dog")):
            for i in range(10):
                _image(tmp_path / split / name / f"{i}.png", 100 * label + i)
    data = load_data(make(RunConfig, data=f"folder:{tmp_path}", image_size=16), CPU)
    sizes = [len(split) for split in (data.train, data.val, data.test)]
    assert sizes == [20 if with_val else 18, 20 if with_val else 2, 20]
    rng = torch.get_rng_state()
    for x, labels in data.ordered(data.test, 8):
        values = (x * data.std + data.mean)[:, 0, 8, 8].round()
        assert x.shape[1:] == (3, 16, 16) and (values >= 100).long().equal(labels)
    assert torch.get_rng_state().equal(rng)
    x, _ = next(data.shuffled(8, torch.Generator().manual_seed(0)))
    assert x.shape == (8, 3, 16, 16)


def test_a_tilde_is_the_home_folder(write_npz, monkeypatch):
    path = write_npz()
    monkeypatch.setenv("HOME", str(path.parent))
    assert len(load_data(make(RunConfig, data="npz:~/data.npz"), CPU).test) == 20
    with pytest.raises(UsageError, match="no such home folder"):
        load_data(make(RunConfig, data="npz:~nobody-of-this-name/data.npz"), CPU)


def test_a_class_without_images_is_noted(write_npz, capsys):
    labels = np.where(np.arange(60) == 7, 9, np.arange(60) % 3)
    assert load_data(make(RunConfig, data=f"npz:{write_npz(train_labels=labels)}"), CPU).num_classes == 10
    errors = capsys.readouterr().err
    assert "6 of 10 classes have no image, the first is 3" in errors and errors.count("\n") == 1


def test_the_fingerprint_is_of_pixels_and_labels(write_npz):
    def fingerprint(**changes):
        return load_data(make(RunConfig, data=f"npz:{write_npz(**changes)}"), CPU).fingerprint

    pixels = np.zeros((20, 8, 8, 3), np.uint8)
    other = pixels.copy()
    other[3, 2, 1, 0] = 1
    first = fingerprint(test_images=pixels)
    assert first == fingerprint(test_images=pixels)
    assert len({first, fingerprint(test_images=other), fingerprint(test_labels=np.arange(20) % 2)}) == 3
    assert fingerprint(test_images=pixels.reshape(20, 8, 8, 3)[:, :, ::-1]) == first  # the same pixels


def test_missing_data(tmp_path):
    for data, word in ((f"npz:{tmp_path}/no.npz", "no such file"), (f"folder:{tmp_path}/no", "train/CLASS/IMAGE")):
        with pytest.raises(UsageError, match=word):
            load_data(make(RunConfig, data=data), CPU)
    for data in ("cifar10", "cifar100"):
        with pytest.raises(UsageError, match="--download"):
            load_data(make(RunConfig, data=data, data_dir=tmp_path), CPU)


def test_folders_must_agree_on_the_classes(tmp_path):
    for path in ("train/cat", "train/dog", "test/cat"):
        _image(tmp_path / path / "0.png", 0)
    with pytest.raises(UsageError, match="class folders"):
        load_data(make(RunConfig, data=f"folder:{tmp_path}"), CPU)


def test_too_large_a_subset():
    with pytest.raises(UsageError, match="at most 1078"):
        load_data(make(RunConfig, train_subset=1079), CPU)


@pytest.mark.parametrize("kind", ["npz", "folder", "cifar10"])
def test_a_relative_path_of_data_holds_from_everywhere(sgr_train, tmp_path, write_npz, monkeypatch, kind):
    """The beginning is elsewhere than the end; the paths are those of the beginning."""
    monkeypatch.chdir(write_npz().parent)
    loaded = []

    def setup(config, *_):
        loaded.append((config.data, config.options["data"]))
        raise KeyboardInterrupt

    flags = {"npz": ["npz:data.npz"], "folder": ["folder:images"], "cifar10": ["cifar10", "--data-dir", "here"]}[kind]
    with monkeypatch.context() as patch:
        patch.setattr(train, "save", lambda *_: setup(make(RunConfig)))
        patch.setattr(train, "load_data", lambda config, device: load_data(make(RunConfig), device))
        assert sgr_train("run", *TINY_FLAGS, "--data", *flags, "--out", tmp_path / "run")[0] == 130
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(train, "setup", setup)
    loaded.clear()
    assert sgr_train("run", "--resume", tmp_path / "run")[0] == 130
    data = {"npz": f"npz:{tmp_path}/data.npz", "folder": f"folder:{tmp_path}/images"}.get(kind, kind)
    options = {"npz": {}, "folder": {"image_size": 32, "workers": None, "prefetch": 2, "pin_memory": False}}
    options["cifar10"] = {"data_dir": tmp_path / "here", "download": False}
    assert loaded == [(data, {kind: options[kind]})]
