"""The report states the same errors in every file, and enough to reproduce them."""

from __future__ import annotations

import csv
import dataclasses
import json
import re

import numpy as np
import pytest

from hdgnn_jax.data.targets import Accuracy
from hdgnn_jax.training import plots
from hdgnn_jax.training.report import TargetReport, print_tables, write_report
from hdgnn_jax.training.result import SplitResult, format_mae

RUN = {"seconds": 1234.5, "compilations": 3, "padding_efficiency": 0.91, "parameters": 1_234_567}
HISTORY = [{"step": s, "train_loss": 1 / s} for s in range(1, 30)] + [
    {"step": s, "validation_mae": 20 / s} for s in range(10, 30, 10)
]


def make_result(split: str, n: int = 50, threshold: float | None = None) -> SplitResult:
    rng = np.random.default_rng(n)
    truth = rng.normal(-400.0, 50.0, n)
    return SplitResult(
        split=split,
        ids=np.arange(1, n + 1),
        truth=truth,
        prediction=truth + rng.normal(0, 8.0, n),
        baselines={
            "mean_predictor": np.full(n, -400.0),
            "composition": truth + rng.normal(0, 20.0, n),
        },
        threshold=threshold,
    )


PAPER = {"test": Accuracy(0.046)}
RESULTS = [make_result("train", 60), make_result("validation", 40), make_result("test", 50)]


def write(folder, **changes):
    of_target = {"target": "alpha", "unit": "bohr^3", "results": RESULTS, "paper": PAPER}
    others = {"history": HISTORY, "run": RUN, "card": {"seed": 1, "git": None}}
    for name, value in changes.items():
        (of_target if name in of_target else others)[name] = value
    write_report(folder, [TargetReport(**of_target)], **others)


def test_summary_is_of_the_test_split_and_holds_every_split(tmp_path):
    write(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    test = RESULTS[-1]
    assert summary.pop("splits").keys() == {"train", "validation", "test"}
    assert summary == {
        "target": "alpha",
        "unit": "bohr^3",
        "split": "test",
        "n": 50,
        "mae": np.abs(test.prediction - test.truth).mean(),
        "mae_mean_predictor": np.abs(-400.0 - test.truth).mean(),
        "mae_composition": np.abs(test.baselines["composition"] - test.truth).mean(),
        "mae_paper": 0.046,
        **RUN,
    }


def test_without_a_test_split_the_last_one_is_the_headline(tmp_path):
    write(tmp_path, results=RESULTS[:2])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["split"], summary["n"], summary["mae_paper"]) == ("validation", 40, None)
    assert summary["splits"]["validation"]["mae"] == summary["mae"]


def test_the_markdown_states_the_table_the_plots_and_the_card(tmp_path):
    write(tmp_path)
    text = (tmp_path / "report.md").read_text()
    for result in RESULTS:
        names = (None, "mean_predictor", "composition")
        errors = (format_mae(result.accuracy(name).mae) for name in names)
        paper = "0.046" if result.split == "test" else "-"
        cells = [result.split, str(len(result.ids)), *errors, paper]
        assert f"| {' | '.join(cells)} |" in text
    assert f"**{format_mae(RESULTS[-1].mae)} bohr^3**" in text
    for name in ("learning_curve.png", "parity.png"):
        assert f"]({name})" in text
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert '"seed": 1' in text
    assert json.loads((tmp_path / "card.json").read_text()) == {"seed": 1, "git": None}


@pytest.mark.parametrize("headline", [True, False])
def test_the_markdown_links_the_plots_that_there_are(tmp_path, headline):
    """That of forces is of the headline split, where it has some."""
    validation, test = RESULTS[1:]
    forces = dataclasses.replace(validation, baselines={})
    validation = dataclasses.replace(validation, forces=forces)
    test = dataclasses.replace(test, forces=forces if headline else None)
    write(tmp_path, results=[validation, test])
    linked = re.findall(r"\]\((.*?\.png)\)", (tmp_path / "report.md").read_text())
    assert sorted(linked) == sorted(path.name for path in tmp_path.glob("*.png"))
    assert ("parity_forces.png" in linked) == headline


