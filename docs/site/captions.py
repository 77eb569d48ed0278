"""A picture that stands alone in its paragraph is a figure, and what describes it is its caption.

So a picture has a caption wherever the page is read: ``![What to see](picture.png)``.
"""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform


class Captions(SphinxTransform):
    default_priority = 5  # before numbers are given and pictures are looked for

    def apply(self) -> None:
        for image in list(self.document.findall(nodes.image)):
            paragraph = image.parent
            if isinstance(paragraph, nodes.paragraph) and len(paragraph) == 1 and image.get("alt"):
                caption = nodes.caption("", image["alt"])
                paragraph.replace_self(nodes.figure("", image, caption))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_transform(Captions)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
