"""Reader of HEST-1k: sections of many platforms with their H&E slides, in one layout."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData, read_h5ad
from anndata.utils import make_index_unique
from scipy.sparse import csr_matrix

from histocell._core import keys
from histocell._core.arguments import as_names
from histocell._core.errors import listing, reading, warn
from histocell._core.geometry import check_mpp, mpp_from_pitch
from histocell._core.settings import logger, progress_bar
from histocell.images.slide_image import open_image
from histocell.io._counts import check_counts
from histocell.io.build import Placed, build, concatenate_sections, place, set_label
from histocell.tables.access import coordinates

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from histocell.images.slide_image import ImageSource

# Distance between neighbouring (pseudo-)spots in um where the metadata leave it out; legacy ST has several.
_PITCH_UM = {"Visium": 100.0, "Xenium": 100.0, "Visium HD": 128.0}
_LABELS = ("subseries", "organ", "disease_state", "oncotree_code", "species", "st_technology")
_SOURCE = ("dataset_title", "license", "study_link", "download_page_link1", "hest_version_added")
_DIFFERENT = 0.1  # resolutions that differ by more contradict each other


def hest(
    path: str | PathLike[str],
    sample: str | Sequence[str] | None = None,
    *,
    image: ImageSource | None = None,
    mpp: float | None = None,
) -> SpatialData:
    """Read samples of a HEST-1k folder.

    Parameters
    ----------
    path
        The folder, with ``st/<id>.h5ad``, ``metadata/<id>.json`` or ``HEST_*.csv`` and, if there, ``wsis/<id>.tif`` and
        ``patches/<id>.h5``.
    sample
        An id (``"TENX99"``) or several; may be left out where the folder holds one sample. Several come in one
        SpatialData, with elements ``he-<id>``, ``spots-<id>`` and one table; genes that a sample lacks are 0. Slides stay on
        disk, counts of all samples are in memory. :func:`histocell.datasets.hest_cohort` knows the samples of some studies.
    image
        The full-resolution slide of a single sample: a path or an array; by default ``wsis/<id>.tif``.
    mpp
        Micrometres per full-resolution px of a single sample; wins over everything else.

    Returns
    -------
    SpatialData: image ``he`` (where the slide is there), shapes ``spots``, ``table`` with counts (CSR, float32),
    ``obsm["spatial"]`` (centres x, y in full-resolution px), ``obs["mpp"]``, ``obs["section"]`` (the id),
    ``obs["patient"]`` and, where stated, ``obs["subseries"]`` (what the study calls the section), ``obs["organ"]``,
    ``obs["disease_state"]``, ``obs["oncotree_code"]``, ``obs["species"]``, ``obs["st_technology"]``. Licence and study of each sample are in the provenance. Bins of Xenium and
    Visium HD come as spots.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If several samples are there and none is named, or spots do not lie in the slide.

    Notes
    -----
    The resolution that the metadata estimate is compared with the distance between spots, which is known in um. Where they
    contradict each other, as in some Xenium samples, the distance between spots is taken, with a warning.

    Without the slide, :func:`histocell.pp.embed_patches` embeds the patches of ``patches/<id>.h5``.

    ``obs["patient"]`` is ``<study>: <patient>``, as studies number their patients alike. Where no patient is stated, it is
    the study: its sections might be of one patient.

    References
    ----------
    G. Jaume et al., HEST-1k: A dataset for spatial transcriptomics and histology image analysis, NeurIPS 2024,
    arXiv:2406.16192.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.io.hest("hest_data", ["TENX99", "TENX95"])  # doctest: +SKIP
    >>> sdata["table"].obs["section"].cat.categories.tolist()  # doctest: +SKIP
    ['TENX95', 'TENX99']
    """
    folder = Path(path).expanduser()
    names = _samples(folder, sample)
    if len(names) > 1 and (image is not None or mpp is not None):
        msg = f"image= and mpp= are for a single sample, not for {len(names)}; read them one by one"
        raise ValueError(msg)
    read = {name: _read(folder, name, image, mpp) for name in progress_bar(names, desc="Reading", unit="sample")}
    _report_slides(folder, {name: bool(sdata.images) for name, sdata in read.items()})
    if isinstance(sample, str) or sample is None:
        return read[names[0]]
    merged = concatenate_sections(read)
    sources = {name: keys.read_provenance(sdata.tables[keys.TABLE], "hest")[name] for name, sdata in read.items()}
    keys.write_provenance(merged.tables[keys.TABLE], "hest", **sources)
    return merged


def _samples(folder: Path, sample: str | Sequence[str] | None) -> list[str]:
    """Ids of the samples to read."""
    there = sorted(file.stem for file in (folder / "st").glob("*.h5ad"))
    if not there:
        found = listing(sorted(entry.name for entry in folder.iterdir())) if folder.is_dir() else "no such folder"
        msg = f"{folder} holds no st/<id>.h5ad, so it is no HEST-1k folder; it holds: {found}"
        raise FileNotFoundError(msg)
    if sample is None and len(there) > 1:
        msg = f"{folder} holds {len(there)} samples, name those to read: {listing(there)}"
        raise ValueError(msg)
    names = there if sample is None else as_names(sample)
    missing = [name for name in names if name not in there]
    if missing or not names or len(set(names)) < len(names):
        problem = f"has no st/{missing[0]}.h5ad" if missing else f"cannot give the samples {names}: name each once"
        msg = f"{folder} {problem}; samples there: {listing(there)}"
        raise FileNotFoundError(msg) if missing else ValueError(msg)
    return names


def _read(folder: Path, name: str, image: ImageSource | None, mpp: float | None) -> SpatialData:
    facts = _facts(folder, name)
    table, xy = _counts(folder / "st" / f"{name}.h5ad")
    study, patient = facts.get("dataset_title"), facts.get("patient")
    set_label(table, keys.SECTION, name)
    set_label(table, keys.PATIENT, ": ".join(part for part in (study, patient) if part) or name)
    for label in _LABELS:
        set_label(table, label, facts.get(label))
    slide = _slide(folder, name) if image is None else image
    sdata = build(table, [_place(xy, name, slide, facts, mpp)])
    source = {"dataset": "HEST-1k", **{key: facts[key] for key in _SOURCE if key in facts}}
    if (patches := folder / "patches" / f"{name}.h5").is_file():
        source["patches"] = str(patches.resolve())
    keys.write_provenance(sdata.tables[keys.TABLE], "hest", **{name: source})
    return sdata


def _counts(path: Path) -> tuple[AnnData, NDArray[np.float64]]:
    """Counts and centres of the spots."""
    with warnings.catch_warnings(), reading(path):
        warnings.filterwarnings("ignore", message="(Variable|Observation) names are not unique")  # both are seen to
        raw: Any = read_h5ad(path)
        counts = csr_matrix(raw.X, dtype=np.float32)
        genes = raw.var.set_axis(make_index_unique(pd.Index(raw.var_names.astype(str))))
        table = AnnData(X=counts, obs=raw.obs, var=genes)
    check_counts(counts, path)
    unusable = table.obs_names.duplicated() | table.obs_names.isna()
    if unusable.any():
        msg = f"{path}: each spot needs a name of its own; repeated or missing: {listing(table.obs_names[unusable], 3)}"
        raise ValueError(msg)
    try:
        return table, coordinates(raw)
    except (KeyError, ValueError) as error:
        msg = f"{path}: {error.args[0]}"
        raise type(error)(msg) from error


def _facts(folder: Path, name: str) -> dict[str, str]:
    """What the table of samples and the file of the sample say, as strings; blanks are left out."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("HEST_*.csv")):
        with reading(path):
            rows = pd.read_csv(path, encoding="utf-8-sig", dtype=str).set_index("id", drop=False)
        found |= {str(key): value for row in rows[rows["id"] == name].to_dict("records") for key, value in row.items()}
    if (path := folder / "metadata" / f"{name}.json").is_file():
        with reading(path):
            found |= {key: value for key, value in json.loads(path.read_text("utf-8")).items() if not _blank(value)}
    if not found:
        msg = f"nothing describes sample {name}: {folder} holds neither metadata/{name}.json nor a HEST_*.csv with its row"
        raise FileNotFoundError(msg)
    return {key: str(value) for key, value in found.items() if not _blank(value)}


