from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from histocell.images.slide_image import open_image
from histocell.nuclei.alignment.check import check_nuclei
from histocell.nuclei.alignment.contrast import ContrastMaps, Window
from histocell.nuclei.alignment.hypotheses import common_factors, scales, turned
from histocell.nuclei.alignment.residual import _fit, apply, neighbours, turn_and_scale
from histocell.nuclei.alignment.surface import Surface, _correlate, surface

PINK, PURPLE = np.array([232, 180, 205]), np.array([85, 55, 130])


def discs(n=150, size=300, *, mpp=1.0, rng=0, rim=20):
    """An image of dark discs of 4 um on pink tissue with a rim of glass, and their centres in px, at least 9 um apart."""
    g = np.random.default_rng(rng)
    xy = np.empty((0, 2))
    while len(xy) < n:
        point = g.uniform(rim + 6, size - rim - 6, (1, 2))
        if len(xy) == 0 or np.hypot(*(point - xy).T).min() > 9:
            xy = np.concatenate([xy, point])
    length = round(size / mpp)
    y, x = (np.mgrid[:length, :length] + 0.5) * mpp
    away = cKDTree(xy).query(np.stack([x, y], axis=-1), distance_upper_bound=10)[0]
    dark = np.clip(4.5 - away, 0, 1)[..., None]
    image = PINK * (1 - dark) + PURPLE * dark
    image[np.minimum.reduce([x, y, size - x, size - y]) < rim] = 245
    return np.clip(image + g.normal(0, 4, image.shape), 0, 255).astype(np.uint8), xy / mpp


@pytest.fixture(scope="module")
def tissue():
    return discs()


def check(image, xy, mpp=1.0, **options):
    settings = {"radius_um": 4.0, "reach_um": 60.0, "tolerance_um": 2.0, "rng": np.random.default_rng(0)}
    return check_nuclei(open_image(image, mpp=mpp), xy, mpp=mpp, **settings | options)


def test_correlation_is_that_of_a_loop():
    g = np.random.default_rng(0)
    contrast, covered = g.normal(size=(20, 30)).astype(np.float32), (g.random((20, 30)) < 0.7).astype(np.float32)
    window = Window(np.array([7.0, -4.0]), contrast, covered)
    step, pad = 2.0, 5
    xy = g.uniform([0, -10], [75, 40], (50, 2))  # in um; some of them outside
    sums = _correlate(window, xy, step, pad)
    for plane, found in zip((contrast, covered), sums, strict=True):
        for down in (-5, -1, 0, 3, 5):
            for across in (-5, 0, 2):
                wanted = 0.0
                for x, y in (xy - window.corner) / step - 0.5 + [across, down]:
                    left, top = int(np.floor(x)), int(np.floor(y))
                    for row in (top, top + 1):
                        for column in (left, left + 1):
                            if 0 <= row < 20 and 0 <= column < 30:
                                wanted += plane[row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
                assert found[down + pad, across + pad] == pytest.approx(wanted, abs=1e-4)


def test_p_value_is_the_rank_among_shifted_copies():
    g = np.random.default_rng(1)
    total = g.normal(size=(101, 101))
    total[50, 50] = 0
    everywhere = Surface(total, np.full((101, 101), 100.0), 4.0)
    effect, p, n = everywhere.test()
    rows, columns = np.meshgrid(np.arange(0, 101, 2), np.arange(0, 101, 2), indexing="ij")
    far = np.hypot(rows - 50, columns - 50) * 4 > 20
    others = total[rows[far], columns[far]]
    assert n == far.sum()
    assert p == pytest.approx((1 + (others >= 0).sum()) / (1 + n))
    assert effect == pytest.approx(-others.mean() / 100)


def test_shifts_that_leave_few_nuclei_say_nothing():
    number = np.full((101, 101), 100.0)
    number[:, 70:] = 30
    total = np.zeros((101, 101))
    total[50, 80] = 1e6
    found = Surface(total + np.random.default_rng(0).normal(size=total.shape), number, 2.0)
    assert np.isnan(found.effect[50, 80])
    assert found.peak().z < 6
    assert Surface(total, np.zeros_like(total), 2.0).peak() is None
    assert Surface(total, np.zeros_like(total), 2.0).test() == (pytest.approx(np.nan, nan_ok=True), 1.0, 0)


def test_nuclei_that_fit(tissue):
    found = check(*tissue)
    assert found.verdict == "fits"
    assert found.here.effect > 1
    assert found.here.p == 1 / (1 + found.here.n_shifts)
    assert np.abs(found.residual.offset_um).max() < 0.2
    assert found.here.on_tissue == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("mpp", "offset"), [(0.5, (3.3, -4.7)), (1.0, (-31.0, 18.4)), (2.0, (0.0, 50.0))])
