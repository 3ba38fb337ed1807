"""Low-rank adapters (LoRA) in a network: added for training, loaded, and merged into its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from histocell._core.arguments import check_count, check_positive, check_share
from histocell._core.errors import import_optional, listing
from histocell.encoders.adapters.digest import base_digest
from histocell.encoders.adapters.files import DIGEST, PREFIX, Adapter, read_adapter
from histocell.encoders.adapters.targets import lora_targets

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from peft import PeftModel

    from histocell.encoders.networks.backbone import Backbone
    from histocell.encoders.spec import EncoderSpec


@dataclass(frozen=True)
class LoraReport:
    """Size of an adapter.

    Attributes
    ----------
    trainable, total
        Number of parameters that are trained, and of all.
    targets
        Names of the linear layers with a low-rank update.
    """

    trainable: int
    total: int
    targets: tuple[str, ...]

    def __str__(self) -> str:
        share = self.trainable / self.total
        return f"{self.trainable:,} of {self.total:,} parameters ({share:.2%}) in {len(self.targets)} linear layers"


def add_lora(
    network: nn.Module,
    spec: EncoderSpec,
    *,
    rank: int = 8,
    alpha: float = 8,
    dropout: float = 0.15,
    blocks: int = 1,
    targets: Sequence[str] | None = None,
) -> tuple[PeftModel, LoraReport]:
    """Put low-rank updates beside linear layers of a network; all other parameters are frozen.

    The output is that of the network until the updates are trained.

    Parameters
    ----------
    network
        A network as :func:`histocell.encoders.networks.build.network_of_spec` makes it. It is changed in place.
    spec
        The encoder.
    rank, alpha
        Rank of the updates; they are scaled by ``alpha / rank``.
    dropout
        Share of the inputs of an update that is dropped in training.
    blocks
        The last so many transformer blocks are tuned: attention and MLP.
    targets
        Names of the layers instead, for networks that :func:`lora_targets` does not know.

    Returns
    -------
    The network of peft, and how many parameters are trained.

    Raises
    ------
    ImportError
        Without peft.
    ValueError
        When layers are not there, or take no part in the computation.

    References
    ----------
    Hu et al.: LoRA: Low-Rank Adaptation of Large Language Models (ICLR 2022), arXiv:2106.09685, equation 3.

    Examples
    --------
    >>> import torch
    >>> from histocell.encoders import get_spec
    >>> from histocell.encoders.adapters import add_lora
    >>> from histocell.encoders.networks.build import build
    >>> with torch.device("meta"):
    ...     network = build(get_spec("uni2-h"))
    >>> print(add_lora(network, get_spec("uni2-h"))[1])
    196,608 of 681,590,784 parameters (0.03%) in 4 linear layers
    """
    if spec.adapter is not None:
        msg = (
            f"{spec.name!r} has an adapter in its weights already, and one on top of it could not be told from its base. Go on "
            f"with hc.encoders.adapters.load_adapter({spec.adapter.folder!r}, network of {spec.adapter.base!r}, trainable=True)"
        )
        raise ValueError(msg)
    peft = import_optional("peft", "finetune")
    check_count(rank, "rank", least=1)
    check_positive(alpha, "alpha")
    check_share(dropout, "dropout", ends="[)")
    names = lora_targets(network, spec, blocks=blocks) if targets is None else list(targets)
    if absent := [name for name in names if not isinstance(_layer(network, name), nn.Linear)]:
        linears = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
        msg = f"targets {listing(absent)} are no linear layers of {spec.name!r}; there are {listing(linears, 20)}"
        raise ValueError(msg)
    _check_used(network, names, spec)
    digest = base_digest(network)
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=names,
        bias="none",
    )
    on_meta = any(parameter.is_meta for parameter in network.parameters())
    tuned: PeftModel = peft.get_peft_model(network, config, low_cpu_mem_usage=on_meta)
    tuned.peft_config["default"].base_model_name_or_path = spec.hub_id or spec.name
    vars(tuned)[DIGEST] = digest  # of the weights before training, which may cast them to another type
    trainable = sum(parameter.numel() for parameter in tuned.parameters() if parameter.requires_grad)
    return tuned, LoraReport(trainable, sum(parameter.numel() for parameter in tuned.parameters()), tuple(names))


def load_adapter(folder: str | Path | Adapter, network: nn.Module, *, trainable: bool = False) -> PeftModel:
    """Put the updates of an adapter beside the layers of a network, to train them further.

    To embed, :func:`histocell.encoders.load` merges them into the weights instead.

    Parameters
    ----------
    folder
        Folder of :func:`save_adapter`.
    network
        The network that it was trained on, with its weights. It is changed in place.
    trainable
        Whether its updates are trained.

    Raises
    ------
    ValueError
        When the folder is no whole adapter, or was trained on another network or other weights.
    """
    peft = import_optional("peft", "finetune")
    adapter = folder if isinstance(folder, Adapter) else read_adapter(folder)
    _check_base(network, adapter)
    config = peft.LoraConfig(**adapter.lora_config(), inference_mode=not trainable)
    tuned: PeftModel = peft.get_peft_model(network, config)
    vars(tuned)[DIGEST] = adapter.base_digest
    outcome = peft.set_peft_model_state_dict(tuned, adapter.tensors)
    if outcome.unexpected_keys:
        msg = f"{adapter.folder} has tensors that the network has not: {listing(outcome.unexpected_keys, 4)}"
        raise ValueError(msg)
    return tuned if trainable else tuned.eval()


def merge(network: PeftModel) -> Backbone:
    """The network with the updates added to its weights: the same output, without peft and without its cost."""
    return cast("Backbone", network.merge_and_unload())


def apply_adapter(network: nn.Module, adapter: Adapter) -> None:
    """Add the updates of an adapter to the weights of a network, in place; peft is not needed.

    Raises
    ------
    ValueError
        When the adapter was trained on another network or other weights.
    """
    _check_base(network, adapter)
    for name, down, up in _updates(adapter):
        weight = cast("nn.Linear", network.get_submodule(name)).weight
        with torch.no_grad():
            weight += (adapter.scale * (up.float() @ down.float())).to(weight.dtype)


def _updates(adapter: Adapter) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    for name in adapter.targets:
        a, b = (adapter.tensors[f"{PREFIX}{name}.lora_{side}.weight"] for side in "AB")
        yield name, a, b


def _check_base(network: nn.Module, adapter: Adapter) -> None:
    """Refuse a network that the adapter does not belong to."""
    problems = []
    for name, down, up in _updates(adapter):
        layer = _layer(network, name)
        shape = (up.shape[0], down.shape[1])
        if not isinstance(layer, nn.Linear):
            problems.append(f"{name} is not there")
        elif tuple(layer.weight.shape) != shape:
            problems.append(f"{name} is {tuple(layer.weight.shape)} instead of {shape}")
    if problems:
        msg = f"{adapter.folder} is an adapter for another network than this one: {listing(problems, 4)}; {adapter.origin()}"
        raise ValueError(msg)
    if (digest := base_digest(network)) != adapter.base_digest:
        msg = (
            f"{adapter.folder} was trained on other weights: {adapter.origin()}, whose checksum is "
            f"{adapter.base_digest}, and these have {digest}; give those with weights="
        )
        raise ValueError(msg)


def _layer(network: nn.Module, name: str) -> nn.Module | None:
    try:
        return network.get_submodule(name)
    except AttributeError:
        return None


@torch.no_grad()
def _check_used(network: nn.Module, names: list[str], spec: EncoderSpec) -> None:
    """Refuse layers whose weights the network reads without calling them: their updates would do nothing."""
    called: set[str] = set()
    hooks = [
        network.get_submodule(name).register_forward_hook(lambda *_, name=name: called.add(name)) for name in names
    ]
    first = next(network.parameters())
    was_training = network.training
    try:
        network.eval()(torch.zeros(1, 3, spec.input_px, spec.input_px, device=first.device, dtype=first.dtype))
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    if unused := [name for name in names if name not in called]:
        msg = f"{spec.name!r} does not call its layers {listing(unused)}, so that tuning them would change nothing; name others with targets="
        raise ValueError(msg)
