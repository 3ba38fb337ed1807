"""Sphinx configuration."""

from __future__ import annotations

import shutil
from importlib.metadata import version as package_version
from pathlib import Path

HERE = Path(__file__).parent

project = "histocell"
author = "histocell developers"
copyright = f"2026, {author}"
version = release = package_version("histocell")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
default_role = "literal"
html_theme = "sphinx_book_theme"
html_title = "histocell"
html_static_path = ["_static"]

autosummary_generate = True
autodoc_member_order = "groupwise"
napoleon_google_docstring = False
napoleon_use_rtype = True
napoleon_custom_sections = [("Examples", "Examples")]
always_document_param_types = True
typehints_defaults = "braces"
typehints_use_signature = False
suppress_warnings = [
    "sphinx_autodoc_typehints.forward_reference",
    "sphinx_autodoc_typehints.guarded_import",
    "mystnb.unknown_mime_type",
]

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebooks hold their outputs; the tests execute them

# The notebooks live at the top level, where users look for them.
shutil.copytree(HERE.parent / "tutorials", HERE / "tutorials", dirs_exist_ok=True)
