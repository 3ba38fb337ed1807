"""Train an image encoder by the expression under its patches: low-rank adapters, as a folder that loads as an encoder."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from histocell._core import keys
from histocell._core.locks import folder_lock
from histocell._core.outputs import make_folder
from histocell._core.rng import as_rng, draw_seed
from histocell.models.finetuning.checkpoints import Checkpoints
from histocell.models.finetuning.processes import joined
from histocell.models.finetuning.settings import FinetuneConfig
from histocell.models.settings import make_config
from histocell.tl._finetune.building import LoraSettings, build_tower, identity_of, panel_of, training_data, tune
from histocell.tl._finetune.rows import Columns, read_cohort
from histocell.tl._finetune.training import check_free, record, result_of, train, write

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    import torch

    from histocell._core.rng import RNGLike, SeedLike
    from histocell.models.finetuning.processes import Processes
    from histocell.models.finetuning.tower import ImageTower
    from histocell.tables.access import Data
    from histocell.tables.expression import GenePanel
    from histocell.tl._finetune.building import Tuned
    from histocell.tl._finetune.result import FinetuneResult
    from histocell.tl._finetune.rows import Member

_TRAINING = "training"  # folder of checkpoints
_PATCHES = "patches.npy"


def finetune_encoder(
    data: Data | Sequence[Data],
    encoder: str | torch.nn.Module,
    *,
    out: str | PathLike[str],
    method: Literal["seal", "recon", "contrastive"] = "seal",
    genes: int | Sequence[str] = 2000,
    layer: str | None = None,
    spot_context: bool | None = None,
    weights: str | PathLike[str] | None = None,
    pool: str | None = None,
    rank: int = 8,
    alpha: float = 8,
    dropout: float = 0.15,
    blocks: int = 1,
    targets: Sequence[str] | None = None,
    warmup_epochs: int = 5,
    max_epochs: int = 10,
    batch_size: int = 384,
    micro_batch: int = 64,
    lr: float = 1e-4,
    config: Mapping[str, object] | None = None,
    gradient_checkpointing: bool = False,
    split_key: str = keys.SPLIT,
    group_key: str | None = None,
    library_key: str | None = None,
    allow_restricted: bool = False,
    overwrite: bool = False,
    rng: SeedLike | RNGLike | None = 0,
    device: str | None = None,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    key_added: str = keys.FINETUNING,
    table_key: str | None = None,
    inplace: bool = True,
) -> FinetuneResult:
    """Tune an image encoder by the expression under its patches, by the recipe of SEAL.

    Low-rank updates of the last blocks are trained so that the embedding of a patch lies near a code of its expression
    (symmetric InfoNCE) and expression can be decoded from both. First an autoencoder learns expression alone, then all is
    trained together. Rows with ``obs[split_key] == "train"`` are fitted, rows with ``"val"`` say which epoch is kept, and no
    other row is looked at; genes are chosen by the training rows. Whether it helps shows on patients of the test rows,
    beside the frozen encoder: see :doc:`/finetuning`.

    Parameters
    ----------
    data
        AnnData or SpatialData with patches (:func:`histocell.pp.patches`), raw counts and images, or a list of them.
    encoder
        A name of :func:`histocell.encoders.list_encoders`, ``"timm/<model>"``, or a module that holds its weights.
    out
        Folder for adapter, heads and checkpoints. A run that was killed goes on from its last checkpoint, to the same weights.
    method
        ``"seal"``; ``"recon"``, expression decoded from the image alone; ``"contrastive"``, the contrast alone.
    genes
        Number of highly variable genes (dispersion of the training rows), or their names.
    layer
        Layer with raw counts, by default ``X``.
    spot_context
        Whether counts are averaged with those of the spots beside a spot in the array of Visium; by default where
        ``obs`` has the places in the array.
    weights, pool
        As in :func:`histocell.encoders.load`.
    rank, alpha, dropout, blocks, targets
        Of the updates: see :func:`histocell.encoders.adapters.add_lora`.
    warmup_epochs, max_epochs
        Epochs of the autoencoder alone, and of all together.
    batch_size
        Rows that are contrasted with each other.
    micro_batch
        Rows that need memory at a time. The gradient is that of the whole batch.
    lr
        Learning rate at the start; it falls by half a cosine.
    config
        More settings, those of `histocell.models.finetuning.settings.FinetuneConfig`: ``autoencoder_lr``, ``head_lr``,
        ``weight_decay``, ``temperature``, ``n_flows``, ``divergence_weight``, ``augment``, ``stain_jitter``,
        ``checkpoint_steps``.
    gradient_checkpointing
        Whether activations are computed again for the gradient: less memory where many blocks are tuned.
    split_key
        Column of ``obs`` with ``train``, ``val``, ``test``. Without validation rows a patient of the training rows is held
        out, with a warning.
    group_key
        Column of ``obs`` with the patients; by default ``patient``, else the section.
    library_key, table_key
        As in :func:`histocell.pp.patches`.
    allow_restricted
        Whether to tune an encoder whose licence forbids derivatives.
    overwrite
        Whether to forget a training in `out` and start anew.
    rng
        Seed or generator. With `None` each call is another training, which cannot be resumed.
    device
        Torch device; by default the best there is. Under ``torchrun`` each process takes its GPU and its share of a batch.
    precision
        ``"fp32"``, ``"bf16"`` (matrix products in bf16, weights in fp32), or ``"auto"``: bf16 on GPUs that have it.
    key_added
        Key of ``uns``.
    inplace
        Whether to write ``uns[key_added]``, which :func:`histocell.pl.history` shows.

    Returns
    -------
    The result, whose text says what was trained and how the validation rows came out. Writes into `out`:

    ``adapter_config.json``, ``adapter_model.safetensors``, ``histocell.json``, ``README.md``
        The adapter, its record with the gene panel, and its model card.
    ``heads.safetensors``
        Decoder and autoencoder, see :func:`histocell.models.finetuning.heads.load_heads`.
    ``training/``
        Checkpoints; not needed afterwards.

    Raises
    ------
    ImportError
        Without peft (``pip install "histocell[finetune]"``).
    PermissionError
        When the licence of the encoder forbids derivatives.
    ValueError
        When counts are normalised, tables share no genes, rows are too few, the encoder has no attention that is known by
        name, `out` holds another training, or the training is no longer finite.
    OSError
        When a checkpoint cannot be written; the one before is kept.

    References
    ----------
    SEAL: arXiv:2602.14177; InfoNCE: van den Oord et al. 2018, arXiv:1807.03748; LoRA: Hu et al. 2022, arXiv:2106.09685.
    That such training can also harm: HESCAPE, arXiv:2508.01490.

    Examples
    --------
    >>> import histocell as hc
    >>> spec = hc.encoders.EncoderSpec(
    ...     name="tiny-vit",
    ...     library="timm",
    ...     arch="vit_tiny_patch16_224",
    ...     arch_kwargs={"img_size": 32, "patch_size": 8, "depth": 2},
    ...     input_px=32,
    ... )
    >>> hc.encoders.register(spec, overwrite=True)
    >>> sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=600, spot_pitch_um=60, n_genes=50)
    >>> hc.pp.patches(sdata, size_um=60)
    >>> hc.pp.split(sdata, by="patient", val="P2", test="P3")
    >>> tuned = hc.tl.finetune_encoder(
    ...     sdata, "tiny-vit", out="tuned", weights="random", genes=20, warmup_epochs=1, max_epochs=1, batch_size=16
    ... )
    >>> tuned.train_groups
    ['P1']
    """
    chosen = _config(
        config,
        method=method,
        warmup_epochs=warmup_epochs,
        max_epochs=max_epochs,
        batch_size=batch_size,
        micro_batch=micro_batch,
        lr=lr,
    )
    seed = draw_seed(as_rng(rng))
    lora = LoraSettings(rank=rank, alpha=alpha, dropout=dropout, blocks=blocks, targets=targets)
    tuned = tune(encoder, weights, lora, seed=seed, allow_restricted=allow_restricted)
    columns = Columns(split_key, group_key, library_key, table_key)
    members = read_cohort(data, columns, layer=layer)
    panel = panel_of(members, genes, layer=layer, spot_context=spot_context)
    run = Run(Path(out).expanduser(), seed, lora, layer, overwrite, allow_restricted)
    with joined(device) as (processes, torch_device):
        tower = build_tower(tuned, torch_device, pool=pool, precision=precision, checkpointing=gradient_checkpointing)
        result = _train_in(run, chosen, tuned, tower, members, panel, processes)
    if inplace:
        record(members, result, chosen, key=key_added)
    return result


class Run(NamedTuple):
    """Arguments of a training that no settings object holds.

    Attributes
    ----------
    folder, seed, lora, layer, overwrite, allow_restricted
        As in `finetune_encoder`.
    """

    folder: Path
    seed: int
    lora: LoraSettings
    layer: str | None
    overwrite: bool
    allow_restricted: bool


def _train_in(
    run: Run,
    config: FinetuneConfig,
    tuned: Tuned,
    tower: ImageTower,
    members: Sequence[Member],
    panel: GenePanel,
    processes: Processes,
) -> FinetuneResult:
    """Train in a folder that no other run writes into, and leave the adapter there."""
    with ExitStack() as stack:
        kept = make_folder(run.folder / _TRAINING)
        check_free(run.folder)  # before hours of work
        if processes.rank == 0:
            stack.enter_context(folder_lock(kept))
        rows = training_data(members, panel, tuned.spec, layer=run.layer, file=kept / f"{processes.rank}-{_PATCHES}")
        identity = identity_of(config, tuned, tower, panel, rows, run.lora, run.seed)
        checkpoints = Checkpoints(kept, identity, overwrite=run.overwrite)
        heads, progress = train(tower, rows, panel, config, seed=run.seed, checkpoints=checkpoints, processes=processes)
        result = result_of(run.folder, tuned, config, panel, members, progress)
        if processes.rank == 0:
            write(result, tuned, tower, heads, config, allow_restricted=run.allow_restricted)
            for file in kept.glob(f"*{_PATCHES}"):
                file.unlink()
        processes.barrier()
    return result


def _config(config: Mapping[str, object] | None, **named: object) -> FinetuneConfig:
    """The settings of the parameters and of `config`, which must not say the same."""
    if twice := [name for name in config or {} if name in named]:
        msg = f"config= repeats {', '.join(twice)}, parameters of the function; give them there"
        raise TypeError(msg)
    return make_config(FinetuneConfig, {**named, **(config or {})}, "finetune_encoder")
