"""The command line: help that teaches, mistakes told once with exit code 2, facts as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ablate.cli import main
from ablate.cli.app import _VERBS
from ablate.report import PLOT_KINDS

Call = Callable[..., tuple[int, str, str]]

STUDY = """\
# Does CPE help?
study: small
model: coat-lite-micro
factors:
  cpe: [false, true]
seeds: 2
data: {name: digits-canvas, image_size: 32, train_fraction: 0.3, eval_subset: 50}
train: {epochs: 1, batch_size: 64}
profiles:
  long: {train: {epochs: 3}}
"""


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Call:
    """Runs `ablate ARGUMENTS` in an empty folder; returns exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(STUDY)
    return path


def test_help_lists_every_verb_and_loads_no_torch() -> None:
    code = (
        "import sys\nfrom ablate.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\nsys.exit('torch' in sys.modules)"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    assert done.returncode == 0
    assert all(f"  {verb} " in done.stdout for verb in _VERBS)
    assert seconds < 2  # a fifth of a second on an idle machine


@pytest.mark.parametrize("verb", _VERBS)
def test_the_help_of_a_verb_teaches_by_example(call: Call, verb: str) -> None:
    code, out, _ = call(verb, "--help")
    assert code == 0
    assert f"ablate {verb}" in out.split("Examples:")[1]


def test_the_help_of_plot_lists_every_kind(call: Call) -> None:
    _, out, _ = call("plot", "--help")
    assert all(f"  {kind} " in out for kind in PLOT_KINDS)


def test_an_unknown_verb_names_the_nearest(call: Call) -> None:
    code, _, err = call("plam")
    assert code == 2
    assert "unknown verb 'plam' (did you mean 'plan'?)" in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seeds: 2", "seeds: 2\nfactor: {}"), "unknown key 'factor' (did you mean 'factors'?)"),
        (("epochs: 1", "epohcs: 1"), "unknown key 'epohcs' (did you mean 'epochs'?)"),
        (("coat-lite-micro", "coat-lite-mirco"), "did you mean 'coat-lite-micro'?"),
        (("cpe: [", "cep: ["), "unknown factor 'cep' (did you mean 'cpe'?)"),
        (("[false, true]", "[false, maybe]"), "maybe"),
        (("[false, true]", "[false, false]"), "false"),
        (("[false, true]", "[]"), "cpe"),
        (("seeds: 2", "seeds: 0"), "seeds"),
        (("seeds: 2", "seeds: [1"), "small.yaml"),
        (("seeds: 2", "seeds: 2\ntune: {train.lr: []}"), "train.lr needs a list of candidates"),
        (("seeds: 2", "seeds: 2\ndesign: search"), "design search takes no factors"),
        (("coat-lite-micro", "F2x60"), "width must be divisible by num_heads"),
        (("coat-lite-micro", "F2x64-X2x64"), "unknown kind 'X'"),
        (("fraction: 0.3", "fraction: 0"), "train_fraction"),
        (("fraction: 0.3", "fraction: 1.5"), "train_fraction"),
        (("digits-canvas", "digit-canvas"), "digits-canvas"),
        (("{name: digits-canvas", "{name: cifar10, root: nowhere"), "nowhere"),
    ],
)
def test_a_mistake_in_a_study_is_one_message_and_nothing_starts(
    call: Call, study: Path, change: tuple[str, str], message: str
) -> None:
    assert change[0] in STUDY
    study.write_text(STUDY.replace(*change))
    code, _, err = call("run", str(study))
    assert code == 2, err
    assert message in err
    assert "Traceback" not in err
    assert not Path("runs").exists()
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--profile", "lnog"), "unknown profile 'lnog' (did you mean 'long'?)"),
        (("--set", "train.epoch=3"), "unknown key 'epoch' (did you mean 'epochs'?)"),
        (("--set", "train.epochs"), "train.epochs"),
        (("--set", "train.epochs=many"), "many"),
        (("--executor", "lokal"), "unknown executor 'lokal' (did you mean 'local'?)"),
    ],
)
def test_a_mistake_in_an_argument_is_one_message(
    call: Call, study: Path, arguments: tuple[str, str], message: str
) -> None:
    code, _, err = call("run", str(study), *arguments)
    assert code == 2, err
    assert message in err
    assert not Path("runs").exists()


