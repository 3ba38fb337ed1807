from histocell.bench.comparison import compare as compare
from histocell.bench.probing.run import probe as probe
from histocell.bench.protocols import ablation as ablation
from histocell.bench.protocols import cross_dataset as cross_dataset
from histocell.bench.protocols import leave_one_group_out as leave_one_group_out
from histocell.bench.tables import format_table as format_table
