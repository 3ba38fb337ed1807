"""Hist2Cell: the original's outputs at every stage, and predictions that hold whatever is beside them."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

from histocell.models import Hist2Cell, Places
from histocell.models.regressors.graph import Graph
from histocell.models.regressors.hist2cell import fitting, layers, network

TINY = {"width": 16, "max_epochs": 2, "n_members": 1}


@pytest.fixture(scope="module")
def parity(parity_dir):
    folder = parity_dir / "hist2cell_tiny"
    names = ("weights_fp16", "inputs", "expected_fp64", "gat_attention")
    return {name: dict(np.load(folder / f"{name}.npz")) for name in names} | {"folder": folder}


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def net(request, parity):
    net = network.Hist2CellNet(512, 80)
    net.load_state_dict({name: torch.tensor(w.astype(np.float64)) for name, w in parity["weights_fp16"].items()})
    return net.to(request.param).eval()


def close(net, found, expected):
    tolerance = 1e-12 if net.conv1.bias.dtype == torch.float64 else 2e-5
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=0, atol=tolerance)


class TestParity:
    def inputs(self, net, parity, pairs="edge_index"):
        x = torch.tensor(parity["inputs"]["x"]).to(net.conv1.bias.dtype)
        return x, torch.tensor(parity["inputs"][pairs])

    def test_stages(self, net, parity):
        expected = parity["expected_fp64"]
        x, pairs = self.inputs(net, parity)
        stages = net.stages(x, pairs)
        names = {"gat": "gat", "local": "graph_layernorm", "tokens": "transformer_norm", "spot": "spot_fc"}
        for ours, theirs in (names | {"fused": "fused_input"}).items():
            close(net, getattr(stages, ours), expected[theirs])
        for ours, theirs in zip(stages.heads, ("spot", "local", "transformer", "fused"), strict=True):
            close(net, ours, expected[f"{theirs}_head"])
        close(net, net(x, pairs), expected["final"])
        tokens = stages.local
        for index, block in enumerate(net.cell_transformer.blocks):
            tokens = block(tokens)
            close(net, tokens, expected[f"block{index}"])
        close(net, net.cell_transformer.head(stages.tokens), expected["transformer_head_prerelu"])

    def test_one_way_pairs_without_loops(self, net, parity):
        x, pairs = self.inputs(net, parity, "edge_index_directed")
        close(net, net.conv1(x, pairs), parity["expected_fp64"]["directed_gat"])
        close(net, net(x, pairs), parity["expected_fp64"]["directed_final"])

    def test_a_piece_alone(self, net, parity):
        """The original depends on what else is in the batch, by up to 0.147 here."""
        x, pairs = self.inputs(net, parity, "edge_index_first20")
        expected = parity["expected_fp64"]
        close(net, net.stages(x[:20], pairs).local, expected["first20_graph_layernorm"])
        alone = net(x[:20], pairs)
        close(net, alone, expected["first20_final"])
        together = net(*self.inputs(net, parity))[:20]
        assert float((alone - together).detach().abs().max()) == pytest.approx(0.147, abs=1e-3)

    def test_attention(self, net, parity):
        pairs, weight, _ = net.conv1.attention(*self.inputs(net, parity))
        expected = parity["gat_attention"]
        found = {(int(i), int(j)): row for (i, j), row in zip(pairs.T, weight.detach(), strict=True)}
        for (i, j), alpha in zip(expected["edge_index"].T, expected["alpha"], strict=True):
            close(net, found[int(i), int(j)], alpha)

    def test_parameters(self, parity):
        with (parity["folder"] / "parameters_80types.tsv").open() as file:
            rows = [row for row in csv.DictReader(file, delimiter="\t") if row["name"] != "TOTAL"]
        net = network.Hist2CellImageNet(80)
        trunk = dict(net.trunk.named_parameters())
        theirs = network.original_names({row["name"]: row["shape"] for row in rows if row["name"].startswith("resnet")})
        ours = {name: "x".join(map(str, w.shape)) for name, w in trunk.items()}
        assert ours == theirs
        rest = {row["name"]: row["shape"] for row in rows if not row["name"].startswith("resnet")}
        assert {name: "x".join(map(str, w.shape)) for name, w in net.net.named_parameters()} == rest


@pytest.mark.parametrize(("n_types", "expected"), [(80, 14_232_064), (22, 14_046_232)])
def test_number_of_parameters(n_types, expected):
    assert sum(w.numel() for w in network.Hist2CellImageNet(n_types).parameters()) == expected


def test_trunk_weights_from_a_file(tmp_path):
    from safetensors.torch import save_file

    net = network.Hist2CellImageNet(3)
    state = {name: w.clone() for name, w in net.trunk.state_dict().items()}
    turned = {there: here for here, there in network.TRUNK.items()}
    original = {".".join(["resnet18", turned[n.split(".")[0]], *n.split(".")[1:]]): w for n, w in state.items()}
    save_file(state | {"fc.weight": torch.ones(2, 2)}, tmp_path / "a.safetensors")
    torch.save(original, tmp_path / "b.pth")
    for name in ("a.safetensors", "b.pth"):
        again = network.Hist2CellImageNet(3, trunk_weights=tmp_path / name)
        assert all(torch.equal(w, state[key]) for key, w in again.trunk.state_dict().items())


class TestGATv2:
    def test_by_a_loop(self):
        torch.manual_seed(0)
        layer = layers.GATv2(5, 8, n_heads=2).double()
        x = torch.randn(6, 5, dtype=torch.float64)
        pairs = torch.tensor([[0, 1, 2, 2, 3, 5], [1, 0, 1, 3, 3, 0]])
        left, right = layer.lin_l(x).view(6, 2, 4), layer.lin_r(x).view(6, 2, 4)
        out = torch.zeros(6, 2, 4, dtype=torch.float64)
        for i in range(6):
            seen = sorted({i} | {int(j) for j, k in pairs.T if int(k) == i})
            for head in range(2):
                act = torch.nn.functional.leaky_relu(left[seen, head] + right[i, head], 0.2)
                out[i, head] = (act @ layer.att[0, head]).softmax(0) @ left[seen, head]
        torch.testing.assert_close(layer(x, pairs), out.flatten(1) + layer.bias)

    def test_large_scores_do_not_overflow(self):
        layer = layers.GATv2(2, 8, n_heads=1)
        x = torch.full((3, 2), 1e4, requires_grad=True)
        layer(x, torch.tensor([[0, 1], [1, 2]])).sum().backward()
        assert torch.isfinite(x.grad).all()

    def test_torch_geometric(self):
        geometric = pytest.importorskip("torch_geometric")
        theirs = geometric.nn.GATv2Conv(7, 4, heads=3).double()
        ours = layers.GATv2(7, 12, n_heads=3).double()
        ours.load_state_dict(theirs.state_dict())
        x, pairs = torch.randn(20, 7, dtype=torch.float64), torch.randint(0, 20, (2, 60)).unique(dim=1)
        torch.testing.assert_close(ours(x, pairs), theirs(x, pairs))


class TestModel:
    @pytest.fixture
    def fitted(self, cohort):
        def fit(**config):
            model = Hist2Cell(**TINY | config)
            return model.fit(cohort.X, cohort.Y, groups=cohort.groups, places=cohort.places, rng=0)

        return fit

    def changed(self, model, cohort):
        """The largest change of the predictions of the first section when the features of all others change."""
        X = cohort.X.copy()
        before = model.predict(X, places=cohort.places)[:60]
        X[60:] += 3
        return np.abs(model.predict(X, places=cohort.places)[:60] - before).max()

    def test_other_sections_do_not_count(self, cohort, fitted):
        model = fitted()
        assert self.changed(model, cohort) < 1e-5
        X = cohort.X.copy()
        before = model.predict(X, places=cohort.places)
        X[:59] += 1  # of the same section
        assert np.abs(model.predict(X, places=cohort.places)[59] - before[59]).max() > 1e-3

    def test_other_sections_do_count_in_the_original(self, cohort, fitted):
        assert self.changed(fitted(mode="paper"), cohort) > 1e-3

    def test_paper(self, fitted):
        config = Hist2Cell("paper").config
        expected = {"lr": 1e-4, "weight_decay": 1e-4, "min_lr": 1e-5, "batch_size": 16, "n_steps_around": 2}
        assert {name: getattr(config, name) for name in expected} == expected
        assert (config.max_epochs, config.patience, config.dropout, config.target_transform) == (20, 0, 0.3, "none")
        model = fitted(mode="paper")
        assert model.history["best_epoch"].tolist() == [1]  # the last

    def test_schedule(self):
        steps = fitting.Steps()
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-4)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=1e-5)
        for epoch in range(20):
            assert fitting.learning_rate(epoch, steps) == pytest.approx(cosine.get_last_lr()[0])
            optimizer.step()
            cosine.step()

    @pytest.mark.parametrize("whole", [True, False])
    def test_batches(self, whole):
        places = Places.of(np.argwhere(np.ones((10, 10))) * 1.0, np.repeat(["a", "b"], 50))
        graph = Graph.of(np.ones((100, 1)), places, 1.5, torch.device("cpu"))
        found = list(fitting.batches(graph, fitting.Steps(whole_sections=whole, batch_size=16)))
        assert sorted(torch.cat(found).tolist()) == list(range(100))
        assert max(map(len, found)) <= 16
        assert all(len(graph.sections[part].unique()) == 1 for part in found) == whole

    def test_learns(self, make):
        cohort = make(noise=0.1)
        model = Hist2Cell(width=32, n_members=1, lr=3e-3)
        model.fit(cohort.X[:180], cohort.Y[:180], groups=cohort.groups[:180], places=cohort.places.rows(np.arange(180)))
        predicted = model.predict(cohort.X[180:], places=cohort.places.rows(np.arange(180, 240)))
        assert min(np.corrcoef(p, y)[0, 1] for p, y in zip(predicted.T, cohort.Y[180:].T, strict=True)) > 0.9

    def test_wrong_settings(self):
        with pytest.raises(ValueError, match="unknown mode 'new'; there are: fixed, paper"):
            Hist2Cell("new")
        with pytest.raises(ValueError, match="multiple of 8, not 20"):
            Hist2Cell(width=20)
