"""Adapters as encoders: what they make of the spec and of the network of their base."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from histocell.encoders.adapters.files import read_adapter
from histocell.encoders.adapters.lora import apply_adapter
from histocell.encoders.spec import AdapterOf, EncoderSpec

if TYPE_CHECKING:
    from histocell.encoders.adapters.files import Adapter
    from histocell.encoders.networks.backbone import Backbone

_COMMIT = re.compile(r"[0-9a-f]{40}")


def adapter_spec(adapter: Adapter, name: str | None = None) -> EncoderSpec:
    """The encoder that an adapter makes of its base."""
    base = adapter.base
    if base.library in ("module", "lazyslide"):
        msg = (
            f"{adapter.folder} is an adapter of {base.name!r}, a network that histocell does not build by itself. "
            "Put it into that network: hc.encoders.load(adapters.merge(adapters.load_adapter(folder, network)))"
        )
        raise ValueError(msg)
    about = AdapterOf(
        folder=str(adapter.folder.resolve()),
        digest=adapter.digest,
        base=base.name,
        base_version=adapter.base_version,
        groups=tuple(adapter.groups()),
    )
    return replace(
        base,
        name=name or adapter.name,
        # the commit that it was trained on, where that is one
        revision=adapter.base_version if _COMMIT.fullmatch(adapter.base_version) else base.revision,
        adapter=about,
        summary=f"{base.name} with the adapter in {adapter.folder.name}.",
    )


def with_adapter(backbone: Backbone, spec: EncoderSpec, version: str) -> tuple[Backbone, EncoderSpec, str]:
    """The network of the base with the updates of the adapter in its weights, and the version of both."""
    about = spec.adapter
    if about is None:
        return backbone, spec, version
    adapter = read_adapter(about.folder)
    if adapter.digest != about.digest:
        msg = (
            f"the adapter in {about.folder} was changed since {spec.name!r} was registered; "
            "run hc.encoders.register_adapter(folder) again"
        )
        raise ValueError(msg)
    apply_adapter(backbone, adapter)
    return backbone, spec, f"{version}+{adapter.digest}"


def random_seed(version: str) -> int | None:
    """The seed of a base of random weights, `None` for others."""
    found = re.fullmatch(r"random-(\d+)", version)
    return int(found[1]) if found else None
