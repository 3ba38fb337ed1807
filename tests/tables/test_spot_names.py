from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from histocell.tables.spot_names import match_spots, parse_name

BARCODES = st.text("ACGT", min_size=16, max_size=16)
PLACES = st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda xy: f"{xy[0]}x{xy[1]}")
FORMS = ("{spot}", "{spot}-1", "{section}_{spot}", "{section}_{spot}-1", "{spot}-1-{section}", "{spot}-{section}")


def written(form, spot, section):
    """A name as tools write it; places in the grid of legacy arrays have no well."""
    form = form.replace("{spot}-1", "{spot}") if "x" in spot else form
    return form.format(spot=spot, section=section)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("AAACAAGTATCTCCCA-1", ("AAACAAGTATCTCCCA", None, "")),
        ("AAACAAGTATCTCCCA.1", ("AAACAAGTATCTCCCA", None, "")),
        ("AAACAAGTATCTCCCA-2", ("AAACAAGTATCTCCCA", None, "2")),
        ("AAACAAGTATCTCCCA-1_2", ("AAACAAGTATCTCCCA", None, "2")),
        ("AAACAAGTATCTCCCA-1-C2", ("AAACAAGTATCTCCCA", "C2", "")),
        ("V1_run2_AAACAAGTATCTCCCA-1", ("AAACAAGTATCTCCCA", None, "V1_run2")),
        ("s_016um_00012_00345-1", ("s_016um_00012_00345", None, "")),
        ("10x13", ("10x13", None, "")),
        ("X10x13", ("10x13", None, "")),
        ("C2_10x13", ("10x13", "C2", "")),
        ("10x13-C2", ("10x13", "C2", "")),
        ("cell_17", ("cell_17", None, "")),
        ("cell_17-C2", ("cell_17", "C2", "")),
    ],
)
def test_parts(name, parts):
    assert parse_name(name, ["C2", "C3"]) == parts


@settings(max_examples=100, deadline=None)
@given(
    spots=st.one_of(*(st.lists(each, min_size=4, max_size=30, unique=True) for each in (BARCODES, PLACES))),
    forms=st.tuples(st.sampled_from(FORMS), st.sampled_from(FORMS)),
    labels=st.sampled_from([("C2", "C3"), ("1", "2"), ("V1 Human", "V1 Human-b")]),
    random=st.randoms(use_true_random=False),
)
def test_any_two_ways_to_write_a_name(spots, forms, labels, random):
    """One section after the other, and both at once where the names say the section, against a dictionary."""
    mine, theirs = forms
    assume(labels[0] != "1" or "x" in spots[0] or "{spot}-{section}" not in forms)  # AAAC-2 is a well, not a section
    rows = [(s, section) for section in labels for i, s in enumerate(spots) if i % 4 or random.random() < 0.5]
    names = [written(mine, *row) for row in rows]
    for section in labels:
        others = [spot for i, spot in enumerate(spots, 1) if i % 4 or random.random() < 0.5]
        random.shuffle(others)
        found = match_spots(
            names, [row[1] for row in rows], [written(theirs, spot, section) for spot in others], section=section
        )
        expected = [others.index(spot) if label == section and spot in others else -1 for spot, label in rows]
        assert found.tolist() == expected
    if "{section}" in theirs:
        others = random.sample(rows, len(rows))
        found = match_spots(names, [row[1] for row in rows], [written(theirs, *row) for row in others])
        assert found.tolist() == [others.index(row) for row in rows]


def test_equal_names_are_the_same_spot_whatever_they_look_like():
    names = [f"cell_{i}" for i in range(1, 7)]  # "1" and "2" are sections, too
    found = match_spots(names, ["1", "1", "1", "2", "2", "2"], names[::-1])
    assert found.tolist() == [5, 4, 3, 2, 1, 0]


def test_equal_names_of_one_section():
    names = ["10x13-C2", "11x13-C2", "10x13-C3", "11x13-C3"]
    assert match_spots(names, ["C2", "C2", "C3", "C3"], names[2:]).tolist() == [-1, -1, 0, 1]


