"""What networks cost: counts without weights, measurements, memory, matching of budgets."""

from ablate.cost.conventions import CONVENTIONS, paper_flops
from ablate.cost.counting import Cost, StageCost, profile
from ablate.cost.matching import Matched, match
from ablate.cost.measuring import Measurement, measure
from ablate.cost.memory import training_memory

__all__ = [
    "CONVENTIONS",
    "Cost",
    "Matched",
    "Measurement",
    "StageCost",
    "match",
    "measure",
    "paper_flops",
    "profile",
    "training_memory",
]
