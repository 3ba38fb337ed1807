"""The demonstration: embed, train, predict an unseen section, score and draw it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.table import Table

import histocell as hc
from histocell._core.outputs import check_outputs, make_folder, replacing
from histocell.cli.console import console

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from spatialdata import SpatialData

FIGURES = ("abundance", "patches", "scores", "history")
RESULTS = ("spots.h5ad", "scores.csv", *(f"{name}.png" for name in FIGURES))


def run_demo(section: str | None, training: list[str], *, model: str, rng: int, out: Path) -> None:
    """Train on sections of her2st and predict another one, or do so on synthetic tissue where none is named.

    Raises
    ------
    FileExistsError
        When `out` holds a file of the user's under the name of a result.
    """
    start = time.perf_counter()
    make_folder(out)
    check_outputs(out / name for name in RESULTS)
    if section is None:
        with console.status("rendering synthetic tissue"):
            sdata = hc.datasets.synthetic_tissue(4, n_patients=4, rng=rng)
        *training, section = sdata["table"].obs["section"].cat.categories
        source = "synthetic tissue"
    else:
        sdata = hc.datasets.her2st([*training, section])
        source = "her2st (Andersson et al. 2021)"
    hc.pp.patches(sdata, size_um=112)
    hc.pp.embed_image(sdata, "morphology")
    hc.pp.split(sdata, by="section", test=[section])
    hc.tl.fit_abundance(sdata, "X_morphology", model=model, rng=rng)
    hc.tl.predict_abundance(sdata)
    hc.tl.evaluate_abundance(sdata, rng=rng)
    scores = hc.get.scores(sdata)
    write_results(sdata, scores, section, out, rng=rng)
    n_spots = sdata["table"].obs["split"].value_counts()
    console.print(
        f"\n[bold]{source}[/bold]: trained on {', '.join(training)} ({n_spots['train']} spots), "
        f"predicted {section} ({n_spots['test']} spots) from its image alone.\n"
        f"Embedding: morphology, {sdata['table'].obsm['X_morphology'].shape[1]} features of 112 um patches and their "
        "surroundings."
    )
    console.print(score_table(scores, section))
    console.print(
        f"Wrote {', '.join(RESULTS[:-1])} and {RESULTS[-1]} to {out}/ in {time.perf_counter() - start:.0f} s."
    )


def write_results(sdata: SpatialData, scores: pd.DataFrame, section: str, out: Path, *, rng: int) -> None:
    """The table, the scores and the figures, each as a whole."""
    import matplotlib.pyplot as plt

    with replacing(out / "spots.h5ad") as file:
        sdata["table"].write_h5ad(file)
    with replacing(out / "scores.csv") as file:
        scores.to_csv(file, index=False)
    one: dict[str, Any] = {"section": section}
    for name, options in zip(FIGURES, (one, {**one, "rng": rng}, {}, {}), strict=True):
        getattr(hc.pl, name)(sdata, show=False, **options)
        with replacing(out / f"{name}.png") as file:
            plt.savefig(file, dpi=150, bbox_inches="tight")
        plt.close()


def score_table(scores: pd.DataFrame, section: str) -> Table:
    """Correlation and absolute error of each cell type by model."""
    wide = scores[scores["metric"].isin(["cc", "l1"])].pivot_table(
        index="cell_type", columns=["metric", "model"], values="value", aggfunc="mean", sort=False
    )
    columns = [(metric, model) for metric in ("cc", "l1") for model in dict.fromkeys(scores["model"])]
    grid = Table(title=f"Unseen section {section}: correlation (CC, higher is better) and absolute error (L1)")
    grid.add_column("cell type")
    for metric, model in columns:
        grid.add_column(f"{metric.upper()} {model}", justify="right")
    for cell_type, row in wide.reindex(columns=columns).iterrows():
        grid.add_row(str(cell_type), *["-" if value != value else f"{value:.2f}" for value in row])
    return grid
