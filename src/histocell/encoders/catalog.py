"""The encoders that histocell knows by name: data only, one row each.

A revision is pinned where the commit is known; elsewhere the newest is taken, and the commit is recorded with the
embeddings.
"""

from __future__ import annotations

import re
from typing import Any

from histocell.encoders.spec import EncoderSpec

type Facts = dict[str, Any]  # of any type that a field of EncoderSpec has

# Licences and who grants access
_APACHE: Facts = {"license": "Apache-2.0", "commercial": True}
_BSD: Facts = {"license": "BSD-3-Clause", "commercial": True}
_CC_BY_NC_ND: Facts = {"license": "CC-BY-NC-ND-4.0", "commercial": False}

# Normalisation of the channels
_CLIP: Facts = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
_HALF: Facts = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

# Arguments of architectures
_SWIGLU: Facts = {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}
_SCALED: Facts = {"img_size": 224, "init_values": 1e-5}

# Architectures, the width of the embedding and millions of parameters
_VIT_S16: Facts = {"arch": "vit_small_patch16_224", "dim": 384, "params": 21.7}
_VIT_S8: Facts = {"arch": "vit_small_patch8_224", "dim": 384, "params": 21.7}
_VIT_B16: Facts = {"arch": "vit_base_patch16_224", "dim": 768, "params": 85.8}
_VIT_L16: Facts = {"arch": "vit_large_patch16_224", "dim": 1024, "params": 303.4}
_VIT_B14_REG4: Facts = {"arch": "vit_base_patch14_reg4_dinov2", "dim": 768, "params": 85.7}
_VIT_L14_REG4: Facts = {"arch": "vit_large_patch14_reg4_dinov2", "dim": 1024, "params": 303.7}
_VIT_G14_REG4: Facts = {"arch": "vit_giant_patch14_reg4_dinov2", "dim": 1536, "params": 1134.8}
_VIT_H14: Facts = {"arch": "vit_huge_patch14_224", "pooling": "cls_mean", "dim": 2560, "params": 631.2}

# Families: what their encoders share
_MAHMOOD: Facts = {**_CC_BY_NC_ND, "license": "CC-BY-NC-ND-4.0, derivatives only with permission", "gated": True}
_CONCH: Facts = {**_MAHMOOD, "library": "coca", "pooling": "attention", "input_px": 448}
_UNI: Facts = {
    **_MAHMOOD,
    "filename": "pytorch_model.bin",
    "interpolation": "bilinear",
    "citation": "Chen et al. 2024, Nat Med, doi:10.1038/s41591-024-02857-3",
}
_VIRCHOW: Facts = {**_VIT_H14, "precision": "fp16", "gated": True}
_VIRCHOW_ARGUMENTS: Facts = {**_SWIGLU, **_SCALED, "mlp_ratio": 5.3375, "dynamic_img_size": True}
_BIOPTIMUS: Facts = {"precision": "fp16", "mean": (0.707223, 0.578729, 0.703617), "std": (0.211883, 0.230117, 0.177517)}
_H_OPTIMUS: Facts = {**_VIT_G14_REG4, **_BIOPTIMUS, "arch_kwargs": _SCALED}
_OWKIN: Facts = {"library": "transformers", "license": "Owkin non-commercial", "commercial": False, "gated": False}
_HIBOU: Facts = {
    **_APACHE,
    "library": "transformers",
    "mean": (0.7068, 0.5755, 0.722),
    "std": (0.195, 0.2316, 0.1816),
    "gated": True,
    "citation": "Nechaev et al. 2024, arXiv:2406.05074",
}
_KAIKO: Facts = {
    **_HALF,
    "license": "Kaiko non-commercial",
    "commercial": False,
    "arch_kwargs": {"dynamic_img_size": True},
    "gated": False,
    "citation": "kaiko.ai et al. 2024, arXiv:2404.15217",
    "summary": "DINO and DINOv2 on TCGA, at several magnifications.",
}
_RESNET50: Facts = {
    **_BSD,
    "library": "timm",
    "hub_id": "timm/resnet50.tv_in1k",
    "arch": "resnet50.tv_in1k",
    "interpolation": "bilinear",
    "gated": False,
    "citation": "He et al. 2016, CVPR, arXiv:1512.03385",
}


