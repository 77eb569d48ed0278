"""What a step refuses, quoted from the code that raises it: the directive ``refusal``.

::

    ```{refusal} must not write in place into its input
    What to do.
    ```

shows the whole message and, below it, what to do. The words must be those of exactly one message.
"""

from __future__ import annotations

import ast
import functools
import pathlib
from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import sgr_kernels

PACKAGE = pathlib.Path(sgr_kernels.__file__).parent
FOLDERS = ("engines", "gates")


@functools.cache
def messages() -> list[str]:
    """Of all errors that engines and gates make by themselves, each once, with ... for what is filled in."""
    trees = [ast.parse(path.read_text()) for folder in FOLDERS for path in sorted((PACKAGE / folder).glob("*.py"))]
    constants = dict(each for tree in trees for each in _constants(tree))
    calls = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args)
    errors = (call.args[0] for call in calls if isinstance(call.func, ast.Name) and call.func.id.endswith("Error"))
    return list(dict.fromkeys(_text(message, constants) for message in errors))


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Names of a file that stand for a text."""
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))):
                yield name, text


def _text(node: ast.expr, constants: dict[str, str]) -> str:
    """What a string, an f-string, a constant or ``constant.format(...)`` says, as far as that is known."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text(part, constants) for part in parts)
        case ast.FormattedValue(value=ast.Name(id=name)) | ast.Name(id=name) if name in constants:
            return constants[name]
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="format")) if name in constants:
            return constants[name].replace("{}", "...")
    return "..."


def message_with(words: str) -> str:
    """Raises LookupError unless the words are those of exactly one message."""
    found = [message for message in messages() if words in message]
    if len(found) != 1:
        raise LookupError(f"{len(found)} messages of {', '.join(FOLDERS)} have the words: {words}")
    return found[0]


class Refusal(SphinxDirective):
    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self) -> list[nodes.Node]:
        try:
            message = message_with(self.arguments[0])
        except LookupError as error:
            raise self.error(str(error)) from error
        quoted = nodes.literal_block(message, message, language="text")
        return [nodes.container("", quoted, *self.parse_content_to_nodes(), classes=["refusal"])]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("refusal", Refusal)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
