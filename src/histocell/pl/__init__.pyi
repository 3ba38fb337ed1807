from histocell.pl._colocalization.map import colocalization as colocalization
from histocell.pl._colocalization.network import colocalization_network as colocalization_network
from histocell.pl._colocalization.pair import colocalization_pair as colocalization_pair
from histocell.pl._history import history as history
from histocell.pl._maps import abundance as abundance
from histocell.pl._patches import patches as patches
from histocell.pl._scores.types import scores as scores