def test_a_study_that_is_not_there_names_the_nearest(call: Call) -> None:
    code, _, err = call("plan", "position_encodings")
    assert code == 2
    assert "did you mean 'position_encoding'?" in err


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("C2x96-X3", "unknown kind 'X'"),
        ("coat-lite-tinny", "did you mean 'coat-lite-tiny'?"),
        ("coat-lite-tiny@cpee=false", "unknown option 'cpee' (did you mean 'cpe'?)"),
    ],
)
def test_show_tells_what_is_wrong_with_an_arch(call: Call, arch: str, message: str) -> None:
    code, _, err = call("show", arch)
    assert code == 2
    assert message in err


def test_show_says_where_an_image_is_too_small(call: Call) -> None:
    code, _, err = call("show", "coat-lite-tiny", "--image-size", "8")
    assert code == 2
    assert "image size 8x8 is too small: stage 3" in err


def test_show_prints_a_stage_table_whose_parts_sum_to_the_total(call: Call) -> None:
    code, out, _ = call("show", "S2x64:C2x96-C3x192-T5x384-T2x768", "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["arch"] == "S2x64:C2x96-C3x192-T5x384-T2x768"
    assert facts["params"] == 25_036_820
    assert facts["macs"] == 4_141_888_512
    assert sum(stage["params"] for stage in facts["per_stage"]) == facts["params"]
    assert sum(stage["macs"] for stage in facts["per_stage"]) == facts["macs"]
    code, out, _ = call("show", "S2x64:C2x96-C3x192-T5x384-T2x768")
    assert code == 0
    assert "25,036,820" in out
    assert "14x14" in out


def test_one_preset_is_shown_with_the_reason_of_each_disagreement(call: Call) -> None:
    code, out, _ = call("models", "coatnet-3", "--json")
    (fact,) = json.loads(out)
    assert code == 0
    assert fact["params"] == 166_966_264
    assert set(fact["disagreements"]) == {"params", "flops"}
    code, _, err = call("models", "coatnet-33")
    assert code == 2
    assert "did you mean 'coatnet-3'?" in err


def test_init_writes_the_shipped_studies_once(call: Call) -> None:
    code, out, _ = call("init", "mine")
    assert code == 0
    assert "wrote mine/position_encoding.yaml" in out
    assert "kept mine/position_encoding.yaml" in call("init", "mine")[1]


@pytest.mark.slow
def test_a_study_from_plan_to_table_and_again(call: Call, study: Path) -> None:
    small = "F1x16-F1x16-F1x16@stem_stride=4"
    study.write_text(study.read_text().replace("coat-lite-micro", small))
    code, out, _ = call("plan", str(study), "--probe", "none", "--json")
    planned = json.loads(out)
    assert code == 0
    assert [variant["variant"] for variant in planned["variants"]] == [
        {"cpe": False},
        {"cpe": True},
    ]
    assert len(planned["trials"]) == 4

    code, out, err = call("run", str(study), "--executor", "serial")
    assert code == 0, err
    assert "results/small/table.md" in out
    for name in ("trials.csv", "curves.csv", "meta.json", "table.md", "table.tex"):
        assert (Path("results/small") / name).exists(), name
    assert list(Path("results/small").glob("*.png"))

    before = Path("results/small/trials.csv").read_bytes()
    code, out, _ = call("run", str(study), "--json")
    assert code == 0
    assert json.loads(out)["trained"] == 0
    assert Path("results/small/trials.csv").read_bytes() == before

    rows = json.loads(call("results", str(study), "--json")[1])
    assert {row["key"] for row in rows} == {trial["key"] for trial in planned["trials"]}
    assert all(row["status"] == "done" and 0 <= row["top1"] <= 100 for row in rows)

    counts = json.loads(call("status", str(study), "--json")[1])["counts"]
    assert counts["done"] == 4
    assert "cpe" in call("table", str(study))[1]
    assert "\\toprule" in call("table", str(study), "--format", "latex")[1]
    code, out, _ = call("plot", str(study), "--kind", "curves", "-o", "curves.svg")
    assert code == 0
    assert Path("curves.svg").exists()
    assert call("results", str(study), "--check")[0] == 0
