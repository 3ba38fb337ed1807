"""The encoders that histocell knows by name: data only."""

from __future__ import annotations

from histocell.encoders.spec import EncoderSpec

CATALOG = (
    EncoderSpec(
        name="morphology",
        library="builtin",
        revision="1",
        license="BSD-3-Clause",
        commercial=True,
        summary="Stain, texture, nuclei and surroundings computed from the picture: no download, no GPU.",
    ),
    EncoderSpec(
        name="resnet50",
        library="timm",
        arch="resnet50.tv_in1k",
        dim=2048,
        revision="tv_in1k",
        license="BSD-3-Clause",
        commercial=True,
        summary="ResNet-50 trained on ImageNet: the usual baseline without pathology in it.",
    ),
)
