"""What a step refuses, quoted from the code that raises it: the directive ``refusal``.

::

    ```{refusal} must not write in place into its input
    What to do.
    ```

shows the whole message and, below it, what to do. The words must be those of exactly one message.
"""

from __future__ import annotations

import functools
import pathlib

import error_messages
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import sgr_kernels

PACKAGE = pathlib.Path(sgr_kernels.__file__).parent
FOLDERS = ("engines", "gates")


@functools.cache
def messages() -> list[str]:
    """Of all errors that engines and gates make by themselves, each once, with ... for what is filled in."""
    of_steps = (each for each in error_messages.messages([PACKAGE]) if each.path.parts[1] in FOLDERS)
    return list(dict.fromkeys(each.text for each in of_steps if each.text))


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
