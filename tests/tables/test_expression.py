from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from histocell.tables.expression import GenePanel, choose_panel, genes_of, normalized_dispersions, read_expression

if TYPE_CHECKING:
    from pathlib import Path

CASES = {
    "visium_smooth_hvg": {"spot_context": True},
    "visium_nosmooth_target_hvg": {"spot_context": False},
    "visium_smooth_heg": {"spot_context": True, "flavor": "mean"},
}


@pytest.fixture
def spots(parity_dir: Path) -> ad.AnnData:
    raw = np.load(parity_dir / "seal_preprocess" / "raw_counts.npz")
    obs = pd.DataFrame({name: raw[name] for name in ("array_row", "array_col")}, index=raw["obs_names"])
    table = ad.AnnData(csr_matrix(raw["X"].astype(np.float32)), obs=obs)
    table.var_names = raw["var_names"]
    return table


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@pytest.mark.filterwarnings("ignore:.*rows have no counts")
class TestSealPreprocessing:
    @pytest.mark.parametrize("case", CASES)
    def test_panel_and_targets(self, spots: ad.AnnData, parity_dir: Path, case: str) -> None:
        wanted = np.load(parity_dir / "seal_preprocess" / f"{case}.npz")
        panel = choose_panel(spots, genes=60, totals="counted", **CASES[case])
        assert [name.upper() for name in panel.genes] == wanted["final_genes_in_order"].tolist()
        assert [*genes_of(spots).index] == wanted["step1_genes_after_name_filter"].tolist()
        read = read_expression(spots, panel)
        kept = np.isfinite(read).all(axis=1)
        assert spots.obs_names[kept].tolist() == wanted["step4_spots_kept"].tolist()
        assert read.dtype == np.float32
        np.testing.assert_allclose(read[kept], wanted["final_target"], atol=2e-6)
        np.testing.assert_allclose(panel.mean, wanted["final_target"].mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(panel.std, wanted["final_target"].std(axis=0, ddof=1), atol=1e-5)

    def test_other_technologies_are_not_averaged(self, spots: ad.AnnData, parity_dir: Path) -> None:
        wanted = np.load(parity_dir / "seal_preprocess" / "st_smooth_hvg.npz")
        spots.obs["array_col"] //= 2  # a square array
        with pytest.warns(UserWarning, match="1 of 1 sections are no hexagonal arrays: all \\(135 spots\\)"):
            panel = choose_panel(spots, genes=60, totals="counted", spot_context=True)
        assert [name.upper() for name in panel.genes] == wanted["final_genes_in_order"].tolist()
        with pytest.warns(UserWarning, match="no hexagonal arrays"):
            read = read_expression(spots, panel)
        np.testing.assert_allclose(read[np.isfinite(read).all(axis=1)], wanted["final_target"], atol=2e-6)

    def test_steps(self, spots: ad.AnnData, parity_dir: Path) -> None:
        wanted = np.load(parity_dir / "seal_preprocess" / "visium_smooth_hvg.npz")
        names = wanted["step3_genes_after_min_counts"].tolist()
        for smooth, step in ((False, "step5_X_log"), (True, "step5_X_smooth_log")):
            read = read_expression(spots, GenePanel(names, spot_context=smooth, totals="counted"))
            np.testing.assert_allclose(read[np.isfinite(read).all(axis=1)], wanted[step], atol=2e-6)
        x = np.expm1(wanted["step5_X_log"].astype(np.float64))
        found = normalized_dispersions(x.mean(axis=0), x.var(axis=0, ddof=1))
        np.testing.assert_allclose(found, wanted["step6_dispersions_norm"], atol=1e-5)
        smoothed = read_expression(spots, GenePanel(names, "log1p", spot_context=True))
        column = [wanted["step1_genes_after_name_filter"].tolist().index(name) for name in names]
        np.testing.assert_allclose(np.expm1(smoothed), wanted["step2_X_smooth_raw"][:, column], rtol=1e-5, atol=5e-6)


def _table(counts: np.ndarray, genes: list[str], sections: list[str] | None = None) -> ad.AnnData:
    obs = pd.DataFrame(index=[f"s{i}" for i in range(len(counts))])
    if sections is not None:
        obs["section"] = sections
    return ad.AnnData(csr_matrix(counts.astype(np.float32)), obs=obs, var=pd.DataFrame(index=genes))


GENES = [f"G{i}" for i in range(30)]


@pytest.fixture
def counts() -> np.ndarray:
    return np.random.default_rng(0).poisson(np.linspace(0.5, 6, 30), size=(40, 30))


class TestPanel:
    def test_sees_training_rows_alone(self, counts: np.ndarray) -> None:
        changed = counts.copy()
        changed[20:] = np.random.default_rng(1).poisson(20, size=(20, 30))
        first, second = (choose_panel(_table(each, GENES), np.arange(20), genes=5) for each in (counts, changed))
        assert first == second
        assert first != choose_panel(_table(changed, GENES), genes=5)

    def test_genes_are_shared_by_tables_and_found_in_every_section(self, counts: np.ndarray) -> None:
        absent = counts.copy()
        absent[20:, 3] = 0  # as a concatenation fills it
        both = _table(absent, GENES, ["a"] * 20 + ["b"] * 20)
        assert "G3" not in choose_panel(both, genes=None).genes
        other = _table(counts[:, ::-1], [name.lower() for name in GENES[::-1]])[:, :20].copy()
        panel = choose_panel([_table(counts, GENES), other], [np.arange(10), None], genes=20, flavor="variance")
        assert set(panel.genes) == set(GENES[10:])  # spelled as in the first
        np.testing.assert_array_equal(
            read_expression(other, GenePanel(["G11", "G10"], "log1p")), np.log1p(counts[:, [11, 10]]).astype(np.float32)
        )

    def test_share(self, counts: np.ndarray) -> None:
        panel = choose_panel(_table(counts, GENES), genes=None, min_share=0.9)
        assert set(panel.genes) == {
            name for name, share in zip(GENES, (counts > 0).mean(axis=0), strict=True) if share >= 0.9
        }

    def test_most_variable_genes(self, counts: np.ndarray) -> None:
        table = _table(counts, GENES)
        values = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
        panel = choose_panel(table, genes=7, flavor="variance")
        assert panel.genes == [GENES[i] for i in np.argsort(-values.var(axis=0))[:7]]
        index = [GENES.index(name) for name in panel.genes]
        np.testing.assert_allclose(panel.mean, values[:, index].mean(axis=0))
        np.testing.assert_allclose(panel.std, values[:, index].std(axis=0, ddof=1))
        np.testing.assert_allclose(read_expression(table, panel, rows=[3, 1]), values[[3, 1]][:, index], rtol=1e-6)

    def test_equal_genes_come_in_the_order_of_the_table(self) -> None:
        same = np.tile(np.arange(1, 11)[:, None], (1, 30))
        panel = choose_panel(_table(same, GENES), genes=4, flavor="variance", scale="log1p")
        assert panel.genes == GENES[:4]

    def test_json(self, counts: np.ndarray) -> None:
        panel = choose_panel(_table(counts, GENES), genes=["G4", "g2"], scale="log1p")
        assert panel.genes == ["G4", "G2"]
        assert GenePanel.from_dict(json.loads(json.dumps(panel.to_dict()))) == panel
        assert panel.select(["G2"]).mean == panel.mean[1:]
        with pytest.raises(ValueError, match="not a gene panel: it has genes, colour"):
            GenePanel.from_dict({"genes": ["a"], "colour": 1})

    def test_rows_without_counts_are_unknown(self, counts: np.ndarray) -> None:
        counts[5:10] = 0
        table = _table(counts, GENES)
        with pytest.warns(UserWarning, match="5 of 40 rows have no counts"):
            read = read_expression(table, GenePanel(["G1"]))
        assert np.flatnonzero(np.isnan(read[:, 0])).tolist() == [5, 6, 7, 8, 9]
        assert read_expression(table, GenePanel(["G1"], "log1p"))[5, 0] == 0


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda x: np.log1p(x), "X does not hold raw counts: [0-9]+ of [0-9]+ values that are fractions"),
            (lambda x: x - 2.0, "X does not hold raw counts: [0-9]+ values below 0"),
            (lambda x: np.where(x == 3, np.nan, x), "below 0 or not finite \\(such as nan\\)"),
            (lambda x: x * 0, "X holds no counts at all"),
        ],
    )
    def test_no_raw_counts(self, counts: np.ndarray, change, message: str) -> None:
        table = _table(change(counts), GENES)
        for read in (lambda: read_expression(table, GenePanel(["G1"])), lambda: choose_panel(table)):
            with pytest.raises(ValueError, match=message):
                read()

    def test_layer(self, counts: np.ndarray) -> None:
        table = _table(np.log1p(counts), GENES)
        table.layers["counts"] = counts
        assert read_expression(table, GenePanel(["G1"]), layer="counts").shape == (40, 1)
        with pytest.raises(ValueError, match="layer= names the layer with raw counts: counts"):
            read_expression(table, GenePanel(["G1"]))
        with pytest.raises(KeyError, match=re.escape('layers["raw"] not found; available: counts')):
            read_expression(table, GenePanel(["G1"]), layer="raw")

    def test_names(self, counts: np.ndarray) -> None:
        table, other = _table(counts, GENES), _table(counts, [f"ENSG{i:011d}" for i in range(30)])
        with pytest.raises(ValueError, match="the 2 tables share no gene: G0, G1, G2 .*; ENSG"):
            choose_panel([table, other])
        with pytest.raises(KeyError, match="1 of the 2 genes of the panel are not in the slide: CD3E"):
            read_expression(table, GenePanel(["G1", "CD3E"]), where="the slide")
        with pytest.raises(KeyError, match="genes CD3E are not in all tables"):
            choose_panel(table, genes=["G1", "CD3E"])
        with pytest.raises(ValueError, match="genes more than once in the panel: G1"):
            choose_panel(table, genes=["G1", "g1"])
        with pytest.raises(ValueError, match="30 of 30 genes have at least 3 counts .* fewer than genes=50"):
            choose_panel(table)

    def test_context_needs_the_array(self, counts: np.ndarray) -> None:
        with pytest.raises(KeyError, match="array_row"):
            choose_panel(_table(counts, GENES), genes=3, spot_context=True)
