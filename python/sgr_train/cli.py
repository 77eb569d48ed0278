"""The console command ``sgr-train``: parse, claim the folder, run, and say in one line what went wrong."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import tyro

from . import checkpoint, compare, train
from .config import COMMANDS, RunConfig, Settings, check, command_of
from .errors import UsageError


def run(config: RunConfig) -> None:
    summary = train.train_and_test(config, f"{config.method} seed {config.seed}", verbose=True)
    sgr = "" if summary["sgr"] is None else f", SGR loss {summary['sgr']:.4f}"
    print(
        f"test accuracy {summary['test_accuracy']:.2%}, validation {summary['val_accuracy']:.2%}{sgr}, "
        f"{summary['seconds_per_epoch']:.2f} s/epoch, {summary['peak_memory_kind']} "
        f"{summary['peak_memory_bytes'] / 2**20:.0f} MiB"
    )


ACTIONS = {"run": run, "compare": compare.compare, "choose": compare.choose}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 2 for bad input, 130 when interrupted (tyro itself exits with 2 on what it cannot parse)."""
    config = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="sgr-train",
        description="Local training with successive gradient reconciliation.",
        args=argv,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    command = command_of(config)
    try:
        config = open_folder(config, command)
        ACTIONS[command](config)
    except UsageError as error:
        print(f"sgr-train: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = f"every finished epoch is kept; continue with: sgr-train {command} --resume {config.out}"
        started = config.out is not None and (config.out / checkpoint.CONFIG).exists()
        print(f"sgr-train: interrupted; {kept if started else 'nothing was written'}", file=sys.stderr)
        return 130
    print(f"everything is in {config.out}")
    return 0


def open_folder(config: Settings, command: str) -> Settings:
    """The settings to run with: those given, in a folder that is now ours, or those of the folder to resume."""
    if config.resume is None:
        check(config)
        out = config.out or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{command}"
        checkpoint.claim(out)
        return dataclasses.replace(config, out=out)
    if dataclasses.replace(config, resume=None) != type(config)():
        raise UsageError("--resume takes every setting from its folder; drop the other flags")
    stored = checkpoint.read_config(config.resume, command)
    check(stored)
    if command == "run" and not (config.resume / checkpoint.CHECKPOINT).exists():
        raise UsageError(f"--resume {config.resume} has no {checkpoint.CHECKPOINT}; start again with another --out")
    return dataclasses.replace(stored, out=config.resume)
