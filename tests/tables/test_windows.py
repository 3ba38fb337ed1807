from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pytest

import histocell as hc
from histocell.tables.windows import patches_record


@pytest.fixture
def table(cohort):
    hc.pp.split(cohort, by="patient", test=["P4"])
    return cohort


def fit(sdata) -> None:
    hc.tl.fit_abundance(sdata, "X_morphology", model="ridge", rng=0)


def quiet(call) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call()


def test_patches_that_moved_after_they_were_embedded(table, user_sees):
    quiet(lambda: fit(table))
    table["table"].obsm["patches"] += 40
    with user_sees(
        "Training and scores", "patches that moved after they were embedded", UserWarning, match="shows other tissue"
    ):
        fit(table)
    with pytest.warns(UserWarning, match=r'obsm\["X_morphology"\] was computed before'):
        hc.tl.predict_abundance(table)
    hc.pp.embed_image(table, "morphology")
    quiet(lambda: (fit(table), hc.tl.predict_abundance(table)))


def test_patches_of_another_size_and_parts_of_a_table_are_no_mistake(table):
    hc.pp.patches(table, size_um=56)
    quiet(lambda: fit(table))
    adata = table["table"]
    part = adata[np.random.default_rng(0).permutation(adata.n_obs)[: adata.n_obs - 5]].copy()
    quiet(lambda: hc.tl.fit_abundance(part, "X_morphology", model="ridge", rng=0))


def test_the_order_of_rows_does_not_count():
    windows = np.random.default_rng(0).integers(-50, 5000, (300, 4)).astype(np.int32)
    table = ad.AnnData(np.ones((300, 1)), obsm={"patches": windows})
    record = patches_record(table)
    assert patches_record(table[::-1].copy()) == record
    sums = {record["sum"]}
    for row, column in ((0, 0), (7, 1), (150, 2), (299, 3)):
        changed = windows.copy()
        changed[row, column] += 1
        sums.add(patches_record(ad.AnnData(np.ones((300, 1)), obsm={"patches": changed}))["sum"])
    assert len(sums) == 5


def test_embeddings_of_patches_of_several_sizes_that_nothing_tells_apart(table, user_sees):
    """Sections that were embedded apart, of other patches: a concatenation drops what differs."""
    fit(table)
    model = hc.models.load(table)
    adata = table["table"].copy()
    del adata.uns["histocell"]["X_morphology"]
    with user_sees(
        "Training and scores", "embeddings without their origin", UserWarning, match="nothing is recorded of obsm"
    ):
        hc.tl.predict_abundance(adata, model=model)
    half = adata.obs["section"] == "P1S1"
    adata.obsm["patches"][half] += np.array([56, 56, -56, -56], dtype=np.int32)
    with (
        pytest.warns(UserWarning, match="nothing is recorded"),
        pytest.warns(
            UserWarning, match=r'patches of 56 to 112 um, and nothing says of which obsm\["X_morphology"\] is'
        ),
    ):
        hc.tl.predict_abundance(adata, model=model)
    with pytest.warns(UserWarning, match="patches of 56 to 112 um"):
        fit(adata)
