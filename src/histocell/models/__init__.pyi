from histocell.models.places import Places as Places
from histocell.models.registry import list_models as list_models
from histocell.models.registry import load as load
from histocell.models.regressors.hist2cell.regressor import Hist2Cell as Hist2Cell
from histocell.models.regressors.mlp import MLP as MLP
from histocell.models.regressors.ridge import Mean as Mean
from histocell.models.regressors.ridge import Ridge as Ridge
from histocell.models.regressors.spatial_mlp import SpatialMLP as SpatialMLP
