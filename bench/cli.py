"""sgr-bench: every number this project claims, measured here.

Parts: roofline (what this device can do), micro (each operator), step (one training step, time and memory), memory
(peak of a step at full size, without a GPU), cuts (where to cut a network), gradients (agreement with Algorithm 1),
compiled (warm-up of compiled modules), loader (batches of image files), report (one page and its pictures from what the
others wrote).
"""

from __future__ import annotations

import argparse
import importlib
import pathlib
import shlex
import sys
from collections.abc import Sequence
from types import ModuleType

import torch
from sgr_train import plugins
from sgr_train.errors import UsageError

from .checks import WrongResult
from .precisions import products_in
from .results import Writer

PARTS = ("roofline", "micro", "step", "memory", "cuts", "gradients", "compiled", "loader")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; exit status 1 where a result is wrong or was not to be had, 2 for a wrong command.

    A row with a ``failure`` says why something was not measured. It is reported, and the others go on. One that is
    ``undefined`` says why there is nothing to measure: a method may not be defined on a network.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        plugins.load_installed()
        plugins.load(_plugins(argv))
    except UsageError as error:
        print(f"sgr-bench: {error}", file=sys.stderr)
        return 2
    args = _parser(argv).parse_args(argv)
    if args.part == "report":
        return importlib.import_module(".report", __package__).run(args)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("sgr-bench: --device cuda: torch finds no GPU here", file=sys.stderr)
        return 2
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    part = importlib.import_module(f".{args.part}", __package__)
    common = f"sgr-bench {args.part} --device {args.device} --threads {args.threads}"
    common += "".join(f" --plugin {shlex.quote(str(file))}" for file in args.plugin)
    writer = Writer(args.out, args.part, args.device, f"{common} {_options(argv[1:])}".strip())
    try:
        with products_in("ieee", args.device):  # float32 is float32, in convolutions on a GPU too
            failed = _measure(part, args, common, writer)
    except WrongResult as error:
        print(f"sgr-bench {args.part}: {error}", file=sys.stderr)
        return 1
    return 1 if failed else 0


def _measure(part: ModuleType, args: argparse.Namespace, common: str, writer: Writer) -> bool:
    """Whether something failed."""
    failed = False
    for selection, row in part.rows(args):
        row["command"] = f"{common} {selection}".strip()
        writer.add(row)
        if "failure" in row:
            failed = True
            print(f"sgr-bench {args.part}: {row['failure']}", file=sys.stderr, flush=True)
        else:
            print(f"not defined: {row['undefined']}" if "undefined" in row else part.line(row), flush=True)
    return failed


def _parser(argv: list[str]) -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="sgr-bench", description=__doc__, formatter_class=raw)
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
    for name in (*PARTS, "report"):
        # Only the part that is asked for is imported: the others may need packages that are not here.
        wanted = importlib.import_module(f".{name}", __package__) if argv[:1] == [name] else None
        part = parts.add_parser(name, description=wanted and wanted.__doc__, formatter_class=raw)
        if name != "report":
            _common_options(part)
        if wanted is not None:
            wanted.add_options(part)
    return parser


def _common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--quick", action="store_true", help="fewer cases and repeats: under two minutes on two cores")
    what = "methods and networks of your own, which are measured with the others"
    parser.add_argument("--plugin", type=pathlib.Path, action="append", default=[], metavar="FILE.py", help=what)
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", help="write PART-DEVICE.json there, row by row")


def _plugins(argv: list[str]) -> list[pathlib.Path]:
    """Before everything else is parsed: they decide what there is to choose from."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--plugin", type=pathlib.Path, action="append", default=[])
    return parser.parse_known_args(argv)[0].plugin


def _options(argv: list[str]) -> str:
    """Those of the part, without the ones that are named in front or do not change a number."""
    kept, words = [], iter(argv)
    for word in words:
        name = word.partition("=")[0]
        if name in ("--device", "--threads", "--out", "--plugin"):
            if "=" not in word:
                next(words, None)
        else:
            kept.append(word)
    return shlex.join(kept)
