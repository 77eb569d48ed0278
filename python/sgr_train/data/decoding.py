"""Image files decoded ahead, by processes: threads would wait for Python's lock during a third of a small image.

The processes are forks, and die with the one that they work for. Pixels go into memory that both have, which is none of
/dev/shm, small in containers. Where there is no fork, threads do the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import NamedTuple

import numpy as np

from ..errors import UsageError

MAX_WORKERS = 8  # unless told otherwise
IMAGES_A_WORKER = 64  # at least: fewer are decoded by the time that a process has started
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
Submit = Callable[..., Future]
Decode = Callable[[int], np.ndarray]


class Loading(NamedTuple):
    """How image files are loaded, which changes nothing in the batches.

    Attributes:
        workers: processes that decode, no more than there are IMAGES_A_WORKER; 0: the one that takes the batches; None:
            one a CPU, at most MAX_WORKERS.
        prefetch: batches that are decoded ahead.
        pin_memory: batches for a GPU are in memory that it copies from while the CPU goes on.
    """

    workers: int | None = None
    prefetch: int = 2
    pin_memory: bool = False

    @property
    def count(self) -> int:
        """Of the workers."""
        return min(MAX_WORKERS, os.cpu_count() or 1) if self.workers is None else self.workers


USUAL = Loading()


def decoded(
    decode: Decode, batches: Sequence[Sequence[int]], shape: tuple[int, ...], loading: Loading
) -> Iterator[np.ndarray]:
    """The images of the batches, (B, *shape) uint8, each of them valid until the next one is asked for.

    Args:
        decode: index of an image -> pixels of this shape.
        batches: of indices.
        shape: of an image.
        loading: by whom, and how many batches ahead.

    Raises:
        UsageError: that of ``decode``, or a process was killed or cannot be started.
    """
    memory = _shared_memory((loading.prefetch + 1, max(map(len, batches), default=0), *shape))
    ahead: deque[tuple[np.ndarray, list[Future]]] = deque()
    count = min(loading.count, sum(map(len, batches)) // IMAGES_A_WORKER)
    try:
        with _workers(count, partial(_fill, decode, memory)) as submit:
            for number, batch in enumerate(batches):
                slot, size = number % len(memory), math.ceil(len(batch) / max(count, 1))
                parts = [submit(slot, i, batch[i : i + size]) for i in range(0, len(batch), size)]
                ahead.append((memory[slot, : len(batch)], parts))
                if len(ahead) == len(memory):
                    yield _finished(*ahead.popleft())
            while ahead:
                yield _finished(*ahead.popleft())
    except BrokenProcessPool as error:
        raise UsageError("a process that decodes images was killed; lower --workers, or free some memory") from error
    except OSError as error:
        raise UsageError(f"no process can decode images: {error.strerror}; lower --workers") from error


def _finished(images: np.ndarray, parts: list[Future]) -> np.ndarray:
    for part in parts:
        part.result()
    return images


def _fill(decode: Decode, memory: np.ndarray, slot: int, first: int, indices: Sequence[int]) -> None:
    for row, index in enumerate(indices, first):
        memory[slot, row] = decode(index)


def _shared_memory(shape: tuple[int, ...]) -> np.ndarray:
    """uint8; forks of this process see what others write."""
    size = math.prod(shape)
    return np.frombuffer(mmap.mmap(-1, max(size, 1)), np.uint8, size).reshape(shape)


# --- who decodes ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _workers(count: int, task: Callable[..., None]) -> Iterator[Submit]:
    """Inside the ``with``, ``submit(*args)`` has one of so many workers call ``task(*args)``."""
    executor, call = _executor(count, task)
    try:
        yield partial(executor.submit, call)
    finally:
        executor.shutdown(cancel_futures=True)


def _executor(count: int, task: Callable[..., None]) -> tuple[Executor, Callable[..., None]]:
    if count == 0:
        return _Here(), task
    if sys.platform == "linux":
        with contextlib.suppress(NotImplementedError, OSError):  # a system without semaphores
            fork = multiprocessing.get_context("fork")
            return ProcessPoolExecutor(count, fork, _begin, (task, os.getpid())), _call_inherited
    return ThreadPoolExecutor(count), task


class _Here(Executor):
    """Who submits works."""

    def submit(self, call: Callable[..., None], /, *args: object) -> Future:
        future: Future = Future()
        future.set_result(call(*args))
        return future


_inherited: Callable[..., None] | None = None  # the task of a process that works for another: it cannot be sent there


def _begin(task: Callable[..., None], parent: int) -> None:
    """In such a process. An interrupt is for the other one, which ends this one."""
    global _inherited
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # it died before
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _inherited = task


def _call_inherited(*args: object) -> None:
    _inherited(*args)
