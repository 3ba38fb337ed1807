"""Files of weights: local ones, those of the Hugging Face hub, and their tensors."""

from __future__ import annotations

import hashlib
import json
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histocell._core.errors import listing
from histocell._core.outputs import file_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import torch

    from histocell.encoders.spec import EncoderSpec

_CONFIG = "config.json"
_INDEX = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_FILES = ("model.safetensors", "pytorch_model.bin", *_INDEX)
_LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class Weights:
    """Files that hold the weights of an encoder.

    Attributes
    ----------
    files
        One, or several shards.
    version
        The commit on the hub, or the name of the file or folder and the start of the SHA-256 of its content.
    config
        ``config.json`` that lay beside them, as a dictionary.
    """

    files: tuple[Path, ...]
    version: str
    config: dict[str, Any]


def local_weights(path: str | Path, spec: EncoderSpec) -> Weights:
    """Weights in a file, or in a folder as the hub and `save_pretrained` lay them out.

    Parameters
    ----------
    path
        A file (``.safetensors``, ``.bin``, ``.pt``, ``.pth``) or a folder.
    spec
        The encoder; it may name a file of its own.
    """
    path = Path(path).expanduser()
    if not path.exists():
        msg = f"weights={str(path)!r} does not exist (the current folder is {Path.cwd()})"
        raise FileNotFoundError(msg)
    if path.is_file():
        return Weights((path,), f"{path.name}-{_digest([path])}", {})
    names = (spec.filename, *_FILES) if spec.filename else _FILES
    main = next((path / name for name in names if (path / name).is_file()), None)
    if main is None:
        inside = sorted(item.name for item in path.iterdir())
        msg = f"no weights in {str(path)!r}: looked for {listing(names)}; there is {listing(inside)}"
        raise FileNotFoundError(msg)
    files = tuple(path / name for name in _shards(main))
    if absent := [file.name for file in files if not file.is_file()]:
        msg = f"{main.name} in {str(path)!r} names shards that are not there: {listing(absent)}"
        raise FileNotFoundError(msg)
    config = path / _CONFIG
    return Weights(files, f"{path.resolve().name}-{_digest(files)}", read_json(config) if config.is_file() else {})


def hub_weights(spec: EncoderSpec) -> Weights:
    """Weights of the hub: from its cache on this machine, else downloaded.

    Parameters
    ----------
    spec
        The encoder: repository, file, revision.

    Raises
    ------
    PermissionError
        When the repository is gated and access was not granted to the token, or there is none.
    OSError
        When the hub cannot be reached, or the repository, its revision or its file are not there.
    """
    with _hub_errors(spec):
        main = _fetch(spec, [spec.filename] if spec.filename else _FILES, or_cached=_FILES)
        files = tuple(_fetch(spec, [name]) for name in _shards(main))
        config = read_json(_fetch(spec, [_CONFIG])) if spec.library == "transformers" else {}
    # .../snapshots/<commit>/<file>
    return Weights(files, main.parent.name, config)


def read_tensors(weights: Weights) -> object:
    """Content of the files: tensors by name, or what a training program saved around them. No code is run.

    Parameters
    ----------
    weights
        From :func:`local_weights` or :func:`hub_weights`.
    """
    parts = [read_file(file) for file in weights.files]
    return parts[0] if len(parts) == 1 else {name: value for part in parts for name, value in part.items()}


def state_digest(module: torch.nn.Module) -> str:
    """The start of the SHA-256 of all tensors of a module."""
    import torch

    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:8]


