from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from histocell.datasets._tissue.anatomy import TYPICAL as SUBJECT
from histocell.datasets._tissue.anatomy import draw_anatomy
from histocell.datasets._tissue.cells import place_cells
from histocell.datasets._tissue.rendering import render
from histocell.images.slide_image import open_image
from histocell.images.stain.normalize import TYPICAL, StainNormalizer, StainTarget, StainTransform

METHODS = ("macenko", "reinhard", "vahadane")
MPP = 0.5


def unit(vectors) -> np.ndarray:
    return np.array(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)


STAININGS = {
    "typical": SUBJECT,
    "purple": replace(
        SUBJECT,
        stains=unit([[0.74, 0.60, 0.31], [0.28, 0.85, 0.42]]),
        strength=np.array([1.2, 0.7]),
        white=np.array([230.0, 215.0, 230.0]),
    ),
    "red": replace(
        SUBJECT,
        stains=unit([[0.60, 0.72, 0.36], [0.10, 0.86, 0.52]]),
        strength=np.array([0.8, 1.3]),
        white=SUBJECT.white + 6,
    ),
    "faint": replace(SUBJECT, strength=np.array([0.45, 0.45])),
}


def section(subject) -> np.ndarray:
    """The same section, cells and all, in the stains of a subject."""
    rng = np.random.default_rng(0)
    anatomy = draw_anatomy(SUBJECT, 450.0, rng=rng)
    cells = place_cells(anatomy, SUBJECT, rng=rng)
    return render(anatomy, cells, subject, size_px=900, mpp=MPP, rng=np.random.default_rng(1))


@pytest.fixture(scope="module")
def sections() -> dict[str, np.ndarray]:
    return {name: section(subject) for name, subject in STAININGS.items()}


@pytest.fixture(scope="module")
def targets(sections) -> dict[str, StainTarget]:
    return {method: target_of(sections["typical"], method) for method in METHODS}


def fit(image: np.ndarray, method: str = "macenko", target: StainTarget | None = None) -> StainTransform:
    return StainNormalizer(method, target).fit(open_image(image, mpp=MPP), mpp=MPP)


def target_of(image: np.ndarray, method: str = "macenko") -> StainTarget:
    return StainTarget.from_image(open_image(image, mpp=MPP), mpp=MPP, method=method)


def batch(image: np.ndarray) -> torch.Tensor:
    return torch.tensor(image).permute(2, 0, 1)[None]


# of the difference between two stainings; statistics of colour cannot follow each stain on its own
LEFT = {"macenko": 0.1, "vahadane": 0.15, "reinhard": 0.55}


@pytest.mark.parametrize("name", ["purple", "red", "faint"])
@pytest.mark.parametrize("method", METHODS)
def test_two_stainings_of_a_section_become_alike(sections, targets, method, name):
    reference = sections["typical"].astype(float)
    transform = fit(sections[name], method, targets[method])
    before = np.abs(sections[name] - reference)
    after = np.abs(transform.apply(sections[name]) - reference)
    assert after.mean() < LEFT[method] * before.mean()
    glass = reference.min(axis=2) > 225
    assert 0.1 < glass.mean() < 0.5
    assert after[glass].mean() < 2


@pytest.mark.parametrize("method", METHODS)
def test_a_slide_that_is_its_own_target_stays(sections, targets, method):
    image = sections["typical"]
    out = fit(image, method, targets[method]).apply(image)
    assert np.abs(out.astype(int) - image).max() <= 1


