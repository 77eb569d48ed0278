"""The site of the documentation, built by ``make docs``. A warning is an error there."""

from __future__ import annotations

import logging
import pathlib
import re
import sys

from jupyter_client import KernelManager

import sgr_kernels

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE / "site"))

project = "sgr-kernels"
author = "the authors of sgr-kernels"
version = release = sgr_kernels.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
extensions += ["captions", "cells", "generated", "mathml", "refusals"]  # in site
exclude_patterns = ["extend", "site"]
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"torch\..*"),  # documented elsewhere: a build needs no network
    ("py:.*", r"sgr_train\.(state|loader|networks\.export)\b.*"),  # of the driver alone
    ("py:(class|exc|meth|attr)", r"\w+"),  # short names, of what a docstring stands beside
]

myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

smartquotes = False  # "--flag" is two hyphens

nb_execution_mode = "force"
KernelManager.transport_encryption.default_value = "auto"  # otherwise the kernel warns that others can listen
logging.getLogger("traitlets").setLevel(logging.WARNING)  # otherwise it says which kernel it starts
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True

autodoc_typehints = "none"  # signatures of pages stay readable; docstrings say what is taken
autodoc_member_order = "bysource"
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_ivar, napoleon_use_rtype = True, False
napoleon_custom_sections = [
    ("Shape", "params_style"),
    ("It may have more", "params_style"),
    ("A logger may have any of these", "params_style"),
]

html_theme = "furo"
html_title = f"sgr-kernels {version}"
html_static_path = ["site/static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_domain_indices = False  # the reference has one page
html_copy_source = html_show_sourcelink = html_show_copyright = False


def as_restructured_text(app, what, name, obj, options, lines: list[str]) -> None:
    """In a docstring |x| is a norm and no substitution, and K. a number and no list; ``|x|`` stays as it is."""
    for index, line in enumerate(lines):
        line = re.sub(r"(``.*?``)|\|", lambda found: found[1] or r"\|", line)
        lines[index] = re.sub(r": ([A-Z])\. ", r": \1\. ", line)


def skip_fields(app, what, name, obj, skip, options) -> bool | None:
    """Fields of a named tuple, which its docstring explains."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app) -> None:
    app.connect("autodoc-process-docstring", as_restructured_text, priority=100)  # before napoleon
    app.connect("autodoc-skip-member", skip_fields)
