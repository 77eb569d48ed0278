"""python -m sgr_bench.training: the paper's results as far as they were trained here.

run STUDY [ROW ...] trains what a study is made of, each run a process of sgr-train, and writes STUDY.json. What that
file holds is not run again, what was begun goes on, and what is finished is read. page DIR makes the page and its
pictures from such files.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sgr_train.errors import UsageError
from sgr_train.report import table

from . import page, runner, store, studies, tables
from .runs import Run, Surroundings, runs_of
from .studies import Study

LEFT = 3  # exit status where runs are left


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 where a run failed, 2 for a wrong command, 3 where runs are left that go on another time."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(argv)
    try:
        return args.action(args, argv)
    except UsageError as error:
        print(f"sgr_bench.training: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace, argv: list[str]) -> int:
    study = studies.find(args.study)
    known = [row.name for row in study.rows]
    if unknown := [name for name in args.rows if name not in known]:
        raise UsageError(f"{args.study} has no row {unknown[0]!r}; it has {', '.join(known)}")
    around = Surroundings(
        work=args.work,
        data=args.data,
        data_dir=args.data_dir,
        device=args.device,
        threads=args.threads,
        changes=args.set,
    )
    runs = runs_of(args.study, study, args.rows, args.seeds or study.seeds, around)
    for run in runs:
        run.config()  # raises before anything is trained
    stored = store.load(store.path_of(args.out, args.study))  # so does this
    runs = [run for run in runs if not store.holds(stored, run)]
    failed = []

    def told(run: Run, result: dict[str, Any]) -> None:
        store.put(args.out, args.study, result)
        if "failure" in result:
            failed.append(run)
        print(f"{run.name}: {_said(study, result)}", flush=True)

    seconds = None if args.minutes is None else 60 * args.minutes
    left = runner.run_all(runs, jobs=args.jobs, seconds=seconds, quantity=study.quantity, told=told)
    stored = store.load(store.path_of(args.out, args.study))
    print("\n" + table(tables.results(study, tables.by_row(study, stored["runs"]))), flush=True)
    if left:
        again = shlex.join(["python", "-m", "sgr_bench.training", *argv])
        print(f"left, and kept: {'; '.join(run.name for run in left)}; go on with: {again}", flush=True)
        return LEFT
    return 1 if failed else 0


def _page(args: argparse.Namespace, argv: list[str]) -> int:
    print(page.write(args.results, args.out))
    return 0


def _said(study: Study, result: dict[str, Any]) -> str:
    if "failure" in result:
        return f"failed, {result['failure']}"
    return f"{study.quantity.replace('_', ' ')} {result[study.quantity]:.2%} in {result['seconds'] / 60:.1f} minutes"


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m sgr_bench.training", description=__doc__, formatter_class=raw)
    parts = parser.add_subparsers(required=True, metavar="PART")
    run = parts.add_parser("run", help="train a study")
    run.set_defaults(action=_run)
    run.add_argument("study", metavar="STUDY", help=f"one of {', '.join(studies.names())}")
    run.add_argument("rows", metavar="ROW", nargs="*", help="those of the study; left out: all")
    run.add_argument("--work", type=Path, required=True, metavar="DIR", help="for the folders of the runs")
    run.add_argument("--out", type=Path, required=True, metavar="DIR", help="for STUDY.json; what it holds is done")
    run.add_argument("--data", metavar="NAME", help="as of sgr-train run; left out: what the recipe has")
    run.add_argument("--data-dir", type=Path, metavar="DIR", help="where cifar10 is; left out: in data")
    run.add_argument("--seeds", type=int, nargs="+", metavar="N", help="in the place of those of the study")
    run.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="settings in all rows")
    run.add_argument("--minutes", type=float, metavar="M", help="after which what runs is kept, and goes on next time")
    run.add_argument("--jobs", type=int, default=1, metavar="J", help="runs side by side (default: 1)")
    run.add_argument("--threads", type=int, default=1, metavar="T", help="of every run (default: 1)")
    run.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    made = parts.add_parser("page", help="make the page and its pictures")
    made.set_defaults(action=_page)
    made.add_argument("results", type=Path, metavar="DIR", help="where the files STUDY.json are")
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="for results.md and its pictures")
    return parser
