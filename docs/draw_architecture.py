"""The picture of the layers in architecture.md, drawn from the imports in the source."""

from __future__ import annotations

import ast
import textwrap
import tomllib
from collections import Counter
from pathlib import Path

from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "histocell"


def layers() -> list[list[str]]:
    """Packages from top to bottom, as import-linter keeps them in order."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    rows = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [[name.strip().removeprefix("histocell.") for name in row.split("|")] for row in rows]


def files(package: str) -> list[Path]:
    return sorted((SOURCE / package).rglob("*.py")) or [SOURCE / f"{package}.py"]


def content(package: str) -> str:
    """First line of the docstring."""
    path = next((path for path in files(package) if path.parent.name == package and path.stem == "__init__"), None)
    docstring = ast.get_docstring(ast.parse((path or files(package)[0]).read_text())) or ""
    return textwrap.shorten(docstring.splitlines()[0].replace("`", "").rstrip("."), 80, placeholder=" ...")


def imports(package: str) -> Counter[str]:
    """Packages that a package uses, with the number of its files that do; imports for types alone do not count."""
    used: Counter[str] = Counter()
    for path in files(package):
        tree = ast.parse(path.read_text())
        tree.body = [node for node in tree.body if not ast.unparse(node).startswith("if TYPE_CHECKING")]
        names = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("histocell"):
                names |= {f"{node.module}.{alias.name}".split(".")[1] for alias in node.names}
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "hc":
                names.add(node.attr)
        used.update(names - {package})
    return used


def draw(path: Path) -> None:
    """One row for each package with its content, and a dot under each package that it imports."""
    rows = layers()
    packages = [package for row in rows for package in row]
    n, left = len(packages), 20  # of the matrix, in heights of a row
    figure = Figure(figsize=(9.6, 0.27 * (n + 3)), layout="tight")
    ax = figure.subplots()
    top = 0
    for index, row in enumerate(rows):
        ax.axhspan(top - 0.5, top + len(row) - 0.5, color="#eef3f8" if index % 2 else "#dbe6f1", linewidth=0)
        top += len(row)
    for y, package in enumerate(packages):
        ax.text(0.2, y, package, va="center", fontsize=9, fontweight="bold")
        ax.text(3.0, y, content(package), va="center", fontsize=7.5, color="0.25")
        ax.text(left + y, -1, package, rotation=60, ha="left", va="bottom", rotation_mode="anchor", fontsize=8)
        ax.plot(left + y, y, "s", color="0.6", markersize=4)
        for other, number in imports(package).items():
            if other in packages:
                ax.scatter(left + packages.index(other), y, s=14 + 9 * number, color="#0072B2", linewidths=0)
    ax.set(xlim=(0, left + n), ylim=(n - 0.5, -3.5))
    ax.axis("off")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    draw(Path(__file__).parent / "generated" / "architecture.svg")
