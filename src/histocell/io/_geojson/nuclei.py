"""The table that annotates nuclei which another tool outlined."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import shapely
from spatialdata.models import TableModel

from histocell._core import keys

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from histocell.tables.slides import Slide


def add_nucleus_table(data: SpatialData, name: str, slide: Slide, source: str, *, overwrite: bool) -> None:
    """Annotate shapes of nuclei in ``nucleus_table``, as `histocell.pp.segment_nuclei` does.

    Rows of other slides stay; those of the same shapes are replaced where `overwrite` is set.
    """
    shapes = data.shapes[name]
    n = len(shapes)
    obs = pd.DataFrame(
        {
            keys.REGION: pd.Categorical([name] * n),
            keys.NUCLEUS_ID: shapes.index.to_numpy(),
            keys.SECTION: pd.Categorical([slide.section] * n),
            keys.MPP: np.full(n, slide.mpp),
            "classification": shapes["classification"].to_numpy(),
        },
        index=[f"nucleus{name.removeprefix(keys.NUCLEI)}_{i}" for i in range(n)],
    )
    center = shapely.get_coordinates(shapely.centroid(shapes.geometry.to_numpy()))
    table = ad.AnnData(obs=obs, obsm={keys.SPATIAL: center})
    regions = [name]
    if keys.NUCLEUS_TABLE in data.tables:
        old = data.tables[keys.NUCLEUS_TABLE]
        others = old[old.obs[keys.REGION].astype(str) != name].copy()
        if others.n_obs < old.n_obs and not overwrite:
            msg = f"tables[{keys.NUCLEUS_TABLE!r}] has rows of {name!r} already; give overwrite=True to replace them"
            raise ValueError(msg)
        if others.n_obs:
            regions = [*dict.fromkeys(others.obs[keys.REGION].astype(str)), name]
            results = {key: value for key, value in others.uns.items() if key != "spatialdata_attrs"}
            table = ad.concat([others, table], join="outer", pairwise=True)
            table.uns.update(results)
    for column in (keys.REGION, keys.SECTION, "classification"):
        table.obs[column] = pd.Categorical(np.asarray(table.obs[column], dtype=object))
    keys.write_provenance(table, name, source=source)
    data.tables[keys.NUCLEUS_TABLE] = TableModel.parse(
        table, region=regions if len(regions) > 1 else name, region_key=keys.REGION, instance_key=keys.NUCLEUS_ID
    )
