"""Published sections and a slide, read from the data folder or downloaded into it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from histocell._core import keys
from histocell._core.arguments import as_names
from histocell._core.errors import listing, warn
from histocell._core.settings import settings
from histocell.io import st
from histocell.io.build import concatenate_sections
from histocell.tables.units import PROPORTION

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from spatialdata import SpatialData

SECTIONS = tuple(
    f"{patient}{number}"
    for patient, n_sections in zip("ABCDEFGH", (6, 6, 6, 6, 3, 3, 3, 3), strict=True)
    for number in range(1, n_sections + 1)
)
_TABLES = "https://raw.githubusercontent.com/almaan/her2st/e75e5c53a994726a8ad251aaf653a02d7932eb6a"
_FILES = "https://raw.githubusercontent.com/almaan/her2st/9f2260c6aa8347996955d53f0a5f06ac14c93470/data"
_PROPORTIONS = {"major": "W.2020-03-04130406.862404.tsv.gz", "minor": "W.2020-03-05042117.377259.tsv.gz"}
_LABELLED = ("A1", "B1", "C1", "D1", "E1", "F1", "G2", "H1")
_IMAGES = {  # the images of the repository; all are in doi:10.5281/zenodo.3957257
    "B4": "B/B4/BT10737_D2_HE.jpg",
    "C2": "C/C2/5714_HE_BT_C2.jpg",
    "C3": "C/C3/5714_HE_BT_D1.jpg",
    "C4": "C/C4/5714_HE_BT_D2.jpg",
    "C5": "C/C5/5714_HE_BT_E1.jpg",
    "C6": "C/C6/5714_HE_BT_E2.jpg",
}
_LABELS = "pathologist_labels.tsv"
_SLIDE = "https://openslide.cs.cmu.edu/download/openslide-testdata/Aperio/CMU-1-Small-Region.svs"
_SLIDE_SHA256 = "ed92d5a9f2e86df67640d6f92ce3e231419ce127131697fbbce42ad5e002c8a7"


def her2st(section: str | Sequence[str] = "C2", *, tier: str = "major") -> SpatialData:
    """HER2-positive breast cancer, legacy Spatial Transcriptomics with H&E: 36 sections of 8 patients.

    Parameters
    ----------
    section
        A section (``"C2"``: patient C, section 2), or several. Several come in one SpatialData, with elements
        ``he-C2``, ``spots-C2``, ``he-C3`` ... and one table; genes that a section lacks are 0.
    tier
        Cell types of the abundances: ``"major"`` (8) or ``"minor"`` (22).

    Returns
    -------
    SpatialData: image ``he`` (where there is one), shapes ``spots``, ``table`` with raw counts,
    ``obs["section"]``, ``obs["patient"]``, ``obs["mpp"]``, ``obs["pathologist"]`` where a pathologist labelled the
    section, ``obsm["spatial"]`` and ``obsm["cell_abundance"]``: the published proportions (stereoscope), rows sum to 1.

    Raises
    ------
    ValueError
        If there is no such section or tier.
    ConnectionError
        If the section is not in the data folder and cannot be downloaded.

    Notes
    -----
    A section is looked for in ``hc.settings.data_dir / "her2st" / section`` (the environment variable
    ``HISTOCELL_DATA_DIR``) and else downloaded into it, about 5 MB. Only sections B4 and C2-C6 have an image there; for
    another one put it into the folder as ``he.jpg``. Images are decoded when pixels are asked for.

    References
    ----------
    A. Andersson et al., Spatial deconvolution of HER2-positive breast cancer delineates tumor-associated cell type
    interactions, Nature Communications 12, 6012 (2021), doi:10.1038/s41467-021-26271-2. Data doi:10.5281/zenodo.3957257.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.her2st(["C2", "C3"])  # doctest: +SKIP
    >>> sdata["table"].obs["section"].cat.categories.tolist()  # doctest: +SKIP
    ['C2', 'C3']
    """
    if tier not in _PROPORTIONS:
        msg = f"tier {tier!r} does not exist; available: {listing(_PROPORTIONS)}"
        raise ValueError(msg)
    names = as_names(section)
    check_sections(names)
    read = {name: _read(name, tier) for name in names}
    return read[section] if isinstance(section, str) else concatenate_sections(read)


def check_sections(names: Sequence[str]) -> None:
    """A `ValueError` where names are not different sections of her2st."""
    unknown = [name for name in names if name not in SECTIONS]
    if unknown or not names or len(set(names)) < len(names):
        problem = (
            f"there is no section {listing(unknown)}" if unknown else f"sections {listing(names)}: name each one once"
        )
        msg = f"{problem}; her2st has {listing(SECTIONS, len(SECTIONS))}"
        raise ValueError(msg)


def example_slide() -> Path:
    """A small real slide: H&E, Aperio, 2220 x 2967 px of 0.499 um, 1.9 MB.

    Returns
    -------
    The file, for :func:`histocell.io.slide`.

    Raises
    ------
    ConnectionError
        If the slide is not in the data folder and cannot be downloaded.

    Notes
    -----
    The slide is looked for in ``hc.settings.data_dir / "slides"`` (the environment variable ``HISTOCELL_DATA_DIR``) and
    else downloaded into it. It is ``CMU-1-Small-Region.svs`` of the OpenSlide test data, in the public domain (CC0).

    References
    ----------
    https://openslide.cs.cmu.edu/download/openslide-testdata/Aperio/

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.io.slide(hc.datasets.example_slide())  # doctest: +SKIP
    """
    path = settings.data_dir / "slides" / "CMU-1-Small-Region.svs"
    _download(_SLIDE, path, known_hash=f"sha256:{_SLIDE_SHA256}")
    return path


def _read(section: str, tier: str) -> SpatialData:
    folder = _folder(section, tier)
    sdata = st(folder, section=section, patient=section[0])
    table = sdata.tables[keys.TABLE]
    _add_proportions(table, folder, tier)
    if (labels := folder / _LABELS).is_file():
        _add_labels(table, labels)
    return sdata


def _proportions_file(folder: Path, tier: str) -> Path:
    plain = folder / f"props_{tier}.tsv"
    return plain if plain.is_file() else plain.with_suffix(".tsv.gz")


def _add_proportions(table: AnnData, folder: Path, tier: str) -> None:
    """Published proportions into ``obsm``, joined by the name of the spot."""
    path = _proportions_file(folder, tier)
    proportions = pd.read_csv(path, sep="\t", index_col=0)
    absent = table.obs_names.difference(proportions.index)
    if len(absent):
        msg = f"{path} lacks {len(absent)} spots of the counts: {listing(absent, 5)}"
        raise ValueError(msg)
    names, originals = keys.safe_names(name.strip() for name in proportions.columns)
    proportions = proportions.loc[table.obs_names].astype("float64").set_axis(names, axis="columns")
    table.obsm[keys.ABUNDANCE] = proportions
    keys.write_provenance(
        table,
        keys.ABUNDANCE,
        method="stereoscope",
        source="almaan/her2st",
        tier=tier,
        unit=PROPORTION,
        original_names=originals,
    )


def _add_labels(table: AnnData, path: Path) -> None:
    """The pathologist's label of each spot; their table names spots by fractional places in the grid."""
    labels = pd.read_csv(path, sep="\t").dropna(subset=["x", "y"])
    places = labels[["x", "y"]].round().astype(int).astype(str)
    labels.index = pd.Index(places["x"] + "x" + places["y"])
    labels = labels[~labels.index.duplicated()]
    found = labels["label"].reindex(table.obs_names)
    if found.isna().mean() > 0.1:
        warn(f"{path}: no label for {int(found.isna().sum())} of {table.n_obs} spots")
    table.obs["pathologist"] = found.astype("category")


