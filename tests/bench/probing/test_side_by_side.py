"""Encoders side by side: the probe's own figures, paired differences, and patients that an adapter has seen."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

import histocell as hc
from histocell._core import keys
from histocell.encoders import adapters, registry
from histocell.encoders.networks.build import network_of_spec

pytestmark = [
    pytest.mark.filterwarnings("ignore:.* components, as there are no 256"),
    pytest.mark.filterwarnings("ignore:.*too few for a test"),
    pytest.mark.filterwarnings("ignore:.* rows have no counts"),
]


@pytest.fixture
def two(cohort):
    """A cohort with an embedding that knows something, and one that does not."""
    table = cohort["table"]
    table.obsm["X_noise"] = np.random.default_rng(0).normal(size=(table.n_obs, 20)).astype(np.float32)
    return cohort


def test_scores_and_differences(two):
    result = hc.bench.compare_encoders(
        two, {"noise": "X_noise", "seen": "X_morphology"}, ["probe", "expression", "abundance"], genes=8, n_bootstrap=50
    )
    assert result.reference == "noise"
    assert list(result.differences["task"]) == ["probe", "expression", "abundance"]
    assert (result.differences["difference"] > 0.05).all()
    assert set(result.differences["n_groups"]) == {4}
    own = hc.bench.probe(two, "X_noise", protocol="hest-cv", genes=8, n_bootstrap=50)
    mine = result.scores.query("task == 'probe' and features == 'noise' and group == 'all' and target == 'mean'")
    assert mine["value"].item() == own.query("group == 'all' and gene == 'mean'")["value"].item()
    singles = result.scores.query("task == 'abundance' and metric == 'cc' and target == 'mean' and group != 'all'")
    wide = singles.pivot_table(index="group", columns="features", values="value")
    row = result.differences.query("task == 'abundance'").iloc[0]
    assert row["difference"] == pytest.approx((wide["seen"] - wide["noise"]).mean())
    assert "against noise" in repr(result)
    ax = hc.pl.probe(result, show=False)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["probe", "expression", "abundance"]
    plt.close("all")


def trained_on(data, key, groups):
    keys.write_provenance(data["table"], key, trained_on=groups)


def test_patients_that_an_adapter_has_seen_are_scored_for_none(two, user_sees):
    groups = sorted(two["table"].obs["patient"].unique())
    trained_on(two, "X_noise", groups[:2])
    with pytest.warns(UserWarning, match=r"noise on P1, P2\): these are scored for no encoder, 2 are"):
        result = hc.bench.compare_encoders(two, ["X_morphology", "X_noise"], genes=5, n_bootstrap=50)
    assert set(result.scores["group"]) == {*groups[2:], "all"}
    cells = result.scores[result.scores["features"] == "X_morphology"].set_index(["group", "target"])["value"]
    gene = result.scores["target"].iloc[0]
    assert cells["all", gene] == pytest.approx(np.mean([cells[group, gene] for group in groups[2:]]))
    assert cells["all", "mean"] == pytest.approx(np.mean([cells[group, "mean"] for group in groups[2:]]))
    ends = result.scores.query("group == 'all' and target == 'mean'")
    assert set(ends["interval"]) == {"range of 2 groups"}
    trained_on(two, "X_noise", groups[:3])
    with user_sees("Probes", "an adapter that was trained on the patients", ValueError, match="no adapter has seen"):
        hc.bench.compare_encoders(two, ["X_morphology", "X_noise"], genes=5)
    with pytest.warns(UserWarning, match="'X_noise' was tuned with the expression of P1, P2, P3"):
        hc.bench.probe(two, "X_noise", genes=5, n_bootstrap=20)


def test_adapters_beside_their_base(two, tmp_path, monkeypatch):
    """A folder of an adapter is embedded, its training is known, and another adapter of that name is noticed."""
    pytest.importorskip("peft")
    monkeypatch.setattr(registry, "_REGISTRY", {})
    spec = hc.encoders.EncoderSpec(
        name="vit", library="timm", arch="vit_tiny_patch16_224", arch_kwargs={"depth": 1, "img_size": 32}, input_px=32
    )
    hc.encoders.register(spec)
    for seed in (0, 1):
        tuned, _ = adapters.add_lora(network_of_spec(spec, "random", 0)[0], spec)
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.data.fill_(0.01 * (seed + 1))
        training = {"training groups": ["P1"], "validation groups": ["P2"]}
        adapters.save_adapter(tmp_path / "tuned", tuned, spec=spec, version="random-0", metadata={"training": training})
        if seed == 0:
            frozen = hc.encoders.load("vit", weights="random", device="cpu")
            with pytest.warns(UserWarning, match="tuned on P1, P2"):
                result = hc.bench.compare_encoders(
                    two, {"frozen": frozen, "tuned": str(tmp_path / "tuned")}, genes=5, n_bootstrap=20, device="cpu"
                )
            assert set(result.scores["features"]) == {"frozen", "tuned"}
            assert not np.allclose(two["table"].obsm["X_frozen"], two["table"].obsm["X_tuned"])
    hc.encoders.register_adapter(tmp_path / "tuned")
    with pytest.raises(ValueError, match=r'obsm\["X_tuned"\] comes from another adapter'):
        hc.bench.compare_encoders(two, ["X_noise", "tuned"])


def test_what_cannot_be_compared(two):
    with pytest.raises(ValueError, match="a comparison needs two encoders, not X_noise"):
        hc.bench.compare_encoders(two, "X_noise")
    with pytest.raises(ValueError, match="tasks must be of probe, expression, abundance, not survival"):
        hc.bench.compare_encoders(two, tasks="survival")
    with pytest.raises(ValueError, match="reference 'uni' is none of the encoders"):
        hc.bench.compare_encoders(two, reference="uni")
    with pytest.raises(ValueError, match="two encoders are called"):
        hc.bench.compare_encoders(two, ["X_noise", "X_noise"])
    with pytest.raises(ValueError, match="encoders= is empty"):
        hc.bench.compare_encoders(two, [])
