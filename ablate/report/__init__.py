"""From rows to evidence: statistics, tables, plots, the report page. Reads data; needs no torch."""

from ablate.report.paper_tables import paper_table
from ablate.report.plots import PLOT_KINDS, plot
from ablate.report.study_tables import study_table
from ablate.report.table import Table

__all__ = ["PLOT_KINDS", "Table", "paper_table", "plot", "study_table"]