def _vit(name: str, arch: str, **facts: Any) -> EncoderSpec:
    """A vision transformer of timm; the name of its architecture and its arguments say which tokens it has."""
    arguments = facts.get("arch_kwargs", {})
    registers = re.search(r"_reg(\d+)", arch)
    tokens: Facts = {
        "patch_px": arguments.get("patch_size", int(re.findall(r"patch(\d+)", arch)[0])),
        "prefix_tokens": 1 + (int(registers[1]) if registers else arguments.get("reg_tokens", 0)),
    }
    return EncoderSpec(name=name, arch=arch, **{"library": "timm", "pooling": "cls", **tokens, **facts})


def _kaiko(name: str, size: str, **facts: Any) -> EncoderSpec:
    hub_id = f"1aurent/vit_{size}_224.kaiko_ai_towards_large_pathology_fms"
    return _vit(name, **{"arch": f"vit_{size}_224", "hub_id": hub_id, **_KAIKO, **facts})


def _dinov2(letter: str, size: str, dim: int, params: float) -> EncoderSpec:
    arch = f"vit_{size}_patch14_dinov2"
    return _vit(
        f"dinov2-{letter}",
        arch,
        hub_id=f"timm/{arch}.lvd142m",
        arch_kwargs={"img_size": 224},
        dim=dim,
        params=params,
        precision="bf16",
        gated=False,
        citation="Oquab et al. 2023, arXiv:2304.07193",
        summary="Self-supervised on natural images: how far one gets without pathology.",
        **_APACHE,
    )


