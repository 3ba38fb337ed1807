"""Sphinx configuration."""

from __future__ import annotations

import csv
import shutil
import sys
from importlib.metadata import version as package_version
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from draw_architecture import draw  # noqa: E402

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
exclude_patterns = ["_build", "**.ipynb_checkpoints", "generated/encoders.md"]  # that one is included elsewhere
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


def write_table_of_encoders() -> None:
    """`generated/encoders.md`, which encoders.md includes: one row for each encoder of the catalogue."""
    from histocell import encoders

    words = {True: "yes", False: "no", None: "?"}
    head = (
        "name",
        "what it is",
        "embedding",
        "input",
        "tokens",
        "million parameters",
        "licence",
        "commercial",
        "gated",
    )
    rows = [head, ("---",) * len(head)]
    for name in encoders.list_encoders().index:
        spec = encoders.get_spec(name)
        link = f"[`{name}`](https://huggingface.co/{spec.hub_id})" if spec.hub_id else f"`{name}`"
        embedding = f"{spec.dim}, {spec.pooling}" if spec.dim else "named features"
        pixels = f"{spec.input_px} px" if spec.hub_id else "any"
        grid = f"{spec.grid[0]} x {spec.grid[1]}" if spec.grid else ""
        params = f"{spec.params:,.0f}" if spec.params else ""
        source = f"{spec.summary} {spec.citation}".strip()
        row = (link, source, embedding, pixels, grid, params, spec.license, words[spec.commercial], words[spec.gated])
        rows.append(row)
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    (HERE / "generated").mkdir(exist_ok=True)
    (HERE / "generated" / "encoders.md").write_text("\n".join(lines) + "\n")


def write_table_of_bad_input() -> None:
    """`generated/bad_input.csv`, which reliability.md includes: the rows that the tests wrote, messages as literal text."""
    with (HERE / "bad_input.csv").open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    with (HERE / "generated" / "bad_input.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows((area, given.replace("_", r"\_"), f"`` {seen} ``") for area, given, seen in rows)


write_table_of_encoders()
write_table_of_bad_input()
draw(HERE / "generated" / "architecture.svg")
