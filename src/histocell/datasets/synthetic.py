"""Synthetic sections: an H&E-like image, cells and spots whose composition is known."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import spatialdata as sd
from scipy.spatial import cKDTree
from spatialdata.models import Image2DModel, ShapesModel, TableModel

from histocell._core import keys
from histocell._core.arguments import check_amount, check_count, check_positive
from histocell._core.rng import as_rng
from histocell._core.settings import progress_bar
from histocell.datasets._tissue.anatomy import TYPICAL, draw_anatomy, vary_subject
from histocell.datasets._tissue.cells import CELL_TYPES, place_cells
from histocell.datasets._tissue.expression import count_cells, count_spots, draw_genes
from histocell.datasets._tissue.fields import sample
from histocell.datasets._tissue.rendering import render
from histocell.io.elements import coordinate_systems
from histocell.tables.units import CELLS

if TYPE_CHECKING:
    from histocell._core.rng import RNGLike, SeedLike
    from histocell.datasets._tissue.anatomy import Anatomy
    from histocell.datasets._tissue.expression import Genes

CELL_TABLE = "cell_table"


def synthetic_tissue(
    n_sections: int = 1,
    *,
    n_patients: int | None = None,
    size_px: int = 2000,
    mpp: float = 0.5,
    spot_pitch_um: float = 100.0,
    spot_diameter_um: float = 100.0,
    n_genes: int = 200,
    batch_effect: float = 1.0,
    rng: SeedLike | RNGLike | None = 0,
) -> sd.SpatialData:
    """Draw tumour sections whose cells, and so whose spots, are known exactly.

    A section holds tumour nests with glands, collagen with fibroblasts, lymphoid aggregates with plasma cells around
    them, sheets of foamy macrophages, vessels and fat, in an irregular outline. Six cell types (tumour, fibroblast,
    lymphocyte, plasma, endothelial, myeloid) differ in size, shape, depth of stain and texture of their nuclei, and in
    their bodies. Stain concentrations become colours by the Beer-Lambert law, so stain separation can recover them.

    Parameters
    ----------
    n_sections
        Number of sections in total.
    n_patients
        Number of patients among whom the sections are shared as evenly as possible; `None` gives every section its
        own. Patients differ in stain, background, composition and size of nuclei, sections of a patient by a quarter of that.
    size_px
        Side of the square images, px.
    mpp
        um per px.
    spot_pitch_um
        Distance between neighbouring spots of the hexagonal grid, centre to centre.
    spot_diameter_um
        Diameter of a spot; 100 um as in legacy Spatial Transcriptomics, Visium has 55.
    n_genes
        Number of genes, at least 6; marker genes of the types come first.
    batch_effect
        Size of all differences between patients and between sections, in images and in counts; 0 is none.
    rng
        Seed or generator; `None` for other tissue each time. Patients draw from their own streams: the first does not change when more are asked for.

    Returns
    -------
    SpatialData with, per section, image ``he`` (c, y, x; uint8), circles ``spots`` and ``cells`` in full-resolution px;
    ``table`` annotates the spots: raw counts in `X`, ``obsm["spatial"]`` (n, 2) px, ``obsm["cell_abundance"]``: the
    number of cells of each type whose nucleus is centred in the spot, `obs` with ``section``, ``patient``, ``mpp``;
    ``cell_table`` annotates the cells: raw counts, ``obs["cell_type"]``, ``obs["nucleus_area_um2"]``. Every
    element lies in the coordinate systems ``global`` (px) and ``um``. Several sections carry their name as a suffix:
    ``he-P1S1``, ``spots-P1S1``, ``global-P1S1``. ``uns["histocell"]["synthetic"]`` records how they were made.

    Raises
    ------
    ValueError
        If a parameter is out of range, or the section is too small to hold a spot.

    References
    ----------
    Optical densities of stains: Ruifrok and Johnston, Anal Quant Cytol Histol 23 (2001) 291. Fibres: line integral
    convolution, Cabral and Leedom, SIGGRAPH 1993.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(2, size_px=600)
    >>> sdata["table"].obsm["cell_abundance"].columns.tolist()
    ['tumour', 'fibroblast', 'lymphocyte', 'plasma', 'endothelial', 'myeloid']
    """
    patients = n_sections if n_patients is None else n_patients
    parameters: dict[str, Any] = {
        "n_sections": n_sections,
        "n_patients": patients,
        "size_px": size_px,
        "mpp": mpp,
        "spot_pitch_um": spot_pitch_um,
        "spot_diameter_um": spot_diameter_um,
        "n_genes": n_genes,
        "batch_effect": batch_effect,
    }
    _check(**parameters)
    gene_rng, patient_root = as_rng(rng).spawn(2)
    genes = draw_genes(n_genes, rng=gene_rng)
    shares = [len(part) for part in np.array_split(np.arange(n_sections), patients)]
    sections: dict[str, sd.SpatialData] = {}
    facts: dict[str, Any] = {}
    with progress_bar(total=n_sections, desc="Drawing sections", unit="section") as bar:
        for p, (share, patient_rng) in enumerate(zip(shares, patient_root.spawn(patients), strict=True), start=1):
            patient = vary_subject(TYPICAL, patient_rng, spread=batch_effect)
            for s, section_rng in enumerate(patient_rng.spawn(share), start=1):
                name = f"P{p}S{s}"
                subject = vary_subject(patient, section_rng, spread=0.25 * batch_effect)
                anatomy = draw_anatomy(subject, size_px * mpp, rng=section_rng)
                cells = place_cells(anatomy, subject, rng=section_rng)
                image = render(anatomy, cells, subject, size_px=size_px, mpp=mpp, rng=section_rng)
                spots = _spots(anatomy, pitch_um=spot_pitch_um, diameter_um=spot_diameter_um)
                tables = _tables(cells, spots, spot_diameter_um / 2, genes, mpp, batch_effect, section_rng)
                sections[name] = _assemble(name, image, tables, mpp=mpp, spot_radius_px=spot_diameter_um / 2 / mpp)
                facts[name] = {key: np.round(value, 5).tolist() for key, value in asdict(subject).items()}
                bar.update()
    if n_sections == 1:
        sdata = next(iter(sections.values()))
    else:
        sdata = sd.concatenate(sections, concatenate_tables=True, merge_coordinate_systems_on_name=False)
    for table in sdata.tables.values():
        keys.write_provenance(table, "synthetic", **parameters, sections=facts)
    keys.write_provenance(sdata.tables[keys.TABLE], keys.ABUNDANCE, method="count", unit=CELLS)
    return sdata


def _check(
    *,
    n_sections: int,
    n_patients: int,
    size_px: int,
    mpp: float,
    n_genes: int,
    batch_effect: float,
    **lengths_um: float,
) -> None:
    check_count(n_sections, "n_sections", least=1)
    check_count(size_px, "size_px", least=1)
    check_count(n_genes, "n_genes")
    if not 1 <= check_count(n_patients, "n_patients") <= n_sections:
        msg = f"n_patients must lie between 1 and n_sections={n_sections}, not {n_patients}"
        raise ValueError(msg)
    for name, value in {"mpp": mpp, **lengths_um}.items():
        check_positive(value, name)
    least_um = max(2 * lengths_um["spot_diameter_um"], 100.0)
    if size_px * mpp < least_um:
        msg = (
            f"size_px={size_px} at mpp={mpp} is {size_px * mpp:g} um: too small for a spot of "
            f"{lengths_um['spot_diameter_um']:g} um; use size_px >= {int(np.ceil(least_um / mpp))}"
        )
        raise ValueError(msg)
    if n_genes < len(CELL_TYPES):
        msg = f"n_genes must be at least {len(CELL_TYPES)}, one marker per cell type, not {n_genes}"
        raise ValueError(msg)
    check_amount(batch_effect, "batch_effect")


def _spots(anatomy: Anatomy, *, pitch_um: float, diameter_um: float) -> np.ndarray:
    """Centres (x, y) in um of the spots of a hexagonal grid that lie in the image and at least by half on tissue."""
    radius = diameter_um / 2
    height = pitch_um * np.sqrt(3) / 2
    y = np.arange(radius, anatomy.side_um - radius, height)
    x = np.arange(radius, anatomy.side_um - radius, pitch_um)
    grid = np.stack(np.broadcast_arrays(x + (np.arange(len(y)) % 2)[:, None] * pitch_um / 2, y[:, None]), axis=-1)
    centres = grid.reshape(-1, 2)
    centres = centres[centres[:, 0] <= anatomy.side_um - radius]
    r, phi = np.meshgrid(radius * np.sqrt((np.arange(4) + 0.5) / 4), np.arange(12) * np.pi / 6)
    probes = centres[:, None] + np.stack([r * np.cos(phi), r * np.sin(phi)], axis=-1).reshape(1, -1, 2)
    on_tissue = (sample(anatomy.tissue, probes[..., 0], probes[..., 1]) > 0).mean(axis=1) >= 0.5
    if not on_tissue.any():
        msg = f"no spot lies on tissue in a section of {anatomy.side_um:g} um: use a larger size_px"
        raise ValueError(msg)
    return centres[on_tissue]


def _tables(
    cells: pd.DataFrame,
    spots_um: np.ndarray,
    radius_um: float,
    genes: Genes,
    mpp: float,
    batch_effect: float,
    rng: np.random.Generator,
) -> tuple[ad.AnnData, ad.AnnData]:
    """Tables of the spots and of the cells, without the names of the section."""
    cells_px = cells[["x", "y"]].to_numpy() / mpp
    spots_px = spots_um / mpp
    members = cKDTree(cells_px).query_ball_point(spots_px, radius_um / mpp, return_sorted=True)
    pointer = np.concatenate([[0], np.cumsum([len(m) for m in members])])
    inside = sp.csr_array(
        (np.ones(pointer[-1]), np.concatenate(members).astype(np.int64), pointer), (len(spots_px), len(cells_px))
    )
    codes = cells["type"].to_numpy(dtype=np.int64)
    cell_counts, rates = count_cells(codes, genes, batch_effect=batch_effect, rng=rng)
    spot_counts = count_spots(inside @ rates, rng=rng)

    var = pd.DataFrame(index=pd.Index(genes.names))
    spot_table = ad.AnnData(sp.csr_matrix(spot_counts), var=var)
    spot_table.obsm[keys.SPATIAL] = spots_px
    spot_table.obsm[keys.ABUNDANCE] = pd.DataFrame(
        inside @ np.eye(len(CELL_TYPES))[codes], columns=list(CELL_TYPES), index=spot_table.obs_names
    )
    cell_table = ad.AnnData(sp.csr_matrix(cell_counts), var=var)
    cell_table.obsm[keys.SPATIAL] = cells_px
    cell_table.obs["cell_type"] = pd.Categorical.from_codes(codes, categories=pd.Index(CELL_TYPES))
    cell_table.obs["nucleus_area_um2"] = (np.pi * cells["long"] * cells["short"]).to_numpy()
    return spot_table, cell_table


def _assemble(
    name: str, image: np.ndarray, tables: tuple[ad.AnnData, ad.AnnData], *, mpp: float, spot_radius_px: float
) -> sd.SpatialData:
    """One section as SpatialData."""
    spot_table, cell_table = tables
    systems = coordinate_systems(mpp)
    he = Image2DModel.parse(
        np.ascontiguousarray(image.transpose(2, 0, 1)),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        chunks=(3, 2048, 2048),
        transformations=dict(systems),
    )
    radii = {
        keys.SPOTS: np.full(spot_table.n_obs, spot_radius_px),
        "cells": np.sqrt(cell_table.obs["nucleus_area_um2"].to_numpy() / np.pi) / mpp,
    }
    parsed, shapes = {}, {}
    for key, region, instance, table in (
        (keys.TABLE, keys.SPOTS, keys.INSTANCE, spot_table),
        (CELL_TABLE, "cells", "cell_id", cell_table),
    ):
        table.obs_names = [f"{region[:-1]}{i}" for i in range(table.n_obs)]
        table.obs[keys.SECTION] = pd.Categorical([name] * table.n_obs)
        table.obs[keys.PATIENT] = pd.Categorical([name.partition("S")[0]] * table.n_obs)
        table.obs[keys.MPP] = float(mpp)
        table.obs[keys.REGION] = pd.Categorical([region] * table.n_obs)
        table.obs[instance] = np.arange(table.n_obs)
        parsed[key] = TableModel.parse(table, region=region, region_key=keys.REGION, instance_key=instance)
        shapes[region] = ShapesModel.parse(
            table.obsm[keys.SPATIAL],
            geometry=0,
            radius=radii[region],
            index=table.obs[instance].to_numpy(),
            transformations=dict(systems),
        )
    return sd.SpatialData(images={keys.IMAGE: he}, shapes=shapes, tables=parsed)
