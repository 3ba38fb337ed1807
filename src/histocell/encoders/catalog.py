"""The encoders that histocell knows by name: data only, one row each.

A revision is pinned where the commit is known; elsewhere the newest is taken, and the commit is recorded with the
embeddings.
"""

from __future__ import annotations

import re
from typing import Any

from histocell.encoders.spec import EncoderSpec

type Facts = dict[str, Any]  # of any type that a field of EncoderSpec has

_COMMERCIAL = ("Apache-2.0", "BSD-3-Clause", "MIT")  # licences that allow commercial use

# Arguments of architectures
_DYNAMIC: Facts = {"dynamic_img_size": True}
_SCALED: Facts = {"img_size": 224, "init_values": 1e-5}
_SWIGLU: Facts = {"img_size": 224, "mlp_layer": "SwiGLUPacked", "act_layer": "silu"}
_UNI2_SIZES: Facts = {"depth": 24, "num_heads": 24, "embed_dim": 1536, "mlp_ratio": 5.33334, "reg_tokens": 8}
_UNI2_ARGUMENTS: Facts = {**_SCALED, **_SWIGLU, **_DYNAMIC, **_UNI2_SIZES, "no_embed_class": True}
_VIRCHOW_ARGUMENTS: Facts = {**_SCALED, **_SWIGLU, **_DYNAMIC, "mlp_ratio": 5.3375}

# Vision transformers: the width of a token and millions of parameters
_SIZES = {
    "small": (384, 21.7),
    "base": (768, 85.8),
    "large": (1024, 303.4),
    "huge": (1280, 631.2),
    "giant": (1536, 1134.8),
}

# Normalisation of the channels
_CLIP: Facts = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
_HALF: Facts = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
_LUNIT: Facts = {"mean": (0.70322989, 0.53606487, 0.66096631), "std": (0.21716536, 0.26081574, 0.20723464)}

# Families: what their encoders share
_MAHMOOD: Facts = {
    "filename": "pytorch_model.bin",
    "license": "CC-BY-NC-ND-4.0, derivatives only with permission",
    "gated": True,
}
_CONCH: Facts = {**_MAHMOOD, "library": "coca", "pooling": "attention", "input_px": 448}
_UNI: Facts = {
    **_MAHMOOD,
    "interpolation": "bilinear",
    "citation": "Chen et al. 2024, Nat Med, doi:10.1038/s41591-024-02857-3",
}
_VIRCHOW: Facts = {"pooling": "cls_mean", "precision": "fp16", "gated": True}
_BIOPTIMUS: Facts = {"precision": "fp16", "mean": (0.707223, 0.578729, 0.703617), "std": (0.211883, 0.230117, 0.177517)}
_H_OPTIMUS: Facts = {**_BIOPTIMUS, "arch": "vit_giant_patch14_reg4_dinov2", "arch_kwargs": _SCALED}
_OWKIN: Facts = {"library": "transformers", "license": "Owkin non-commercial"}
_HIBOU: Facts = {
    "library": "transformers",
    "mean": (0.7068, 0.5755, 0.722),
    "std": (0.195, 0.2316, 0.1816),
    "license": "Apache-2.0",
    "gated": True,
    "citation": "Nechaev et al. 2024, arXiv:2406.05074",
}
_KAIKO: Facts = {
    **_HALF,
    "license": "Kaiko non-commercial",
    "citation": "kaiko.ai et al. 2024, arXiv:2404.15217",
    "summary": "DINO and DINOv2 on TCGA, at several magnifications.",
}
_DINOV2: Facts = {
    "precision": "bf16",
    "license": "Apache-2.0",
    "citation": "Oquab et al. 2023, arXiv:2304.07193",
    "summary": "Self-supervised on natural images: how far one gets without pathology.",
}
_RESNET50: Facts = {
    "hub_id": "timm/resnet50.tv_in1k",
    "arch": "resnet50.tv_in1k",
    "pooling": "native",
    "interpolation": "bilinear",
    "license": "BSD-3-Clause",
    "citation": "He et al. 2016, CVPR, arXiv:1512.03385",
}


