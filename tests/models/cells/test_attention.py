"""Attention between modalities, against every step of the network by hand, one cell and one head at a time."""

from __future__ import annotations

import warnings
from math import erf

import numpy as np
import pytest

import histocell as hc
from histocell.models.places import Places

N_GENES, N_IMAGE, N_HEADS, WIDTH = 6, 5, 2, 16
TINY = {"width": WIDTH, "n_heads": N_HEADS, "feedforward": 16, "n_layers": 2, "max_epochs": 3, "batch_size": 64}


def fitted(architecture, config=None, *, genes=N_GENES, image=N_IMAGE):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, genes + image)).astype(np.float32)
    Y = np.eye(3)[np.argmax(np.column_stack([3 * X[:, 0], 3 * X[:, -1], np.ones(120)]), axis=1)]
    places = Places.of(rng.uniform(0, 40, (120, 2)), np.repeat(["a", "b"], 60))
    model = hc.models.CellTransformer(architecture=architecture, gene_columns=genes, **(TINY | (config or {})))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, Y, groups=places.sections, places=places, rng=0)
    rng = np.random.default_rng(1)  # what starts at zero or one, and what training hardly moved, tells apart, too
    for name, array in model.weights.items():
        if name.startswith("net."):
            model.weights[name] = (array + rng.normal(0, 0.3, array.shape)).astype(np.float32)
    return model, X, places


