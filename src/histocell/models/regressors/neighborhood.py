"""The base of regressors that see neighbours: the radius of the neighbourhood, and an ensemble of nets on its graph."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import torch

from histocell._core.device import pick_device
from histocell._core.errors import warn
from histocell._core.rng import draw_seed
from histocell._core.settings import logger
from histocell.models import training
from histocell.models.folds import Fold
from histocell.models.places import check_places
from histocell.models.regressors.base import Regressor, RegressorConfig
from histocell.models.regressors.graph import Graph
from histocell.models.regressors.ridge import Ridge
from histocell.models.settings import limited

if TYPE_CHECKING:
    from torch import Tensor, nn

    from histocell._core.types import Arrays, Floats
    from histocell.models.folds import FitRows
    from histocell.models.places import Places

_LONELY = 0.5  # the share of rows without neighbours that is worth a warning


@dataclass(frozen=True)
class NeighborhoodConfig(RegressorConfig):
    """Settings of models that see neighbours.

    Attributes
    ----------
    n_rings
        How many rings of adjacent rows are neighbours: rows nearer than `n_rings` + 1/2 times the distance between
        adjacent rows, which on a hexagonal grid are 6, 18, ..., on a square grid 8, 20, ...
    radius_um
        The distance in um below which rows are neighbours, in place of `n_rings`; for cells, which lie on no grid.
    n_members
        Number of nets; their mean is the prediction.
    max_folds
        Groups are held out in at most this many folds to stop the training and to calibrate the interval.
    refit
        Whether the nets are trained again on all training rows, for the number of epochs that was best on the groups
        held out. Rows given as ``validation`` are never fitted.
    ridge_share
        Share of a ridge regression on the features of the row alone in the prediction, from 0 to 1.
    """

    n_rings: int = limited(1, least=1)
    radius_um: float | None = limited(None, above=0)
    n_members: int = limited(3, least=1)
    max_folds: int = limited(3, least=2)
    refit: bool = True
    ridge_share: float = limited(0.0, least=0, most=1)


class NeighborhoodRegressor(Regressor):
    """A regressor that sees each row with the rows around it, on the same section.

    While it is fitted, the neighbours of a row are rows of the same part: training rows see no row that is held out,
    and rows that are held out see no training row.
    """

    needs_places = True
    config_class = NeighborhoodConfig
    config: NeighborhoodConfig

    @abstractmethod
    def _build(self, n_features: int, n_targets: int) -> nn.Module:
        """A net with new weights."""

    @abstractmethod
    def _train(
        self, net: nn.Module, graph: Graph, Y: Tensor, fold: Fold, *, stop_after: int | None, desc: str
    ) -> training.History:
        """Train a net on the nodes to fit, stopped on those held out or after some epochs."""

    @abstractmethod
    def _apply(self, net: nn.Module, graph: Graph) -> Tensor:
        """Scaled predictions for all nodes."""

    def reach_um(self, places: Places | None = None) -> float:
        """How far away, in um, a neighbour may lie."""
        return self._radius(places)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes that weights must have by settings, features and targets."""
        if not np.all(self.weights.get("radius_um", 1.0) > 0):
            msg = f"radius_um must be above 0, not {self.weights['radius_um']}"
            raise ValueError(msg)
        return super().weight_shapes() | {"radius_um": (1,)}

    def _fit_scaled(self, X: Floats, Y: Floats, rows: FitRows, rng: np.random.Generator, device: str | None) -> Floats:
        places = check_places(rows.places, len(X), type(self).__name__)
        radius = self._radius(places)
        graph = Graph.of(X, places, radius, pick_device(device))
        targets = torch.as_tensor(Y, dtype=torch.float32, device=graph.x.device)
        folds = self._folds(rows, rng)
        nets, searches = self._train_all(graph, targets, folds, rng, "net")
        held = self._held_out(nets, folds, graph, Y.shape)
        refits: list[training.History] = []
        if self.config.refit and rows.train.all():
            epochs = int(np.median([history.best_epoch for history in searches])) + 1
            everything = Fold(np.flatnonzero(rows.train), np.empty(0, dtype=np.intp))
            nets, refits = self._train_all(graph, targets, [everything] * self.config.n_members, rng, "refit", epochs)
        self.weights |= {"radius_um": np.array([radius])} | _stack(nets)
        self.history = _curves(searches, refits)
        logger.info("%s: best epochs %s", self.name, [history.best_epoch + 1 for history in searches])
        share = self.config.ridge_share
        if not share:
            return held
        ridge = Ridge()
        ridge_held = ridge._fit_scaled(X, Y, rows, rng, device)
        self.weights |= {f"ridge.{name}": ridge.weights[name] for name in ("coefficients", "intercept")}
        return share * ridge_held + (1 - share) * held

    def _predict_at(self, X: Floats, places: Places | None, device: str | None) -> Floats:
        places = check_places(places, len(X), type(self).__name__)
        graph = Graph.of(X, places, self._radius(places), pick_device(device))
        self._warn_of_lonely_rows(graph)
        n_members, n_targets = self.weights[self._output].shape
        with torch.device("meta"):  # draws no weights
            net = self._build(X.shape[1], n_targets).eval()
        total = np.zeros((len(X), n_targets))
        for index in range(n_members if len(X) else 0):
            member = {name: torch.tensor(self.weights[name][index]) for name in net.state_dict()}
            net.load_state_dict(member, assign=True)
            with torch.no_grad():
                total += self._apply(net.to(graph.x.device), graph).cpu().numpy()
        nets, share = total / n_members, self.config.ridge_share
        if not share:
            return nets
        return share * (X @ self.weights["ridge.coefficients"] + self.weights["ridge.intercept"]) + (1 - share) * nets

    def _predict(self, X: Floats, device: str | None) -> NoReturn:
        check_places(None, len(X), type(self).__name__)
        raise AssertionError  # pragma: no cover

    def _shapes(self, n_features: int, n_targets: int) -> dict[str, tuple[int, ...]]:
        with torch.device("meta"):
            net = self._build(n_features, n_targets)
        shapes = {name: (self.config.n_members, *weight.shape) for name, weight in net.state_dict().items()}
        if self.config.ridge_share:
            shapes |= {"ridge.coefficients": (n_features, n_targets), "ridge.intercept": (n_targets,)}
        return shapes

    def _radius(self, places: Places | None) -> float:
        """The radius of the neighbourhood: as fitted, else as set, else by the pitch of the rows."""
        if "radius_um" in self.weights:
            return float(self.weights["radius_um"][0])
        if self.config.radius_um is not None:
            return self.config.radius_um
        pitch = check_places(places, len(places.xy_um) if places else 0, type(self).__name__).pitch_um
        if not np.isfinite(pitch):
            msg = "no section has two rows at different places, so their distance is not known; give radius_um"
            raise ValueError(msg)
        return (self.config.n_rings + 0.5) * pitch

    def _folds(self, rows: FitRows, rng: np.random.Generator) -> list[Fold]:
        """What each member fits on and is stopped on."""
        if held_apart := rows.validation_fold():
            return held_apart * self.config.n_members
        folds = rows.folds(max_folds=self.config.max_folds)
        order = rng.permutation(len(folds))
        return [folds[order[index % len(folds)]] for index in range(self.config.n_members)]

    def _train_all(
        self, graph: Graph, Y: Tensor, folds: list[Fold], rng: np.random.Generator, desc: str, epochs: int | None = None
    ) -> tuple[list[nn.Module], list[training.History]]:
        """One net per fold, stopped on the rows that are held out or after `epochs`."""
        nets, histories = [], []
        for index, (fold, child) in enumerate(zip(folds, rng.spawn(len(folds)), strict=True)):
            with training.seeded(draw_seed(child), graph.x.device):
                nets.append(self._build(graph.x.shape[1], Y.shape[1]).to(graph.x.device))
                title = f"{desc} {index + 1}"
                histories.append(self._train(nets[-1], graph, Y, fold, stop_after=epochs, desc=title))
        return nets, histories

    def _held_out(self, nets: list[nn.Module], folds: list[Fold], graph: Graph, shape: tuple[int, ...]) -> Floats:
        """Mean prediction of the nets that did not fit a row, NaN where every net did."""
        total, count = np.zeros(shape), np.zeros((shape[0], 1))
        for net, fold in zip(nets, folds, strict=True):
            part = graph.take(torch.as_tensor(fold.held, device=graph.x.device))
            with torch.no_grad():
                total[fold.held] += self._apply(net.eval(), part).cpu().numpy()
            count[fold.held] += 1
        return np.divide(total, count, out=np.full(shape, np.nan), where=count > 0)

    def _warn_of_lonely_rows(self, graph: Graph) -> None:
        """Warn where most rows have no neighbour, as on a grid that is wider than that of the fit."""
        n_rows = len(graph.x)
        lonely = n_rows - len(graph.pairs[1].unique())
        if n_rows > 1 and lonely > _LONELY * n_rows:
            warn(
                f"{lonely} of {n_rows} rows have no neighbour within {self._radius(None):,.0f} um, the radius that the model "
                "was fitted with; it was made for rows that lie closer"
            )


def _stack(nets: list[nn.Module]) -> Arrays:
    """Weights of all nets, the net along the first axis."""
    states = [net.state_dict() for net in nets]
    return {name: np.stack([state[name].cpu().numpy() for state in states]) for name in states[0]}


def _curves(searches: list[training.History], refits: list[training.History]) -> Arrays:
    """Curves of the nets as rows, NaN after their end."""
    curves = {
        "train_loss": [history.train_loss for history in searches],
        "val_loss": [history.val_loss for history in searches],
        "refit_loss": [history.train_loss for history in refits],
    }
    padded = {name: np.array([*zip_longest(*rows, fillvalue=np.nan)]).T for name, rows in curves.items() if any(rows)}
    return padded | {"best_epoch": np.array([history.best_epoch for history in searches])}
