"""Slides as rows of a table: composition, co-localization, nuclei; and groups of patients compared."""
