"""Tasks in the folder layout of HEST-Bench: splits, genes, patches, expression, and embeddings beside them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from anndata import read_h5ad

from histocell._core import keys
from histocell._core.errors import listing, reading
from histocell._core.outputs import file_digest
from histocell.bench.probing.problem import Fold, Problem, Sample
from histocell.encoders.inference.slides import check_finite, definition, describe
from histocell.encoders.inference.store import FeatureStore
from histocell.encoders.loading import encode
from histocell.tables.expression import GenePanel, read_expression

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import h5py

    from histocell.encoders.spec import Encoder

    type Source = Path | Encoder  # a folder of embeddings, or what computes them

_GENES = "var_50genes.json"
_COLUMNS = ("sample_id", "patches_path", "expr_path")
_EMBEDDINGS = ("embeddings", "features", "embedding")
_BARCODES = ("barcodes", "barcode")
_PATCHES = 512  # read and embedded at once


class Files(NamedTuple):
    """Patches and expression of a sample."""

    patches: Path
    expression: Path


def hest_problems(
    folder: Path,
    sources: Mapping[str, Source],
    *,
    tasks: Sequence[str] | None,
    genes: Sequence[str] | None,
    store: Path | None,
) -> list[Problem]:
    """The tasks of a folder: one, or one for each folder in it that has splits; what encoders embed goes to `store`.

    Raises
    ------
    FileNotFoundError
        When there is no task, or a file of one is missing.
    """
    found = {path.parent.name: path.parent for path in sorted(folder.glob("*/splits"))}
    if (folder / "splits").is_dir():
        found = {folder.resolve().name: folder}
    if not found:
        there = listing(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else "no such folder"
        msg = (
            f"no task in {folder} ({there}): a task of HEST-Bench is a folder with splits/train_0.csv, splits/test_0.csv, "
            f"{_GENES} and the files that they name"
        )
        raise FileNotFoundError(msg)
    if absent := [name for name in tasks or () if name not in found]:
        msg = f"tasks {listing(absent)} are not in {folder}; there are {listing(found)}"
        raise FileNotFoundError(msg)
    return [_problem(name, found[name], sources, genes, store) for name in tasks or found]


def _problem(
    name: str, folder: Path, sources: Mapping[str, Source], genes: Sequence[str] | None, store: Path | None
) -> Problem:
    panel = GenePanel(list(genes) if genes is not None else _genes(folder), scale="log1p")
    files: dict[str, Files] = {}
    folds: list[tuple[int, list[str], list[str]]] = []
    numbers = sorted(int(path.stem.removeprefix("train_")) for path in (folder / "splits").glob("train_*.csv"))
    if not numbers:
        msg = f"{folder / 'splits'} holds no train_<i>.csv"
        raise FileNotFoundError(msg)
    for number in numbers:
        train, test = (_side(folder, f"{side}_{number}.csv", files) for side in ("train", "test"))
        folds.append((number, train, test))
    names = list(files)
    for sample, paths in files.items():
        for path in paths:
            if not path.is_file():
                msg = f"sample {sample!r} of {name!r} needs {path}, which is not there"
                raise FileNotFoundError(msg)
    named = [
        Fold(
            test[0] if len(test) == 1 else f"fold {number}",
            [names.index(s) for s in train],
            [names.index(s) for s in test],
        )
        for number, train, test in folds
    ]
    if len({fold.name for fold in named}) < len(named):
        named = [fold._replace(name=f"fold {number}") for fold, (number, *_) in zip(named, folds, strict=True)]
    read = partial(_read, name, names, files, panel, sources, store)
    return Problem(name, panel.genes, names, named, read)


def _genes(folder: Path) -> list[str]:
    path = folder / _GENES
    if not path.is_file():
        msg = f'{path} not found: it lists the genes of the task, {{"genes": [...]}}; or give genes='
        raise FileNotFoundError(msg)
    with reading(path, "the list of genes"):
        content = json.loads(path.read_text(encoding="utf-8"))
    genes = content.get("genes") if isinstance(content, dict) else content
    if not isinstance(genes, list) or not genes or not all(isinstance(gene, str) for gene in genes):
        msg = f'{path} must be {{"genes": [names]}}, not {str(content)[:80]}'
        raise ValueError(msg)
    return genes


def _side(folder: Path, name: str, files: dict[str, Files]) -> list[str]:
    """Samples of one side of a fold; their files go to `files`."""
    path = folder / "splits" / name
    if not path.is_file():
        msg = f"{path} not found; every train_<i>.csv has its test_<i>.csv"
        raise FileNotFoundError(msg)
    table = pd.read_csv(path, dtype=str)
    if absent := [column for column in _COLUMNS if column not in table]:
        msg = f"{path} has no column {listing(absent)}; it has {listing(table)}"
        raise ValueError(msg)
    for row in table.to_dict("records"):
        files[row["sample_id"]] = Files(folder / row["patches_path"], folder / row["expr_path"])
    return list(dict.fromkeys(table["sample_id"]))


def _read(
    task: str,
    names: Sequence[str],
    files: Mapping[str, Files],
    panel: GenePanel,
    sources: Mapping[str, Source],
    store: Path | None,
    i: int,
) -> Sample:
    sample = names[i]
    stores: dict[str, Path | None] = dict.fromkeys(sources)
    if store is not None:
        folders = dict(zip(sources, keys.safe_keys(sources), strict=True))
        stores = {name: store / folders[name] / keys.safe_key(task) / keys.safe_key(sample) for name in sources}
    with _open(files[sample].patches, "the file of patches") as patches:
        barcodes, order = _barcodes(patches, files[sample].patches), _order(patches)
        features = {
            name: _embed(patches, source, stores[name])
            if not isinstance(source, Path)
            else _stored(source, name, task, sample, barcodes)
            for name, source in sources.items()
        }
    with reading(files[sample].expression, "the table of expression"):
        table = read_h5ad(files[sample].expression)
    positions = pd.Index(table.obs_names).get_indexer(pd.Index(barcodes))
    if absent := int((positions < 0).sum()):
        msg = (
            f"{absent} of the {len(barcodes)} barcodes of the patches of {sample!r} are not in {files[sample].expression.name} "
            f"(such as {barcodes[int(np.argmin(positions))]!r}; it has {listing(table.obs_names, 3)})"
        )
        raise ValueError(msg)
    targets = read_expression(table, panel, rows=positions, where=f"sample {sample!r}")
    return Sample(features, targets.astype(np.float64), order)


def _open(path: Path, what: str) -> h5py.File:
    import h5py

    with reading(path, what):
        return h5py.File(path)


def _barcodes(file: h5py.File, path: Path) -> list[str]:
    key = next((key for key in _BARCODES if key in file), None)
    if key is None:
        msg = f"{path} has no barcodes ({listing(file)}), so its rows cannot be matched"
        raise ValueError(msg)
    found = [each.decode() if isinstance(each, bytes) else str(each) for each in np.ravel(file[key][:])]
    if len(set(found)) < len(found):
        msg = f"{path} has {len(found) - len(set(found))} barcodes more than once"
        raise ValueError(msg)
    return found


def _order(file: h5py.File) -> np.ndarray:
    """Position of each patch along the wider side of the sample."""
    if "coords" not in file:
        return np.arange(len(np.ravel(file[next(key for key in _BARCODES if key in file)])))
    xy = np.asarray(file["coords"][:], dtype=np.float64)
    return xy[:, np.argmax(np.ptp(xy, axis=0))]


def _embed(file: h5py.File, encoder: Encoder, store: Path | None) -> np.ndarray:
    """Embeddings of all patches of a file; those that the store holds already are not computed again."""
    images = file["img"]
    if store is None:
        starts = range(0, len(images), _PATCHES)
        return np.concatenate([encode(encoder, images[start : start + _PATCHES]) for start in starts])
    facts = {**describe(encoder), "definition": definition(encoder.spec), "patches": file_digest(Path(file.filename))}
    with FeatureStore.open(store, shape=(len(images), encoder.dim), chunk_rows=_PATCHES, manifest=facts) as on_disk:
        for chunk in list(on_disk.todo):
            on_disk.write(chunk, check_finite(encode(encoder, images[on_disk.rows(chunk)]), encoder))
    return np.asarray(on_disk.lazy())


def _stored(folder: Path, encoder: str, task: str, sample: str, barcodes: Sequence[str]) -> np.ndarray:
    """Embeddings of a sample in the order of `barcodes`."""
    tried = [folder / f"{sample}.h5", folder / task / f"{sample}.h5"]
    tried += sorted((folder / task).glob(f"{encoder}/*/{sample}.h5"))
    path = next((path for path in tried if path.is_file()), None)
    if path is None:
        msg = f"no embeddings of {encoder!r} for sample {sample!r} of {task!r}: looked for {listing(tried)}"
        raise FileNotFoundError(msg)
    with _open(path, "the file of embeddings") as file:
        key = next((key for key in _EMBEDDINGS if key in file), None)
        if key is None:
            msg = f"{path} has none of {listing(_EMBEDDINGS)}; it has {listing(file)}"
            raise ValueError(msg)
        values, known = np.asarray(file[key][:]), _barcodes(file, path)
    if len(values) != len(known):
        msg = f"{path} has {len(values)} embeddings and {len(known)} barcodes"
        raise ValueError(msg)
    rows = pd.Index(known).get_indexer(pd.Index(barcodes))
    if absent := int((rows < 0).sum()):
        msg = f"{path} has no embedding of {absent} of the {len(barcodes)} patches of sample {sample!r} (such as {barcodes[int(np.argmin(rows))]!r})"
        raise ValueError(msg)
    return values[rows]
