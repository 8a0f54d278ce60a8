"""Studies: YAML to variants to trials, trained by an engine, recorded as rows."""

from ablate.study.spec import Study, load_study
from ablate.study.store import load_curves, load_predictions, load_results

__all__ = ["Study", "load_curves", "load_predictions", "load_results", "load_study"]