def test_amounts_of_stain_take_the_strength_and_the_colour_of_the_target():
    rng = np.random.default_rng(0)
    source = replace(TYPICAL["macenko"], glass=(230.0, 215.0, 228.0), vectors=((0.74, 0.6, 0.31), (0.28, 0.85, 0.42)))
    source = replace(source, vectors=tuple(map(tuple, unit(source.vectors))), strength=(1.0, 0.5))
    target = TYPICAL["macenko"]
    amounts = rng.uniform(0, 0.7, (4, 30, 50, 2))
    pigment = rng.uniform(-0.1, 0.1, (4, 30, 50, 1)) * np.cross(*source.vectors)  # neither stain explains it
    light = source.glass * 10 ** -(amounts @ np.array(source.vectors) + pigment)
    expected = target.glass * 10 ** -(amounts / source.strength * target.strength @ np.array(target.vectors) + pigment)
    for method in ("macenko", "vahadane"):
        out = StainTransform(method, source, target)(torch.tensor(light).permute(0, 3, 1, 2))
        expected = np.minimum(expected, 255)
        np.testing.assert_allclose(out.permute(0, 2, 3, 1), expected, atol=0.02)


def naive_lab(rgb) -> np.ndarray:
    """Reinhard et al. (2001), equations 4 to 6, one pixel."""
    red, green, blue = map(float, rgb)
    long = max(0.3811 * red + 0.5783 * green + 0.0402 * blue, 1)
    middle = max(0.1967 * red + 0.7244 * green + 0.0782 * blue, 1)
    short = max(0.0241 * red + 0.1288 * green + 0.8444 * blue, 1)
    a, b, c = np.log10([long, middle, short])
    return np.array([(a + b + c) / np.sqrt(3), (a + b - 2 * c) / np.sqrt(6), (a - b) / np.sqrt(2)])


def test_statistics_of_the_tissue_become_those_of_the_target():
    rng = np.random.default_rng(0)
    pixels = rng.normal((150, 90, 140), (12, 14, 10), (2000, 3))
    lab = np.array([naive_lab(pixel) for pixel in pixels])
    source = replace(TYPICAL["reinhard"], mean=tuple(lab.mean(0)), sd=tuple(lab.std(0)))
    target = replace(TYPICAL["reinhard"], mean=(3.6, -0.08, 0.01), sd=tuple(1.3 * lab.std(0)))
    out = StainTransform("reinhard", source, target)(torch.tensor(pixels.T.reshape(1, 3, 40, 50)))
    result = np.array([naive_lab(pixel) for pixel in out.reshape(3, -1).T])
    np.testing.assert_allclose(result.mean(0), target.mean, atol=1e-4)
    np.testing.assert_allclose(result.std(0), target.sd, rtol=1e-3)


def naive_macenko(rgb, source: StainTarget, target: StainTarget) -> np.ndarray:
    density = np.array([-np.log10(max(value, 1e-9) / glass) for value, glass in zip(rgb, source.glass, strict=True)])
    h, e = np.linalg.lstsq(np.array(source.vectors).T, density, rcond=None)[0]
    for amount, i in ((h, 0), (e, 1)):
        if amount > 0:
            gain = min(max(target.strength[i] / source.strength[i], 0.4), 2.5)
            density = density + amount * (gain * np.array(target.vectors[i]) - source.vectors[i])
    return np.minimum(target.glass * 10**-density, 255)


def naive_reinhard(rgb, source: StainTarget, target: StainTarget) -> np.ndarray:
    lab = naive_lab(rgb)
    gain = np.clip(np.array(target.sd) / source.sd, 0.4, 2.5)
    l, alpha, beta = gain * (lab - source.mean) + target.mean
    a = l / np.sqrt(3) + alpha / np.sqrt(6) + beta / np.sqrt(2)
    b = l / np.sqrt(3) + alpha / np.sqrt(6) - beta / np.sqrt(2)
    c = l / np.sqrt(3) - 2 * alpha / np.sqrt(6)
    to_lms = [[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]]
    stained = np.linalg.solve(to_lms, 10.0 ** np.array([a, b, c]))
    glass = naive_lab(source.glass)[0]
    share = min(max((glass - lab[0]) / ((glass - source.mean[0]) / 2), 0), 1)
    faded = np.array(rgb) * target.glass / source.glass
    return np.clip(share * stained + (1 - share) * faded, 0, 255)


