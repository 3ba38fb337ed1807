"""Models of slides: the partial likelihood, attention over blocks, saving, and bags that lie anywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import histocell as hc
from histocell._core.rng import draw_seed
from histocell.models.slides import bags as bags_module
from histocell.models.slides.bags import Bag
from histocell.models.slides.cox import cox_loss, fit_cox
from histocell.models.slides.network import AttentionNet, over_blocks

SMALL = {"hidden": 16, "attention": 8, "max_epochs": 2}


def some_bags(n=12, dim=5, seed=0):
    rng = np.random.default_rng(seed)
    bags = [rng.normal(size=(rng.integers(20, 60), dim)).astype(np.float32) for _ in range(n)]
    return bags, np.stack([bag.mean(axis=0) for bag in bags]), np.eye(2)[np.arange(n) % 2]


def test_partial_likelihood_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    time, event = torch.tensor(rng.integers(1, 6, 20)).double(), torch.tensor(rng.integers(2, size=20)).double()
    risk = torch.tensor(rng.normal(size=20))
    wanted = sum(float(torch.logsumexp(risk[time >= time[i]], 0) - risk[i]) for i in range(20) if event[i])
    assert float(cox_loss(risk, time, event)) == pytest.approx(wanted, abs=1e-10)


def test_slope_of_the_partial_likelihood():
    """By the risk of a slide: its shares of the risk sets that it is in, less its event."""
    rng = np.random.default_rng(1)
    time, event, risk = rng.integers(1, 6, 20), rng.integers(2, size=20), rng.normal(size=20)
    wanted = -event.astype(float)
    for i in np.flatnonzero(event):
        at_risk = time >= time[i]
        wanted += at_risk * np.exp(risk) / np.exp(risk[at_risk]).sum()
    made = torch.tensor(risk, requires_grad=True)
    cox_loss(made, torch.tensor(time), torch.tensor(event)).backward()
    assert made.grad.numpy() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_slides_compared_one_at_a_time_learn_as_if_together(dropout):
    """The gradients of two passes are those of one loss over all slides, with the same tiles and the same dropout."""
    bags, means, Y = some_bags()
    Y = np.column_stack([np.arange(12.0) + 1, np.arange(12) % 3 > 0])
    model = hc.models.ABMIL(outcome="survival", dropout=dropout, bag_size=15, **SMALL).fit(means, Y, bags=bags)
    net, targets, every = model._build(5, 1).train(), torch.tensor(Y, dtype=torch.float32), [Bag(bag) for bag in bags]
    model._step(net, every, targets, np.random.default_rng(3))
    found = [each.grad.clone() for each in net.parameters()]
    net.zero_grad()
    draws = np.random.default_rng(3)
    risks = torch.stack([model._outputs(net, bag, draw_seed(draws)) for bag in every])[:, 0]
    (cox_loss(risks, *targets.T) / Y[:, 1].sum()).backward()
    for each, gradient in zip(net.parameters(), found, strict=True):
        assert gradient == pytest.approx(each.grad, abs=1e-6)
    assert max(float(each.abs().max()) for each in found) > 1e-3


@pytest.mark.parametrize(
    ("preset", "n", "events", "survival", "size"),
    [
        ("robust", 200, 0.5, False, 8),
        ("robust", 60, 0.5, False, 6),
        ("paper", 60, 0.5, False, 8),
        ("robust", 60, 0.9, True, 8),
        ("robust", 100, 0.1, True, 60),
        ("paper", 100, 0.1, True, 8),
    ],
)
def test_slides_of_a_step(preset, n, events, survival, size):
    """Few slides: fewer at a time, for more steps. Few events: more slides at a time, for events to compare."""
    Y = np.column_stack([np.arange(n), np.arange(n) < events * n]).astype(float)
    model = hc.models.ABMIL(preset, outcome="survival" if survival else "classes")
    assert model._schedule(Y).batch_size == size


def test_cox_regression_finds_the_hazard():
    """Exponential times, hazard ratio e per unit."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 2))
    time = rng.exponential(np.exp(-X[:, 0]))
    beta = fit_cox(X, np.minimum(time, 2.0), (time <= 2.0).astype(float), penalty=1e-3)
    assert beta == pytest.approx([1.0, 0.0], abs=0.08)


def test_blocks_do_not_change_the_attention(monkeypatch):
    """The softmax over blocks of 7 tiles is that over all at once, tiles without features left out."""
    net = AttentionNet(5, 3, hidden=8, attention=4, dropout=0.5).eval()
    tiles = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32) * 20
    tiles[[3, 30]] = np.nan
    known = np.isfinite(tiles).all(axis=1)
    with torch.no_grad():
        h, score = net.tiles(torch.tensor(tiles[known]))
        weights = torch.softmax(score.double(), 0)
        wanted = net.head((weights[:, None] * h).sum(0).float())
    monkeypatch.setattr(Bag.blocks, "__defaults__", (7,))
    outputs, attention = over_blocks(net, Bag(tiles), torch.zeros(5), torch.ones(5))
    assert outputs == pytest.approx(wanted.numpy(), abs=1e-5)
    assert attention[known] == pytest.approx(weights.numpy(), abs=1e-6)
    assert np.isnan(attention[~known]).all()


