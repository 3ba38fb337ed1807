"""Folders of adapters: peft's two files, a record of base and training, and a model card; strict, no pickle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING

from histocell._core.errors import import_optional, listing
from histocell._core.keys import safe_key
from histocell._core.outputs import check_outputs, file_digest, make_folder, replacing
from histocell.encoders.adapters.card import model_card
from histocell.encoders.networks.weights import read_file, read_json
from histocell.encoders.spec import EncoderSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from peft import PeftModel
    from torch import Tensor

    from histocell._core.types import JSON

CONFIG, TENSORS, RECORD, CARD = "adapter_config.json", "adapter_model.safetensors", "histocell.json", "README.md"
PREFIX = "base_model.model."  # of peft
DIGEST = "base_digest"  # attribute of a tuned network: the checksum of the weights that it started from
_FORMAT = 1
_KIND = "histocell adapter"
# Variants of LoRA whose arithmetic is another; an adapter that uses one would be merged wrongly.
_PLAIN: JSON = {
    **{"use_rslora": False, "use_dora": False, "lora_bias": False, "use_qalora": False, "fan_in_fan_out": False},
    **{"bias": "none", "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}, "layer_replication": None},
    **{"target_parameters": None, "trainable_token_indices": None, "alora_invocation_tokens": None},
    **{"use_bdlora": None, "velora_config": None, "kasa_config": None, "monteclora_config": None},
}


@dataclass(frozen=True)
class Adapter:
    """An adapter as it lies in its folder.

    Attributes
    ----------
    folder
        The folder.
    name
        Name of the encoder that it makes of its base.
    base
        The base encoder.
    base_version, base_digest
        Version of the weights that it was trained on, and their checksum.
    rank, alpha, dropout
        Of the updates, which are scaled by ``alpha / rank``.
    targets
        Names of the linear layers.
    tensors
        Factors of the updates, as peft names them.
    metadata
        What the training recorded.
    digest
        Checksum of all that the embeddings depend on beside the weights of the base.
    """

    folder: Path
    name: str
    base: EncoderSpec
    base_version: str
    base_digest: str
    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]
    tensors: dict[str, Tensor]
    metadata: JSON
    digest: str

    @property
    def scale(self) -> float:
        """Factor of the updates."""
        return self.alpha / self.rank

    def lora_config(self) -> JSON:
        """Arguments of peft's LoraConfig."""
        return {
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "target_modules": list(self.targets),
            "bias": "none",
        }

    def groups(self) -> list[str]:
        """Patients or sections whose expression the training has seen, where it recorded them."""
        training = self.metadata.get("training")
        lists = (
            [training.get(f"{part} groups", []) for part in ("training", "validation")]
            if isinstance(training, dict)
            else []
        )
        return list(dict.fromkeys(str(name) for names in lists if isinstance(names, list) for name in names))

    def origin(self) -> str:
        """The weights that it was trained on, for messages."""
        return f"its base is {self.base.name!r} in the version {self.base_version or 'unknown'!r}"


def check_licence(spec: EncoderSpec, *, allow_restricted: bool = False) -> None:
    """Refuse an adapter of an encoder whose licence forbids derivatives.

    Parameters
    ----------
    spec
        The base encoder.
    allow_restricted
        Whether its authors allowed it, or the adapter stays with you.

    Raises
    ------
    PermissionError
        For such a licence, unless `allow_restricted`.
    """
    if spec.forbids_derivatives and not allow_restricted:
        msg = (
            f"the licence of {spec.name!r}, {spec.license}, does not allow to pass on what is derived from it, and an adapter "
            "is. With the permission of its authors, or for use that the licence allows and that stays with you, give "
            "allow_restricted=True; encoders whose licence allows it: hc.encoders.list_encoders().query('commercial')"
        )
        raise PermissionError(msg)