def test_predictions_reproduce_the_error_to_the_bit(tmp_path):
    write(tmp_path)
    for result in RESULTS:
        with (tmp_path / f"predictions_{result.split}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [int(row["id"]) for row in rows] == result.ids.tolist()
        for column in ("truth", "prediction"):
            read = np.array([float(row[column]) for row in rows])
            np.testing.assert_array_equal(read, getattr(result, column))


def test_a_second_report_replaces_the_first_whole(tmp_path):
    write(tmp_path)
    write(tmp_path, results=[make_result("test", plots.CROWDED + 1)], history=[])
    assert json.loads((tmp_path / "summary.json").read_text())["n"] == plots.CROWDED + 1
    assert not list(tmp_path.glob("*.part"))


def test_a_report_that_fails_writes_nothing(tmp_path):
    write(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TypeError):
        write(tmp_path, target="gap", card={"not": {"json"}})
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_printed_table_has_the_unit_and_every_error(capsys):
    print_tables([TargetReport("alpha", "bohr^3", RESULTS, {})])
    out = capsys.readouterr().out
    assert "Mean absolute error of alpha [bohr^3]" in out
    for result in RESULTS:
        assert format_mae(result.mae) in out
        assert format_mae(result.accuracy("composition").mae) in out


def test_several_tested_parts_have_a_mean_in_which_each_counts_once(tmp_path, capsys):
    results = [make_result("validation", 40, 10.0)]
    results += [make_result("id", 50, 10.0), make_result("ood", 20, 10.0)]
    paper = {"id": Accuracy(510, 0.0508), "ood": Accuracy(618, 0.0279)}
    write(tmp_path, results=results, paper=paper, note="Mind the parts.")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["split"] == "id"
    mean, parts = summary["splits"]["mean"], [summary["splits"][k] for k in ("id", "ood")]
    assert mean["n"] == 70
    for key in ("mae", "within", "mae_composition", "within_composition", "mae_paper"):
        assert mean[key] == pytest.approx(np.mean([part[key] for part in parts]))
    error = np.abs(results[1].prediction - results[1].truth)
    assert parts[0]["within"] == np.mean(error < 10.0)
    assert summary["splits"]["validation"]["mae_paper"] is None
    text = (tmp_path / "report.md").read_text()
    assert "Mind the parts." in text
    assert "| 564 (3.9" in text
    print_tables([TargetReport("energy", "meV", results, paper)], note="Mind the parts.")
    out = capsys.readouterr().out
    assert "Mind the parts." in out
    assert "mean of 2" in out


def test_several_targets_have_a_row_and_a_folder_each(tmp_path, capsys):
    """Curves are those of the target; one line names all that the linear model is better for."""
    good, bad = (
        dataclasses.replace(result, baselines={"linear": result.truth + e})
        for result, e in ((make_result("test"), 100.0), (make_result("test"), 0.5))
    )
    names = ("alpha", "gap", "mu")
    of_forces = dataclasses.replace(good, forces=dataclasses.replace(good, baselines={}))
    reports = [
        TargetReport("alpha", "bohr^3", [of_forces], {"test": Accuracy(0.046)}),
        TargetReport("gap", "meV", [bad], {}),
        TargetReport("mu", "D", [bad], {}),
    ]
    curve = [
        {"step": k, "train_loss": 1 / k, **{f"validation_mae_{name}": 9.0 / k for name in names}}
        for k in (1, 2, 3)
    ]
    write_report(tmp_path, reports, history=curve, run=RUN, card={"seed": 1})
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["targets"]["alpha"]["mae"] == good.mae
    assert summary["targets"]["gap"] == {"unit": "meV", "n": 50, "mae": bad.mae, "mae_linear": 0.5}
    assert summary["parameters"] == RUN["parameters"]
    assert summary["forces"] == {"unit": "bohr^3/Å", "n": 50, "mae": good.mae}
    own = json.loads((tmp_path / "gap" / "summary.json").read_text())
    assert (own["target"], own["mae"]) == ("gap", bad.mae)
    print_tables(reports)
    printed, text = capsys.readouterr().out, (tmp_path / "report.md").read_text()
    for report in reports:
        assert f"| {report.target} | {report.unit} | {format_mae(good.mae)} |" in text
        assert report.target in printed
    assert f"| forces | bohr^3/Å | {format_mae(good.mae)} | - | - |" in text
    assert text.count("A linear model is better") == printed.count("A linear model is better") == 1
    assert f"gap (0.5000 meV, HDGNN {format_mae(bad.mae)}); mu (0.5000 D" in text
    line = "A linear model is better on the test split"
    own = [(tmp_path / name / "report.md").read_text().count(line) for name in names]
    assert own == [0, 1, 1]
