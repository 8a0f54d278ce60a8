"""A study's variants, resized to the baseline's budget. Imports torch: costs are traced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablate.cost import profile
from ablate.cost.matching import match
from ablate.errors import AblateError, StudyError
from ablate.study.variants import Variant, check_distinct

if TYPE_CHECKING:
    from ablate.study.spec import Study


def matched_variants(study: Study) -> tuple[Variant, ...]:
    """The variants of a study with `match:`, each within the tolerance of the baseline's budget.

    The baseline and comparison rows, which are not ours to resize, stay as they are.

    Raises:
        StudyError: no network of a variant's form lies within the tolerance; names the nearest.
    """
    assert study.match is not None
    base = study.raw[study.baseline_index]
    cost = profile(
        base.arch, image_size=base.data.image_size, num_classes=study.num_classes(base.data)
    )
    budget = int(getattr(cost, study.match.budget))
    variants = tuple(
        variant if variant is base or variant.is_comparison else _resized(study, variant, budget)
        for variant in study.raw
    )
    try:
        check_distinct(variants, study.rows)
    except StudyError as error:
        raise StudyError(
            f"{study.path}: match: resizing to equal {study.match.budget} undoes a factor; widen "
            f"the tolerance, so that widths alone suffice: {error}"
        ) from error
    return variants


def _resized(study: Study, variant: Variant, budget: int) -> Variant:
    assert study.match is not None
    try:
        found = match(
            variant.arch,
            budget,
            by=study.match.budget,
            tolerance=study.match.tolerance,
            image_size=variant.data.image_size,
            num_classes=study.num_classes(variant.data),
        )
    except AblateError as error:
        raise StudyError(f"{study.path}: match: variant {variant.name!r}: {error}") from error
    if found.arch == variant.arch:
        return variant
    return variant.resized(found.arch, found.how)
