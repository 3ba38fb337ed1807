from histocell import bench as bench
from histocell import datasets as datasets
from histocell import encoders as encoders
from histocell import get as get
from histocell import io as io
from histocell import metrics as metrics
from histocell import models as models
from histocell import pl as pl
from histocell import pp as pp
from histocell import tl as tl
from histocell._core.settings import settings as settings

__version__: str
