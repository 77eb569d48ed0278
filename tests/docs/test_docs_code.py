"""Every block of code of the documentation: it runs as printed, and prints what the page says."""

from __future__ import annotations

import functools
import pathlib
import re
import shlex
import socket
import subprocess
import warnings
from collections.abc import Iterator

import pages
import pytest
import torch
from pages import Block
from sgr_train import flags
from sgr_train.config import COMMANDS, REGISTRIES, fields_of
from sgr_train.errors import UsageError
from sgr_train.options import switch

DOCS = pages.ROOT / "docs"
PAGES = [str(path.relative_to(DOCS)) for path in sorted(DOCS.rglob("*.md"))]
ELSEWHERE = {  # pages whose code is followed by tests of their own
    "extend.md": "test_extend.py",
    "cuda-graphs.md": "test_capture.py",
    "tutorial.md": "docs/test_docs_site.py",
}
HERE = [page for page in PAGES if page not in ELSEWHERE and pages.blocks((DOCS / page).read_text())]
LANGUAGES = {"python", "sh", "text"}


def blocks_of(page: str) -> list[Block]:
    """Those of code and of what it prints."""
    return [block for block in pages.blocks((DOCS / page).read_text()) if not block.language.startswith("{")]


@pytest.fixture
def surroundings(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    """An empty folder, and the variables that torchrun sets; threads and process groups are left as they were."""
    monkeypatch.chdir(tmp_path)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    deterministic = torch.backends.cudnn.deterministic
    yield tmp_path
    torch.backends.cudnn.deterministic = deterministic
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("page", HERE)
def test_code_runs_and_prints_what_the_page_says(page, surroundings):
    warnings.simplefilter("error", UserWarning)  # a page shows no code that is warned of
    names, printed = {"__name__": "page"}, ""
    for block in blocks_of(page):
        where = f"{page}, line {block.line}"
        assert block.language in LANGUAGES, f"{where}: nobody knows how to run {block.language!r}"
        if block.language == "text":
            assert block.text.strip() == printed.strip() != "", where
        elif block.needs or page in pages.MADE_FROM_RESULTS:  # commands of hours
            require_syntax(block, where)
        elif block.language == "python":
            printed = pages.run_python(block, str(DOCS / page), names)
        else:
            for command in block.lines():
                printed = pages.in_process(command, surroundings)


# --- code within a sentence -------------------------------------------------------------------------------------------


def inline(page: str) -> list[str]:
    """What stands between backticks, outside of blocks."""
    text = re.sub(r"^(`{3,}).*?^\1$", "", (DOCS / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


@pytest.mark.parametrize("page", [page for page in PAGES if page not in pages.MADE_FROM_RESULTS])
def test_commands_and_flags_within_sentences_exist(page):
    for code in inline(page):
        if code.startswith("sgr-train "):
            flags.parse(shlex.split(code)[1:])
    used = {word for code in inline(page) for word in re.findall(r"(?<!\S)--[a-z][\w-]*", code)}
    assert used - known_flags() == set()


@functools.cache
def known_flags() -> set[str]:
    """Of sgr-train with all its entries, and of sgr-bench."""
    options = [option for kind in COMMANDS.values() for option in fields_of(kind)]
    for registry in REGISTRIES.values():
        options += [option for name in registry.names() for option in registry.options(name)]
    parsers = [pages.ROOT / "python" / "sgr_train" / "flags.py", *(pages.ROOT / "bench").glob("*.py")]
    written = {flag for file in parsers for flag in re.findall(r'"(--[\w-]+)"', file.read_text())}
    return written | {name for option in options for name in (option.flag, switch(option))}


# --- blocks -----------------------------------------------------------------------------------------------------------


def require_syntax(block: Block, where: str) -> None:
    """Of a block that cannot be run here, or not in a moment; flags of sgr-train are looked up."""
    if block.language == "python":
        compile("\n" * block.line + block.text, where, "exec")
        return
    assert subprocess.run(["bash", "-n"], input=block.text, text=True).returncode == 0, where
    for command in block.lines():
        program, *words = shlex.split(command)
        if program == "sgr-train":
            flags.parse(words)


def test_pages_that_are_followed_elsewhere_are():
    for page, test in ELSEWHERE.items():
        assert pathlib.Path(page).stem in (pages.ROOT / "tests" / test).read_text(), page


def test_a_block_that_needs_something_is_not_run_and_its_syntax_is_checked():
    [block] = pages.of("```python\n# needs a GPU\nx = torch.zeros(1, device='cuda')\n```\n", "python")
    assert block.needs == "GPU"
    require_syntax(block, "here")


@pytest.mark.parametrize(
    ("language", "text", "error"),
    [
        ("python", "x = (", SyntaxError),
        ("sh", "if true", AssertionError),
        ("sh", "sgr-train run --lamda 1", UsageError),
    ],
)
def test_a_wrong_block_is_noticed_though_it_is_not_run(language, text, error):
    with pytest.raises(error):
        require_syntax(Block(language, f"# needs a network\n{text}\n", 1), "here")


def test_blocks_are_found_with_their_lines_and_directives_are_none_of_code():
    page = "Text\n\n```python\nx = 1\n```\n\n```{generated} flags run\n```\n\n````sh\n```\n````\n"
    assert pages.blocks(page) == [
        Block("python", "x = 1\n", 3),
        Block("{generated}", "", 7),
        Block("sh", "```\n", 10),
    ]
    assert Block("sh", "a \\\n  b  # c\n# d\ne\n", 1).lines() == ["a    b", "e"]