def _hub(hub_id: str, filename: str = "", **facts: Any) -> Facts:
    """The repository of the weights, and the file in it where it is not the usual one."""
    return {"hub_id": hub_id, **({"filename": filename} if filename else {}), **facts}


def _vit(size: str, arguments: Facts | None = None, **facts: Any) -> Facts:
    """A vision transformer of timm and its arguments."""
    return {"arch": f"vit_{size}", "arch_kwargs": arguments or {}, **facts}


def _encoder(name: str, *families: Facts, **own: Any) -> EncoderSpec:
    """An encoder with the facts of its families and its own, and with what follows from them."""
    facts: Facts = {"library": "timm", "pooling": "cls", "gated": False}
    for family in (*families, own):
        facts |= family
    derived: Facts = {"commercial": facts["license"] in _COMMERCIAL}
    if vit := re.match(r"vit_([a-z]+)_patch(\d+)_(?:reg(\d+))?", facts.get("arch", "")):
        arguments = facts.get("arch_kwargs", {})
        width, derived["params"] = _SIZES[vit[1]]
        derived["dim"] = 2 * width if facts["pooling"] == "cls_mean" else width
        derived["patch_px"] = arguments.get("patch_size", int(vit[2]))
        derived["prefix_tokens"] = 1 + int(vit[3] or arguments.get("reg_tokens", 0))
    return EncoderSpec(name=name, **(derived | facts))


def _dinov2(name: str, size: str, **own: Any) -> EncoderSpec:
    return _encoder(name, _DINOV2, _hub(f"timm/vit_{size}.lvd142m"), _vit(size, {"img_size": 224}), **own)


def _kaiko(name: str, size: str, *facts: Facts, **own: Any) -> EncoderSpec:
    hub = _hub(f"1aurent/vit_{size}_224.kaiko_ai_towards_large_pathology_fms")
    return _encoder(name, _KAIKO, hub, _vit(f"{size}_224", _DYNAMIC), *facts, **own)


