"""The pictures of gallery.md, drawn by the blocks of code above each."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

HERE = Path(__file__).parent
MAX_BYTES = 150_000
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```(?:\n+!\[[^\]]*\]\((?P<picture>[\w/.]+)\))?", re.DOTALL | re.MULTILINE
)


def blocks(text: str) -> list[tuple[str, str | None]]:
    """The blocks of a page, each with the picture under it."""
    return [(match["code"], match["picture"]) for match in BLOCK.finditer(text)]


def draw(folder: Path, *, example_slide: bool = True) -> list[Path]:
    """Draw the pictures into a folder beside which the page could lie; those of the example slide can be left out."""
    drawn = []
    namespace: dict[str, object] = {}
    plt.switch_backend("agg")
    for code, picture in blocks((HERE / "gallery.md").read_text(encoding="utf-8")):
        if "example_slide" in code and not example_slide:
            continue
        with warnings.catch_warnings():  # a model of synthetic tissue says so of a real slide
            warnings.filterwarnings("ignore", ".*lie outside of what the model has seen")
            exec(code, namespace)
        if picture is not None:
            path = folder / picture
            path.parent.mkdir(parents=True, exist_ok=True)
            plt.gcf().savefig(path, dpi=100, metadata={"Software": None})
            image = Image.open(path).convert("RGB")
            image.save(path, optimize=True)
            if path.stat().st_size > MAX_BYTES:
                image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
            drawn.append(path)
        plt.close("all")
    return drawn


if __name__ == "__main__":
    for path in draw(HERE):
        print(f"{path.stat().st_size / 1e3:.0f} kB  {path.relative_to(HERE)}")
