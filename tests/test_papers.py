"""Published tables as data: values as printed, networks that exist, reasons for every mismatch."""

from __future__ import annotations

import pytest

from ablate.errors import AblateError
from ablate.grammar import canonical
from ablate.papers import (
    Claim,
    load_paper_table,
    printed,
    reported_scaling,
    reproduces,
    table_names,
)
from ablate.presets import expand
from ablate.report import paper_table
from ablate.report.detectors import Detector, detector_params
from ablate.study.spec import load_study

EXPECTED = [
    *(f"coat.table{number}" for number in range(1, 9)),
    "coatnet.figure1",
    *(f"coatnet.table{number}" for number in (2, 3, 4, 5, 6, 7, 8, 9, 11, 12)),
    *(f"atc.table{number}" for number in range(1, 7)),
]


def test_every_table_of_the_three_papers_is_there() -> None:
    assert table_names() == EXPECTED


@pytest.mark.parametrize("name", EXPECTED)
def test_a_table_has_its_citation_recipe_and_networks_that_parse(name: str) -> None:
    table = load_paper_table(name)
    assert table.citation.place.lower().replace(" ", "") == name.partition(".")[2]
    assert table.citation.arxiv or table.citation.title == "Attend To Convolution"
    assert table.recipe.data
    assert table.rows
    for row in table.rows:
        if row.arch:
            canonical(expand(row.arch))


def test_values_stand_as_printed() -> None:
    top1 = [row.reported["top1"] for row in load_paper_table("coat.table6").rows]
    assert [float(value) for value in top1] == [68.8, 75.0, 75.9, 77.5]
    rows = {row.name: row.reported for row in load_paper_table("coatnet.table4").rows}
    assert rows["CoAtNet-0 at 384"] == {"params": "25M", "flops": "13.4B", "top1": 83.9}
    assert "top1_21k" not in rows["CoAtNet-2 at 224"], "a merged cell of the OCR, not of the paper"
    rows = {row.name: row.reported for row in load_paper_table("atc.table6").rows}
    assert str(rows["ATC Res+Res"]["top1"]) == "71.440"


@pytest.mark.parametrize(
    ("text", "value", "same"),
    [
        ("5.7M", 5_722_856, True),
        ("5.7M", 5_760_000, False),
        ("168M", 166_966_264, False),
        ("4.4G", 4_349_991_232, False),
        ("2.44B", 2_444_188_024, True),
        ("19G", 19_499_999_999, True),
        (">30K", 30_000, False),
    ],
)
def test_a_count_reproduces_what_it_rounds_to(text: str, value: float, same: bool) -> None:
    assert reproduces(text, value) is same


def test_printed_text_that_is_no_number_has_no_value() -> None:
    assert printed("5.7M") == (5_700_000.0, 50_000.0)
    assert printed("-") is None
    assert printed(">30K") is None


@pytest.mark.parametrize(
    ("detector", "classifier", "head", "widths", "params"),
    [
        ("mask_rcnn", 11_012_584, 513_000, (64, 128, 320, 512), 30_664_944),
        ("cascade_mask_rcnn", 21_694_212, 321_004, (152, 320, 320, 320), 79_396_122),
    ],
)
def test_detectors_are_the_backbone_with_the_standard_neck_and_heads(
    detector: Detector, classifier: int, head: int, widths: tuple[int, ...], params: int
) -> None:
    assert detector_params(detector, classifier, head, widths) == params


def test_a_ranking_is_read_as_steps() -> None:
    claim = Claim(text="", ranking="C-C-C-C ~ C-C-C-T >= C-C-T-T >> ViT_rel")
    assert claim.steps() == [
        ("C-C-C-C", "~", "C-C-C-T"),
        ("C-C-C-T", ">=", "C-C-T-T"),
        ("C-C-T-T", ">>", "ViT_rel"),
    ]


def test_an_unknown_table_names_the_nearest() -> None:
    with pytest.raises(
        AblateError, match=r"unknown paper table 'coat.tabel6' \(did you mean 'coat"
    ):
        load_paper_table("coat.tabel6")
    with pytest.raises(AblateError, match=r"choose from coat\.table1"):
        load_paper_table("resnet")


@pytest.mark.parametrize(
    ("study", "profile", "matched"),
    [
        ("position_encoding", None, 4),
        ("co_scale", None, 3),
        ("layout", None, 5),
        ("relative_attention", None, 2),
        ("stage_depths", "imagenet", 3),
        ("head_size_norm", "imagenet", 3),
        ("stride_place", "imagenet", 6),
        ("atc_components", None, 5),
        ("atc_depth", None, 4),
        ("atc_embedding", None, 2),
    ],
)
def test_the_shipped_studies_are_rows_of_their_papers(
    study: str, profile: str | None, matched: int
) -> None:
    loaded = load_study(study, profile)
    assert loaded.paper
    table = load_paper_table(loaded.paper)
    rows = [table.row_of(variant.levels) for variant in loaded.variants]
    names = [row.name for row in rows if row]
    assert len(names) == len(set(names)) == matched


def test_the_row_that_names_most_levels_is_taken() -> None:
    table = load_paper_table("coatnet.table9")
    small = table.row_of({"stride_at": "depthwise"})
    large = table.row_of({"stride_at": "depthwise", "model": "coatnet-2"})
    assert small
    assert large
    assert (small.name, large.name) == ("CoAtNet-0, depthwise", "CoAtNet-2, depthwise")
    assert table.row_of({"stride_at": "elsewhere"}) is None


def test_a_papers_figure_is_points_with_its_own_networks_marked() -> None:
    figure = reported_scaling("coat.table6", "params")
    assert figure
    own = {point.name: point.cost for point in figure.points if point.own}
    assert own["CoaT Tiny"] == 5_500_000
    assert "Swin-T" not in own
    assert reported_scaling("atc", "flops") is None


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_every_printed_cost_is_reproduced_or_explained(name: str) -> None:
    """Built networks against the print; detectors by arithmetic over the built backbone."""
    from ablate.cost import paper_flops, profile

    table = paper_table(
        name,
        {},
        cost=lambda arch, size, classes: profile(arch, image_size=size, num_classes=classes),
        flops=paper_flops,
    )
    assert not [note for note in table.notes if "Not explained" in note]
    paper = load_paper_table(name)
    for row, cells in zip(paper.rows, table.records(), strict=True):
        assert (cells.get("built_params") is not None) == (row.arch is not None)


@pytest.mark.slow
def test_the_exact_counts_of_known_networks_stand_in_the_tables() -> None:
    from ablate.cost import profile

    def cost(arch: str, size: int, classes: int) -> object:
        return profile(arch, image_size=size, num_classes=classes)

    rows = {row["row"]: row for row in paper_table("coat.table6", {}, cost=cost).records()}
    assert rows["neither"]["built_params"] == 5_691_368
    assert rows["CPE and CRPE"]["built_params"] == 5_722_856
    assert rows["CPE and CRPE"]["built_flops"] == 1_589_037_952
    rows = {row["row"]: row for row in paper_table("coat.table4", {}, cost=cost).records()}
    assert rows["CoaT Small"]["built_params"] == 79_396_122