CATALOG = (
    _encoder(
        "morphology",
        revision="2",
        license="BSD-3-Clause",
        library="builtin",
        pooling="native",
        # its widest neighbourhood ends 500 um from the point, the first at 0.8 patches; grid cells and nuclei add 30 to 90 um
        field_um=1200.0,
        field_patches=1.9,
        summary="Stain, texture, nuclei and surroundings computed from the image: no download, no GPU.",
    ),
    _encoder(
        "conch",
        _CONCH,
        _CLIP,
        _hub("MahmoodLab/conch"),
        _vit("base_patch16_224", {"img_size": 448, **_DYNAMIC}, dim=512, params=87.8),
        citation="Lu et al. 2024, Nat Med, doi:10.1038/s41591-024-02856-4",
        summary="Image and text; 448 px are usually patches of 512 px at 0.5 um. pool='projected' compares with text.",
    ),
    _encoder(
        "conch-v1.5",
        _CONCH,
        _hub("MahmoodLab/conchv1_5", "pytorch_model_vision.bin"),
        _vit("large_patch16_224", {"img_size": 448, "init_values": 1.0, "projected": False, **_DYNAMIC}, params=306.7),
        dim=768,
        interpolation="bilinear",
        precision="fp16",
        citation="Ding et al. 2024, arXiv:2411.19666",
        summary="The patch encoder of TITAN; it was trained on patches of 512 px at 0.5 um.",
    ),
    _encoder(
        "uni",
        _UNI,
        _hub("MahmoodLab/UNI"),
        _vit("large_patch16_224", _SCALED | _DYNAMIC, precision="fp16"),
        summary="DINOv2 on 100,000 slides of many tissues.",
    ),
    _encoder(
        "uni2-h",
        _UNI,
        _hub("MahmoodLab/UNI2-h"),
        _vit("giant_patch14_224", _UNI2_ARGUMENTS, params=681.4, precision="bf16"),
        summary="The successor of UNI: larger, on H&E and IHC.",
    ),
    _encoder(
        "virchow",
        _VIRCHOW,
        _hub("paige-ai/Virchow", license="Apache-2.0"),
        _vit("huge_patch14_224", _VIRCHOW_ARGUMENTS),
        citation="Vorontsov et al. 2024, Nat Med, doi:10.1038/s41591-024-03141-0",
        summary="DINOv2 on 1.5 million slides.",
    ),
    _encoder(
        "virchow2",
        _VIRCHOW,
        _hub("paige-ai/Virchow2", license="CC-BY-NC-ND-4.0"),
        _vit("huge_patch14_224", {**_VIRCHOW_ARGUMENTS, "reg_tokens": 4}),
        citation="Zimmermann et al. 2024, arXiv:2408.00738",
        summary="DINOv2 on 3.1 million slides, at 5x to 40x.",
    ),
    _encoder(
        "h-optimus-0",
        _H_OPTIMUS,
        _hub("bioptimus/H-optimus-0", license="Apache-2.0"),
        citation="Saillard et al. 2024, github.com/bioptimus/releases",
        summary="DINOv2 on 500,000 slides; free for commercial use.",
    ),
    _encoder(
        "h-optimus-1",
        _H_OPTIMUS,
        _hub("bioptimus/H-optimus-1", license="CC-BY-NC-ND-4.0", gated=True),
        citation="Bioptimus 2025, huggingface.co/bioptimus/H-optimus-1",
        summary="The successor of H-optimus-0, on more slides.",
    ),
    _encoder(
        "h0-mini",
        _BIOPTIMUS,
        _hub("bioptimus/H0-mini", license="CC-BY-NC-ND-4.0", gated=True),
        _vit("base_patch14_reg4_dinov2", {**_SWIGLU, "mlp_ratio": 5.33334}, pooling="cls_mean", params=85.7),
        citation="Filiot et al. 2025, arXiv:2501.16239",
        summary="H-optimus-0 distilled to a tenth of its size, robust to scanners.",
    ),
    _encoder(
        "phikon",
        _OWKIN,
        _hub("owkin/phikon"),
        _vit("base_patch16_224", interpolation="bilinear"),
        citation="Filiot et al. 2023, medRxiv, doi:10.1101/2023.07.21.23292757",
        summary="iBOT on 6,000 slides of TCGA.",
    ),
    _encoder(
        "phikon-v2",
        _OWKIN,
        _hub("owkin/phikon-v2"),
        _vit("large_patch16_224", {"init_values": 1.0}),
        citation="Filiot et al. 2024, arXiv:2409.09173",
        summary="DINOv2 on 58,000 public slides.",
    ),
    _encoder(
        "gigapath",
        _hub("prov-gigapath/prov-gigapath", "pytorch_model.bin", license="Apache-2.0 with conditions", gated=True),
        _vit("giant_patch14_dinov2", {"img_size": 224, "patch_size": 16, "mlp_ratio": 5.33334}, params=1135.0),
        precision="fp16",
        citation="Xu et al. 2024, Nature, doi:10.1038/s41586-024-07441-w",
        summary="The patch encoder of Prov-GigaPath: DINOv2 on 171,000 slides.",
    ),
    _encoder(
        "hibou-b",
        _HIBOU,
        _hub("histai/hibou-b", revision="7fdc8cce365ebfd9e7e60ee6ee9a8d4d59388f3c"),
        _vit("base_patch14_reg4_dinov2", {**_SWIGLU, "mlp_ratio": 4096 / 768}, params=85.7),
        summary="DINOv2 with registers on 1.1 million slides; small and free for commercial use.",
    ),
    _encoder(
        "hibou-l",
        _HIBOU,
        _hub("histai/hibou-L"),
        _vit("large_patch14_reg4_dinov2", {**_SWIGLU, "mlp_ratio": 5472 / 1024}, params=303.7),
        summary="DINOv2 with registers on 1.1 million slides; free for commercial use.",
    ),
    _kaiko("kaiko-s16", "small_patch16", revision="48560ea39969fe44b7b2ab057de01484243a7d43"),
    _kaiko("kaiko-s8", "small_patch8", revision="003775444da0119f90ca63e2b86e454fd06ba797"),
    _kaiko("kaiko-b16", "base_patch16", revision="797c524a94c7fdae8ea33064d0ac6966ed8956bb"),
    _kaiko("kaiko-b8", "base_patch8"),
    _kaiko(
        "kaiko-l14",
        "large_patch14_reg4",
        _vit("large_patch14_reg4_dinov2", {"img_size": 518, **_DYNAMIC}, params=304.4),
        revision="210b2c4261e3372b2fba6085b1daccaa04869372",
    ),
    _encoder(
        "midnight",
        _HALF,
        _hub("kaiko-ai/midnight", license="MIT", gated=None),
        _vit("giant_patch14_dinov2", {"img_size": 224}, library="transformers", pooling="cls_mean", precision="bf16"),
        interpolation="bilinear",
        citation="Karasikov et al. 2025, arXiv:2504.05186",
        summary="Midnight-12k: DINOv2 on 12,000 slides of TCGA; free for commercial use.",
    ),
    _encoder(
        "gpfm",
        _hub("majiabo/GPFM", "GPFM.pth", license="CC-BY-NC-ND-4.0"),
        _vit("large_patch14_dinov2", _SCALED, library="dinov2", params=303.2, precision="fp16"),
        citation="Ma et al. 2025, Nat Biomed Eng, doi:10.1038/s41551-025-01488-4",
        summary="Distilled from several pathology encoders.",
    ),
    _encoder(
        "lunit-s8",
        _hub("1aurent/vit_small_patch8_224.lunit_dino", revision="c23bc01cfbe022bc1f2a8a9306125a07818e4eb4"),
        _LUNIT,
        _vit("small_patch8_224", _DYNAMIC),
        license="Lunit non-commercial",
        citation="Kang et al. 2023, CVPR, arXiv:2212.04690",
        summary="DINO on 37,000 slides; small, with fine tokens of 8 px.",
    ),
    _encoder(
        "omiclip",
        _CLIP,
        _hub("WangGuangyuLab/Loki", "checkpoint.pt", license="BSD-3-Clause", gated=True),
        _vit("large_patch14_clip_224", {"norm_eps": 1e-5, "final_norm": False, **_DYNAMIC}, dim=768, params=306.5),
        library="coca",
        pooling="projected",
        citation="Chen et al. 2025, Nat Methods, doi:10.1038/s41592-025-02707-1",
        summary="The image side of Loki: images aligned with the genes expressed there.",
    ),
    _encoder(
        "resnet50",
        _RESNET50,
        dim=2048,
        params=23.5,
        summary="ResNet-50 trained on ImageNet: the usual baseline without pathology in it.",
    ),
    _encoder(
        "resnet50-layer3",
        _RESNET50,
        arch_kwargs={"features_only": True, "out_indices": [3]},
        dim=1024,
        params=8.5,
        summary="The same up to its third stage, averaged: as the pipelines of CLAM and HEST have it.",
    ),
    _dinov2("dinov2-s", "small_patch14_dinov2", params=21.6),
    _dinov2("dinov2-b", "base_patch14_dinov2", params=85.7),
    _dinov2("dinov2-l", "large_patch14_dinov2", params=303.2),
    _dinov2("dinov2-g", "giant_patch14_dinov2"),
)

# Other names that people type.
ALIASES = {
    "conch-v1": "conch",
    "conch1.5": "conch-v1.5",
    "conchv1.5": "conch-v1.5",
    "uni2": "uni2-h",
    "prov-gigapath": "gigapath",
    "midnight-12k": "midnight",
    "lunit-dino-s8": "lunit-s8",
    "loki": "omiclip",
}
