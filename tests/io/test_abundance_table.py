from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from histocell.io.abundance_table import read_abundances

FRAME = pd.DataFrame(
    {"B cells": [0.25, 0.5, 1.0], "T cells (CD4+)": [2.0, 0.0, 3.5]}, index=["AAACAAGTATCTCCCA-1", "b-1", "c-1"]
)


def cell2location(statistic="q05", key="q05_cell_abundance_w_sf", frame=True):
    """An AnnData as cell2location's export_posterior leaves it."""
    adata = AnnData(np.ones((3, 5), np.float32), obs=pd.DataFrame({"sample": "C2"}, index=FRAME.index))
    named = FRAME.add_prefix(f"{statistic}cell_abundance_w_sf_")
    adata.obsm[key] = named if frame else named.to_numpy()
    adata.uns["mod"] = {"factor_names": np.array(FRAME.columns), "samples": np.zeros(3)}
    return adata


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pandas.csv", ",a,b c\ns1,1.5,2\ns2,0,3e-1\n"),
        ("pandas.tsv", "\ta\tb c\ns1\t1.5\t2\ns2\t0\t3e-1\n"),
        ("write.csv", '"","a","b c"\n"s1",1.5,2\n"s2",0,0.3\n'),
        ("write.csv2.csv", '"";"a";"b c"\n"s1";1,5;2\n"s2";0;0,3\n'),
        ("write.table.txt", '"a" "b c"\n"s1" 1.5 2\n"s2" 0 0.3\n'),
        ("write.table.tsv", "a\tb c\ns1\t1.5\t2\ns2\t0\t0.3\n"),
    ],
)
def test_text_as_python_and_r_write_it(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    read = read_abundances(tmp_path / name)
    assert list(read.frame.index) == ["s1", "s2"]
    assert list(read.frame.columns) == ["a", "b c"]
    np.testing.assert_array_equal(read.frame, [[1.5, 2], [0, 0.3]])
    assert read.name == name


def test_gzip(tmp_path):
    FRAME.to_csv(tmp_path / "w.tsv.gz", sep="\t")
    pd.testing.assert_frame_equal(read_abundances(str(tmp_path / "w.tsv.gz")).frame, FRAME)


@pytest.mark.parametrize("frame", [True, False])
@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize(
    ("statistic", "key"), [("q05", "q05_cell_abundance_w_sf"), ("means", "means_cell_abundance_w_sf")]
)
def test_cell2location(statistic, key, frame, on_disk, tmp_path):
    source = cell2location(statistic, key, frame)
    if on_disk:
        source.write_h5ad(tmp_path / "c2l.h5ad")
        source = tmp_path / "c2l.h5ad"
    read = read_abundances(source, library_key="sample")
    pd.testing.assert_frame_equal(read.frame, FRAME, check_names=False)
    assert read.labels == ["C2"] * 3
    assert read.method == "cell2location"


def test_cell2location_prefers_the_lower_quantile_and_takes_another_by_name():
    source = cell2location()
    source.obsm["means_cell_abundance_w_sf"] = (FRAME + 1).add_prefix("meanscell_abundance_w_sf_")
    np.testing.assert_array_equal(read_abundances(source).frame, FRAME)
    np.testing.assert_array_equal(read_abundances(source, "means_cell_abundance_w_sf").frame, FRAME + 1)


def test_cell2location_in_obs():
    source = AnnData(np.ones((3, 5), np.float32), obs=FRAME.add_prefix("q05cell_abundance_w_sf_").assign(total=1))
    pd.testing.assert_frame_equal(read_abundances(source).frame, FRAME)


def test_only_a_prefix_of_all_columns_goes():
    frame = FRAME.rename(columns={"B cells": "q05cell_abundance_w_sf_B cells"})
    assert list(read_abundances(frame).frame.columns) == list(frame.columns)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (FRAME.assign(spot_class="singlet"), r"columns of text \(spot_class\)"),
        (FRAME.assign(x=1, Array_Row=2), r"columns of places, counts or sums \(x, Array_Row\), no cell types"),
        (FRAME.assign(nCount_Spatial=100.0, n_genes_by_counts=7), r"sums \(nCount_Spatial, n_genes_by_counts\)"),
        (FRAME.assign(all_cells=FRAME.sum(axis=1)), r"sums \(all_cells\)"),
        (FRAME.reset_index(), r"columns of text \(index\) .* the names of the spots the index, table.set_index"),
        (FRAME.iloc[:0], "holds 0 spots and 2 cell types"),
        (FRAME.iloc[:, :0], "holds 3 spots and 0 cell types"),
        (FRAME.set_axis(["a", "a"], axis="columns"), "cell types twice: a"),
        (pd.concat([FRAME, FRAME.iloc[:1]]), "names spots twice: AAACAAGTATCTCCCA-1"),
        (FRAME.mask(FRAME == 3.5, -1e-3), r"T cells \(CD4\+\) of spot c-1 is -0.001, no abundance"),
        (FRAME.mask(FRAME == 3.5, np.inf), r"of spot c-1 is inf"),
    ],
)
def test_no_table_of_abundances(frame, message):
    with pytest.raises(ValueError, match=message):
        read_abundances(frame)


def test_spots_may_repeat_where_their_sections_are_known():
    source = cell2location()
    source.obs_names = ["a", "a", "b"]
    source.obs["sample"] = ["C2", "C3", "C3"]
    assert read_abundances(source, library_key="sample").labels == ["C2", "C3", "C3"]
    with pytest.raises(ValueError, match="names spots twice: a"):
        read_abundances(source)


def test_not_a_source(tmp_path):
    with pytest.raises(TypeError, match="a data frame, an AnnData or a file of either, not ndarray"):
        read_abundances(FRAME.to_numpy())
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_abundances(tmp_path / "w.csv")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        read_abundances(tmp_path)
    (tmp_path / "w.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="is none of .csv, .tsv, .txt"):
        read_abundances(tmp_path / "w.parquet")
    (tmp_path / "w.csv").write_bytes(b"")
    with pytest.raises(OSError, match="damaged or truncated"):
        read_abundances(tmp_path / "w.csv")
    (tmp_path / "w.h5ad").write_bytes(b"nothing")
    with pytest.raises(OSError, match="damaged or truncated"):
        read_abundances(tmp_path / "w.h5ad")


def test_array_without_names():
    source = cell2location(frame=False)
    del source.uns["mod"]
    with pytest.raises(ValueError, match=r"array of shape \(3, 2\) without names of cell types"):
        read_abundances(source)