def save_adapter(
    folder: str | Path,
    network: PeftModel,
    *,
    spec: EncoderSpec,
    metadata: Mapping[str, object],
    name: str | None = None,
    version: str = "",
    allow_restricted: bool = False,
) -> None:
    """Write an adapter into a folder, with what is needed to use it and to say what it is.

    Parameters
    ----------
    folder
        Made where it is not there. Files that histocell did not write, or that were changed since, are not replaced.
    network
        From :func:`add_lora`.
    spec
        The base encoder, with the size of the input of the training.
    metadata
        What is to be remembered: gene panel, heads, summary of the training. Whatever JSON can hold.
    name
        Name of the encoder that the adapter makes; by default that of the folder.
    version
        Version of the weights of the base, as :func:`histocell.encoders.load` has it.
    allow_restricted
        As in :func:`check_licence`.

    Raises
    ------
    PermissionError
        When the licence of the base forbids derivatives.
    FileExistsError
        When a file that is not histocell's own would be replaced.
    ValueError
        When `network` is none of :func:`add_lora`, its updates are not finite, or JSON cannot hold `metadata`.
    """
    from safetensors.torch import save_file

    check_licence(spec, allow_restricted=allow_restricted)
    peft = import_optional("peft", "finetune")
    digest = vars(network).get(DIGEST) if isinstance(network, peft.PeftModel) else None
    if not digest:
        msg = f"network must come from hc.encoders.adapters.add_lora, with its weights, not {type(network).__name__}"
        raise ValueError(msg)
    state = peft.get_peft_model_state_dict(network, save_embedding_layers=False)
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    if bad := [key for key, value in tensors.items() if not value.isfinite().all()]:
        msg = f"the updates hold NaN or infinite values ({listing(bad, 3)}), so the adapter is not saved"
        raise ValueError(msg)
    folder = Path(folder).expanduser()
    record: JSON = {
        "format": _FORMAT,
        "kind": _KIND,
        "histocell": installed_version("histocell"),
        "name": safe_key(name or folder.resolve().name),
        "base": {"version": version, "digest": digest, "spec": _plain(asdict(spec), f"the spec of {spec.name!r}")},
        "trainable_parameters": sum(value.numel() for value in tensors.values()),
        "metadata": _plain(dict(metadata), "metadata"),
    }
    make_folder(folder)
    check_outputs([folder / file for file in (TENSORS, CONFIG, RECORD, CARD)])
    # The record comes last and knows the others: a kill in between is noticed when the adapter is read.
    with replacing(folder / TENSORS) as partial:
        save_file(tensors, partial, metadata={"format": "pt"})
    with replacing(folder / CONFIG) as partial:
        partial.write_text(json.dumps(_peft_config(network, tensors), indent=1, sort_keys=True), encoding="utf-8")
    with replacing(folder / CARD) as partial:
        partial.write_text(model_card(record, spec), encoding="utf-8")
    record["files"] = {file: file_digest(folder / file) for file in (TENSORS, CONFIG)}
    with replacing(folder / RECORD) as partial:
        partial.write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")


