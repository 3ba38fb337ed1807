"""The commands, thin over the library, which they import where they run: help and wrong arguments need not wait."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import histocell as hc
from histocell._core.arguments import check_positive, check_share
from histocell._core.device import pick_device
from histocell._core.errors import listing
from histocell._core.geometry import check_mpp
from histocell.cli.console import console, encoder_facts, encoder_table, in_options, report_slides, sentences

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import distributed
    import pandas as pd

app = typer.Typer(
    help="From an H&E image to the cells in it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Slides = Annotated[list[Path], typer.Argument(help="Slides: JPEG, PNG, TIFF, OME-TIFF, SVS.", metavar="SLIDE...")]
Overlap = Annotated[float, typer.Option(help="Share of the edge that neighbouring tiles have in common.")]
MinTissue = Annotated[float, typer.Option(help="Least share of tissue in a tile.")]
Mpp = Annotated[float | None, typer.Option(help="Um per px, where the slides do not say it.")]
Weights = Annotated[str | None, typer.Option(help="File or folder of weights, or `random`.")]
Precision = Annotated[Literal["auto", "fp32", "bf16", "fp16"], typer.Option(help="Numbers to compute with.")]
Device = Annotated[str | None, typer.Option(help="Torch device: cpu, cuda, cuda:1.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Tiles computed together; found by itself.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that share the slides.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Do slides anew that are done.")]


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
    rng: Annotated[int, typer.Option(min=0, help="Seed.")] = 0,
) -> None:
    """Embed, train, predict an unseen patient, score it, draw it.

    Runs on synthetic tissue, or with --section and --train on sections of the her2st breast cancer data set.
    """
    from histocell.cli.demo import run_demo
    from histocell.datasets.download import check_sections
    from histocell.models.registry import make_model

    training = [*(train or []), *(more or [])]
    if (section is None) != (not training):
        msg = "--section and --train go together: --section B4 --train C2 C3 C4"
        raise typer.BadParameter(msg)
    if section in training:
        msg = f"section {section} is both predicted and trained on"
        raise typer.BadParameter(msg)
    with sentences(("section", "train", "model", "out", "rng")):
        make_model(model, {}, "abundance")  # an unknown name is an error now, not after the embedding
        if section is not None:
            check_sections([section, *training])
        check_folder(out)
        run_demo(section, training, model=model, rng=rng, out=out)


@app.command()
def embed(
    slides: Slides,
    out: Annotated[Path, typer.Option(help="Folder for the results, <slide>.zarr.")],
    encoder: Annotated[
        str, typer.Option(help="Name of an encoder, as `histocell encoders` lists them, or folder of an adapter.")
    ] = "morphology",
    size_um: Annotated[float, typer.Option(help="Edge of a tile in um.")] = 112.0,
    overlap: Overlap = 0.0,
    min_tissue: MinTissue = 0.3,
    mpp: Mpp = None,
    weights: Weights = None,
    stain: Annotated[
        Literal["macenko", "reinhard", "vahadane"] | None, typer.Option(help="Normalise the stain of each slide.")
    ] = None,
    pool: Annotated[str | None, typer.Option(help="Definition of the embedding: cls, mean, cls_mean.")] = None,
    precision: Precision = "auto",
    device: Device = None,
    batch_size: BatchSize = None,
    workers: Workers = 1,
    overwrite: Overwrite = False,
) -> None:
    """Tile and embed slides, into one SpatialData each. Started again, it goes on where it was."""
    run_slides(hc.pp.embed_cohort, **locals())


@app.command()
def predict(
    slides: Slides,
    model: Annotated[Path, typer.Option(help="Folder of a fitted model: hc.models.load(sdata).save(folder).")],
    out: Annotated[Path, typer.Option(help="Folder for <slide>.zarr, <slide>.png and means.csv.")],
    adapter: Annotated[
        Path | None, typer.Option(help="Folder of the adapter of the model's encoder, where it was tuned.")
    ] = None,
    overlap: Overlap = 0.0,
    min_tissue: MinTissue = 0.3,
    mpp: Mpp = None,
    weights: Weights = None,
    precision: Precision = "auto",
    device: Device = None,
    batch_size: BatchSize = None,
    workers: Workers = 1,
    overwrite: Overwrite = False,
) -> None:
    """Predict cell abundances on slides, tiled and embedded as the model needs it. Started again, it goes on where it was."""
    options = locals()
    from histocell.cli.predict import predict_slides

    run_slides(predict_slides, **options)


def run_slides(
    work: Callable[..., pd.DataFrame], *, slides: list[Path], out: Path, workers: int, **options: object
) -> None:
    """Embed or predict slides with the options of the command, and print the report."""
    names = ("out", "workers", *options)
    with sentences(names):
        check_slides(slides)
        check_folder(out)
        check_options(options)
    with sentences(names), local_client(min(workers, len(slides))) as client:
        report = work(slides, out=out, client=client, **options)
    report["error"] = [in_options(error, names) for error in report["error"]]
    report_slides(report, out)


def check_slides(slides: list[Path]) -> None:
    """An error where a slide is not there or is a folder; the images themselves are looked at one by one."""
    if absent := [slide for slide in slides if not slide.exists()]:
        msg = f"no such slide: {listing(absent, 3)} (the current folder is {Path.cwd()})"
        raise FileNotFoundError(msg)
    if folders := [slide for slide in slides if slide.is_dir() and slide.suffix != ".mrxs"]:
        msg = f"{listing(folders, 3)} is a folder, not a slide; name the files in it: {folders[0]}/*.svs"
        raise IsADirectoryError(msg)


def check_folder(out: Path) -> None:
    """An error where no results can be written; a folder that is not there is not made yet."""
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        why = "cannot be written" if there.is_dir() else "is a file, not a folder"
        msg = f"--out {out}: {there} {why}; choose another folder"
        raise NotADirectoryError(msg) if not there.is_dir() else PermissionError(msg)


def check_options(options: Mapping[str, Any]) -> None:
    """An error for numbers and devices that no slide could be embedded with."""
    if options.get("size_um") is not None:
        check_positive(options["size_um"], "--size-um")
    check_share(options["overlap"], "--overlap", ends="[)")
    check_share(options["min_tissue"], "--min-tissue")
    if options["mpp"] is not None:
        check_mpp(options["mpp"], source="--mpp")
    if options["device"] is not None:
        pick_device(options["device"])


@contextmanager
def local_client(n: int) -> Iterator[distributed.Client | None]:
    """Worker processes on this machine; none for one."""
    if n == 1:
        yield None
        return
    from distributed import Client, LocalCluster

    threads = str(max(1, (os.cpu_count() or 1) // n))  # dask gives a worker one otherwise
    network = {"host": "127.0.0.1", "dashboard_address": None}
    workers = {"n_workers": n, "threads_per_worker": 1, "memory_limit": 0, "env": {"OMP_NUM_THREADS": threads}}
    with LocalCluster(**workers, **network) as cluster, Client(cluster) as client:
        yield client


@app.command()
def encoders(
    name: Annotated[str | None, typer.Argument(help="All that is known of this one.", metavar="[NAME]")] = None,
) -> None:
    """List the encoders, or show one and how to get its weights."""
    with sentences(("name",)):
        console.print(encoder_table() if name is None else encoder_facts(hc.encoders.get_spec(name)))
    if name is None:
        console.print(
            'Any model of timm works, too, as "timm/<model>"; `histocell encoders NAME` says more.', markup=False
        )