@pytest.mark.parametrize(("method", "naive"), [("macenko", naive_macenko), ("reinhard", naive_reinhard)])
def test_patches_equal_a_loop_over_pixels(sections, method, naive):
    transform = fit(sections["purple"], method)
    patch = sections["purple"][300:900:17, 200:800:23]
    expected = [[naive(pixel, transform.source, transform.target) for pixel in row] for row in patch]
    out = transform(batch(patch))
    assert out.dtype == torch.float32
    np.testing.assert_allclose(out[0].permute(1, 2, 0), expected, atol=0.02)
    np.testing.assert_array_equal(transform.apply(patch), out[0].permute(1, 2, 0).round().numpy().astype(np.uint8))


@pytest.mark.parametrize("method", METHODS)
def test_every_pixel_has_a_colour(method):
    corners = np.array(np.meshgrid(*[[0, 1, 128, 254, 255]] * 3), np.uint8).reshape(3, -1).T[None]
    source = replace(TYPICAL[method], glass=(120.0, 140.0, 130.0))
    out = StainTransform(method, source, TYPICAL[method])(batch(corners))
    assert torch.isfinite(out).all()
    assert 0 <= out.min() <= out.max() <= 255


@pytest.mark.parametrize("method", METHODS)
def test_type_and_layout_of_patches_do_not_matter(sections, targets, method):
    transform = StainTransform(method, targets[method], TYPICAL[method])
    patches = torch.cat([batch(sections["red"][:64, :80]), batch(sections["red"][400:464, 400:480])])
    expected = transform(patches)
    for same in (patches.float(), patches.double(), patches.half(), patches.to(memory_format=torch.channels_last)):
        torch.testing.assert_close(transform(same), expected, atol=1e-3, rtol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(transform(patches), expected, atol=0, rtol=0)
    torch.testing.assert_close(transform(patches[1:]), expected[1:], atol=1e-3, rtol=0)
    frozen = sections["red"][:64, :80]
    frozen.flags.writeable = False
    assert transform.apply(frozen).shape == (64, 80, 3)


def test_glass_goes_to_glass_and_black_stays_black(sections, targets):
    glass = np.random.default_rng(0).normal((230, 215, 230), 1.5, (50, 50, 3)).clip(0, 255).astype(np.uint8)
    for method in ("macenko", "reinhard"):
        transform = fit(sections["purple"], method, targets[method])
        out = transform.apply(glass).reshape(-1, 3)
        np.testing.assert_allclose(out.mean(0), transform.target.glass, atol=2.5)
        assert out.std(0).max() < 4
        assert transform.apply(np.zeros((2, 2, 3), np.uint8)).max() < 12


def test_a_very_faint_slide_is_not_blown_up(targets):
    faint = section(replace(SUBJECT, strength=np.array([0.2, 0.2])))
    transform = fit(faint, target=targets["macenko"])
    depth, after = (
        np.log(glass) - np.log(np.maximum(image.reshape(-1, 3), 1.0)).mean(0)
        for image, glass in ((faint, transform.source.glass), (transform.apply(faint), transform.target.glass))
    )
    assert (after > 1.8 * depth).all()
    assert (after < 2.7 * depth).all()


@pytest.mark.parametrize("ink", [(20, 160, 80), (40, 60, 160), (25, 25, 30), (200, 30, 40)])
def test_ink_does_not_count_as_stain(sections, targets, ink):
    clean = targets["macenko"]
    marked = sections["typical"].copy()
    marked[100:200] = marked[:, 700:760] = ink
    found = target_of(marked)
    np.testing.assert_allclose(found.vectors, clean.vectors, atol=0.03)
    np.testing.assert_allclose(found.strength, clean.strength, rtol=0.1)
    np.testing.assert_allclose(found.mean, clean.mean, atol=0.05)


def test_a_little_tissue_on_much_glass_is_found(sections, targets):
    slide = np.random.default_rng(0).integers(242, 245, (4500, 4500, 3), dtype=np.uint8)
    slide[2000:2600, 2000:2600] = sections["typical"][200:800, 200:800]
    found, whole = target_of(slide), targets["macenko"]
    np.testing.assert_allclose(found.vectors, whole.vectors, atol=0.03)
    np.testing.assert_allclose(found.strength, whole.strength, rtol=0.15)


@pytest.fixture(scope="module")
def unusable() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "glass": rng.normal(240, 2, (500, 500, 3)).clip(0, 255).astype(np.uint8),
        "black": np.zeros((500, 500, 3), np.uint8),
        "grey": rng.integers(0, 256, (500, 500, 1), dtype=np.uint8).repeat(3, axis=2),
        "tiny": np.full((2, 2, 3), 150, np.uint8),
        "ink": np.full((500, 500, 3), (40, 60, 160), np.uint8),
        "haematoxylin": section(replace(SUBJECT, strength=np.array([1.0, 0.0]))),
        "eosin": section(replace(SUBJECT, strength=np.array([0.0, 1.0]))),
    }


