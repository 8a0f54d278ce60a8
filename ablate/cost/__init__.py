"""What networks cost: counts without weights, measurements, memory, matching of budgets."""

from ablate.cost.profile import Cost, StageCost, profile

__all__ = ["Cost", "StageCost", "profile"]
