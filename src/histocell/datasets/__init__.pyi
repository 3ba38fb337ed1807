from histocell.datasets._bundles.visium_hd import synthetic_visium_hd as synthetic_visium_hd
from histocell.datasets._bundles.xenium import synthetic_xenium as synthetic_xenium
from histocell.datasets._slides import synthetic_slides as synthetic_slides
from histocell.datasets.cohorts import hest_cohort as hest_cohort
from histocell.datasets.download import example_slide as example_slide
from histocell.datasets.download import her2st as her2st
from histocell.datasets.synthetic import synthetic_tissue as synthetic_tissue
