"""Cells of tables by the length of what they say: ``short`` stays in one line, ``long`` needs room to be read."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

SHORT, LONG = 20, 60  # characters


class Cells(SphinxTransform):
    default_priority = 500

    def apply(self) -> None:
        for cell in self.document.findall(nodes.entry):
            length = len(cell.astext())
            cell["classes"] += ["short"] * (length <= SHORT) + ["long"] * (length > LONG)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_transform(Cells)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