def test_names_that_were_made_unique():
    """anndata's AAAC-1-1 of the second section; the first one's names alone would fit it, too."""
    spots = ["AAACAAGTATCTCCCA", "AAACAATCTACTAGCA", "AAACACCAATAACTGC"]
    names, labels = [f"{spot}-1" for spot in spots] + [f"{spot}-1-1" for spot in spots], ["A"] * 3 + ["B"] * 3
    assert match_spots(names, labels, names).tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(
        ValueError, match="AAACAAGTATCTCCCA-1 of the source may be .*, of section A, B; say .* section="
    ):
        match_spots(names, labels, names[:3])
    assert match_spots(names, labels, names[:3], section="B").tolist() == [-1, -1, -1, 0, 1, 2]


@pytest.mark.parametrize("ending", ["-2", "-1-1"])  # as Space Ranger aggregates, as anndata makes names unique
def test_bare_barcodes_do_not_choose_between_sections(ending):
    """Half of the names of the second section are those of rows of the first, whose values these would be."""
    spots = ["AAACAAGTATCTCCCA", "AAACAATCTACTAGCA", "AAACACCAATAACTGC"]
    source = [f"{spot}-1" for spot in spots[:2]] + [f"{spot}{ending}" for spot in spots]
    for section in ("B", None):
        with pytest.raises(ValueError, match="are all spot AAACAAGTATCTCCCA-1; give the rows of one section"):
            match_spots([f"{spot}-1" for spot in spots], ["B"] * 3, source, section=section)
    assert match_spots([f"{spot}{ending}" for spot in spots], ["B"] * 3, source, section="B").tolist() == [2, 3, 4]
    both = [
        f"{spot}{end}" for end in ("-1", ending) for spot in spots
    ]  # the first section's third is not in the source
    assert match_spots(both, ["whole"] * 6, source).tolist() == [0, 1, -1, 2, 3, 4]


def test_sections_that_share_a_third_of_their_places():
    ours, theirs = (
        [f"{x}x{y}" for x in range(3) for y in range(3)],
        [f"{x}x{y}" for x in range(2, 5) for y in range(3)],
    )
    with pytest.raises(
        ValueError, match=r"3 of 9 rows .* of other spots.* called 0x0, 0x1, 0x2 here, 3x0, 3x1, 3x2 in"
    ):
        match_spots(ours, ["C2"] * 9, theirs, section="C2")


def test_names_of_several_sections_for_one():
    with pytest.raises(
        ValueError, match="S1_10x13, S2_10x13 of the source are all spot 10x13; give the rows of one section"
    ):
        match_spots(["10x13", "11x13"], ["C2", "C2"], ["S1_10x13", "S2_10x13", "S1_11x13"])


def test_rows_of_sections_that_are_not_here_stay_out():
    found = match_spots(["10x13", "11x13"], ["C2", "C2"], ["C3_10x13", "C2_11x13", "C2_10x13", "C3_11x13"])
    assert found.tolist() == [2, 1]


def test_known_sections_of_the_others():
    labels = ["A", "A", "B", "B"]
    found = match_spots(["a-0", "b-0", "a-1", "b-1"], labels, ["b-1", "a-1", "a-0"], other_labels=["B", "B", "A"])
    assert found.tolist() == [2, -1, 1, 0]
    names = ["10x13", "11x13"] * 2
    found = match_spots(names, labels, names[::-1], other_labels=labels[::-1])
    assert found.tolist() == [3, 2, 1, 0]


def test_another_section_by_name_is_said():
    with pytest.warns(UserWarning, match=r"say C4, which is no section here \(C2\)"):
        found = match_spots(["10x13", "11x13"], ["C2", "C2"], ["C4_11x13", "C4_10x13"])
    assert found.tolist() == [1, 0]
    assert match_spots(["10x13"], ["C2"], ["C4_10x13"], section="C2").tolist() == [0]


def test_nothing_matches():
    with pytest.raises(ValueError, match="0 of 20 rows .* are called 0x0, 1x0, 2x0 here, a0, a1, a2 in"):
        match_spots([f"{i}x0" for i in range(20)], ["C2"] * 20, [f"a{i}" for i in range(20)])


def test_many_names():
    rng = np.random.default_rng(0)
    spots = ["".join(rng.choice(list("ACGT"), 16)) for _ in range(5000)]
    names, labels = [f"{spot}-1-{s}" for s in "ABCD" for spot in spots], [s for s in "ABCD" for _ in spots]
    assert (match_spots(names, labels, [f"{s}_{spot}" for s in "ABCD" for spot in spots]) == np.arange(20_000)).all()
