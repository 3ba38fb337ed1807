"""The four transformers of cell types: genes, place, image, and all of them with their neighbours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from histocell._core.device import pick_device
from histocell._core.rng import draw_seed
from histocell._core.settings import logger
from histocell.models import training
from histocell.models.cells.attention import mean_by_group, token_names
from histocell.models.cells.base import Cells, Classifier, ClassifierConfig
from histocell.models.cells.baselines import Logistic
from histocell.models.cells.batches import Source
from histocell.models.cells.network import CellNet
from histocell.models.settings import limited

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike
    from torch import Tensor

    from histocell._core.types import Floats, Ints
    from histocell.models.cells.attention import Attention
    from histocell.models.cells.inputs import Modalities
    from histocell.models.cells.network import Batch
    from histocell.models.places import Places

DEFAULT_PRESET = "robust"
AUTO = "auto"
ARCHITECTURES = ("unimodal", "spatial", "dual", "multi_input")
_PLACED = {"spatial", "multi_input"}
_BOTH = {"dual", "multi_input"}
_LEAST_BATCH = 32
_SHARED, _REGRESSION = ("input_", "class_weight"), ("coefficients", "intercept")
_PREDICTED = 4096  # cells at a time


@dataclass(frozen=True)
class CellTransformerConfig(training.Schedule, ClassifierConfig):
    """Settings of `CellTransformer`; those of the training are in `histocell.models.training.Schedule`.

    Attributes
    ----------
    preset
        The preset that the other settings started from.
    architecture
        ``"unimodal"``, ``"spatial"``, ``"dual"``, ``"multi_input"``, or ``"auto"``: ``"dual"`` of genes and image,
        ``"unimodal"`` of one of them.
    width, n_layers, n_heads, feedforward, dropout
        Of the transformer.
    least_steps
        Batches are smaller, down to 32 cells, where an epoch would have fewer steps than that; 0 for batches as they are.
    early_stopping
        Whether the training ends where held-out cells are predicted best; else it takes all epochs and the last weights.
    modality_dropout
        Share of the cells of which a step hides the genes or the image, so that either alone can be predicted from.
    logistic_share
        Share of a logistic regression on the same inputs in the logits: on small cohorts it carries over to others better than
        the net does. `None`: the share that makes held-out cells likeliest. None of it where genes or image are missing.
    n_neighbors, radius_um
        Of ``"multi_input"``: so many of the nearest cells within the radius are seen with each cell; 0 for none.
    """

    preset: str = limited(DEFAULT_PRESET, choices=("robust", "paper"))
    architecture: str = limited(AUTO, choices=(AUTO, *ARCHITECTURES))
    width: int = limited(128, least=4)
    n_layers: int = limited(2, least=1)
    n_heads: int = limited(4, least=1)
    feedforward: int = limited(256, least=1)
    dropout: float = limited(0.1, least=0, below=1)
    least_steps: int = limited(20, least=0)
    early_stopping: bool = True
    modality_dropout: float = limited(0.3, least=0, below=1)
    logistic_share: float | None = limited(None, least=0, most=1)
    n_neighbors: int = limited(0, least=0)
    radius_um: float = limited(30.0, above=0)


PRESETS: dict[str, dict[str, object]] = {
    "robust": {"batch_size": 1024, "max_epochs": 30, "patience": 4},
    "paper": {
        "width": 512,
        "n_layers": 6,
        "n_heads": 8,
        "feedforward": 2048,
        "lr": 3e-5,
        "min_lr": 3e-5,
        "warmup": 0.0,
        "clip_norm": 0.0,
        "batch_size": 64,
        "max_epochs": 20,
        "least_steps": 0,
        "early_stopping": False,
        "modality_dropout": 0.0,
        "logistic_share": 0.0,
    },
}


class CellTransformer(Classifier):
    """A transformer over the tokens of a cell: its expression, its image, its place, and the cells around it.

    Each input is projected to one width and becomes a token; a linear layer on the mean of the tokens tells the type. The
    loss is the cross-entropy with rare types weighted up. Probabilities are calibrated on held-out cells.

    Parameters
    ----------
    preset
        ``"robust"``: two layers of width 128, stopped early, trained to do with one modality, and blended with a logistic
        regression. ``"paper"``: six layers of width 512, 20 epochs at a learning rate of 3e-5, batches of 64, as published where it says so.
    config
        Settings of `CellTransformerConfig` that replace those of the preset. The architectures are ``"unimodal"`` (one
        modality), ``"spatial"`` (one modality and a token of sines of the coordinates), ``"dual"`` (genes and image,
        each with a learnt tag) and ``"multi_input"`` (all three, with a learnt bias of the attention for each pair of kinds
        of tokens, and over neighbours one for their distance).

    References
    ----------
    Acosta et al.: CellSymphony, the four architectures and their training; widths, heads and what the relative attention
    is are not stated there and set here.

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> X = np.random.default_rng(0).normal(size=(90, 6)).astype(np.float32)
    >>> Y = np.eye(3)[np.argmax(X[:, [0, 1, 4]], axis=1)]
    >>> model = hc.models.CellTransformer(gene_columns=4, max_epochs=2, batch_size=32, width=16)
    >>> model.fit(X, Y, groups=np.repeat(["a", "b", "c"], 30), rng=0).predict(X).shape
    (90, 3)
    """

    name = "cell_transformer"
    summary = (
        'Transformer over tokens of genes, image and place of a cell; preset "paper": six layers, as published; "robust" '
        "(default): two smaller ones that can do with one modality, blended with a logistic regression."
    )
    needs = (
        "embeddings of expression (obsm of hc.pp.embed_genes) or of the image, or both; two architectures: coordinates"
    )
    limits = "absolute coordinates of one section say nothing about another, and little about tissue that was held out"
    cost = "minutes on a CPU; a GPU helps"
    reference = "after Acosta et al., CellSymphony"
    config_class = CellTransformerConfig
    config: CellTransformerConfig

    def __init__(self, preset: str | None = None, **config: object) -> None:
        preset = preset or DEFAULT_PRESET
        if not isinstance(preset, str) or preset not in PRESETS:
            msg = f"unknown preset {preset!r}; there are: {', '.join(PRESETS)}"
            raise ValueError(msg)
        super().__init__(**{**PRESETS[preset], **config, "preset": preset})
        if self.config.width % 4 or self.config.width % self.config.n_heads:
            msg = f"CellTransformer: width must be a multiple of 4 and of n_heads, not {self.config.width}"
            raise ValueError(msg)
        if self.config.n_neighbors and self.config.architecture != "multi_input":
            msg = f'CellTransformer: neighbours are for architecture="multi_input", not {self.config.architecture!r}'
            raise ValueError(msg)
        self.needs_places = self.config.architecture in _PLACED

    def reach_um(self, places: Places | None = None) -> float:
        """As far as the neighbours that it sees."""
        del places
        return self.config.radius_um if self.config.n_neighbors else 0.0

    @property
    def may_lack_modality(self) -> bool:
        """Whether it learnt to predict from one of two modalities."""
        return self.config.modality_dropout > 0

    def _learn(
        self, cells: Cells, held: Cells | None, rng: np.random.Generator, device: str | None, epochs: int | None
    ) -> int | None:
        config, chosen = self.config, pick_device(device)
        modalities = self.modalities(cells.X.shape[1])
        self._check_architecture(modalities)
        if config.logistic_share != 0:
            self._learn_logistic(cells, rng.spawn(1)[0])
        weights = torch.as_tensor(self.weights["class_weight"], dtype=torch.float32, device=chosen)
        source, labels = self._source(cells), torch.as_tensor(cells.labels, device=chosen)
        hide = config.modality_dropout if len(modalities.columns) > 1 else 0.0
        with training.seeded(draw_seed(rng), chosen):
            net = self._build(modalities, len(weights)).to(chosen)

            def learn(active: Sequence[int], batches: Sequence[Tensor]) -> list[float]:
                del active
                (rows,) = batches
                batch = _hidden(source.batch(rows.cpu().numpy(), chosen), hide)
                loss = F.cross_entropy(net(batch), labels[rows], weight=weights)
                loss.backward()
                return [loss.item()]

            validate = None
            if held is not None and config.early_stopping:
                validate = partial(_validate, net, self._source(held), held.labels, weights)
            run = training.Run(net, len(cells.rows), validate, epochs)
            (history,) = training.train_all(
                [run], learn, schedule=self._schedule(len(cells.rows)), desc="cell transformer"
            )
        self.weights |= {f"net.{name}": value.cpu().numpy() for name, value in net.state_dict().items()}
        curves = {"train_loss": [history.train_loss], "val_loss": [history.val_loss]}
        if epochs is None:
            self.history = {name: np.array(values) for name, values in curves.items() if values[0]}
            self.history["best_epoch"] = np.array([history.best_epoch])
            logger.info("cell_transformer: best epoch %d", history.best_epoch + 1)
        else:
            self.history["refit_loss"] = np.array([history.train_loss])
        return history.best_epoch + 1

    def _logits(self, X: np.ndarray, places: Places | None, device: str | None) -> Floats:
        chosen = pick_device(device)
        net = self._fitted(X.shape[1], chosen)
        parts = [np.zeros((0, len(self.weights["class_weight"])))]
        with torch.inference_mode():
            parts += [net(batch).double().cpu().numpy() for _, batch in self._batches(X, places, chosen)]
        return np.concatenate(parts)

    def attention(
        self, X: ArrayLike, groups: ArrayLike, *, places: Places | None = None, device: str | None = None
    ) -> Attention:
        """How much of the attention of each kind of tokens goes to which, in each layer; the mean over heads and the cells of a group.

        These are the weights of the layers that make the prediction. Attention says from where a token takes what it becomes, not
        what decides the type: for that, compare predictions with and without a modality. A logistic regression that is blended
        in has no part in it.

        Parameters
        ----------
        X
            Features, shape ``(n, n_features)``.
        groups
            Number of the group of each row, shape ``(n,)``, from 0; -1 for rows that do not count.
        places
            Where the rows lie, for architectures that need it.
        device
            Torch device; `None` for the best there is.

        Returns
        -------
        Means, numbers of cells and names of tokens. Rows that lack a modality do not count: in them, all goes to the other.

        Raises
        ------
        ValueError
            When the model has one kind of tokens, or `groups` does not fit.
        """
        cells = self._usable_cells(X, places)
        modalities = self.modalities(cells.X.shape[1])
        sources, kinds = token_names(
            list(modalities.columns),
            place=self.config.architecture in _PLACED,
            neighbors=self.config.n_neighbors > 0,
        )
        if len(sources) < 2:
            msg = f'this model has tokens of {sources[0]} alone, so there is no attention between any; "dual", "spatial" and "multi_input" have more'
            raise ValueError(msg)
        group = np.asarray(groups)
        if group.shape != (len(cells.X),) or group.dtype.kind not in "iu":
            msg = f"groups must be whole numbers, one for each of the {len(cells.X)} rows; they are {group.dtype} {group.shape}"
            raise ValueError(msg)
        chosen = pick_device(device)
        net = self._fitted(cells.X.shape[1], chosen)

        def parts() -> Iterator[tuple[Ints, Floats]]:
            start = 0
            for some, where in self._parts_of(cells):
                own = group[cells.rows[start : start + len(some)]]
                own = np.where(modalities.present(some).all(axis=1), own, -1)
                start += len(some)
                for rows, batch in self._batches(some, where, chosen):
                    counted = own[rows] >= 0
                    yield own[rows][counted], net.attention(batch).double().cpu().numpy()[counted]

        with torch.inference_mode():
            return mean_by_group(parts(), max(int(group.max(initial=-1)) + 1, 0), sources, kinds)

    def _batches(self, X: np.ndarray, places: Places | None, device: torch.device) -> Iterator[tuple[Ints, Batch]]:
        """All rows as the net sees them, some at a time, with their numbers."""
        numbers = np.arange(len(X))
        source = self._source(Cells(X, numbers, numbers, places))
        for start in range(0, len(X), _PREDICTED):
            part = numbers[start : start + _PREDICTED]
            yield part, source.batch(part, device)

    def _learn_logistic(self, cells: Cells, rng: np.random.Generator) -> None:
        """The logistic regression that is blended in, with the scales and class weights of the net."""
        regression = Logistic(gene_columns=self.config.gene_columns)
        regression.weights = {name: array for name, array in self.weights.items() if name.startswith(_SHARED)}
        regression._learn(cells, None, rng, None, None)
        self.weights |= {f"logistic.{name}": regression.weights[name] for name in _REGRESSION}

    def _second(self, X: np.ndarray) -> Floats | None:
        if self.config.logistic_share == 0:
            return None
        regression = Logistic(gene_columns=self.config.gene_columns)
        regression.weights = {name: array for name, array in self.weights.items() if name.startswith(_SHARED)}
        regression.weights |= {name: self.weights[f"logistic.{name}"] for name in _REGRESSION}
        return regression._logits(X, None, None)

    @property
    def _share(self) -> float | None:
        return self.config.logistic_share

    def _schedule(self, n_cells: int) -> training.Schedule:
        """The schedule, with smaller batches of few cells: a net that takes thirty steps in all has learnt nothing."""
        config = self.config
        if not config.least_steps:
            return config
        return replace(config, batch_size=min(config.batch_size, max(_LEAST_BATCH, n_cells // config.least_steps)))

    def _source(self, cells: Cells) -> Source:
        config = self.config
        return Source.of(
            cells.X,
            cells.rows,
            self.modalities(cells.X.shape[1]),
            self.weights,
            cells.places,
            n_neighbors=config.n_neighbors,
            radius_um=config.radius_um,
        )

    def _on(self, device: str, n_features: int) -> CellNet:
        """The network without weights of its own."""
        with torch.device(device):
            return self._build(self.modalities(n_features), len(self.weights["class_weight"]))

    def _fitted(self, n_features: int, device: torch.device) -> CellNet:
        """The network as it was fitted, without dropout."""
        net = self._on("meta", n_features).eval()
        names = net.state_dict().keys()
        net.load_state_dict(
            {name: torch.tensor(self.weights[f"net.{name}"], device=device) for name in names}, assign=True
        )
        return net

    def _build(self, modalities: Modalities, n_classes: int) -> CellNet:
        config = self.config
        return CellNet(
            list(modalities.widths().values()),
            n_classes,
            width=config.width,
            n_layers=config.n_layers,
            n_heads=config.n_heads,
            feedforward=config.feedforward,
            dropout=config.dropout,
            tags=len(modalities.columns) > 1,
            place=config.architecture in _PLACED,
            relative=config.architecture == "multi_input",
        )

    def _check_architecture(self, modalities: Modalities) -> None:
        architecture, there = self.config.architecture, list(modalities.columns)
        wanted = 2 if architecture in _BOTH else 1
        if architecture != AUTO and len(there) != wanted:
            needed = "genes and image" if wanted == 2 else "one modality, genes or image,"
            msg = f"architecture {architecture!r} needs {needed} and gets {' and '.join(there)}"
            raise ValueError(msg)

    def _shapes(self, n_features: int, n_classes: int) -> dict[str, tuple[int, ...]]:
        net = self._on("meta", n_features)
        shapes = {f"net.{name}": tuple(value.shape) for name, value in net.state_dict().items()}
        if self.config.logistic_share != 0:
            shapes |= {"logistic.coefficients": (n_classes, n_features), "logistic.intercept": (n_classes,)}
        return shapes


def _hidden(batch: Batch, share: float) -> Batch:
    """The batch without the genes or the image of a share of those cells that have both; neighbours go with the cell."""
    if not share:
        return batch
    n_cells, _, n_kinds = batch.there.shape
    whole = batch.there[:, 0].all(dim=-1)
    chosen = (torch.rand(n_cells) < share).to(whole.device) & whole
    gone = F.one_hot(torch.randint(n_kinds, (n_cells,)), n_kinds).bool().to(whole.device) & chosen[:, None]
    there = batch.there & ~gone[:, None]
    return batch._replace(there=there)


def _validate(net: CellNet, source: Source, labels: Ints, weights: Tensor) -> float:
    """The loss of cells held out."""
    net.eval()
    total = count = 0.0
    with torch.no_grad():
        for start in range(0, len(labels), _PREDICTED):
            cells = np.arange(start, min(start + _PREDICTED, len(labels)))
            truth = torch.as_tensor(labels[cells], device=weights.device)
            logits = net(source.batch(cells, weights.device))
            total += float(F.cross_entropy(logits, truth, weight=weights, reduction="sum"))
            count += float(weights[truth].sum())
    return total / count if count else 0.0
