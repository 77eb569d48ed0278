"""Pages for people: their blocks of code, and how commands that would work for long are run for a moment.

A block whose first line is ``# needs a GPU`` or ``# needs a network`` is not run. A block of text after one of Python
is what that prints. Code of pages sets flags of torch, registers plug-ins and goes to folders: what runs it here is for
a process of its own (``alone.Server``).
"""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import re
import shlex
import socket
import subprocess
import sys
import warnings
from typing import Any, NamedTuple

from sgr_bench import cli as bench
from sgr_train import cli as train
from sgr_train import flags

ROOT = pathlib.Path(__file__).parent.parent
PROGRAMS = {"sgr-train": train.main, "sgr-bench": bench.main}
MADE_FROM_RESULTS = {"benchmarks/report.md", "results.md"}  # in docs: tests compare them with what makes them
LANGUAGES = {"python", "sh", "text"}
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
    return _with_flags(command, process.stdout)


def in_process(command: str) -> str:
    """The same, of our own programs without starting Python again."""
    program, *words = shlex.split(shortened(command))
    if program not in PROGRAMS:
        return in_shell(command, pathlib.Path.cwd())
    with contextlib.redirect_stdout(io.StringIO()) as output:
        try:
            status = PROGRAMS[program](words)
        except SystemExit as end:  # of argparse
            status = end.code
    assert not status, f"status {status} of {command}\n{output.getvalue()}"
    return _with_flags(command, output.getvalue())


def _with_flags(command: str, said: str) -> str:
    """What a command said, once its flags are found there, should it have been run for its help alone."""
    flags = set(re.findall(r"(?<!\S)--[a-z][\w-]*", command)) if shortened(command).endswith("--help") else set()
    unknown = [flag for flag in sorted(flags) if flag not in said]
    assert unknown == [], f"{said}\n{', '.join(unknown)} of {command} not in its help"
    return said


def run_python(block: Block, page: str, names: dict[str, Any]) -> str:
    """What a block prints that is executed among ``names``; in an error its lines are those of the page."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile("\n" * block.line + block.text, page, "exec"), names)
    return output.getvalue()


def require_syntax(block: Block) -> None:
    """Of a block that cannot be run here, or not in a moment; flags of sgr-train are looked up."""
    if block.language == "python":
        compile("\n" * block.line + block.text, "a block", "exec")
        return
    assert subprocess.run(["bash", "-n"], input=block.text, text=True).returncode == 0, block.text
    for command in block.lines():
        program, *words = shlex.split(command)
        if program == "sgr-train":
            flags.parse(words)


def follow(page: pathlib.Path, only_syntax: bool = False) -> None:
    """Runs all blocks of a page in their order, in one namespace, and compares what they print with what it says.

    Raises:
        AssertionError: a block is wrong; the last line names page and block.
    """
    warnings.simplefilter("error", UserWarning)  # a page shows no code that is warned of
    os.environ.update(_as_torchrun())
    names, printed = {"__name__": "page"}, ""
    for block in blocks(page.read_text()):
        try:
            printed = _done(block, page, names, printed, only_syntax)
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{page}, the block of line {block.line}") from error


def _done(block: Block, page: pathlib.Path, names: dict[str, Any], printed: str, only_syntax: bool) -> str:
    """What was printed last, after this block."""
    if block.language.startswith("{"):  # a directive: no code
        return printed
    assert block.language in LANGUAGES, f"nobody knows how to run {block.language!r}"
    if block.language == "text":
        says = block.text.strip()
        assert says == printed.strip() != "", f"the page says\n{says}\nand its code prints\n{printed.strip()}"
    elif block.needs or only_syntax:
        require_syntax(block)
    elif block.language == "python":
        return run_python(block, str(page), names)
    else:
        return [in_process(command) for command in block.lines()][-1]
    return printed


def _as_torchrun() -> dict[str, str]:
    """The variables of a process that is alone."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    return {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
