"""The command line: ``histocell demo``."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

import histocell as hc

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    from spatialdata import SpatialData

app = typer.Typer(
    help="From an H&E image to the cells in it.", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)
console = Console()


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """From an H&E image to the cells in it."""
    if version:
        console.print(hc.__version__)


@app.command()
def demo(
    more: Annotated[list[str] | None, typer.Argument(help="Further training sections.", metavar="[SECTION]...")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("histocell-demo"),
    section: Annotated[
        str | None, typer.Option(help="Predict this her2st section instead of synthetic tissue.")
    ] = None,
    train: Annotated[list[str] | None, typer.Option(help="her2st sections to train on: --train C2 C3 C4.")] = None,
    model: Annotated[str, typer.Option(help="mlp or ridge.")] = "mlp",
    rng: Annotated[int, typer.Option(help="Seed.")] = 0,
) -> None:
    """Embed, train, predict an unseen patient, score it, draw it.

    Runs on synthetic tissue, or with --section and --train on sections of the her2st breast cancer data set.
    """
    training = [*(train or []), *(more or [])]
    if (section is None) != (not training):
        msg = "--section and --train go together: --section B4 --train C2 C3 C4"
        raise typer.BadParameter(msg)
    if section in training:
        msg = f"section {section} is both predicted and trained on"
        raise typer.BadParameter(msg)
    start = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    if section is None:
        with console.status("rendering synthetic tissue"):
            sdata = hc.datasets.synthetic_tissue(4, n_patients=4, rng=rng)
        sections = list(sdata["table"].obs["section"].cat.categories)
        section, training = sections[-1], sections[:-1]
        source = "synthetic tissue"
    else:
        sdata = hc.datasets.her2st([*training, section])
        source = "her2st (Andersson et al. 2021)"
    with warnings.catch_warnings():
        warnings.showwarning = show_warning  # type: ignore[assignment]
        journey(sdata, section, training, model=model, rng=rng)
    scores = hc.get.scores(sdata)
    write_results(sdata, scores, section, out)
    report(
        sdata, scores, source=source, section=section, training=training, out=out, seconds=time.perf_counter() - start
    )


def show_warning(message: Warning | str, *_: object) -> None:
    """A warning as a sentence, not as a line of code."""
    console.print(f"Note: {message}.")


def journey(sdata: SpatialData, section: str, training: list[str], *, model: str, rng: int) -> None:
    """From images to scored predictions, as the README shows it."""
    hc.pp.patches(sdata, size_um=112)
    hc.pp.embed_image(sdata, "morphology")
    hc.pp.split(sdata, by="section", test=[section])
    hc.tl.fit_abundance(sdata, "X_morphology", model=model, standardize_by="section", rng=rng)
    hc.tl.predict_abundance(sdata)
    hc.tl.evaluate_abundance(sdata, rng=rng)


def write_results(sdata: SpatialData, scores: pd.DataFrame, section: str, out: Path) -> None:
    """The table, the scores and the figures; the table is renamed into place, so a killed run leaves no half file."""
    partial = out / "spots.partial.h5ad"
    sdata["table"].write_h5ad(partial)
    partial.replace(out / "spots.h5ad")
    scores.to_csv(out / "scores.csv", index=False)
    import matplotlib.pyplot as plt

    figures: dict[str, Callable[[], object]] = {
        "abundance": lambda: hc.pl.abundance(sdata, section=section, show=False),
        "patches": lambda: hc.pl.patches(sdata, section=section, show=False),
        "scores": lambda: hc.pl.scores(sdata, show=False),
        "history": lambda: hc.pl.history(sdata, show=False),
    }
    for name, draw in figures.items():
        draw()
        plt.savefig(out / f"{name}.png", dpi=150, bbox_inches="tight")
        plt.close()


def report(
    sdata: SpatialData,
    scores: pd.DataFrame,
    *,
    source: str,
    section: str,
    training: list[str],
    out: Path,
    seconds: float,
) -> None:
    """What was done and what came out, in one screen."""
    table = sdata["table"]
    n_test = int((table.obs["split"] == "test").sum())
    console.print(
        f"\n[bold]{source}[/bold]: trained on {', '.join(training)} ({int((table.obs['split'] == 'train').sum())} spots), "
        f"predicted {section} ({n_test} spots) from its image alone.\n"
        f"Embedding: morphology, {table.obsm['X_morphology'].shape[1]} features of 112 um patches and their surroundings."
    )
    wide = scores[scores["metric"].isin(["cc", "l1"])].pivot_table(
        index="cell_type", columns=["metric", "model"], values="value", aggfunc="mean", sort=False
    )
    models = list(dict.fromkeys(scores["model"]))
    grid = Table(title=f"Unseen section {section}: correlation (CC, higher is better) and absolute error (L1)")
    grid.add_column("cell type")
    for metric in ("cc", "l1"):
        for name in models:
            grid.add_column(f"{metric.upper()} {name}", justify="right")
    for cell_type, row in wide.iterrows():
        cells = [row.get((metric, name), float("nan")) for metric in ("cc", "l1") for name in models]
        grid.add_row(str(cell_type), *["-" if value != value else f"{value:.2f}" for value in cells])
    console.print(grid)
    console.print(
        f"Wrote spots.h5ad, scores.csv, abundance.png, patches.png, scores.png and history.png to {out}/ "
        f"in {seconds:.0f} s."
    )
