"""What the command line does: parse, own the folder, run, and say in one line what went wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from . import checkpoint, compare, interrupts, report, train
from .config import RunConfig, Settings, absolute, command_of
from .errors import NoOutput, NotWritten, UsageError, note, say
from .flags import parse
from .folder import locked, new_folder
from .memory.batch_size import with_batch_size
from .paths import expand
from .settings import validate


def run(config: RunConfig) -> None:
    summary = train.train_and_test(config, f"{config.method} seed {config.seed}", verbose=True)
    if summary["stopped_early"]:
        say(f"stopped after epoch {summary['epochs']}: no better validation accuracy in {config.patience} epochs")
    sgr = "" if summary["sgr"] is None else f", SGR loss {summary['sgr']:.4f}"
    say(
        f"test accuracy {summary['test_accuracy']:.2%}, validation {summary['val_accuracy']:.2%}{sgr}, "
        f"{summary['seconds_per_epoch']:.2f} s/epoch, {summary['peak_memory_kind']} "
        f"{report.mebibytes(summary['peak_memory_bytes'])} MiB{report.skipped(summary)}"
    )


ACTIONS = {"run": run, "compare": compare.compare, "choose": compare.choose}


def execute(argv: Sequence[str] | None) -> int:
    """Exit status, as :func:`sgr_train.cli.main` has it."""
    config = None
    try:
        with interrupts.remembered():
            config = _parse(argv)
            if callable(config):
                config = config()
            if config is None:
                return 0
            with _open_folder(config) as config:
                ACTIONS[command_of(config)](config)
        say(f"everything is in {config.out}")
    except NotWritten as error:
        note(f"{error}; {_kept(config)}")
        return 2
    except UsageError as error:
        note(str(error))
        return 2
    except NoOutput as error:
        with contextlib.suppress(OSError):  # or Python would complain at its end about what it cannot flush
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        note(f"the output cannot be written: {error}; {_kept(config)}")
        return 141
    except KeyboardInterrupt:
        note(f"interrupted; {_kept(config)}")
        return interrupts.exit_status()
    return 0


def _parse(argv: Sequence[str] | None) -> Settings | Callable[[], Settings | None]:
    try:
        try:
            return parse(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()  # the help
    except OSError as error:
        raise NoOutput(error.strerror) from error


@contextlib.contextmanager
def _open_folder(config: Settings) -> Iterator[Settings]:
    """The settings to run with: those given, in a folder that is now ours, or those of the folder to resume."""
    if config.resume is None:
        with new_folder(config.out and expand(config.out), command_of(config)) as out:
            yield with_batch_size(dataclasses.replace(absolute(config), out=out))
        return
    folder = expand(config.resume)
    stored = checkpoint.read_config(folder, command_of(config))
    validate(stored)
    with locked(folder):
        yield dataclasses.replace(stored, out=folder)


def _kept(config: Settings | Callable[[], Settings | None] | None) -> str:
    """What an interrupted command leaves behind."""
    folder = isinstance(config, Settings) and (config.out or config.resume)
    if not folder or not os.path.lexists(expand(folder) / checkpoint.CONFIG):
        return "nothing was written"
    return f"what was saved is kept; continue with: {checkpoint.resume_command(command_of(config), folder)}"
