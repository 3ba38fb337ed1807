from histocell.io._anndata import from_anndata as from_anndata
from histocell.io._anndata import to_anndata as to_anndata
from histocell.io._hest import hest as hest
from histocell.io._lazyslide import lazyslide as lazyslide
from histocell.io._slide import slide as slide
from histocell.io._st import st as st
from histocell.io._visium import visium as visium