def read_adapter(folder: str | Path) -> Adapter:
    """Read the adapter in a folder; all must be there and fit.

    Raises
    ------
    FileNotFoundError
        When a file is missing.
    ValueError
        When a file is damaged, belongs to another adapter, or holds what is not plain LoRA.
    """
    folder = Path(folder).expanduser()
    if absent := [name for name in (RECORD, CONFIG, TENSORS) if not (folder / name).is_file()]:
        there = listing(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else "no such folder"
        msg = f"no adapter of histocell in {folder}: {listing(absent)} not found ({there})"
        raise FileNotFoundError(msg)
    record = read_json(folder / RECORD)
    if record.get("kind") != _KIND or record.get("format") != _FORMAT:
        msg = f"{folder / RECORD} is of the kind {record.get('kind')!r} in format {record.get('format')!r}; this histocell reads {_KIND!r} in format {_FORMAT}"
        raise ValueError(msg)
    files = record.get("files")
    if not isinstance(files, dict) or set(files) != {TENSORS, CONFIG}:
        msg = f"{folder / RECORD} does not hold the checksums of {TENSORS} and {CONFIG}; copy the whole folder again"
        raise ValueError(msg)
    for name, digest in files.items():
        if file_digest(folder / name) != digest:
            msg = (
                f"{folder / name} is not the file that {RECORD} was written with: it is truncated, was changed, or comes from "
                "another adapter; copy the whole folder again"
            )
            raise ValueError(msg)
    config, tensors = read_json(folder / CONFIG), read_file(folder / TENSORS)
    targets = _check_plain(config, folder)
    _check_tensors(tensors, targets, config["r"], folder)
    try:
        base, metadata = record["base"], record["metadata"]
        spec, name, version, digest = _spec_from(base["spec"]), record["name"], base["version"], base["digest"]
    except (KeyError, TypeError, ValueError) as error:
        msg = f"{folder / RECORD} does not describe an adapter ({type(error).__name__}: {error}); copy the folder again"
        raise ValueError(msg) from error
    return Adapter(
        folder=folder,
        name=str(name),
        base=spec,
        base_version=str(version),
        base_digest=str(digest),
        rank=int(config["r"]),
        alpha=float(config["lora_alpha"]),
        dropout=float(config["lora_dropout"]),
        targets=targets,
        tensors=tensors,
        metadata=metadata,
        digest=_digest(folder, config, spec, str(digest)),
    )


def is_adapter(path: str | Path) -> bool:
    """Whether a folder holds the record of an adapter."""
    return (Path(path).expanduser() / RECORD).is_file()


def _check_plain(config: JSON, folder: Path) -> tuple[str, ...]:
    """The targets of a config of plain LoRA."""
    variants = [f"{key}={config[key]!r}" for key, plain in _PLAIN.items() if config.get(key) not in (plain, None)]
    if config.get("peft_type") != "LORA" or variants:
        msg = f"{folder / CONFIG} is not plain LoRA ({config.get('peft_type')}; {listing(variants)}), which histocell does not merge; use peft itself"
        raise ValueError(msg)
    targets, rank, alpha = config.get("target_modules"), config.get("r"), config.get("lora_alpha")
    if not isinstance(targets, list) or not targets or not isinstance(rank, int) or not isinstance(alpha, int | float):
        msg = f"{folder / CONFIG} must list target_modules, r and lora_alpha, not {targets!r}, {rank!r} and {alpha!r}"
        raise ValueError(msg)
    return tuple(sorted(targets))


def _check_tensors(tensors: dict[str, Tensor], targets: tuple[str, ...], rank: int, folder: Path) -> None:
    sides = {f"{PREFIX}{name}.lora_{side}.weight": side for name in targets for side in "AB"}
    problems = {
        "missing": [name for name in sides if name not in tensors],
        "unexpected": [name for name in tensors if name not in sides],
        f"not of rank {rank}": [
            f"{name} {tuple(tensors[name].shape)}"
            for name, side in sides.items()
            if name in tensors and (tensors[name].ndim != 2 or tensors[name].shape[side == "B"] != rank)
        ],
        "not finite": [name for name, value in tensors.items() if not value.isfinite().all()],
    }
    if described := "; ".join(f"{what}: {listing(names, 3)}" for what, names in problems.items() if names):
        msg = f"{folder / TENSORS} does not hold the updates that {CONFIG} names. Tensors {described}"
        raise ValueError(msg)


def _digest(folder: Path, config: JSON, spec: EncoderSpec, base_digest: str) -> str:
    facts = [file_digest(folder / TENSORS), config["r"], config["lora_alpha"], base_digest, repr(spec)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _spec_from(facts: JSON) -> EncoderSpec:
    known = {field.name for field in fields(EncoderSpec)}
    if unknown := sorted(set(facts) - known):
        msg = f"unknown facts of the base: {listing(unknown)}"
        raise ValueError(msg)
    if not isinstance(facts["arch_kwargs"], dict):
        msg = f"arch_kwargs={facts['arch_kwargs']!r} of the base is no mapping"
        raise TypeError(msg)
    triples = {name: tuple(facts[name]) for name in ("mean", "std")}
    return EncoderSpec(**(facts | triples))


def _peft_config(network: PeftModel, tensors: Mapping[str, Tensor]) -> JSON:
    config = network.peft_config["default"].to_dict() | {"inference_mode": True}
    # Of many targets peft keeps what their names have in common.
    config["target_modules"] = sorted({key.removeprefix(PREFIX).rpartition(".lora_")[0] for key in tensors})
    return {
        key: value
        for key, value in config.items()
        if value is None or isinstance(value, str | int | float | list | dict)
    }


def _plain(value: JSON, what: str) -> JSON:
    """What JSON gives back of a mapping; `ValueError` where it cannot hold it."""
    try:
        plain: JSON = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        msg = f"{what} must hold what JSON can hold ({error})"
        raise ValueError(msg) from error
    return plain
