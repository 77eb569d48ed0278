"""The directive ``generated``: what the code knows, as it knows it when the site is built.

::

    ```{generated} flags run
    ```

calls ``flags("run")`` of this file, which gives Markdown.
"""

from __future__ import annotations

import inspect
import json
import re

import torch
from docutils import nodes
from sgr_bench import results, tables
from sgr_train import methods, networks, recipes, reductions, report
from sgr_train.config import COMMANDS, REGISTRIES, fields_of
from sgr_train.findings import findings
from sgr_train.flags import OTHERS
from sgr_train.methods.facts import COLUMNS
from sgr_train.options import Option, help_of_flag, shape_of, switch
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

BENCHMARKS = {
    "step": tables.whole_steps,
    "memory": tables.memory,
    "gradients": tables.gradients,
    "compiled": tables.compiled,
    "blocks": tables.blocks,
}
NETWORKS = (("resnet32", 2), ("resnet32", 3), ("resnet32", 16), ("resnet50", 3), ("vit_s_16", 3))


def table_of_methods() -> str:
    """A line for each, with its page."""
    _, *rows = methods.table()
    return tables.markdown([list(COLUMNS), *([f"[{name}]({name}.md)", *facts] for name, *facts in rows)])


def facts(method: str) -> str:
    """Those of one method, a line each."""
    [row] = [row for row in methods.table() if row[0] == method]
    return tables.markdown([["", method], *zip(COLUMNS[1:], row[1:], strict=True)])


def measured(*words: str) -> str:
    """Whole steps on a CPU: the rows with these labels, which semicolons part, where they were measured."""
    header, _, *rows = (line[2:-2].split(" | ") for line in _lines_of_steps())
    labels = " ".join(words).split("; ")
    if unknown := [label for label in labels if label not in [row[0] for row in rows]]:
        raise LookupError(f"no step was measured of: {', '.join(unknown)}")
    chosen = [row for row in rows if row[0] in labels]
    columns = [k for k in range(len(header)) if any(row[k].strip() for row in chosen)]
    table = tables.markdown([[row[k] for k in columns] for row in (header, *chosen)])
    return f"Measured, whole steps on a CPU ([benchmarks](../benchmarks.md) has all methods):\n\n{table}"


def commands() -> str:
    """Of sgr-train, as its help has them."""
    known = {name: inspect.getdoc(kind).splitlines()[0] for name, kind in COMMANDS.items()} | OTHERS
    return tables.markdown(
        [["command", "what it does"], *(_in_cells([f"`{name}`", text]) for name, text in known.items())]
    )


def table_of_recipes(table: str) -> str:
    """Those whose names begin with the table, and what the paper has for them."""
    names = [name for name in recipes.names() if name.startswith(f"{table}-")]
    return tables.markdown([["recipe", "in the paper"], *([f"`{name}`", recipes.find(name).paper] for name in names)])


def entries(kind: str) -> str:
    """The entries of a registry, what they are, and below them their own flags."""
    registry = REGISTRIES[kind]
    rows = [[f"`{name}`", registry.summary(name)] for name in registry.names()]
    own = [[f"`{name}`", *_explained(option)] for name in registry.names() for option in registry.options(name)]
    text = tables.markdown([[f"`--{kind}`", "what it is"], *map(_in_cells, rows)])
    return f"{text}\n\n{tables.markdown([['of', *FLAG], *map(_in_cells, own)])}" if own else text


def flags(command: str) -> str:
    """Of a command, under the headings of its help; those of ``run`` are told with it alone."""
    known = [] if command == "run" else [option.flag for option in fields_of(COMMANDS["run"])]
    options = [option for option in fields_of(COMMANDS[command]) if option.flag not in known]
    texts = []
    for group in dict.fromkeys(option.group for option in options):
        rows = [_explained(option) for option in options if option.group == group]
        texts.append(f"**{group}**\n\n{tables.markdown([FLAG, *map(_in_cells, rows)])}")
    return "\n\n".join(texts)


def elements() -> str:
    """n of networks of the paper, and what lambda 1 under "mean" is under "batchmean"."""
    rows = [["network", "n of the modules that reconcile", "lambda 1 of `mean` in `batchmean`"]]
    for name, count in NETWORKS:
        with torch.device("meta"):  # sizes alone
            network = networks.create(name, num_classes=10, modules=count, head="linear")
        sizes = dict.fromkeys(reductions.elements(network))
        weights = (reductions.convert(1.0, "mean", "batchmean", elements=n) for n in sizes)
        rows.append(
            [f"{name}, K = {count}", ", ".join(f"{n:,}" for n in sizes), ", ".join(f"{w:.2g}" for w in weights)]
        )
    return tables.markdown(rows)


def benchmark(part: str, device: str = "cpu") -> str:
    """The table of a part, and the command that measures it again."""
    stored = results.load(results.STORED / f"{'micro' if part == 'blocks' else part}-{device}.json")
    machine = stored["machine"]
    source = f"{machine['name']}, {stored['date']}, torch {machine['torch']}: `{stored['command']}`"
    return f"{BENCHMARKS[part](stored)}\n\n{source}"


def accuracies(name: str) -> str:
    """The table that ``sgr-train compare`` ends with."""
    stored = json.loads((results.STORED / f"{name}.json").read_text())
    lines = [report.comparison_table(stored["runs"])]
    if said := findings(stored["runs"]):
        lines.append(said)
    return "\n".join(["```text", *lines, "```"])


FLAG = ["flag", "default", "what it does"]


def _explained(option: Option) -> list[str]:
    flag = switch(option) if shape_of(option.type).kind is bool else option.flag
    return [f"`{flag}`", _default(option.default), help_of_flag(option)]


def _lines_of_steps() -> list[str]:
    return tables.whole_steps(results.load(results.STORED / "step-cpu.json")).splitlines()


def _default(value: object) -> str:
    if value in (None, ()) or isinstance(value, bool):  # a switch does the other thing
        return ""
    return f"`{' '.join(map(str, value))}`" if isinstance(value, tuple) else f"`{value}`"


def _in_cells(row: list[str]) -> list[str]:
    """What a row says as it is: outside of code, nothing in it is markup."""
    literal = (re.sub(r"(`[^`]*`)|([<*_\[])", lambda found: found[1] or f"\\{found[2]}", cell) for cell in row)
    return [cell.replace("|", "\\|").replace("\n", " ") for cell in literal]


TEXTS = (table_of_methods, facts, measured, commands, table_of_recipes, entries, flags, elements, benchmark, accuracies)


class Generated(SphinxDirective):
    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        name, *arguments = self.arguments[0].split()
        texts = {function.__name__: function for function in TEXTS}
        if name not in texts:
            raise self.error(f"generated must be one of {', '.join(texts)}, got {name!r}")
        try:
            return self.parse_text_to_nodes(texts[name](*arguments))
        except LookupError as error:
            raise self.error(str(error)) from error


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("generated", Generated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