class Blocks:
    """Rows that count how many are read at a time."""

    def __init__(self, array):
        self.array, self.shape, self.most = array, array.shape, 0

    def __getitem__(self, rows):
        out = self.array[rows]
        self.most = max(self.most, len(out))
        return out


def test_large_bags_are_read_in_blocks():
    rows = Blocks(np.random.default_rng(0).normal(size=(3 * bags_module.BLOCK + 5, 4)).astype(np.float32))
    bag = Bag(rows)
    mean, count = bag.mean()
    assert count == len(bag)
    assert mean == pytest.approx(rows.array.mean(axis=0), abs=1e-5)
    assert len(np.unique(bag.sample(100, np.random.default_rng(0)), axis=0)) == 100
    assert rows.most == bags_module.BLOCK


def test_sources_of_tiles_agree(tmp_path):
    """numpy, zarr, dask and rows of a table give the same tiles and the same sample."""
    import dask.array as da
    import zarr

    array = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    stored = zarr.create_array(tmp_path / "a.zarr", data=array, chunks=(8, 3))
    table, rows = np.repeat(array, 2, axis=0), np.arange(0, 100, 2)
    for bag in (
        Bag(array),
        Bag(stored),
        Bag(da.from_array(array, chunks=8)),
        Bag(table, rows),
        Bag(Blocks(table), rows),
    ):
        assert np.array_equal(bag.read(10, 20), array[10:20])
        assert np.array_equal(bag.sample(9, np.random.default_rng(3)), Bag(array).sample(9, np.random.default_rng(3)))


@pytest.mark.parametrize("outcome", ["classes", "survival"])
@pytest.mark.parametrize("name", ["ABMIL", "MeanPooling"])
def test_saved_models_predict_the_same(tmp_path, name, outcome):
    bags, means, Y = some_bags()
    if outcome == "survival":
        Y = np.column_stack([np.arange(12.0), Y[:, 0]])
    model = getattr(hc.models, name)(outcome=outcome, **(SMALL if name == "ABMIL" else {}))
    options = {"bags": bags} if name == "ABMIL" else {}
    predicted = model.fit(means, Y, **options).predict(means, **options)
    model.save(tmp_path / "model")
    assert np.array_equal(hc.models.load(tmp_path / "model").predict(means, **options), predicted)
    assert predicted.shape == (12, 1 if outcome == "survival" else 2)
    again = type(model)(**vars(model.config)).fit(means, Y, **options).predict(means, **options)
    assert np.array_equal(again, predicted), "the same seed gives the same model"


def test_held_out_slides_choose_the_epoch_alone():
    """Slides for validation change which epoch is kept, and are not learnt from."""
    bags, means, Y = some_bags(16)
    held = np.arange(16) >= 12
    settings = {**SMALL, "max_epochs": 4, "patience": 10}
    model = hc.models.ABMIL(**settings).fit(means, Y, bags=bags, validation=held)
    assert model.history["best_epoch"][0] == model.history["val_loss"].argmin()
    bags[15] = bags[15] * 100  # a held-out slide: losses of the training stay what they are
    other = hc.models.ABMIL(**settings).fit(means, Y, bags=bags, validation=held)
    assert np.array_equal(other.history["train_loss"], model.history["train_loss"])
    assert not np.array_equal(other.history["val_loss"], model.history["val_loss"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda means, Y: (means, np.eye(2)[np.zeros(12, dtype=int)]), "one class"),
        (lambda means, Y: (np.ones_like(means), Y), "the same in all training slides"),
        (lambda means, Y: (means, Y * 2), "a single 1"),
    ],
)
def test_what_cannot_be_learnt_is_an_error(change, message):
    _, means, Y = some_bags()
    with pytest.raises(ValueError, match=message):
        hc.models.MeanPooling().fit(*change(means, Y))


def test_tiles_are_needed_for_each_slide():
    bags, means, Y = some_bags()
    with pytest.raises(ValueError, match="must hold 12, not none"):
        hc.models.ABMIL(**SMALL).fit(means, Y)
    with pytest.raises(ValueError, match="must hold 12, not 3"):
        hc.models.ABMIL(**SMALL).fit(means, Y, bags=bags[:3])
    with pytest.raises(ValueError, match="tiles, features"):
        hc.models.ABMIL(**SMALL).fit(means, Y, bags=[np.zeros(3)] * 12)
