"""Nuclei as elements of a SpatialData: shapes, and the table that annotates them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import shapely
from anndata import AnnData
from spatialdata.models import ShapesModel, TableModel

from histocell._core import keys
from histocell.images.transformations import transformations

if TYPE_CHECKING:
    import geopandas as gpd
    from numpy.typing import NDArray

    from histocell.tables.slides import Slide


def nucleus_shapes(polygons: NDArray[np.object_], slide: Slide) -> gpd.GeoDataFrame:
    """Polygons in px of a slide as shapes, numbered from 0."""
    import geopandas as gpd

    index = pd.RangeIndex(len(polygons), name=keys.NUCLEUS_ID).astype(np.int64)
    frame = gpd.GeoDataFrame(geometry=polygons, index=pd.Index(index.to_numpy(), name=keys.NUCLEUS_ID))
    return ShapesModel.parse(frame, transformations=dict(transformations(slide.element)))


def nucleus_table(shapes: gpd.GeoDataFrame, name: str, slide: Slide, **facts: object) -> AnnData:
    """The table that annotates nuclei.

    Parameters
    ----------
    shapes
        The nuclei.
    name
        Name of the shapes.
    slide
        The slide that they lie on.
    facts
        How they came about, for the provenance.
    """
    n = len(shapes)
    center = shapely.centroid(shapes.geometry.to_numpy())
    obs = pd.DataFrame(
        {
            keys.REGION: pd.Categorical([name] * n),
            keys.NUCLEUS_ID: shapes.index.to_numpy(),
            keys.SECTION: pd.Categorical([slide.section] * n),
            keys.MPP: np.full(n, slide.mpp),
        },
        index=[f"nucleus_{i}" for i in range(n)],
    )
    table = AnnData(obs=obs, obsm={keys.SPATIAL: shapely.get_coordinates(center)})
    keys.write_provenance(table, name, **facts)
    return TableModel.parse(table, region=name, region_key=keys.REGION, instance_key=keys.NUCLEUS_ID)