class ByHand:
    """The network in numpy, for one cell."""

    def __init__(self, model):
        self.w = {name.removeprefix("net."): np.float64(array) for name, array in model.weights.items()}
        self.model = model

    def linear(self, name, x):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, name, x):
        centred = x - x.mean(-1, keepdims=True)
        out = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return out * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def scaled(self, x):
        return np.clip((x - self.w["input_mean"]) * self.w["input_scale"], -4, 4)

    def tokens(self, x, xy, others, middle):
        """Tokens with their kinds and places: of the cell, of its neighbours, of the coordinates."""
        config = self.model.config
        parts = [slice(0, N_GENES), slice(N_GENES, None)] if config.architecture != "spatial" else [slice(None)]
        out = []
        for number, (features, where) in enumerate([(x, xy), *others]):
            for index, part in enumerate(parts):
                kind = index + (len(parts) if number else 0)
                out.append((self.linear(f"inputs.{index}", self.scaled(features)[part]), kind, where))
        if config.architecture in ("spatial", "multi_input"):
            waves = []
            for value in (xy - middle) / 1000:
                phases = [value * 10_000.0 ** (-k / (WIDTH // 4)) for k in range(WIDTH // 4)]
                waves += [np.sin(phases), np.cos(phases)]
            out.append((self.linear("place", np.concatenate(waves)), 2 * len(parts), xy))
        if "tags" in self.w:
            out = [(token + self.w["tags"][kind], kind, where) for token, kind, where in out]
        return out, len(parts)

    def __call__(self, x, xy, others, middle):
        """Attention ``(layer, own token, kind)``, and logits."""
        tokens, n_own = self.tokens(x, xy, others, middle)
        T, kinds = np.array([token for token, _, _ in tokens]), [kind for _, kind, _ in tokens]
        own = [*range(n_own), *([len(kinds) - 1] if kinds[-1] == 2 * n_own else [])]
        d, found = WIDTH // N_HEADS, np.zeros((2, len(own), 2 * n_own + 1))
        for layer in range(2):
            q, k, v = np.split(
                self.linear(f"layers.{layer}.attention", self.norm(f"layers.{layer}.before", T)), 3, axis=1
            )
            mixed = np.zeros_like(T)
            for head in range(N_HEADS):
                part = slice(head * d, (head + 1) * d)
                for i in range(len(T)):
                    score = np.array([q[i, part] @ k[j, part] / np.sqrt(d) for j in range(len(T))])
                    if "bias" in self.w:
                        score += self.w["bias"][layer, head][kinds[i], kinds]
                        if others:
                            apart = [np.log1p(np.linalg.norm(tokens[i][2] - where) / 10) for _, _, where in tokens]
                            score += self.w["slope"][layer, head] * np.array(apart)
                    weight = np.exp(score - score.max())
                    weight /= weight.sum()
                    mixed[i, part] = weight @ v[:, part]
                    if i in own:
                        np.add.at(found[layer, own.index(i)], kinds, weight / N_HEADS)
            T = T + self.linear(f"layers.{layer}.out", mixed)
            up = self.linear(f"layers.{layer}.up", self.norm(f"layers.{layer}.between", T))
            gelu = up * 0.5 * (1 + np.vectorize(erf)(up / np.sqrt(2)))
            T = T + self.linear(f"layers.{layer}.down", gelu)
        return found, self.linear("head", self.norm("norm", T[own].mean(0)))


def naive(model, X, places):
    """Attention and logits of all cells, with the nearest cells found by a loop."""
    config, hand, out = model.config, ByHand(model), []
    for row, xy in enumerate(places.xy_um):
        same = np.flatnonzero(places.sections == places.sections[row])
        away = {int(each): np.linalg.norm(places.xy_um[each] - xy) for each in same if each != row}
        near = sorted((each for each in away if away[each] < config.radius_um), key=away.get)[: config.n_neighbors]
        middle = places.centered_um()[row]
        out.append(hand(X[row], xy, [(X[each], places.xy_um[each]) for each in near], xy - middle))
    return np.array([each[0] for each in out]), np.array([each[1] for each in out])


@pytest.mark.parametrize(
    ("architecture", "config", "names"),
    [
        ("dual", {}, ["genes", "image"]),
        ("auto", {"preset": "paper"}, ["genes", "image"]),
        ("spatial", {}, ["genes", "coordinates"]),
        ("multi_input", {}, ["genes", "image", "coordinates"]),
        ("multi_input", {"n_neighbors": 3, "radius_um": 8.0}, ["genes", "image", "coordinates"]),
    ],
)
def test_is_that_of_every_step_by_hand(architecture, config, names):
    genes, image = (N_GENES, N_IMAGE) if architecture != "spatial" else (N_GENES + N_IMAGE, 0)
    model, X, places = fitted(architecture, config, genes=genes, image=image)
    by_cell, logits = naive(model, X, places)
    np.testing.assert_allclose(
        model._logits(X, places, None), logits, rtol=1e-3, atol=1e-3
    )  # the layers of the prediction
    group = np.arange(120) % 3
    group[::7] = -1
    found = model.attention(X, group, places=places)
    assert found.sources == names
    around = ["genes of neighbours", "image of neighbours"] if "n_neighbors" in config else []
    assert found.targets == [*names[:2], *around, *names[2:]]
    expected = np.stack([by_cell[group == number].mean(0) for number in range(3)])
    seen = [index for index in range(expected.shape[-1]) if expected[..., index].any()]
    np.testing.assert_allclose(found.mean, expected[..., seen], atol=2e-5)
    np.testing.assert_allclose(found.mean.sum(-1), 1)
    assert found.n_cells.tolist() == [(group == number).sum() for number in range(3)]
    assert np.ptp(found.mean[..., 0]) > 0.01  # a mistake of groups, layers or tokens would show


def test_cells_that_lack_a_modality_do_not_count():
    model, X, places = fitted("dual")
    whole = model.attention(X[:100], np.zeros(100, int)).mean
    X[100:, :N_GENES] = np.nan
    X[119] = np.nan
    found = model.attention(X, np.zeros(120, int))
    np.testing.assert_allclose(found.mean, whole)
    assert found.n_cells.tolist() == [100]
    none = model.attention(X[100:], np.zeros(20, int))
    assert none.n_cells.tolist() == [0]
    assert np.isnan(none.mean).all()


def test_large_tables_go_by_parts(monkeypatch):
    from histocell.models.cells import base, transformer

    model, X, places = fitted("dual")
    whole = model.attention(X, np.arange(120) % 2).mean
    monkeypatch.setattr(transformer, "_PREDICTED", 7)
    monkeypatch.setattr(base, "CHUNK", 50)
    np.testing.assert_allclose(model.attention(X, np.arange(120) % 2).mean, whole, atol=1e-6)


def test_bad_input():
    model, X, _ = fitted("unimodal", genes=N_GENES + N_IMAGE, image=0)
    with pytest.raises(ValueError, match="tokens of genes alone"):
        model.attention(X, np.zeros(120, int))
    model, X, _ = fitted("dual")
    with pytest.raises(ValueError, match=r"one for each of the 120 rows; they are float64 \(120,\)"):
        model.attention(X, np.zeros(120))
    with pytest.raises(ValueError, match=r"int64 \(3,\)"):
        model.attention(X, np.zeros(3, int))