def test_offset_is_found(mpp, offset):
    image, xy = discs(mpp=mpp)
    found = check(image, xy + np.array(offset) / mpp, mpp)
    assert found.verdict == "shifted"
    np.testing.assert_allclose(found.residual.offset_um, -np.array(offset), atol=0.5)
    np.testing.assert_allclose(apply(found.matrix, xy + np.array(offset) / mpp), xy, atol=0.5 / mpp)
    assert (found.residual.se_um < 0.5).all()


def test_standard_error_grows_where_nuclei_are_few(tissue):
    image, xy = tissue
    few, many = check(image, xy[:30]).residual, check(image, xy).residual
    assert few.se_um.mean() > 1.3 * many.se_um.mean()


WRONG = {
    "swapped": lambda xy, w, h: xy[:, ::-1],
    "mirrored": lambda xy, w, h: np.column_stack([w - xy[:, 0], xy[:, 1]]),
    "rotated": lambda xy, w, h: np.column_stack([w, h]) - xy,
    "wrong pixel size": lambda xy, w, h: xy * 0.43,
}


@pytest.mark.parametrize("verdict", WRONG)
def test_what_is_wrong_is_named_and_repaired(verdict):
    image, xy = discs()
    image, xy = image[:260], xy[xy[:, 1] < 260]  # wider than high: what is wrong leaves the image, too
    given = WRONG[verdict](xy, 300, 260)
    found = check(image, given)
    assert found.verdict == verdict
    assert found.here.p > 0.001
    np.testing.assert_allclose(apply(found.matrix, given), xy, atol=1.0)


def test_quarter_turns(tissue):
    image, xy = tissue
    for turn in (1, 2, 3):
        found = check(np.rot90(image, turn).copy(), xy)
        assert found.verdict == "rotated"
        assert found.found.partition(",")[0] == f"turned by {(-90 * turn) % 360} degrees"
    assert check(np.rot90(image.transpose(1, 0, 2), 2).copy(), xy).verdict == "swapped"


def test_small_turn_and_scale_are_measured(tissue):
    image, xy = tissue
    angle, factor = np.radians(1.5), 1.012
    turn = factor * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = (xy - 150) @ turn.T + 150
    found = check(image, moved)
    assert found.verdict == "rotated"
    assert turn_and_scale(found.matrix)[0] == pytest.approx(-1.5, abs=0.2)
    assert turn_and_scale(found.matrix)[1] == pytest.approx(1 / factor, abs=0.003)
    np.testing.assert_allclose(apply(found.matrix, moved), xy, atol=1.0)
    scaled = check(image, xy * 1.03)
    assert scaled.verdict == "wrong pixel size"
    assert scaled.factor == pytest.approx(1 / 1.03, abs=0.002)


@pytest.mark.parametrize("n", [25, 150])
def test_nuclei_of_other_tissue_are_unrelated(tissue, n):
    found = check(tissue[0], discs(rng=n)[1][:n])
    assert found.verdict == "unrelated"
    assert found.residual is None
    assert np.isnan(found.matrix).all()
    assert np.isnan(found.factor)


def test_few_nuclei_that_fit_are_believed(tissue):
    image, xy = tissue
    assert check(image, xy[:20]).verdict == "fits"


def test_an_image_without_glass():
    image, xy = discs(rim=0)
    found = check(image, xy + [7.0, 3.0])
    assert found.here.on_tissue > 0.9
    assert found.verdict == "shifted"


def test_clusters_alone_are_no_fit():
    """Nuclei only in one half, and unrelated nuclei only there: as dense as the dark places are, and yet unrelated."""
    image, xy = discs()
    image = image.copy()
    image[:, 150:280] = PINK
    other = discs(rng=7)[1]
    assert check(image, other[other[:, 0] < 150]).verdict == "unrelated"
    assert check(image, xy[xy[:, 0] < 145]).verdict == "fits"