def _blank(value: object) -> bool:
    return value is None or value != value or str(value).strip().lower() in {"", "nan"}


def _slide(folder: Path, name: str) -> Path | None:
    path = folder / "wsis" / f"{name}.tif"
    return path if path.is_file() else None


def _report_slides(folder: Path, has_slide: dict[str, bool]) -> None:
    """Say which samples have patches in place of a slide, and warn of those that have neither."""
    without = [name for name, has in has_slide.items() if not has]
    from_patches = [name for name in without if (folder / "patches" / f"{name}.h5").is_file()]
    file = without[0] if len(without) == 1 else "<id>"
    if from_patches:
        logger.info(
            "no slide (wsis/%s.tif) of %s; hc.pp.embed_patches embeds patches/%s.h5", file, listing(from_patches), file
        )
    if neither := [name for name in without if name not in from_patches]:
        who = f"{neither[0]} has" if len(has_slide) == 1 else f"{len(neither)} of {len(has_slide)} samples have"
        warn(
            f"{who} neither a slide (wsis/{file}.tif) nor patches (patches/{file}.h5) in {folder}"
            + ("; give image=" if len(has_slide) == 1 else f": {listing(neither, 6)}")
        )


def _place(
    xy: NDArray[np.float64], name: str, slide: ImageSource | None, facts: dict[str, str], mpp: float | None
) -> Placed:
    """Where the spots lie, at the resolution that fits their distance."""
    pitch_um = _number(facts, "inter_spot_dist") or _PITCH_UM.get(facts.get("st_technology", ""))
    pitch_mpp = mpp_from_pitch(xy, pitch_um) if pitch_um is not None and len(xy) > 1 else None
    stated = _number(facts, "pixel_size_um_estimated") or _number(facts, "pixel_size_um_embedded")
    source = "metadata"
    if stated is None and slide is not None and (opened := open_image(slide)).mpp is not None:
        stated, source = opened.mpp, opened.mpp_source
    if mpp is not None:
        chosen, source = check_mpp(mpp), "argument"
    elif stated is not None and (pitch_mpp is None or abs(stated / pitch_mpp - 1) <= _DIFFERENT):
        chosen = check_mpp(stated, source=f"the {source} of {name}")
    elif pitch_mpp is not None:
        chosen, source = pitch_mpp, "spot pitch"
        if stated is not None:
            warn(
                f"{name}: {stated:.4g} um per px by what is stated, but {pitch_mpp:.4g} by its spots, which lie "
                f"{pitch_um:g} um apart; going on with {pitch_mpp:.4g}. Give mpp= where this is wrong."
            )
    else:
        msg = f"the resolution of {name} is stated nowhere; give mpp= (um per full-resolution px)"
        raise ValueError(msg)
    diameter = _number(facts, "spot_diameter")
    return place(xy, name=name, image=slide, mpp=chosen, mpp_source=source, diameter_um=diameter)


def _number(facts: dict[str, str], key: str) -> float | None:
    """A positive number of the metadata; `None` where there is none."""
    try:
        value = float(facts.get(key, "nan"))
    except ValueError:
        return None
    return value if value > 0 else None