@pytest.mark.parametrize("method", METHODS)
def test_a_slide_without_both_stains_stays_as_it_is(unusable, method):
    for name, image in unusable.items():
        with pytest.warns(UserWarning, match="stay as they are"):
            transform = fit(image, method)
        assert transform.source is None, name
        np.testing.assert_array_equal(transform.apply(image), image)
        assert StainTransform.from_json(transform.to_json()) == transform
    with pytest.raises(ValueError, match="cannot be a target"):
        target_of(unusable["glass"], method)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_slide_gives_the_same_transform_also_from_json(sections, method):
    transform = fit(sections["red"], method)
    assert transform == fit(sections["red"], method)
    assert len({transform, StainTransform.from_json(transform.to_json())}) == 1
    assert StainTarget.from_json(transform.source.to_json()) == transform.source
    facts = transform.describe()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["method"] == method
    assert facts["target"]["strength"] == list(TYPICAL[method].strength)


def test_bad_input():
    with pytest.raises(ValueError, match="method must be one of 'macenko'"):
        StainNormalizer("magic")
    with pytest.raises(ValueError, match="method must be one of"):
        target_of(np.zeros((10, 10, 3), np.uint8), "magic")
    transform = StainTransform("macenko", TYPICAL["macenko"], TYPICAL["macenko"])
    for shape in [(3, 8, 8), (1, 4, 8, 8), (1, 8, 8, 3)]:
        with pytest.raises(ValueError, match=r"shape \(n, 3, h, w\)"):
            transform(torch.zeros(shape))


@pytest.mark.parametrize("method", METHODS)
def test_the_default_target_is_what_the_public_slide_measures(data_dir, method):
    image = open_image(data_dir / "slides" / "CMU-1-Small-Region.svs")
    found = StainTarget.from_image(image, mpp=image.mpp, method=method)
    for name in ("glass", "mean", "sd", "vectors", "strength"):
        np.testing.assert_allclose(getattr(found, name), getattr(TYPICAL[method], name), rtol=0.01, atol=0.005)


def test_two_patients_become_more_alike(data_dir):
    from skimage.color import rgb2lab

    colours = {method: [] for method in (None, *METHODS)}
    for name in ("B4", "C4"):
        image = open_image(data_dir / "her2st" / name / "he.jpg", mpp=0.69)
        thumbnail = image.thumbnail(400)
        tissue = rgb2lab(thumbnail)[..., 0] < rgb2lab(np.uint8([[image.background]]))[0, 0, 0] - 12
        for method, found in colours.items():
            shown = thumbnail if method is None else StainNormalizer(method).fit(image, mpp=0.69).apply(thumbnail)
            lab = rgb2lab(shown)
            found.append(lab[tissue].mean(0))
    typical = [51.5, 26.6, -11.6]  # CIELAB of the tissue of the default target
    far = {method: np.linalg.norm(np.array(found) - typical, axis=1) for method, found in colours.items()}
    for method in METHODS:
        assert (far[method] < 0.75 * far[None]).all()
    apart = {method: np.linalg.norm(np.subtract(*found)) for method, found in colours.items()}
    assert apart["macenko"] < apart[None]
    assert apart["vahadane"] < apart[None]
