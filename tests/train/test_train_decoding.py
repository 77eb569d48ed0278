"""Image files are decoded ahead, by processes or not: the batches are the same, and nobody is left behind."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sgr_train import checkpoint
from sgr_train.config import RunConfig
from sgr_train.data import decoding
from sgr_train.data.decoding import Loading, decoded
from sgr_train.errors import UsageError
from sgr_train.loader import load_data
from sgr_train.settings import make
from sgr_train.train import setup
from test_train_image_files import CPU, tree  # noqa: F401
from test_train_loop import MEASURED_TIME
from train_helpers import TINY_FLAGS

SHAPE = (2, 3)
BATCHES = [[4, 1, 7], [0], [9, 2, 3, 5, 8], [6]]
WORKERS = [0, 1, 3]


def image(index: int) -> np.ndarray:
    return np.full(SHAPE, index, np.uint8)


@pytest.fixture(autouse=True)
def processes_for_few(monkeypatch):
    monkeypatch.setattr(decoding, "IMAGES_A_WORKER", 1)


def copies(*args: object) -> list[np.ndarray]:
    return [images.copy() for images in decoded(*args)]


@pytest.fixture(params=["processes", "threads"])
def kind(request, monkeypatch) -> str:
    if request.param == "threads":
        monkeypatch.setattr(decoding.sys, "platform", "win32")
        monkeypatch.setattr(os, "fork", None)
    return request.param


@pytest.mark.parametrize("prefetch", [1, 2, 9])
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.usefixtures("kind")
def test_batches_are_in_order_whoever_decodes(workers, prefetch):
    found = copies(image, BATCHES, SHAPE, Loading(workers, prefetch))
    assert [images[:, 0, 0].tolist() for images in found] == BATCHES
    assert all(images.shape[1:] == SHAPE and (images == images[:, :1, :1]).all() for images in found)


def test_threads_stand_in_where_there_are_no_semaphores(monkeypatch):
    def refuse(*args: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(decoding, "ProcessPoolExecutor", refuse)
    assert len(copies(image, BATCHES, SHAPE, Loading(2))) == len(BATCHES)


@pytest.mark.parametrize("workers", WORKERS)
def test_so_many_batches_are_decoded_ahead_and_no_more(workers):
    """Each in memory of its own while it is in use."""
    counted = decoding._shared_memory((40,))

    def count(index: int) -> np.ndarray:
        counted[index] = 1
        return image(index)

    for number, images in enumerate(decoded(count, [[i] for i in range(40)], SHAPE, Loading(workers, 4))):
        expected = min(number + 5, 40)
        while counted.sum() < expected:
            time.sleep(1e-3)
        time.sleep(1e-3)
        assert counted.sum() == expected and images[0, 0, 0] == number


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.usefixtures("kind")
def test_what_decoding_raises_is_raised(workers):
    def broken(index: int) -> np.ndarray:
        if index == 5:
            raise UsageError("5 cannot be read")
        return image(index)

    with pytest.raises(UsageError, match="^5 cannot be read$"):
        copies(broken, BATCHES, SHAPE, Loading(workers))


def test_few_images_start_no_process(monkeypatch):
    monkeypatch.setattr(decoding, "IMAGES_A_WORKER", 64)
    for images, expected in ((63, 0), (64, 1), (500, 3)):
        before, batches = children_of(os.getpid()), decoded(image, [[0] * images], SHAPE, Loading(3))
        next(batches)
        assert len(children_of(os.getpid()) - before) == expected
        batches.close()


def children_of(process: int) -> set[int]:
    lists = [(thread / "children").read_text() for thread in Path(f"/proc/{process}/task").iterdir()]
    return {int(child) for children in lists for child in children.split()}


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def without_end() -> Iterator[np.ndarray]:
    return decoded(image, [[0]] * 1000, SHAPE, Loading(2))


def test_processes_end_with_the_batches():
    before = children_of(os.getpid())
    batches = without_end()
    next(batches)
    assert len(children_of(os.getpid()) - before) == 2
    batches.close()
    assert children_of(os.getpid()) == before


def test_processes_do_not_survive_the_one_that_was_killed():
    """They would hold the lock of its folder."""

    def take_one(given: multiprocessing.connection.Connection) -> None:
        batches = without_end()
        next(batches)
        given.send(children_of(os.getpid()))
        time.sleep(60)

    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    process = fork.Process(target=take_one, args=(theirs,))
    process.start()
    workers = ours.recv()
    assert len(workers) == 2 and all(map(is_running, workers))
    process.kill()
    process.join()
    deadline = time.monotonic() + 20
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(is_running, workers))


def test_an_interrupt_is_left_to_the_one_they_work_for():
    before, batches = children_of(os.getpid()), without_end()
    next(batches)
    for worker in children_of(os.getpid()) - before:
        os.kill(worker, signal.SIGINT)
    for _ in range(20):
        next(batches)
    batches.close()


def test_a_process_that_was_killed_is_an_error_of_one_line():
    before, batches = children_of(os.getpid()), without_end()
    next(batches)
    os.kill(min(children_of(os.getpid()) - before), signal.SIGKILL)
    with pytest.raises(UsageError, match="^a process that decodes images was killed; lower --workers"):
        list(batches)


def test_processes_that_cannot_be_started_are_an_error_of_one_line(monkeypatch):
    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(UsageError, match="^no process can decode images: .*; lower --workers$"):
        list(without_end())


def test_no_shared_memory_of_the_system_is_used():
    """It is small in containers."""
    batches = decoded(lambda index: index, [[0] * 1000] * 9, (100, 100), Loading(2))
    free = os.statvfs("/dev/shm").f_bfree
    next(batches)
    used = (free - os.statvfs("/dev/shm").f_bfree) * os.statvfs("/dev/shm").f_frsize
    batches.close()
    assert used < 1e6 < 1000 * 100 * 100


# --- of image files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.usefixtures("kind")
def test_batches_are_those_of_torchvision(tree, workers):  # noqa: F811
    from torchvision import datasets, transforms

    steps = [transforms.Resize(8), transforms.CenterCrop(8), transforms.PILToTensor()]
    theirs = datasets.ImageFolder(tree / "test", transforms.Compose(steps))
    mine = load_data(make(RunConfig, data=f"folder:{tree}", image_size=8, workers=workers), CPU).test
    batches = list(mine.load(torch.arange(8).split(3)))
    assert torch.cat([pixels for pixels, _ in batches]).equal(torch.stack([pixels for pixels, _ in theirs]))
    assert torch.cat([labels for _, labels in batches]).tolist() == [label for _, label in theirs]


def test_pinned_batches_are_for_gpus_alone(tree, monkeypatch):  # noqa: F811
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor.shape) or tensor)
    for given, device, expected in ((True, "cpu", 0), (False, "cuda", 0), (True, "cuda", 2)):
        config = make(RunConfig, data=f"folder:{tree}", image_size=8, workers=0, pin_memory=given)
        data = load_data(config, CPU).test
        monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *_, **__: tensor)
        data.device = torch.device(device)
        list(data.load([torch.arange(4)]))
        monkeypatch.undo()
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor.shape) or tensor)
        assert len(pinned) == expected


def test_results_do_not_depend_on_who_decodes(sgr_train, tree, tmp_path):  # noqa: F811
    """Whose flags are those of folders."""
    states, metrics = [], []
    for name, flags in (("none", "--workers 0"), ("two", "--workers 2 --prefetch 5 --pin-memory")):
        out, small = tmp_path / name, ("--train-subset", 7, "--batch-size", 2, "--image-size", 8, "--epochs", 1)
        given = ("--data", f"folder:{tree}", "--augment", "crop", "flip", *flags.split(), "--out", out)
        status, _, errors = sgr_train("run", *TINY_FLAGS, *small, *given)
        assert (status, errors) == (0, "")
        states.append(checkpoint.load_state(out / "checkpoint.pt"))
        metrics.append([{k: v for k, v in row.items() if k not in MEASURED_TIME} for row in states[-1]["history"]])
    assert metrics[0] == metrics[1]
    weights = [state["network"] for state in states]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0] if not name.endswith("extra_state"))
    assert sgr_train("run", "--workers", 2)[0] == 2  # of other data they are no flags


def test_as_many_workers_as_cpus_unless_told_otherwise(tree, monkeypatch):  # noqa: F811
    for cpus, expected in ((None, 1), (3, 3), (64, 8)):
        monkeypatch.setattr(os, "cpu_count", lambda cpus=cpus: cpus)
        assert setup(make(RunConfig, data=f"folder:{tree}", image_size=8))[1].train.loading.count == expected
    assert Loading(20).count == 20
