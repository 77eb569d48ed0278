"""Runs, each a process of sgr-train, several side by side, until they are done or time is up."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sgr_train import checkpoint, interrupts
from sgr_train.errors import UsageError
from sgr_train.files import read_json

from . import store
from .runs import Run, conflicts

PROGRAM = (sys.executable, "-m", "sgr_train")
STOPPED = {130, 143, -signal.SIGINT, -signal.SIGTERM}  # exit statuses of a run that goes on another time
POLL, PATIENCE = 0.2, 30  # seconds


class Process(NamedTuple):
    run: Run
    process: subprocess.Popen
    log: Path


def run_all(
    runs: Sequence[Run],
    *,
    jobs: int,
    seconds: float | None,
    quantity: str,
    told: Callable[[Run, dict[str, Any]], None],
) -> list[Run]:
    """Run them; those that are left because time was up, or this process was asked to end.

    Args:
        jobs: side by side.
        seconds: after which what runs is asked to end; None: never.
        quantity: of the study.
        told: what is called with the result of each run that ended, also of one that failed.
    """
    waiting, running, left = list(runs), [], []
    end = float("inf") if seconds is None else time.monotonic() + seconds
    asked: list[int] = []  # signals that came
    with interrupts.handler(lambda number, _: asked.append(number)), _ended_with(running):
        while waiting or running:
            if asked or time.monotonic() >= end:
                for each in running:
                    each.process.terminate()
                ended, left, waiting = list(running), [*left, *waiting], []
            else:
                while waiting and len(running) < jobs:
                    running += _begin(waiting.pop(0), quantity, told)
                ended = [each for each in running if each.process.poll() is not None]
            for each in ended:
                if _status(each) in STOPPED:
                    left.append(each.run)
                else:
                    told(each.run, _ended(each, quantity))
            running[:] = [each for each in running if each not in ended]
            if running:
                time.sleep(POLL)
    return left


@contextlib.contextmanager
def _ended_with(running: list[Process]) -> Iterator[None]:
    """No process outlives what is inside, which may fail."""
    try:
        yield
    finally:
        for each in running:
            each.process.terminate()


def _begin(run: Run, quantity: str, told: Callable[[Run, dict[str, Any]], None]) -> list[Process]:
    """Its process, none of a run that is finished or cannot begin, whose result is told."""
    try:
        process = _start(run)
    except UsageError as error:
        told(run, store.failure(run, str(error)))
        return []
    if process is None:
        told(run, _result(run, quantity))
        return []
    return [process]


def _start(run: Run) -> Process | None:
    """Begin a run, or go on with it; None of one that is finished.

    Raises:
        UsageError: its settings are none, or its folder holds a run with others.
    """
    config, words = run.config(), run.words
    if (run.folder / checkpoint.CONFIG).exists():
        changed = conflicts(read_json(run.folder / checkpoint.CONFIG), config)
        if changed:
            raise UsageError(f"{run.folder} holds a run with other settings ({', '.join(changed)}); remove it")
        words = ["run", "--resume", str(run.folder)]
    if store.is_finished(run):
        return None
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    log = run.folder.with_suffix(".log")
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*PROGRAM, *words],
            env={**os.environ, "OMP_NUM_THREADS": str(config.threads)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    return Process(run, process, log)


def _status(each: Process) -> int:
    """Exit status. A process that does not end when it is asked to is killed: what it saved is kept all the same."""
    try:
        return each.process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        each.process.kill()
        return -signal.SIGTERM if each.process.wait() else 0


def _ended(each: Process, quantity: str) -> dict[str, Any]:
    if each.process.returncode:
        lines = each.log.read_text(errors="replace").split("\n")
        said = [line for line in lines if line.strip()]
        return store.failure(each.run, said[-1].strip() if said else f"exit status {each.process.returncode}")
    return _result(each.run, quantity)


def _result(run: Run, quantity: str) -> dict[str, Any]:
    try:
        return store.result(run, quantity)
    except UsageError as error:
        return store.failure(run, str(error))
