"""Pages for people: their blocks of code, and how commands that would work for long are run for a moment.

A block whose first line is ``# needs a GPU`` or ``# needs a network`` is not run. A block of text after one of Python
is what that prints.
"""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from sgr_bench import cli as bench
from sgr_train import cli as train

ROOT = pathlib.Path(__file__).parent.parent
PROGRAMS = {"sgr-train": train.main, "sgr-bench": bench.main}
MADE_FROM_RESULTS = {"benchmarks/report.md", "results.md"}  # in docs: tests compare them with what makes them
NEEDS = re.compile(r"# needs a (GPU|network)\b")
# Appended to the command that begins so, the longest that fits: it ends soon, or only says what it would do.
BRIEF = "--epochs 1 --train-subset 64"
SHORT = {
    "make": "-n",
    "pip install": "--dry-run --no-deps --no-build-isolation",
    "sgr-train run": BRIEF,
    "sgr-train compare": f"{BRIEF} --seeds 0 1",
    "sgr-train choose": f"{BRIEF} --seeds 100",
    "sgr-train recipe digits": "--set epochs=1 train_subset=128",
    "sgr-bench": "--help",
    "bash bench/gpu.sh": "--help",
}
AS_IT_IS = ("--help", "--list", "--dry-run", "--resume")


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        language: the word behind the fence; of a directive with its braces.
        line: of the fence, from 1.
    """

    language: str
    text: str
    line: int

    @property
    def needs(self) -> str | None:
        """What it cannot be run without."""
        found = NEEDS.match(self.text)
        return found and found[1]

    def lines(self) -> list[str]:
        """The commands of a block of sh, without comments; a command may go on in the next line."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in (line.partition("#")[0].strip() for line in lines) if line]


def blocks(page: str) -> list[Block]:
    """In the order of the page; of what a directive holds, nothing."""
    found, inside = [], None
    for number, line in enumerate(page.splitlines(), 1):
        fence = re.match(r"(`{3,})(\{[\w-]+\}|\w*)", line)
        if inside is None and fence:
            inside, language, text, begin = fence[1], fence[2], [], number
        elif inside is not None and line.rstrip() == inside:
            found.append(Block(language, "".join(text), begin))
            inside = None
        elif inside is not None:
            text.append(f"{line}\n")
    assert inside is None, f"the block of line {begin} does not end"
    return found


def of(page: str, language: str) -> list[Block]:
    return [block for block in blocks(page) if block.language == language]


def shortened(command: str) -> str:
    if any(word in command for word in AS_IT_IS):
        return command
    program = re.sub(r"^(\w+=\S+ )+", "", command)
    extra = SHORT.get(max((start for start in SHORT if program.startswith(start)), key=len, default=""), "")
    return f"{command} {extra}{' --depth 3' if extra.startswith(BRIEF) and '--model' not in command else ''}"


def in_shell(command: str, folder: pathlib.Path) -> str:
    """What the shortened command says; what is of the checkout is started there."""
    of_checkout = "pip install" in command or command.startswith(("make", "bash bench/"))
    environment = {**os.environ, "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"}
    where = {"cwd": ROOT if of_checkout else folder, "env": environment}
    process = subprocess.run(shortened(command), shell=True, capture_output=True, text=True, **where)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def in_process(command: str, folder: pathlib.Path) -> str:
    """The same, of our own programs without starting Python again; the caller has gone to the folder."""
    program, *words = shlex.split(shortened(command))
    if program not in PROGRAMS:
        return in_shell(command, folder)
    with printed() as output, contextlib.suppress(SystemExit):
        assert PROGRAMS[program](words) == 0, command
    return output.getvalue()


@contextlib.contextmanager
def printed() -> Iterator[io.StringIO]:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        yield output


def run_python(block: Block, page: str, names: dict[str, Any]) -> str:
    """What a block prints that is executed among ``names``; in an error its lines are those of the page."""
    with printed() as output:
        exec(compile("\n" * block.line + block.text, page, "exec"), names)
    return output.getvalue()