def _folder(section: str, tier: str) -> Path:
    """The folder of a section, its files downloaded where they are not there."""
    folder = settings.data_dir / "her2st" / section
    here = (folder / "counts.tsv.gz").is_file() or (folder / "counts.tsv").is_file()
    if not here:
        _download(f"{_TABLES}/data/ST-cnts/{section}.tsv.gz", folder / "counts.tsv.gz")
        _download(f"{_FILES}/ST-spotfiles/{section}_selection.tsv", folder / "selection.tsv")
        if section in _LABELLED:
            _download(f"{_FILES}/ST-pat/lbl/{section}_labeled_coordinates.tsv", folder / _LABELS)
        if section in _IMAGES:
            _download(f"{_FILES}/ST-imgs/{_IMAGES[section]}", folder / "he.jpg")
    proportions = _proportions_file(folder, tier)
    if not proportions.is_file():
        _download(f"{_TABLES}/res/ST-deconv/props/{tier}/{section}/{_PROPORTIONS[tier]}", proportions)
    return folder


def _download(url: str, path: Path, *, known_hash: str | None = None) -> None:
    """Fetch a file once. What is behind an address does not change: it names a commit, or the file has a known hash."""
    import pooch

    if path.is_file():
        return
    progress = settings.progress and path.suffix == ".jpg"
    try:
        pooch.retrieve(
            url,
            known_hash=known_hash,
            fname=path.name,
            path=path.parent,
            downloader=pooch.HTTPDownloader(progressbar=progress),
        )
    except (OSError, ValueError) as error:  # the errors of requests are OSErrors; another hash is a ValueError
        msg = (
            f"{path} is not there and {url} cannot be downloaded ({error}). Put the file there by hand, or set "
            f"HISTOCELL_DATA_DIR (hc.settings.data_dir) to a folder that holds {path.relative_to(settings.data_dir).parts[0]}/"
        )
        raise ConnectionError(msg) from error
