"""No number without its measurement: what README and pages say in prose is what the stored results say.

Tables are made from the results, here and in tests/test_readme.py; what code prints is compared where it runs.
"""

from __future__ import annotations

import json
import re

import pages
import pytest
from sgr_bench import results, summary
from sgr_bench.gradients import KNOWN

UNITS = r"ms|us|s|MiB|GiB|MB|GB|TB/s|MB/s|TFLOP/s|points?|x"
MEASURED = re.compile(rf"(?<![\w.-])\d[\d,.]*(?:\s?(?:{UNITS})(?!\w)|\s?%)")
DOCS = pages.ROOT / "docs"
PAGES = sorted({str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")} - pages.MADE_FROM_RESULTS)
PROSE = ["README.md", *(f"docs/{page}" for page in PAGES)]


def milliseconds(network: str, modules: int, method: str) -> str:
    """Of a whole step on the H100."""
    rows = json.loads((results.STORED / "step-cuda.json").read_text())["rows"]
    [row] = [
        r for r in rows if (r["network"], r["count"], r["method"], r["module"]) == (network, modules, method, None)
    ]
    return f"{1e3 * row['seconds']:.0f}"


def of_cuda_graphs() -> list[str]:
    small, large = ("resnet32", 16), ("resnet50", 3)
    captured, overlapping = "directional, captured", "directional, overlapping, captured"
    return [
        f"a step of ResNet-32 in {small[1]} modules took {milliseconds(*small, captured)} ms in the place of "
        f"{milliseconds(*small, 'directional')}, one of ResNet-50 in {large[1]} modules "
        f"{milliseconds(*large, captured)} ms in the place of {milliseconds(*large, 'directional')}",
        f"{milliseconds(*small, overlapping)} ms for the step of ResNet-32",
    ]


def of_double_backwards() -> list[str]:
    rows = json.loads((results.STORED / "micro-cuda.json").read_text())["rows"]
    seconds = {
        (row["provider"], *row["shape"]): row["seconds"]
        for row in rows
        if (row["op"], row["mode"]) == ("conv2d_relu", "double backward")
    }
    most = max(s / seconds[("default", *shape)] for (name, *shape), s in seconds.items() if name == "reference")
    return [f"took up to {most:.1f} times as long"]


def of_gradients() -> list[str]:
    rows = json.loads((results.STORED / "gradients-cpu.json").read_text())["rows"]
    assert all(row["train_accuracy"] > KNOWN for row in rows if row["when"] == "trained" and row["images"] == 512)
    return [f"more than {KNOWN:.0%} of them are known"]


def of_the_diff() -> list[str]:
    return [prose(summary.against_algorithm_1())]


CLAIMS = {
    "README.md": of_the_diff,
    "docs/benchmarks.md": of_gradients,
    "docs/cuda-graphs.md": of_cuda_graphs,
    "docs/engines.md": of_double_backwards,
}


def prose(page: str) -> str:
    """A page in one line, without code, formulas, and tables."""
    for left_out in (r"^(`{3,}).*?^\1$", r"\$\$.*?\$\$", r"^\|.*?$", r"`[^`]*`"):
        page = re.sub(left_out, "", page, flags=re.DOTALL | re.MULTILINE)
    return " ".join(page.split())


def unproven(text: str, claims: list[str]) -> list[str]:
    """Measured numbers of a text that are in none of the claims."""
    for claim in claims:
        text = text.replace(claim, "")
    return [text[max(found.start() - 30, 0) : found.end()] for found in MEASURED.finditer(text)]


@pytest.mark.parametrize("page", PROSE)
def test_numbers_are_those_of_the_results(page):
    text = prose((pages.ROOT / page).read_text())
    claims = CLAIMS.get(page, list)()
    assert [claim for claim in claims if claim not in text] == []
    assert unproven(text, claims) == []


@pytest.mark.parametrize("text", ["It takes 28 ms.", "1.5x as fast", "saves 40% of", "+0.4 points", "2,048 MiB"])
def test_a_number_without_a_claim_is_noticed(text):
    assert len(unproven(prose(f"# Title\n\n{text}\n"), [])) == 1
    assert unproven(prose(f"# Title\n\n{text}\n"), [text]) == []


def test_other_numbers_are_none():
    text = "Table 3 has 16 modules, Algorithm 1, 3x3 kernels in `28 ms`.\n\n| a | 3 ms |\n\n```text\n3 ms\n```\n\n"
    assert unproven(prose(f"{text}$$ 3 s $$\n"), []) == []
