"""Cohorts of HEST-1k by name: the samples of a study, read together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from histocell._core import keys
from histocell._core.errors import listing, warn
from histocell._core.settings import logger, settings
from histocell.io import hest

if TYPE_CHECKING:
    from os import PathLike

    from anndata import AnnData
    from spatialdata import SpatialData


class Cohort(NamedTuple):
    """A study in HEST-1k.

    Attributes
    ----------
    first, last
        Numbers of its first and last sample, ``SPA<number>``.
    n_patients, n_spots
        What HEST-1k 1.1.0 lists for it.
    patterns
        The samples as patterns of file names.
    """

    first: int
    last: int
    n_patients: int
    n_spots: int
    patterns: tuple[str, ...]

    @property
    def samples(self) -> list[str]:
        """Ids of its samples."""
        return [f"SPA{number}" for number in range(self.first, self.last + 1)]


COHORTS = {
    "her2st": Cohort(119, 154, 8, 13_620, ("SPA119.*", "SPA1[234]?.*", "SPA15[0-4].*")),
    "stnet": Cohort(51, 118, 23, 30_655, ("SPA5[1-9].*", "SPA[6-9]?.*", "SPA10?.*", "SPA11[0-8].*")),
}
_PARTS = ("st", "wsis", "metadata")


def hest_cohort(name: str, *, path: str | PathLike[str] | None = None, partial: bool = False) -> SpatialData:
    """All samples of a study from a HEST-1k folder.

    Parameters
    ----------
    name
        ``"her2st"``: HER2-positive breast cancer, 36 sections of 8 patients, 13,620 spots (SPA119 to SPA154);
        ``"stnet"``: breast cancer, 68 sections of 23 patients, 30,655 spots (SPA51 to SPA118). Both are legacy Spatial
        Transcriptomics.
    path
        The folder, ``hc.settings.data_dir / "hest"`` by default.
    partial
        Whether to go on with the samples that are there, with a warning that counts, where some are missing.

    Returns
    -------
    SpatialData, as :func:`histocell.io.hest` gives it for several samples: images ``he-<id>``, shapes ``spots-<id>`` and
    one ``table`` with counts. ``obs["section"]`` is the id, ``obs["subseries"]`` what the study calls the section
    (``"B1"``), ``obs["patient"]`` the patient, ``obs["mpp"]`` the resolution. There are no cell abundances:
    :func:`histocell.pp.import_abundance` brings them.

    Raises
    ------
    ValueError
        If there is no such cohort.
    FileNotFoundError
        If samples are missing; the message counts them and says where to get them.

    Warns
    -----
    UserWarning
        If the folder holds other numbers of patients or spots than HEST-1k 1.1.0, or no slides.

    Notes
    -----
    HEST-1k is not downloaded: access is granted on the page of the dataset, after which ``hf download`` copies the files;
    the error message has the whole command. Slides stay on disk until pixels are asked for.

    :func:`histocell.datasets.her2st` reads some of the same sections as their authors published them, with proportions of
    cell types.

    References
    ----------
    G. Jaume et al., HEST-1k, NeurIPS 2024, arXiv:2406.16192. her2st: A. Andersson et al., Nature Communications 12, 6012
    (2021). ST-Net: B. He et al., Nature Biomedical Engineering 4, 827 (2020).

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.hest_cohort("her2st", path="hest")  # doctest: +SKIP
    >>> sdata["table"].obs.groupby("patient", observed=True)["section"].nunique().tolist()  # doctest: +SKIP
    [6, 6, 6, 6, 3, 3, 3, 3]
    """
    if name not in COHORTS:
        msg = f"there is no cohort {name!r}; available: {listing(COHORTS)}"
        raise ValueError(msg)
    cohort = COHORTS[name]
    folder = settings.data_dir / "hest" if path is None else Path(path).expanduser()
    there = [sample for sample in cohort.samples if (folder / "st" / f"{sample}.h5ad").is_file()]
    missing = [sample for sample in cohort.samples if sample not in there]
    if missing and not (partial and there):
        raise FileNotFoundError(_advice(name, cohort, folder, missing))
    sdata = hest(folder, there)
    table = sdata.tables[keys.TABLE]
    _shorten_patients(table)
    _compare(name, cohort, table, missing)
    return sdata


def _advice(name: str, cohort: Cohort, folder: Path, missing: list[str]) -> str:
    """What is missing, and the command that brings it."""
    n_samples = len(cohort.samples)
    patterns = " ".join(f'"{part}/{pattern}"' for part in _PARTS for pattern in cohort.patterns)
    return (
        f"{name} has {n_samples} samples, {n_samples - len(missing)} of them in {folder}/st; missing: "
        f"{listing(missing, 6)}. Ask for access on https://huggingface.co/datasets/MahmoodLab/hest, log in with `hf auth "
        f'login`, then run: hf download MahmoodLab/hest --repo-type dataset --local-dir "{folder}" --include "HEST_*.csv" '
        f"{patterns}. For a folder elsewhere give path=, or set HISTOCELL_DATA_DIR (hc.settings.data_dir) to the folder that "
        "holds hest/. partial=True reads the samples that are there"
    )


def _shorten_patients(table: AnnData) -> None:
    """Patients without the title of the study, since there is only one."""
    facts = keys.read_provenance(table, "hest").values()
    titles = {fact.get("dataset_title", "") for fact in facts if isinstance(fact, dict)}
    if len(titles) == 1:
        start = f"{titles.pop()}: "
        table.obs[keys.PATIENT] = table.obs[keys.PATIENT].cat.rename_categories(lambda name: name.removeprefix(start))


def _compare(name: str, cohort: Cohort, table: AnnData, missing: list[str]) -> None:
    """Count patients and spots, and warn where they are not those that are known."""
    n_samples, n_patients = len(cohort.samples), table.obs[keys.PATIENT].nunique()
    found = f"{n_samples - len(missing)} of {n_samples} samples, {n_patients} patients, {table.n_obs:,} spots"
    if missing:
        warn(
            f"{name} is not whole: {found} of {cohort.n_patients} patients and {cohort.n_spots:,} spots; missing: "
            f"{listing(missing, 6)}"
        )
    elif (n_patients, table.n_obs) != (cohort.n_patients, cohort.n_spots):
        warn(
            f"{name}: {found}, where HEST-1k 1.1.0 has {cohort.n_patients} patients and {cohort.n_spots:,} spots. Another "
            "version, or metadata without patients? Figures cannot be compared with those of the whole cohort"
        )
    else:
        logger.info("%s: %s", name, found)