def test_images_without_dark_nuclei(tissue):
    image, xy = tissue
    blank = check(np.full_like(image, 245), xy)
    assert (blank.verdict, blank.here.on_tissue, blank.here.effect) == (
        "unrelated",
        0,
        pytest.approx(np.nan, nan_ok=True),
    )
    fluorescence = check(255 - image, xy)
    assert fluorescence.verdict == "unrelated"
    assert fluorescence.here.brighter
    assert not check(*tissue).here.brighter
    away = check(image, xy + 1e6)
    assert away.verdict == "unrelated"
    assert away.tried == []


def test_windows_of_a_large_slide_give_the_same_answer(tissue, monkeypatch):
    image, xy = tissue
    monkeypatch.setattr("histocell.nuclei.alignment.contrast.MOST_PIXELS", 1)
    monkeypatch.setattr("histocell.nuclei.alignment.contrast.WINDOW_PX", 150)
    maps = ContrastMaps(open_image(image, mpp=1.0), mpp=1.0, resolution_um=1.0, radius_um=4.0)
    assert not maps.whole
    assert sum(len(points) for points in maps.windows_of(xy).values()) == len(xy)
    whole = check(image, xy + [12.3, -7.1])
    assert whole.verdict == "shifted"
    np.testing.assert_allclose(whole.residual.offset_um, [-12.3, 7.1], atol=0.5)
    for verdict in ("swapped", "wrong pixel size"):
        assert check(image, WRONG[verdict](xy, 300, 300)).verdict == verdict


def test_windows_agree_with_the_whole(tissue, monkeypatch):
    image, xy = tissue
    maps = ContrastMaps(open_image(image, mpp=1.0), mpp=1.0, resolution_um=1.0, radius_um=4.0)
    whole = surface(maps, xy, reach_um=60)
    monkeypatch.setattr("histocell.nuclei.alignment.contrast.MOST_PIXELS", 1)
    monkeypatch.setattr("histocell.nuclei.alignment.contrast.WINDOW_PX", 128)
    parts = ContrastMaps(open_image(image, mpp=1.0), mpp=1.0, resolution_um=1.0, radius_um=4.0)
    both = whole.number, surface(parts, xy, reach_um=60).number
    np.testing.assert_allclose(both[0][60, 60], both[1][60, 60], rtol=0.02)
    np.testing.assert_allclose(whole.effect[60, 60], surface(parts, xy, reach_um=60).effect[60, 60], rtol=0.05)


def test_maps_keep_the_image_on_itself():
    """Each map sends the middle of the picture that it undoes to the middle of the image."""
    for each in turned((300, 500), np.array([250.0, 150.0])):
        if "about" in each.name:
            continue
        own = (150, 250) if each.matrix[0, 0] == 0 else (250, 150)
        np.testing.assert_allclose(apply(each.matrix, np.array([own], float)), [[250, 150]])
        assert abs(np.linalg.det(each.matrix)) == pytest.approx(1)


def test_factors_are_tried_densely():
    factors = [each.matrix[0, 0] for each in scales(0.01)]
    assert min(factors) == pytest.approx(0.2)
    assert max(factors) == pytest.approx(5)
    assert (np.diff(factors) / factors[:-1]).max() <= 0.0101
    assert {0.5, 2.0} <= set(common_factors(0.5))
    assert 1 not in common_factors(1.0)


def test_similarity_is_that_of_the_points():
    g = np.random.default_rng(0)
    points = g.uniform(0, 100, (12, 2))
    angle = np.radians(7)
    matrix = np.eye(3)
    matrix[:2, :2] = 1.3 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix[:2, 2] = 5, -9
    np.testing.assert_allclose(_fit(points, apply(matrix, points), g.uniform(1, 2, 12)), matrix, atol=1e-9)
    assert turn_and_scale(matrix) == (pytest.approx(7), pytest.approx(1.3))


def test_blocks_are_neighbours():
    xy = np.random.default_rng(0).uniform(0, 100, (333, 2))
    blocks = neighbours(xy, 8)
    assert sorted(np.concatenate(blocks)) == list(range(333))
    assert {len(rows) for rows in blocks} <= {41, 42}
    assert max(np.ptp(xy[rows], axis=0).max() for rows in blocks) < 60