def read_file(path: Path) -> Any:
    """Content of one file of weights, as `read_tensors`; `ValueError` where it cannot be read or holds code."""
    import torch

    with path.open("rb") as file:
        start = file.read(len(_LFS))
    if start == _LFS:
        msg = f"{str(path)!r} is a pointer of git-lfs, not the weights; run `git lfs pull` there, or download the file"
        raise ValueError(msg)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        if zipfile.is_zipfile(path):  # torch itself does not look at the checksums
            with zipfile.ZipFile(path) as archive:
                if (part := archive.testzip()) is not None:
                    msg = f"its part {part} differs from its checksum"
                    raise OSError(msg)
        return content
    except Exception as error:
        if "weights_only" in str(error).lower():
            msg = (
                f"{str(path)!r} holds more than tensors, and reading that would run code of whoever wrote it. If you "
                f"trust it, save its tensors once: torch.save(torch.load(path, weights_only=False)['state_dict'], new)"
            )
            raise ValueError(msg) from error
        if isinstance(error, MemoryError | PermissionError):
            raise
        msg = (
            f"{str(path)!r} ({path.stat().st_size:,} bytes) cannot be read as weights: {error}. "
            "Is it complete? Download it again"
        )
        raise ValueError(msg) from error


def _shards(file: Path) -> list[str]:
    """Names of the files with tensors: those that an index lists, else the file itself."""
    if file.name not in _INDEX:
        return [file.name]
    names = read_json(file).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        msg = f"{str(file)!r} names no files of weights in its weight_map. Is it complete? Download it again"
        raise ValueError(msg)
    return sorted(set(names.values()))


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file that came with weights; `ValueError` where there is none."""
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        msg = f"{str(path)!r} is no valid JSON ({error}). Is it complete? Download it again"
        raise ValueError(msg) from error
    if not isinstance(value, dict):
        msg = f"{str(path)!r} must hold a JSON object, not {str(value)[:60]}"
        raise ValueError(msg)
    return value


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(bytes.fromhex(file_digest(path)))
    return digest.hexdigest()[:8]


def _fetch(spec: EncoderSpec, names: Sequence[str], *, or_cached: Sequence[str] = ()) -> Path:
    """A file of the repository: from the cache on this machine, else the first of `names` that can be downloaded."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    revision = spec.revision or None
    for name in (*names, *or_cached):
        if isinstance(path := try_to_load_from_cache(spec.hub_id, name, revision=revision), str):
            return Path(path)
    for name in names:
        try:
            return Path(hf_hub_download(spec.hub_id, name, revision=revision))
        except LocalEntryNotFoundError:  # offline, not absent
            raise
        except EntryNotFoundError:
            continue
    msg = (
        f"https://huggingface.co/{spec.hub_id} has none of {listing(names)}; give a copy of the weights of {spec.name!r} "
        "that you have with weights=<file or folder>"
    )
    raise FileNotFoundError(msg)


@contextmanager
def _hub_errors(spec: EncoderSpec) -> Iterator[None]:
    """Turn each error of the hub into one that says what to do."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{spec.hub_id}"
    weights = f"the weights of {spec.name!r}"
    log_in = "run `hf auth login` or set HF_TOKEN"
    offline = (
        f"{weights} are not in the hub's cache, and {page} cannot be reached (offline, or HF_HUB_OFFLINE is set). "
        + (f"They are gated: ask for access there, then {log_in}. " if spec.gated else "")
        + "Load them once with a connection, set HF_HOME to the folder of the cache,"
    )
    problems = {  # the first that fits; some are subclasses of others
        errors.GatedRepoError: f"{weights} are gated: ask for access at {page}, then {log_in};",
        errors.LocalEntryNotFoundError: offline,
        errors.OfflineModeIsEnabled: offline,
        errors.RevisionNotFoundError: f"{page} has no revision {spec.revision!r} (any more);",
        errors.RepositoryNotFoundError: f"{page} does not exist, or is private: {log_in} if you have access;",
    }
    try:
        yield
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        other = f"{weights} could not be downloaded from {page} ({error}); try again,"
        problem = next((text for kind, text in problems.items() if isinstance(error, kind)), other)
        msg = f"{problem} or give a copy that you have with weights=<file or folder>"
        raise (PermissionError if isinstance(error, errors.GatedRepoError) else OSError)(msg) from error
