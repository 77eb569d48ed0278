"""Formulas as MathML, which browsers draw by themselves: no script, and no network."""

from __future__ import annotations

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

LOGGER = logging.getLogger(__name__)


def inline(writer: HTML5Translator, node: nodes.math) -> None:
    writer.body.append(drawn(node, as_block=False))
    raise nodes.SkipNode


def block(writer: HTML5Translator, node: nodes.math_block) -> None:
    writer.body.append(f'<div class="math-block">{drawn(node, as_block=True)}</div>')
    raise nodes.SkipNode


def drawn(node: nodes.Element, as_block: bool) -> str:
    try:
        return tex2mathml(node.astext(), as_block)
    except MathError as error:
        LOGGER.warning("a formula cannot be drawn: %s", error, location=node)
        return ""


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
