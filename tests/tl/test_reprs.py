"""Results say how they came about, without a logger that shows it."""

from __future__ import annotations

import pytest
from anndata import AnnData
from matplotlib.offsetbox import AnchoredOffsetbox

import histocell as hc


def test_default_length_scale_stands_in_the_repr(tissue):
    result = hc.tl.colocalization(tissue, "cell_abundance", inplace=False)
    assert "length scale: 2.2 x 50 um, from the spot pitch" in repr(result)
    given = hc.tl.colocalization(tissue, "cell_abundance", length_scale_um=80, inplace=False)
    assert "length scale: the argument length_scale_um" in repr(given)


@pytest.mark.filterwarnings("ignore:Some cells have zero counts")
def test_normalisation_stands_in_the_repr(tissue):
    genes = list(tissue["table"].var_names[:3])
    result = hc.tl.colocalization(tissue, genes, inplace=False)
    assert "normalisation of X: scanpy.pp.normalize_total, scanpy.pp.log1p" in repr(result)


def test_model_says_what_it_was_fitted_on(table, tmp_path):
    hc.tl.fit_abundance(table, model="ridge")
    model = hc.models.load(table)
    n_train, n_validation = ((table.obs["split"] == part).sum() for part in ("train", "val"))
    said = f"{n_train} training rows and {n_validation} for validation, groups by patient"
    assert said in repr(model)
    model.save(tmp_path / "model")
    assert said in repr(hc.models.load(tmp_path / "model"))
    assert repr(hc.models.Ridge()) == "Ridge(not fitted, features: none)"


def test_resolution_that_was_given_is_kept_for_the_scalebar(tissue):
    """Cells from another tool: no obs["mpp"], coordinates in px of known size, or in um."""
    import matplotlib.pyplot as plt

    cells = tissue["cell_table"]
    adata = AnnData(obs=cells.obs[["cell_type"]], obsm={"spatial": cells.obsm["spatial"]})
    hc.tl.colocalization(adata, "cell_type", local=("tumour", "fibroblast"), mpp=0.5)
    axes = hc.pl.colocalization_pair(adata, "tumour", "fibroblast", show=False)
    assert [each for each in axes[0].artists if isinstance(each, AnchoredOffsetbox)]
    assert axes[0].get_xlim()[1] == pytest.approx(350, rel=0.2)  # um of 700 px
    plt.close("all")