CATALOG = (
    EncoderSpec(
        name="morphology",
        library="builtin",
        revision="1",
        gated=False,
        summary="Stain, texture, nuclei and surroundings computed from the image: no download, no GPU.",
        **_BSD,
    ),
    _vit(
        "conch",
        "vit_base_patch16_224",
        hub_id="MahmoodLab/conch",
        filename="pytorch_model.bin",
        arch_kwargs={"img_size": 448, "dynamic_img_size": True},
        dim=512,
        params=87.8,
        citation="Lu et al. 2024, Nat Med, doi:10.1038/s41591-024-02856-4",
        summary="Image and text; 448 px are usually patches of 512 px at 0.5 um. pool='projected' compares with text.",
        **_CLIP,
        **_CONCH,
    ),
    _vit(
        "conch-v1.5",
        "vit_large_patch16_224",
        hub_id="MahmoodLab/conchv1_5",
        filename="pytorch_model_vision.bin",
        arch_kwargs={"img_size": 448, "init_values": 1.0, "dynamic_img_size": True, "projected": False},
        dim=768,
        params=306.7,
        interpolation="bilinear",
        precision="fp16",
        citation="Ding et al. 2024, arXiv:2411.19666",
        summary="The patch encoder of TITAN; it was trained on patches of 512 px at 0.5 um.",
        **_CONCH,
    ),
    _vit(
        "uni",
        hub_id="MahmoodLab/UNI",
        arch_kwargs={**_SCALED, "dynamic_img_size": True},
        precision="fp16",
        summary="DINOv2 on 100,000 slides of many tissues.",
        **_VIT_L16,
        **_UNI,
    ),
    _vit(
        "uni2-h",
        "vit_giant_patch14_224",
        hub_id="MahmoodLab/UNI2-h",
        arch_kwargs={
            **_SWIGLU,
            **_SCALED,
            "depth": 24,
            "num_heads": 24,
            "embed_dim": 1536,
            "mlp_ratio": 5.33334,
            "no_embed_class": True,
            "reg_tokens": 8,
            "dynamic_img_size": True,
        },
        dim=1536,
        params=681.4,
        precision="bf16",
        summary="The successor of UNI: larger, on H&E and IHC.",
        **_UNI,
    ),
    _vit(
        "virchow",
        hub_id="paige-ai/Virchow",
        arch_kwargs=_VIRCHOW_ARGUMENTS,
        citation="Vorontsov et al. 2024, Nat Med, doi:10.1038/s41591-024-03141-0",
        summary="DINOv2 on 1.5 million slides.",
        **_VIRCHOW,
        **_APACHE,
    ),
    _vit(
        "virchow2",
        hub_id="paige-ai/Virchow2",
        arch_kwargs={**_VIRCHOW_ARGUMENTS, "reg_tokens": 4},
        citation="Zimmermann et al. 2024, arXiv:2408.00738",
        summary="DINOv2 on 3.1 million slides, at 5x to 40x.",
        **_VIRCHOW,
        **_CC_BY_NC_ND,
    ),
    _vit(
        "h-optimus-0",
        hub_id="bioptimus/H-optimus-0",
        gated=False,
        citation="Saillard et al. 2024, github.com/bioptimus/releases",
        summary="DINOv2 on 500,000 slides; free for commercial use.",
        **_H_OPTIMUS,
        **_APACHE,
    ),
    _vit(
        "h-optimus-1",
        hub_id="bioptimus/H-optimus-1",
        gated=True,
        citation="Bioptimus 2025, huggingface.co/bioptimus/H-optimus-1",
        summary="The successor of H-optimus-0, on more slides.",
        **_H_OPTIMUS,
        **_CC_BY_NC_ND,
    ),
    _vit(
        "h0-mini",
        hub_id="bioptimus/H0-mini",
        arch_kwargs={**_SWIGLU, "img_size": 224, "mlp_ratio": 5.33334},
        pooling="cls_mean",
        gated=True,
        citation="Filiot et al. 2025, arXiv:2501.16239",
        summary="H-optimus-0 distilled to a tenth of its size, robust to scanners.",
        **{**_VIT_B14_REG4, **_BIOPTIMUS, **_CC_BY_NC_ND, "dim": 1536},
    ),
    _vit(
        "phikon",
        hub_id="owkin/phikon",
        interpolation="bilinear",
        citation="Filiot et al. 2023, medRxiv, doi:10.1101/2023.07.21.23292757",
        summary="iBOT on 6,000 slides of TCGA.",
        **_VIT_B16,
        **_OWKIN,
    ),
    _vit(
        "phikon-v2",
        hub_id="owkin/phikon-v2",
        arch_kwargs={"init_values": 1.0},
        citation="Filiot et al. 2024, arXiv:2409.09173",
        summary="DINOv2 on 58,000 public slides.",
        **_VIT_L16,
        **_OWKIN,
    ),
    _vit(
        "gigapath",
        "vit_giant_patch14_dinov2",
        hub_id="prov-gigapath/prov-gigapath",
        filename="pytorch_model.bin",
        arch_kwargs={"img_size": 224, "patch_size": 16, "mlp_ratio": 5.33334},
        dim=1536,
        params=1135.0,
        precision="fp16",
        license="Apache-2.0 with conditions",
        commercial=False,
        gated=True,
        citation="Xu et al. 2024, Nature, doi:10.1038/s41586-024-07441-w",
        summary="The patch encoder of Prov-GigaPath: DINOv2 on 171,000 slides.",
    ),
    _vit(
        "hibou-b",
        hub_id="histai/hibou-b",
        revision="7fdc8cce365ebfd9e7e60ee6ee9a8d4d59388f3c",
        arch_kwargs={**_SWIGLU, "img_size": 224, "mlp_ratio": 4096 / 768},
        summary="DINOv2 with registers on 1.1 million slides; small and free for commercial use.",
        **_VIT_B14_REG4,
        **_HIBOU,
    ),
    _vit(
        "hibou-l",
        hub_id="histai/hibou-L",
        arch_kwargs={**_SWIGLU, "img_size": 224, "mlp_ratio": 5472 / 1024},
        summary="DINOv2 with registers on 1.1 million slides; free for commercial use.",
        **_VIT_L14_REG4,
        **_HIBOU,
    ),
    _kaiko("kaiko-s16", "small_patch16", revision="48560ea39969fe44b7b2ab057de01484243a7d43", **_VIT_S16),
    _kaiko("kaiko-s8", "small_patch8", revision="003775444da0119f90ca63e2b86e454fd06ba797", **_VIT_S8),
    _kaiko("kaiko-b16", "base_patch16", revision="797c524a94c7fdae8ea33064d0ac6966ed8956bb", **_VIT_B16),
    _kaiko("kaiko-b8", "base_patch8", dim=768, params=85.8),
    _kaiko(
        "kaiko-l14",
        "large_patch14_reg4",
        revision="210b2c4261e3372b2fba6085b1daccaa04869372",
        arch_kwargs={"img_size": 518, "dynamic_img_size": True},
        **{**_VIT_L14_REG4, "params": 304.4},
    ),
    _vit(
        "midnight",
        "vit_giant_patch14_dinov2",
        library="transformers",
        hub_id="kaiko-ai/midnight",
        arch_kwargs={"img_size": 224},
        pooling="cls_mean",
        dim=3072,
        params=1134.8,
        interpolation="bilinear",
        precision="bf16",
        license="MIT",
        commercial=True,
        citation="Karasikov et al. 2025, arXiv:2504.05186",
        summary="Midnight-12k: DINOv2 on 12,000 slides of TCGA; free for commercial use.",
        **_HALF,
    ),
    _vit(
        "gpfm",
        "vit_large_patch14_dinov2",
        library="dinov2",
        hub_id="majiabo/GPFM",
        filename="GPFM.pth",
        arch_kwargs=_SCALED,
        dim=1024,
        params=303.2,
        precision="fp16",
        gated=False,
        citation="Ma et al. 2025, Nat Biomed Eng, doi:10.1038/s41551-025-01488-4",
        summary="Distilled from several pathology encoders.",
        **_CC_BY_NC_ND,
    ),
    _vit(
        "lunit-s8",
        hub_id="1aurent/vit_small_patch8_224.lunit_dino",
        revision="c23bc01cfbe022bc1f2a8a9306125a07818e4eb4",
        arch_kwargs={"dynamic_img_size": True},
        mean=(0.70322989, 0.53606487, 0.66096631),
        std=(0.21716536, 0.26081574, 0.20723464),
        license="Lunit non-commercial",
        commercial=False,
        gated=False,
        citation="Kang et al. 2023, CVPR, arXiv:2212.04690",
        summary="DINO on 37,000 slides; small, with fine tokens of 8 px.",
        **_VIT_S8,
    ),
    _vit(
        "omiclip",
        "vit_large_patch14_clip_224",
        library="coca",
        hub_id="WangGuangyuLab/Loki",
        filename="checkpoint.pt",
        arch_kwargs={"norm_eps": 1e-5, "final_norm": False, "dynamic_img_size": True},
        pooling="projected",
        dim=768,
        params=306.5,
        gated=True,
        citation="Chen et al. 2025, Nat Methods, doi:10.1038/s41592-025-02707-1",
        summary="The image side of Loki: images aligned with the genes expressed there.",
        **_CLIP,
        **_BSD,
    ),
    EncoderSpec(
        name="resnet50",
        dim=2048,
        params=23.5,
        summary="ResNet-50 trained on ImageNet: the usual baseline without pathology in it.",
        **_RESNET50,
    ),
    EncoderSpec(
        name="resnet50-layer3",
        arch_kwargs={"features_only": True, "out_indices": [3]},
        dim=1024,
        params=8.5,
        summary="The same up to its third stage, averaged: as the pipelines of CLAM and HEST have it.",
        **_RESNET50,
    ),
    _dinov2("s", "small", 384, 21.6),
    _dinov2("b", "base", 768, 85.7),
    _dinov2("l", "large", 1024, 303.2),
    _dinov2("g", "giant", 1536, 1134.8),
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
