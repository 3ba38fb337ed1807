"""The command line: ``histocell demo``, ``histocell embed`` and ``histocell encoders``."""

from __future__ import annotations

import os
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

import histocell as hc

if TYPE_CHECKING:
    from collections.abc import Callable

    import distributed
    import pandas as pd
    from spatialdata import SpatialData

    from histocell.encoders import EncoderSpec

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


@app.command()
def embed(
    slides: Annotated[list[Path], typer.Argument(help="Slides: JPEG, PNG, TIFF, OME-TIFF, SVS.", metavar="SLIDE...")],
    out: Annotated[Path, typer.Option(help="Folder for the results, <slide>.zarr.")],
    encoder: Annotated[str, typer.Option(help="Name of an encoder; `histocell encoders` lists them.")] = "morphology",
    size_um: Annotated[float, typer.Option(help="Edge of a tile in um.")] = 112.0,
    overlap: Annotated[float, typer.Option(help="Share of the edge that neighbouring tiles have in common.")] = 0.0,
    min_tissue: Annotated[float, typer.Option(help="Least share of tissue in a tile.")] = 0.3,
    mpp: Annotated[float | None, typer.Option(help="Um per px, where the slides do not say it.")] = None,
    weights: Annotated[str | None, typer.Option(help="File or folder of weights, or `random`.")] = None,
    stain: Annotated[
        Literal["macenko", "reinhard", "vahadane"] | None, typer.Option(help="Normalise the stain of each slide.")
    ] = None,
    pool: Annotated[str | None, typer.Option(help="Definition of the embedding: cls, mean, cls_mean.")] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    device: Annotated[str | None, typer.Option(help="Torch device: cpu, cuda, cuda:1.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Tiles computed together; found by itself.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the slides.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do slides anew that are done.")] = False,
) -> None:
    """Tile and embed slides, into one SpatialData each. Started again, it goes on where it was."""
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.showwarning = show_warning  # type: ignore[assignment]
        warnings.filterwarnings("ignore", r"\d+ of \d+ slides failed")  # the table says so
        try:
            done = hc.pp.embed_cohort(
                slides,
                encoder,
                out=out,
                size_um=size_um,
                overlap=overlap,
                min_tissue=min_tissue,
                mpp=mpp,
                weights=weights,
                pool=pool,
                stain=stain,
                precision=precision,
                batch_size=batch_size,
                device=device,
                client=local_client(min(workers, len(slides)), stack) if workers > 1 else None,
                overwrite=overwrite,
            )
        except (ValueError, LookupError, OSError, ImportError) as error:
            stop(error)
    grid = Table("slide", "status", "tiles", "seconds", "error")
    for row in done.to_dict("records"):
        grid.add_row(
            Path(row["path"]).name, row["status"], str(row["n_tiles"]), f"{row['seconds']:.1f}", escape(row["error"])
        )
    console.print(grid)
    failed = int((done["status"] == "failed").sum())
    console.print(f"{len(done) - failed} of {len(done)} slides are in {out}/.")
    if failed:
        raise typer.Exit(1)


def local_client(n: int, stack: ExitStack) -> distributed.Client:
    """Worker processes on this machine, which end with the stack."""
    from distributed import Client, LocalCluster

    threads = str(max(1, (os.cpu_count() or 1) // n))  # dask gives a worker one otherwise
    cluster = LocalCluster(
        n_workers=n,
        threads_per_worker=1,
        memory_limit=0,
        host="127.0.0.1",
        dashboard_address=None,
        env={"OMP_NUM_THREADS": threads},
    )
    return stack.enter_context(Client(stack.enter_context(cluster)))


def stop(error: Exception) -> NoReturn:
    """Say what is wrong, without the lines of code, and exit."""
    text = error.args[0] if isinstance(error, LookupError) and error.args else error  # str(KeyError) is quoted
    console.print(f"Error: {text}", markup=False)
    raise typer.Exit(2) from error


@app.command()
def encoders(
    name: Annotated[str | None, typer.Argument(help="All that is known of this one.", metavar="[NAME]")] = None,
) -> None:
    """List the encoders, or show one and how to get its weights."""
    if name is None:
        grid = Table(
            Column("name", no_wrap=True),
            "dim",
            "um/px",
            "px",
            "commercial",
            "gated",
            Column("licence", overflow="fold"),
        )
        for key in hc.encoders.list_encoders().index:
            spec = hc.encoders.get_spec(key)
            grid.add_row(
                spec.name,
                str(spec.dim or ""),
                f"{spec.mpp:g}",
                str(spec.input_px),
                yes_no(spec.commercial),
                yes_no(spec.gated),
                spec.license,
            )
        console.print(grid)
        console.print(
            'Any model of timm works, too, as "timm/<model>"; `histocell encoders NAME` says more.', markup=False
        )
        return
    try:
        spec = hc.encoders.get_spec(name)
    except (LookupError, ImportError) as error:
        stop(error)
    facts = {
        "what": spec.summary,
        "embedding": f"{spec.dim or ''} {spec.pooling}".strip(),
        "input": f"{spec.input_px} px of {spec.mpp:g} um ({spec.input_px * spec.mpp:g} um)",
        "tokens": f"{spec.grid[0]} x {spec.grid[1]} of {spec.patch_px} px" if spec.grid else "none",
        "parameters": f"{spec.params:g} million" if spec.params else "",
        "precision": spec.precision,
        "licence": spec.license,
        "commercial use": yes_no(spec.commercial),
        "publication": spec.citation,
        "weights": where_weights(spec),
    }
    grid = Table(show_header=False, title=spec.name)
    for fact, value in facts.items():
        if value.strip():
            grid.add_row(fact, value)
    console.print(grid)


def yes_no(value: bool | None) -> str:
    """A fact that may not be known."""
    return {True: "yes", False: "no", None: "not known"}[value]


def where_weights(spec: EncoderSpec) -> str:
    """How to get the weights."""
    if spec.library == "builtin":
        return "none needed"
    if not spec.hub_id:
        return "downloaded by the library on first use, or --weights FILE"
    page = f"https://huggingface.co/{spec.hub_id}"
    if spec.gated:
        return f"ask for access at {page}, then run `hf auth login` or set HF_TOKEN; or --weights FILE"
    return f"downloaded from {page} on first use; without a network --weights FILE"
