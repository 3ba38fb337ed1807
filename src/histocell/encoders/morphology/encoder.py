"""The built-in encoder: measurements of stain, texture, nuclei and surroundings, without a network."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from histocell._core.geometry import check_patches, local_order
from histocell.encoders.morphology.blocks import CHANNELS
from histocell.encoders.morphology.grids import NEIGHBOURHOODS, GridPass
from histocell.encoders.registry import get_spec
from histocell.images.stain.estimate import stains_of

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from numpy.typing import NDArray

    from histocell._core.settings import Progress
    from histocell.encoders.spec import EncoderSpec
    from histocell.images.slide_image import SlideImage
    from histocell.images.stain.normalize import StainTransform

_PATCH_UM = 112.0


class Morphology:
    """Colour, texture, nuclei and architecture around each point, at three distances.

    The slide is read at 1 um/px in blocks of 512 um. Stains are separated with vectors found on the slide itself,
    nuclei are segmented, and everything is summed up in grid cells of 8 um. The features of a point come from the
    Gaussian-weighted sums of the cells around it, so surroundings shared by many points are computed once. They depend
    on the slide and the point alone: not on the other points, nor on the number of threads.

    Attributes
    ----------
    name, version
        Name of the features, and version of their definition, which changes when values change.
    radii_um
        Standard deviations of the Gaussian neighbourhoods: the spot itself (for a patch of 112 um; it grows with the
        patch), its surroundings, its wide context. Each ends at two standard deviations.

    References
    ----------
    Stain separation: Macenko et al. (2009), A method for normalizing histology slides for quantitative analysis.
    Local binary patterns: Ojala et al. (2002), equation 9. Structure tensor: Bigün and Granlund (1987). Flooding:
    Vincent and Soille (1991), Watersheds in digital spaces.
    """

    name = "morphology"
    version = "1"
    pool = "native"
    precision = "fp32"
    batch_size: int | None = None
    chunk_rows = 4096
    radii_um: tuple[float, ...] = (45.0, 140.0, 250.0)

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns: `spot_`, `near_` or `wide_`, then the measurement."""
        empty = np.zeros((1, len(CHANNELS)))
        return tuple(f"{prefix}_{name}" for prefix, derive in NEIGHBOURHOODS for name in derive(empty))

    @property
    def spec(self) -> EncoderSpec:
        """Its entry in the catalogue."""
        return get_spec(self.name)

    @staticmethod
    def order(centers: NDArray[np.float64], *, mpp: float, size_um: float) -> NDArray[np.intp]:
        """Order of the points in which near ones are computed one after the other."""
        return local_order(centers)

    @property
    def dim(self) -> int:
        """Number of features."""
        return len(self.feature_names)

    def embed(
        self,
        image: SlideImage,
        centers: NDArray[np.float64],
        *,
        mpp: float,
        size_um: float = _PATCH_UM,
        stain: StainTransform | None = None,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """Features of the tissue around points.

        Parameters
        ----------
        image
            The slide. Beyond its border there is background.
        centers
            Shape (n, 2): x, y in px of its full resolution.
        mpp
            um per px of its full resolution.
        size_um
            Edge of the patch that the first neighbourhood represents.
        stain
            Must be `None`: the stains are separated anyway.
        progress
            A bar with ``update(n)``, advanced by the points done.

        Returns
        -------
        Shape (n, dim), float32, finite.

        Raises
        ------
        ValueError
            If `centers` is not a finite array of two columns, or patches are below one px or larger than the slide.
        """
        if stain is not None:
            msg = "morphology finds the stains of each slide by itself; leave stain= out"
            raise ValueError(msg)
        centers = check_patches(centers, mpp=mpp, size_um=size_um, shape=image.shape)
        out = np.zeros((len(centers), self.dim), np.float32)
        if len(centers):
            radii = (self.radii_um[0] * size_um / _PATCH_UM, *self.radii_um[1:])
            grids = GridPass(image, stains_of(image, mpp=mpp), mpp=mpp, radii_um=radii)
            for rows, features in grids.features(centers[:, ::-1] * mpp):
                out[rows] = features
                if progress is not None:
                    progress.update(len(rows))
        return out

    def embed_chunks(
        self,
        image: SlideImage,
        chunks: Sequence[NDArray[np.float64]],
        *,
        mpp: float,
        size_um: float = _PATCH_UM,
        stain: StainTransform | None = None,
        progress: Progress | None = None,
    ) -> Generator[NDArray[np.float32]]:
        """Features of one chunk of points after the other, as :meth:`embed` gives them."""
        for centers in chunks:
            yield self.embed(image, centers, mpp=mpp, size_um=size_um, stain=stain, progress=progress)
