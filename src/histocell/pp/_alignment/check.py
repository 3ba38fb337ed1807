"""Check of nuclei or cells against their H&E image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from histocell._core import keys
from histocell._core.arguments import check_positive
from histocell._core.errors import listing, warn
from histocell._core.rng import as_rng
from histocell._core.settings import logger, progress_bar
from histocell.nuclei.alignment.check import FEWEST, check_nuclei
from histocell.pp._alignment.result import AlignmentResult, collect
from histocell.tables.placed_nuclei import place_nuclei

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

    from histocell._core.rng import RNGLike, SeedLike
    from histocell.images.slide_image import ImageSource
    from histocell.nuclei.alignment.check import Check
    from histocell.tables.access import Data
    from histocell.tables.placed_nuclei import PlacedNuclei

TOLERANCE_UM = 2.0
LEAST_SHIFT_UM = 50.0


def check_alignment(
    data: Data,
    *,
    shapes_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    table_key: str | None = None,
    image: ImageSource | Mapping[str, ImageSource] | None = None,
    mpp: float | Mapping[str, float] | None = None,
    library_key: str | None = None,
    radius_um: float | None = None,
    max_shift_um: float = 200.0,
    tolerance_um: float | None = None,
    rng: SeedLike | RNGLike | None = 0,
    key_added: str = keys.ALIGNMENT,
    inplace: bool = True,
) -> AlignmentResult | None:
    """Whether nuclei or cells lie on their H&E image, and if not, what is wrong with their coordinates.

    Nuclei are dark in haematoxylin. The contrast of a place is its haematoxylin less that of its surroundings, in standard deviations
    of the neighbourhood. Its mean under the nuclei is compared with that under copies of them, shifted by up to `max_shift_um`: the
    difference is the effect, and the share of copies that lie on places as dark is the p-value. Copies are as clustered as the
    nuclei and lie on the same tissue, so neither counts as a fit. Then other maps are tried, each with all of its shifts: x and y
    exchanged, mirrored, turned, factors between units that are mistaken for each other, and where none of them stands out, all factors from 0.2
    to 5 and turns by up to 10 degrees. A verdict other than ``fits`` warns.

    Parameters
    ----------
    data
        SpatialData with shapes of nuclei or cells, or AnnData with ``obsm["spatial"]`` (x, y in full-resolution px). Centres are what
        counts, at least 20 in each section. Reads the image.
    shapes_key
        Shapes of a SpatialData. By default those that the table of nuclei, else of cells, annotates.
    image_key, image, mpp, library_key
        As in :func:`histocell.pp.patches`.
    table_key
        Table of the nuclei, where a SpatialData has several.
    radius_um
        Radius of a nucleus; by default the median of the shapes, kept between 2.5 and 6 um, and 4 um for points.
    max_shift_um
        Largest shift in x and in y, for each map.
    tolerance_um
        Displacement that counts as a fit if 95 % of the nuclei stay below it: by default 2 um, or a px of the image where that is more.
    rng
        Seed or generator of the bootstrap that gives the standard error of the offset.
    key_added
        Name of the result in ``uns``.
    inplace
        Whether to write the result; else it is returned.

    Returns
    -------
    `None`, or with ``inplace=False`` an :class:`histocell.pp.AlignmentResult`. Writes:

    ``uns["alignment"]`` : dict
        What the result holds: ``sections`` (DataFrame; :func:`histocell.get.alignment` reads it), ``matrix``, ``tried``, ``profile``,
        ``params``. Verdicts are ``fits``, ``shifted``, ``swapped`` (x and y), ``mirrored``, ``rotated``, ``wrong pixel size`` and ``unrelated``.

    Raises
    ------
    ValueError
        When a section has fewer than 20 nuclei or a centre that is not finite, the rows are spots of a grid, the image or its
        resolution is unknown, or the shapes have no table that the result could be written to.

    References
    ----------
    Normalised cross-correlation: Lewis, Vision Interface (1995) 120. Expected number of peaks of a random field: Adler, The Geometry
    of Random Fields (1981), in the form of Worsley et al., Human Brain Mapping 4 (1996) 58.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=800)
    >>> hc.pp.check_alignment(sdata)
    >>> hc.get.alignment(sdata)["verdict"].tolist()
    ['fits']
    """
    table, placed = place_nuclei(
        data,
        "check_alignment",
        shapes_key=shapes_key,
        image=image,
        image_key=image_key,
        mpp=mpp,
        library_key=library_key,
        table_key=table_key,
    )
    if table is None and inplace:
        msg = (
            f"no single table annotates shapes {placed[0].shapes!r}, so there is no uns to write to; "
            "hc.pp.check_alignment(..., inplace=False) returns the result, table_key= names a table"
        )
        raise ValueError(msg)
    result, _ = Settings(radius_um, max_shift_um, tolerance_um, rng).run(placed)
    report(result)
    if table is None or not inplace:
        return result
    write(table, result, key_added)
    return None


@dataclass(frozen=True)
class Settings:
    """Arguments of a check; see :func:`check_alignment`."""

    radius_um: float | None
    max_shift_um: float
    tolerance_um: float | None
    rng: SeedLike | RNGLike | None

    def __post_init__(self) -> None:
        check_positive(self.max_shift_um, "max_shift_um")
        if self.radius_um is not None:
            check_positive(self.radius_um, "radius_um")
        if self.tolerance_um is not None:
            check_positive(self.tolerance_um, "tolerance_um")
        if self.max_shift_um < LEAST_SHIFT_UM:
            msg = (
                f"max_shift_um must be at least {LEAST_SHIFT_UM:g}, not {self.max_shift_um:g}: copies of the nuclei are shifted "
                "by up to so much, and some must be far from where the nuclei are"
            )
            raise ValueError(msg)

    def run(self, placed: list[PlacedNuclei]) -> tuple[AlignmentResult, list[Check]]:
        """The checks of all sections."""
        few = [f"{each.section} has {len(each.xy_px)}" for each in placed if len(each.xy_px) < FEWEST]
        if few or not placed:
            msg = f"at least {FEWEST} nuclei are needed in each section: {listing(few)}. Leave such a section out"
            raise ValueError(msg)
        generator = as_rng(self.rng)
        tolerances = [self.tolerance_um or max(TOLERANCE_UM, each.mpp) for each in placed]
        checks = []
        with progress_bar(total=len(placed), desc="alignment", unit="section") as bar:
            for each, tolerance in zip(placed, tolerances, strict=True):
                checks.append(
                    check_nuclei(
                        each.image,
                        each.xy_px,
                        mpp=each.mpp,
                        radius_um=self.radius_um or each.radius_um,
                        reach_um=self.max_shift_um,
                        tolerance_um=tolerance,
                        rng=generator,
                    )
                )
                bar.update()
        params: dict[str, object] = {"max_shift_um": self.max_shift_um, "radius_um": self.radius_um}
        return collect(placed, checks, tolerances, params), checks


def report(result: AlignmentResult) -> None:
    """Log what fits, warn of the rest."""
    for row in result.sections.to_dict("records"):
        if row["verdict"] == "fits":
            logger.info("%s %s", row["section"], row["says"])
        else:
            warn(f"{row['section']} {row['says']}")
        if not row["stains_estimated"] and row["on_tissue"] > 0:
            warn(
                f"the image of {row['section']} does not look like haematoxylin and eosin; its optical density was used"
            )


def write(table: AnnData, result: AlignmentResult, key: str) -> None:
    """The result as a slot of a table, with its provenance."""
    table.uns[key] = result.to_uns()
    verdicts = dict(zip(result.sections["section"], result.sections["verdict"], strict=True))
    keys.write_provenance(table, key, verdicts=verdicts, **result.params)
