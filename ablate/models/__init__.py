"""Networks of the grammar as torch modules: blocks, assembly, weights, comparison rows."""

from ablate.models.factory import create_model
from ablate.models.network import Network
from ablate.models.weights import WeightsReport, export_weights, load_weights

__all__ = ["Network", "WeightsReport", "create_model", "export_weights", "load_weights"]
