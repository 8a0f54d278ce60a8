"""What networks cost: counts without weights, measurements, memory, matching of budgets."""

from ablate.cost.conventions import paper_flops
from ablate.cost.counting import Cost, StageCost, profile

__all__ = ["Cost", "StageCost", "paper_flops", "profile"]
