"""A budget leaves out networks before the search; the report and an export weigh scores against costs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import run_command
from conftest import write_digits
from small_studies import Lines, search

from autotune.backbones.registry import build_stages, discover
from autotune.export.export import ExportRequest, export_trial
from autotune.formats import measure
from autotune.formats.cost import DeviceProfile, NetworkCost
from autotune.report.report import write_report
from autotune.search import budget
from autotune.search.budget import Budget, OverBudgetError
from autotune.search.settings import read_settings
from autotune.study.front import Front, PricedTrial, find_front
from autotune.study.request import Resources
from autotune.study.storage.record import open_record
from autotune.study.storage.rows import COMPLETE, TrialRow
from autotune.study.summary import study_status
from autotune.training.params import Params


def cost(backbone: str, milliseconds: float, megabytes: float = 1.0, pixels: int = 32) -> NetworkCost:
    return NetworkCost(backbone, pixels, "onnx", milliseconds, round(1e6 * megabytes), 512)


def written(folder: Path, *costs: NetworkCost) -> str:
    file = folder / "profile.json"
    DeviceProfile("a small computer", costs).write(file)
    return str(file)


def test_networks_over_the_limits_of_another_device_are_left_out(here: Path, digits: Path) -> None:
    sizes = {one: discover().find(one).traits.pixels for one in ("quick_cnn", "small_cnn")}
    file = written(here, cost("quick_cnn", 3.0, 9.0, sizes["quick_cnn"]), cost("small_cnn", 30, 1, sizes["small_cnn"]))
    words = ("search", str(digits), "--backbone", "quick_cnn,small_cnn", "--dry-run", "--json")
    limited = ("--device-profile", file)
    found = json.loads(run_command(*words, *limited, "--max-ms", "10").stdout)
    assert [one["name"] for one in found["backbones"]] == ["quick_cnn"]
    assert found["left_out"] == {"small_cnn": f"30.0 ms and 1.0 MB at {sizes['small_cnn']} pixels, more than 10 ms"}
    found = json.loads(run_command(*words, *limited, "--max-mb", "2").stdout)
    assert [one["name"] for one in found["backbones"]] == ["small_cnn"]
    done = run_command(*words, *limited, "--max-mb", "0.5")
    assert "No backbone fits into 0.5 MB as onnx. The smallest is small_cnn: 30.0 ms and 1.0 MB" in done.stderr
    done = run_command(*words, *limited, "--max-ms", "10", "--max-mb", "2")
    assert done.returncode == 1
    assert "No backbone fits into 10 ms and 2 MB as onnx. The fastest is quick_cnn: 3.0 ms and 9.0 MB" in done.stderr
    assert "--max-ms or --max-mb" in done.stderr


@pytest.mark.parametrize(
    ("content", "limit", "problem", "fix"),
    [
        pytest.param(None, "5", "cannot be read: No such file", "autotune profile --out", id="missing"),
        pytest.param("{", "5", "is not a device profile", "autotune profile --out", id="damaged"),
        pytest.param('{"version": 2}', "5", "has version 2; this version of autotune reads 1", "--out", id="version"),
        pytest.param('{"version": 1, "device": "x", "costs": [{}]}', "5", "is not a device", "--out", id="costs"),
        pytest.param('{"version": 1, "device": "x", "costs": []}', None, "needs a limit", "--max-ms", id="no-limit"),
        pytest.param(
            '{"version": 1, "device": "x", "costs": []}',
            "5",
            "has no quick_cnn at 16 pixels as onnx",
            "autotune profile --backbone quick_cnn --pixels 16 --format onnx --out",
            id="not-in-it",
        ),
    ],
)
def test_profiles_that_do_not_help_are_two_lines(
    content: str | None, limit: str | None, problem: str, fix: str, here: Path, digits: Path
) -> None:
    if content is not None:
        (here / "p.json").write_text(content)
    limits = ("--max-ms", limit) if limit else ()
    done = run_command(
        "search",
        str(digits),
        "--backbone",
        "quick_cnn",
        "--dry-run",
        "--device-profile",
        "p.json",
        *limits,
        columns=200,
    )
    assert done.returncode == 1
    assert problem in done.stderr
    assert fix in done.stderr


@pytest.mark.slow
def test_this_machine_is_measured_once(
    here: Path, tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    done = run_command("profile", "--backbone", "quick_cnn,small_cnn", "--out", "p.json", "--json")
    found = json.loads(done.stdout)
    assert {"version": 1, **found} == json.loads((here / "p.json").read_text())
    by_name = {one["backbone"]: one for one in found["costs"]}
    stages = build_stages(discover().find("small_cnn"), pretrained=False)
    n_bytes = 4 * sum(one.numel() for one in stages.parameters())
    assert by_name["small_cnn"]["file_bytes"] == pytest.approx(n_bytes, rel=0.05)
    assert 0 < by_name["quick_cnn"]["milliseconds"] < by_name["small_cnn"]["milliseconds"]

    def refuse(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(measure, "time_network", refuse)
    limit = f"{by_name['quick_cnn']['milliseconds'] + 0.001:.3f}"
    words = ("search", str(digits), "--backbone", "quick_cnn,small_cnn", "--max-ms", limit, "--dry-run", "--json")
    assert [one["name"] for one in json.loads(run_command(*words).stdout)["backbones"]] == ["quick_cnn"]


def test_a_budget_that_leaves_nothing_says_which_size_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        budget, "measure_cost", lambda one, chain, pixels, format: cost(one.name, pixels / 10, 5, pixels)
    )
    lines: list[str] = []
    one = Budget(read_settings(None, {"max_ms": 15.0}), 10, lines.append)
    backbone = discover().find("efficientnet_lite0")
    chain: Any = None
    assert one.affordable(backbone, chain, (224, 128)) == (128,)
    assert lines == ["Skipped: efficientnet_lite0 at some sizes: 22.4 ms and 5.0 MB at 224 pixels, more than 15 ms"]
    assert one.nothing_fits() is None
    one = Budget(read_settings(None, {"max_ms": 15.0}), 10, lines.append)
    with pytest.raises(OverBudgetError, match=r"22.4 ms and 5.0 MB at 224 pixels, more than 15 ms"):
        one.affordable(backbone, chain, (224,))
    problem = one.nothing_fits()
    assert problem
    assert problem.fix == "12.8 ms and 5.0 MB at 128 pixels fit: --backbone efficientnet_lite0 --pixels 128"


def trial(number: int, value: float, milliseconds: float, megabytes: float = 5.0) -> PricedTrial:
    params = Params("quick_cnn", 1, 16, 1e-5, 1e-3, "triangular", 0.0, 0.0, "adamw", 32, 0.0, 0.0, 0.0)
    row = TrialRow(number, COMPLETE, params, "all epochs", "", value=value)
    return PricedTrial(row, (value - 0.05, value + 0.05), milliseconds, megabytes)


def test_the_fastest_is_within_one_standard_error_of_the_best() -> None:
    # One standard error of 90 % of 100 pictures: 3 points.
    trials = (trial(0, 0.90, 20), trial(1, 0.88, 9), trial(2, 0.871, 8), trial(3, 0.869, 2), trial(4, 0.872, 8))
    front = Front("x", "onnx", 100, trials)
    assert front.standard_error == pytest.approx(0.03)
    assert front.fastest.row.number == 4  # as fast as 2, and better
    assert "trial 4, 87.2 % and 8.0 ms; the best: trial 0, 90.0 % and 20.0 ms" in front.words
    assert replace(front, n=10**6).fastest.row.number == 0


@pytest.mark.slow
def test_the_report_draws_the_front_and_an_export_takes_the_fastest(here: Path) -> None:
    pytest.importorskip("onnxruntime")
    write_digits(here / "photos", classes=2, each=40)
    search(here / "photos", trials=4, flags={"backbone": ["quick_cnn", "small_cnn"], "epochs": 2})
    page = Path(write_report("s")["file"])
    assert "autotune profile s" in page.read_text()
    done = run_command("profile", "s")
    assert done.returncode == 0, done.stderr
    with open_record(here / "studies" / "s") as record:
        costs = record.facts().costs
        assert costs
        assert {one.backbone for one in costs.costs} == {"quick_cnn", "small_cnn"}
        # Exchanged, so that the measured speed does not decide which is faster.
        slow = tuple(replace(one, milliseconds=50.0 if one.backbone == "quick_cnn" else 5.0) for one in costs.costs)
        record.keep_facts(costs=replace(costs, costs=slow))
        costs = record.facts().costs
    summary = study_status("s")
    front = find_front(summary, costs)
    assert front
    complete = [row for row in summary.leaderboard if row.state == COMPLETE]
    assert len(front.trials) == len(complete)
    best, n = complete[0].value or 0.0, summary.pictures["validation"]
    least = best - (best * (1 - best) / n) ** 0.5
    good = [row for row in complete if (row.value or 0.0) >= least]
    expected = next((row for row in good if row.params.backbone == "small_cnn"), good[0])
    assert front.fastest.row.number == expected.number
    write_report("s")
    text = page.read_text()
    assert "The front: no other trial is as good, as fast and as small" in text
    assert text.count('id="front-') >= 2
    told = Lines()
    result = export_trial("s", ExportRequest(fastest=True), Resources("cpu"), told)
    assert result.trial == expected.number
    assert any(line.startswith("The fastest within one standard error") for line in told.lines)
