"""The learning rate range test: on curves with known bounds, and on real pictures, confirmed by trials."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import run_command
from conftest import write_digits
from PIL import Image
from small_trials import KeptEpochs

from autotune.cli.live.console import PlainConsole
from autotune.cli.range_test import find_learning_rates
from autotune.data.split import MANIFEST, PARTS, read_manifest
from autotune.errors import ConfigError, StudyError
from autotune.files import cache_folder
from autotune.search.ranges import Fixed
from autotune.search.settings import CYCLES, SearchSpace, Settings, read_settings
from autotune.study import range_test
from autotune.study.range_test import SLOWED, STARTED, STEPS, LossCurve, bounds_of, prepare_range_test
from autotune.study.request import SearchRequest
from autotune.study.run import run_study
from autotune.training.trial import run_trial

RATES = 10 ** np.linspace(-7, 1, 100)
NOISE = np.random.default_rng(0).normal(0, 0.1, 100)


def falling(middle: float, diverges_at: float = 1e9) -> np.ndarray[Any, Any]:
    """A loss that falls from 2 to 0.5 over about two decades around a learning rate and diverges from another one."""
    decades = np.log10(RATES / middle)
    return np.where(diverges_at > RATES, 2 - 1.5 / (1 + np.exp(-4 * decades)), 1e6)


def test_the_bounds_are_where_the_fall_starts_and_slows() -> None:
    bounds = bounds_of(LossCurve(RATES, falling(1e-3)))
    assert bounds
    started, slowed = (1e-3 * 10 ** (np.log(share / (1 - share)) / 4) for share in (STARTED, SLOWED))
    two_steps = 1.01 * (RATES[2] / RATES[0])  # one step of the grid, one for smoothing, and rounding
    assert started / two_steps < bounds.low < started * two_steps
    assert slowed / two_steps < bounds.high < slowed * two_steps
    assert bounds.least == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("middle", [1e-5, 1e-3, 1e-1])
def test_noise_and_spikes_hardly_change_the_bounds(middle: float) -> None:
    bare = bounds_of(LossCurve(RATES, falling(middle)))
    losses = falling(middle, diverges_at=30 * middle) + NOISE
    losses[5], losses[40] = 40.0, 1e4
    noisy = bounds_of(LossCurve(RATES, losses))
    assert bare
    assert noisy
    for one, other in ((bare.low, noisy.low), (bare.high, noisy.high)):
        assert one / 3 < other < one * 3
    assert noisy.high < 30 * middle


@pytest.mark.parametrize(
    "losses",
    [
        np.full(100, 2.3),
        2.3 + NOISE,
        2.3 - 0.05 * (RATES > 1e-3) + NOISE,
        np.where(RATES < 1e-5, 2.3 + NOISE, np.inf),
        2.3 * np.exp(np.arange(100) / 10),
    ],
    ids=["flat", "only noise", "a fall within the noise", "diverges", "diverges at once"],
)
def test_a_curve_that_never_clearly_falls_has_no_bounds(losses: np.ndarray[Any, Any]) -> None:
    assert bounds_of(LossCurve(RATES, losses)) is None


def asked(data: Path | None, name: str | None = "s", **flags: Any) -> SearchRequest:
    return SearchRequest(data=data, name=name, device="cpu", flags={"backbone": "quick_cnn", **flags})


def find(request: SearchRequest, write: bool = False) -> dict[str, Any]:
    return find_learning_rates(request, write, PlainConsole(quiet=True))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("lr") / "digits", classes=10, each=60)


@pytest.mark.in_make_faults
@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["efficientnet_lite0"])  # the small CNN tolerates higher learning rates
def test_trials_between_the_bounds_beat_trials_at_a_tenth_or_ten_times_the_bounds(
    here: Path, data: Path, backbone: str
) -> None:
    request = asked(data, backbone=backbone, epochs=6)
    place = here / "place"
    place.mkdir()
    backbones, tested = prepare_range_test(request, PlainConsole(quiet=True))
    found = find(request)

    def cross_entropy(times: float) -> float:
        low, high = found["lr_low"] * times, found["lr_high"] * times
        params = [replace(tested.params, lr_low=low, lr_high=high, cycle=cycle) for cycle in CYCLES]
        ends = [
            run_trial(backbones, number, one, {}, place, KeptEpochs()).log_loss for number, one in enumerate(params)
        ]
        return float(np.mean(ends))

    inside, under, over = cross_entropy(1), cross_entropy(0.1), cross_entropy(10)
    assert inside < under
    assert inside < over


@pytest.mark.slow
def test_one_seed_gives_one_curve_and_only_the_plot_is_written(here: Path, data: Path) -> None:
    first, second, other = find(asked(data)), find(asked(data)), find(asked(data, seed=1))
    assert first == second
    assert first["losses"] != other["losses"]
    assert [p.name for p in here.iterdir()] == ["lr-find-quick_cnn.png"]
    with Image.open(here / "lr-find-quick_cnn.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 24) or ()) > 50
    assert json.loads(json.dumps(first)) == first


@pytest.mark.slow
def test_no_test_picture_is_read_and_an_existing_study_is_unchanged(
    finished: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    manifest = read_manifest(finished / MANIFEST)
    before = {file: file.read_bytes() for file in finished.rglob("*") if file.is_file() and file.name != "lock"}
    found = find(asked(digits, backbone="efficientnet_lite0"))
    assert found["plot"] == str((finished / "lr-find-efficientnet_lite0.png").resolve())
    assert {file: file.read_bytes() for file in before} == before
    keys = b"".join(file.read_bytes() for file in cache_folder().rglob("keys.bin"))
    parts = {part: [bytes.fromhex(p.digest) for p in manifest if p.part == part] for part in PARTS}
    assert all(digest in keys for digest in parts["train"])
    assert len(parts["test"]) >= 5
    assert not any(digest in keys for digest in parts["test"])
    with pytest.raises(StudyError, match="has started") as error:
        find(asked(digits), write=True)
    assert "--study" in error.value.fix


@pytest.mark.in_make_faults
@pytest.mark.slow
def test_trials_use_the_written_bounds_and_other_settings_are_kept(here: Path, data: Path) -> None:
    file = here / "studies" / "s" / "study.toml"
    file.parent.mkdir(parents=True)
    file.write_text(
        "# my study\nepochs = 4  # short\n\n[space]\nlr_high = { low = 1e-4, high = 1e-2, log = true }  # for a start\n"
        'optimizer = ["sgd", "adamw"]\nbatch_size = 32\n# that is all\n'
    )
    found = find(asked(data), write=True)
    assert found["written"] == str(file.resolve())
    assert file.read_text() == (
        f"# my study\nepochs = 4  # short\n\n[space]\nlr_high = {found['lr_high']}  # for a start\n"
        f'optimizer = "adamw"\nbatch_size = 32\n# that is all\nbackbone = "quick_cnn"\nlr_low = {found["lr_low"]}\n'
    )
    summary = run_study(SearchRequest(data=data, name="s", trials=2, device="cpu"), PlainConsole(quiet=True))
    for row in summary.leaderboard:
        assert (row.params.lr_low, row.params.lr_high) == (found["lr_low"], found["lr_high"])
        assert (row.params.backbone, row.params.optimizer) == ("quick_cnn", "adamw")


@pytest.mark.slow
def test_a_new_study_is_created_with_fixed_depth_and_optimizer(here: Path, data: Path) -> None:
    found = find(asked(data, name=None, backbone="efficientnet_lite0"), write=True)
    settings = read_settings(here / "studies" / data.name / "study.toml", {})
    assert settings == Settings(
        space=SearchSpace(
            backbone=Fixed("efficientnet_lite0"), depth=Fixed(0), optimizer=Fixed("adamw"),
            lr_low=Fixed(found["lr_low"]), lr_high=Fixed(found["lr_high"]),
        )
    )  # fmt: skip
    again = find(asked(data, name=None, backbone="efficientnet_lite0"), write=True)
    assert (again["lr_low"], again["lr_high"]) == (found["lr_low"], found["lr_high"])


@pytest.mark.slow
def test_the_optimizer_of_study_toml_is_tested_whatever_its_recipe_trains(here: Path, data: Path) -> None:
    recipe = '[[recipe]]\nbackbone = "small_cnn"\nepochs = 1\nlr_low = 1e-3\nlr_high = 1e-2\n'
    (here / "my.toml").write_text(f'{recipe}[space]\noptimizer = "sgd"\nbatch_size = [16, 64]\n')
    found = find(replace(asked(data, backbone="efficientnet_lite0"), config=here / "my.toml"))
    assert (found["optimizer"], found["rates"][0], found["depth"]) == ("sgd", pytest.approx(5e-7), 0)
    assert found["batch_size"] == 16
    with pytest.raises(ConfigError, match="--config"):
        find(replace(asked(data), config=here / "my.toml"), write=True)


@pytest.mark.slow
@pytest.mark.parametrize(("least", "problem"), [(1e-12, "stayed at about"), (1e2, "never clearly fell")])
def test_a_loss_that_does_not_fall_raises_an_error_and_writes_nothing(
    here: Path, data: Path, monkeypatch: pytest.MonkeyPatch, least: float, problem: str
) -> None:
    """At learning rates that are too low to change the loss, and at ones that are too high from the first step."""
    monkeypatch.setattr(range_test, "LEAST", least)
    monkeypatch.setattr(range_test, "MOST", least * 1e3)
    with pytest.raises(StudyError, match=problem):
        find(asked(data), write=True)
    assert not (here / "studies" / "s" / "study.toml").exists()


@pytest.mark.slow
def test_the_command_prints_the_curve_the_bounds_and_the_file_paths(here: Path, data: Path) -> None:
    words = ("lr-find", str(data), "--backbone", "quick_cnn", "--device", "cpu")
    out = run_command(*words)
    assert out.returncode == 0, out.stderr
    assert "1e-3" in out.stdout
    assert "lr_low" in out.stdout
    assert str(here / "lr-find-quick_cnn.png") in out.stdout
    assert out.stderr == ""
    found = json.loads(run_command(*words, "--json").stdout)
    assert f"lr_low {found['lr_low']:.1e}, lr_high {found['lr_high']:.1e}" in out.stdout
    assert len(found["rates"]) == len(found["losses"]) == len(found["smoothed"]) <= STEPS
    wrong = run_command(*words, "--depth", "1")
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (1, 2)
    assert "Did you mean 'quick_cnn'?" in run_command(*words, "--backbone", "quik_cnn").stderr
