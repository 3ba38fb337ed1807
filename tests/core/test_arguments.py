"""Arguments of the wrong kind or size: what the user sees."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from spatialdata.transformations import Affine, set_transformation

import histocell as hc
from histocell._core.arguments import as_names, as_pairs
from histocell._core.device import pick_device
from histocell.images.transformations import matrix_to_image


@pytest.fixture
def spots():
    return AnnData(np.ones((2, 3), dtype=np.float32), obsm={"spatial": np.array([[60.0, 60.0], [260.0, 60.0]])})


IMAGE = np.full((120, 320, 3), 240, dtype=np.uint8)


def test_encoder_that_is_none(tissue, user_sees):
    hc.pp.patches(tissue)
    with user_sees("Models", "a number in place of an encoder", TypeError, match="encoder must be a name"):
        hc.pp.embed_image(tissue, 123)
    with pytest.raises(TypeError, match="named by a string"):
        hc.encoders.get_spec(123)


def test_device(user_sees):
    with user_sees("Machine", "a device that torch does not know", ValueError, match="'gpu' is not known"):
        pick_device("gpu")
    with pytest.raises(ValueError, match="'cuda:99' is not on this machine"):
        pick_device("cuda:99")
    assert pick_device("cpu").type == "cpu"


def test_mpp_as_text(spots, user_sees):
    with user_sees("Slides", "mpp as text", TypeError, match="must be a number"):
        hc.io.from_anndata(spots, image=IMAGE, mpp="0.5")


@pytest.mark.parametrize("value", [0, -200, np.nan, np.inf])
@pytest.mark.parametrize("name", ["spot_pitch_um", "spot_diameter_um"])
def test_lengths(spots, name, value):
    with pytest.raises(ValueError, match="must be a positive number"):
        hc.io.from_anndata(spots, image=IMAGE, **{"spot_pitch_um": 100, name: value})
    with pytest.raises(TypeError, match="must be a positive number, not '100'"):
        hc.io.from_anndata(spots, image=IMAGE, **{"spot_pitch_um": 100, name: "100"})


@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf, 1e200])
def test_length_scale(tissue, value):
    with pytest.raises(ValueError, match="length.scale"):
        hc.tl.colocalization(tissue, "cell_abundance", length_scale_um=value)


def test_length_scale_beyond_the_section(tissue, user_sees):
    with user_sees("Co-localization", "a length scale longer than the section", ValueError, match="longer than"):
        hc.tl.colocalization(tissue, "cell_abundance", length_scale_um=1e200)


@pytest.mark.parametrize("matrix", [np.zeros((2, 2)), [[1, 2], [2, 4]], [[np.nan, 0], [0, 1]]])
@pytest.mark.parametrize("element", ["he", "spots"])
def test_singular_affine(tissue, matrix, element):
    affine = np.eye(3)
    affine[:2, :2] = matrix
    set_transformation(tissue[element], Affine(affine, ("x", "y"), ("x", "y")), "global")
    for other in ("he", "spots"):
        set_transformation(tissue[other], {"global": tissue[other].attrs["transform"]["global"]}, set_all=True)
    with pytest.raises(ValueError, match="cannot be inverted, it maps an area to a line"):
        matrix_to_image(tissue["spots"], tissue["he"])
    with pytest.raises(ValueError, match="cannot be inverted"):
        hc.pp.patches(tissue, mpp=0.5)


def test_what_the_user_sees_of_a_singular_affine(tissue, user_sees):
    flat = Affine([[1, 2, 0], [2, 4, 0], [0, 0, 1]], ("x", "y"), ("x", "y"))
    set_transformation(tissue["he"], {"global": flat}, set_all=True)
    with user_sees("Slides", "an image whose transformation is singular", ValueError, match="cannot be inverted"):
        hc.pp.patches(tissue, mpp=0.5)


@pytest.mark.parametrize("value", [-1, 0.5, "9", None, np.nan, np.inf, True])
def test_counts(value):
    error = ValueError if value == -1 else TypeError
    calls = {
        "n_bootstrap": lambda: hc.metrics.bootstrap_mean([0.1, 0.2], n_bootstrap=value),
        "batch_size": lambda: hc.encoders.load("timm/test_vit", weights="random", batch_size=value or 0.5),
        "n_sections": lambda: hc.datasets.synthetic_tissue(value),
        "size_px": lambda: hc.datasets.synthetic_tissue(size_px=value),
    }
    for name, call in calls.items():
        with pytest.raises(error, match=f"{name} must be (a whole number, not|at least [01], not -1)"):
            call()


@pytest.mark.parametrize("value", [-0.5, 1.5, "0.5", None, np.nan, np.inf, True])
def test_shares(tissue, value):
    error = ValueError if isinstance(value, float) else TypeError
    calls = {
        "overlap": lambda: hc.pp.tiles(tissue, overlap=value),
        "min_tissue": lambda: hc.pp.tiles(tissue, min_tissue=value),
        "level": lambda: hc.metrics.percentile_interval(np.ones((3, 1)), level=value),
        "confidence": lambda: hc.tl.evaluate_colocalization(tissue, tissue, confidence=value),
    }
    for name, call in calls.items():
        with pytest.raises(
            error, match=f"{name} must be a number (from 0 to 1|from 0 to below 1|between 0 and 1), not "
        ):
            call()


def test_number_of_resamples(tissue, user_sees):
    with user_sees("Training and scores", "n_bootstrap=0.5", TypeError, match="n_bootstrap must be a whole number"):
        hc.tl.evaluate_abundance(tissue, n_bootstrap=0.5)


@pytest.mark.parametrize("value", [0, -5, np.nan, np.inf])
def test_blocks(tissue, value):
    with pytest.raises(ValueError, match="block_um must be a positive number"):
        hc.pp.split(tissue, block_um=value)


@pytest.mark.parametrize("fractions", [5, None, "abc", ("a", "b", "c"), (0.5, 0.5), (np.nan, 0.5, 0.5)])
def test_fractions(tissue, fractions):
    with pytest.raises(ValueError, match="fractions must be three shares"):
        hc.pp.split(tissue, block_um=50, fractions=fractions)


@pytest.mark.parametrize(
    ("given", "names"),
    [("ab", ["ab"]), (["ab", "c"], ["ab", "c"]), (("ab",), ["ab"]), (7, ["7"]), (np.array(["a", "b"]), ["a", "b"])],
)
def test_one_name_or_several(given, names):
    assert as_names(given) == names


@pytest.mark.parametrize(
    ("given", "pairs"),
    [
        (("ab", "cd"), [("ab", "cd")]),
        (["ab", "cd"], [("ab", "cd")]),
        ([("ab", "cd")], [("ab", "cd")]),
        ([["ab", "cd"], ("e", "f")], [("ab", "cd"), ("e", "f")]),
        (np.array([["a", "b"], ["c", "d"]]), [("a", "b"), ("c", "d")]),
        ([], []),
    ],
)
def test_one_pair_or_several(given, pairs):
    assert as_pairs(given, "local") == pairs


@pytest.mark.parametrize("given", ["ab", ("ab",), ("a", "b", "c"), [("a", "b", "c")], [("a", "b"), "cd"], 5])
def test_no_pairs(given):
    with pytest.raises(TypeError, match=r"local must be a pair of names, \(x, y\), or several"):
        as_pairs(given, "local")


def test_one_name_where_several_may_stand(cohort):
    """Each public parameter that takes names takes one, too, and it is not spelled out."""
    hc.pp.split(cohort, test="P4", val="P3", features="X_morphology")
    assert cohort["table"].obs["split"].value_counts().gt(0).all()
    scores = hc.bench.leave_one_group_out(cohort, "X_morphology", models="ridge", n_bootstrap=10)
    assert set(scores["model"]) == {"ridge"}
    alone = hc.bench.leave_one_group_out(cohort, models=hc.models.Ridge(), n_bootstrap=10)
    same = ~scores["metric"].isin(["seconds", "peak_memory_mb"])
    assert alone["value"][same].equals(scores["value"][same])
    for pair in (("lymphocyte", "plasma"), ["lymphocyte", "plasma"], [("lymphocyte", "plasma")]):
        result = hc.tl.colocalization(cohort, "cell_abundance", local=pair, inplace=False)
        assert list(result.local_x) == ["lymphocyte", "plasma"]
    cohort["table"].obs["arm"] = cohort["table"].obs["patient"].map({"P1": "ab", "P2": "ab", "P3": "cd", "P4": "cd"})
    hc.tl.colocalization(cohort, "cell_abundance")
    difference = hc.tl.colocalization_difference(cohort, "arm", groups=("cd", "ab"), inplace=False)
    assert '"first": "cd"' in difference["params"]


def test_groups_as_text(cohort, user_sees):
    hc.tl.colocalization(cohort, "cell_abundance")
    cohort["table"].obs["arm"] = cohort["table"].obs["patient"].map({"P1": "a", "P2": "a", "P3": "b", "P4": "b"})
    with user_sees("Co-localization", "two groups as one text", TypeError, match="groups must be a pair of names"):
        hc.tl.colocalization_difference(cohort, "arm", groups="ab")


@pytest.mark.parametrize("switch", ["include_self", "row_standardize"])
@pytest.mark.parametrize("word", ["yes", "no", 1])
def test_switches(tissue, switch, word):
    with pytest.raises(TypeError, match=f"{switch} must be True or False, not {word!r}"):
        hc.tl.colocalization(tissue, "cell_abundance", **{switch: word})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda _: hc.datasets.synthetic_tissue(batch_effect="x"),
            "batch_effect must be a number of at least 0, not 'x'",
        ),
        (lambda sdata: hc.io.to_anndata(sdata, max_px="x"), "max_px must be a whole number, not 'x'"),
        (lambda sdata: hc.pp.tissue_mask(sdata, min_area_um2="x"), "min_area_um2 must be a number of at least 0"),
        (lambda sdata: hc.tl.predict_abundance(sdata, baselines="no"), "baselines must be True or False, not 'no'"),
        (lambda _: hc.encoders.load("kaiko-s16", weights="random", rng="x"), "rng must be a whole number, not 'x'"),
    ],
)
def test_text_in_place_of_a_number(tissue, call, message):
    with pytest.raises(TypeError, match=message):
        call(tissue)
