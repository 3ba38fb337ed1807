"""Measurements of a nucleus: their names, units and definitions, in one list."""

from __future__ import annotations

# name: unit, definition. docs/nuclei_measurements.md shows this list, and a test compares the two.
MEASUREMENTS = {
    "area_um2": ("µm²", "area of the outline, holes left out"),
    "perimeter_um": (
        "µm",
        "length of the outline and its holes; of an outline along the edges of px, that of the line through the middles of these edges",
    ),
    "major_axis_um": ("µm", "4 √λ₁, the long axis of the ellipse with the same second moments"),
    "minor_axis_um": ("µm", "4 √λ₂, its short axis"),
    "eccentricity": ("", "√(1 − λ₂ / λ₁): 0 of a circle, towards 1 of a line"),
    "solidity": ("", "area / area of the convex hull"),
    "orientation": (
        "rad",
        "angle from the y axis of the image (downwards) to the long axis, positive towards x, −π/2 to π/2",
    ),
    "haematoxylin_mean": ("strength", "mean haematoxylin in the nucleus"),
    "haematoxylin_sd": ("strength", "its standard deviation over px"),
    "eosin_mean": ("strength", "mean eosin in the nucleus"),
    "eosin_sd": ("strength", "its standard deviation over px"),
    "chromatin_contrast": (
        "strength²",
        "mean of (a − b)² over the pairs of px of the nucleus that share an edge, of haematoxylin a and b (Haralick's f2 without grey levels)",
    ),
    "chromatin_correlation": (
        "",
        "Pearson's correlation of a and b over the same pairs, each taken both ways (Haralick's f3): towards 1 of smooth chromatin, lower of granular",
    ),
    "chromatin_entropy": (
        "bit",
        "−Σ p log₂ p of the histogram of haematoxylin over px, 32 bins from 0 to 2 strengths, more in the last",
    ),
    "ring_haematoxylin_mean": (
        "strength",
        "mean haematoxylin of the px outside of all nuclei whose centre lies within `ring_um` of that of a px of the nucleus",
    ),
    "ring_eosin_mean": ("strength", "mean eosin of the same px, the cytoplasm"),
    "nearest_um": ("µm", "distance from the centroid to the nearest other centroid"),
    "density_per_mm2": (
        "1/mm²",
        "centroids within 50 µm, the own one included, per area of that circle within the image",
    ),
}
NAMES = tuple(MEASUREMENTS)
SHAPE = NAMES[:7]
STAIN = NAMES[7:16]
SURROUNDINGS = NAMES[16:]
