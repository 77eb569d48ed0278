"""Every block of code of the documentation: it runs as printed, and prints what the page says."""

from __future__ import annotations

import functools
import os
import pathlib
import re
import shlex

import pages
import pytest
import torch
from pages import Block
from sgr_train import flags, methods
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


@pytest.mark.parametrize("page", HERE)
def test_code_runs_and_prints_what_the_page_says(page, alone, tmp_path):
    only_syntax = page in pages.MADE_FROM_RESULTS  # commands of hours, to be started in a checkout
    alone(pages.follow, DOCS / page, only_syntax, folder=pages.ROOT if only_syntax else tmp_path)


POLLUTING = """
```python
import os
import pathlib

import torch
from sgr_train import methods

assert "polluting" not in methods.names() and torch.get_default_dtype() == torch.float32
torch.backends.cudnn.conv.fp32_precision = "ieee"
torch.set_default_dtype(torch.float64)
os.environ["POLLUTED"] = "1"
methods.register("polluting")(methods.BP)
pathlib.Path("folder").mkdir()
os.chdir("folder")
```
"""


def state() -> list:
    """What the page above changes, where it is executed."""
    precision = torch.backends.cudnn.conv.fp32_precision
    return [precision, torch.get_default_dtype(), "POLLUTED" in os.environ, methods.names(), pathlib.Path.cwd()]


def test_what_a_page_does_ends_with_it(alone, tmp_path):
    page, before = tmp_path / "page.md", state()
    page.write_text(POLLUTING)
    for name in "first", "second":
        (tmp_path / name).mkdir()
        alone(pages.follow, page, folder=tmp_path / name)
        assert state() == before
        assert (tmp_path / name / "folder").exists()


@pytest.mark.parametrize(
    ("blocks", "said"),
    [
        ("```python\nx = 1\n```\n\n```python\nx / 0\n```\n", ["line 6, in <module>", "ZeroDivisionError"]),
        ("```python\nprint(1)\n```\n\n```text\n2\n```\n", ["the page says\n2\nand its code prints\n1"]),
        ("\n\n\n\n```python\nraise SystemExit(0)\n```\n", ["SystemExit: 0"]),
        ("\n\n\n\n```sh\nsgr-bench micro --nonsense\n```\n", ["--nonsense of sgr-bench micro"]),
        ("\n\n\n\n```sh\nsgr-train run --nonsense\n```\n", ["status 2 of sgr-train run --nonsense"]),
        ("\n\n\n\n```sh\nfalse\n```\n", ["AssertionError"]),
        ("\n\n\n\n```rust\nfn\n```\n", ["nobody knows how to run 'rust'"]),
        ("\n\n\n\n```python\nimport warnings\nwarnings.warn('old')\n```\n", ["UserWarning: old"]),
    ],
)
def test_a_wrong_block_is_named(blocks, said, alone, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(blocks)
    with pytest.raises(AssertionError) as error:
        alone(pages.follow, page, folder=tmp_path)
    assert [words for words in said if words not in str(error.value)] == [], error.value
    assert str(error.value).endswith(f"{page}, the block of line 5")


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


def test_pages_that_are_followed_elsewhere_are():
    for page, test in ELSEWHERE.items():
        assert pathlib.Path(page).stem in (pages.ROOT / "tests" / test).read_text(), page


def test_a_block_that_needs_something_is_not_run_and_its_syntax_is_checked():
    [block] = pages.of("```python\n# needs a GPU\nx = torch.zeros(1, device='cuda')\n```\n", "python")
    assert block.needs == "GPU"
    pages.require_syntax(block)


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
        pages.require_syntax(Block(language, f"# needs a network\n{text}\n", 1))


def test_blocks_are_found_with_their_lines_and_directives_are_none_of_code():
    page = "Text\n\n```python\nx = 1\n```\n\n```{generated} flags run\n```\n\n````sh\n```\n````\n"
    assert pages.blocks(page) == [
        Block("python", "x = 1\n", 3),
        Block("{generated}", "", 7),
        Block("sh", "```\n", 10),
    ]
    assert Block("sh", "a \\\n  b  # c\n# d\ne\n", 1).lines() == ["a    b", "e"]
