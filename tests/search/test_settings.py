import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from pydantic import ValidationError

from autotune.errors import ConfigError
from autotune.search.ranges import Choice, Fixed, Range
from autotune.search.settings import (
    SearchSpace,
    Settings,
    definition,
    differences,
    narrow,
    read_settings,
    settings_from_record,
)
from autotune.search.space import SCRATCH_FACTOR, BackboneOptions, depth_factor, suggest
from autotune.search.warm_start import first_trials
from autotune.training.params import Params

ARMS = (BackboneOptions("net", (224, 160), (0, 1, 2)), BackboneOptions("other", (32,), (3,)))


def read(tmp_path: Path, text: str, **flags: Any) -> Settings:
    file = tmp_path / "study.toml"
    file.write_text(text)
    return read_settings(file, flags)


def sampled(settings: Settings, n: int = 60) -> list[Params]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [suggest(study.ask(), settings.space, ARMS) for _ in range(n)]


def test_a_value_is_fixed_a_list_is_a_choice_and_a_table_is_a_range(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        """
        epochs = 20
        cycle_epochs = 4
        [space]
        dropout = 0.3
        optimizer = ["sgd", "adam"]
        lr_high = { low = 1e-3, high = 1e-2, log = true }
        depth = { low = 0, high = 2 }
        """,
    )
    assert settings.space.dropout == Fixed(0.3)
    assert settings.space.optimizer == Choice(("sgd", "adam"))
    assert settings.space.lr_high == Range(1e-3, 1e-2, log=True)
    assert settings.space.depth == Range(0, 2, step=1)
    assert settings.cycle_length == 4


def test_flags_override_the_file(tmp_path: Path) -> None:
    settings = read(tmp_path, "metric = 'accuracy'\n[space]\npixels = 160", metric="macro_f1", pixels=[96])
    assert settings.metric == "macro_f1"
    assert settings.space.pixels == Fixed(96)


@pytest.mark.parametrize(
    ("text", "problem", "fix"),
    [
        ("epoch = 3", "No setting named 'epoch'", "Did you mean 'epochs'?"),
        ("[space]\nlr_hgh = 1e-3", "No hyperparameter named 'lr_hgh'", "Did you mean 'lr_high'?"),
        ("dropout = 0.1", "No setting named 'dropout'", "belongs under [space]"),
        ("[space]\nepochs = 3", "No hyperparameter named 'epochs'", "belongs above [space]"),
        ("metric = 'acuracy'", "metric cannot be 'acuracy'", "Did you mean 'accuracy'?"),
        ("epochs = 0", "epochs cannot be 0", "at least 1"),
        ("epochs = true", "epochs cannot be True", "whole number"),
        ("epochs = 10\ncycle_epochs = 3", "epochs (10) is not a multiple", "Set epochs to a multiple"),
        ("cycle_epochs = 3", "cycle_epochs requires epochs", "Set epochs"),
        ("[space]\naugment = 1.5", "augment cannot be 1.5", "at most 1"),
        ("[space]\noptimizer = ['sdg']", "optimizer cannot be 'sdg'", "Did you mean 'sgd'?"),
        ("[space]\nbatch_size = []", "empty list", "Remove the line"),
        ("[space]\nlr_high = {low = 1e-3}", "not a range", "low = ..., high = ..."),
        ("[space]\nlr_high = {low = 1e-2, high = 1e-3}", "Invalid range for lr_high", "smaller value first"),
        (
            "[space]\nlr_high = {low = 1e-4, high = 1e-3, logg = true}",
            "lr_high has no key 'logg'",
            "Did you mean 'log'?",
        ),
        ("[space]\naugment = {low = 0, high = 1, step = -1}", "step of augment cannot be -1", "more than 0"),
        ("[space]\npixels = {low = 64, high = 96, step = 0.5}", "step of pixels cannot be 0.5", "whole"),
        ("[space]\nlr_high = inf", "lr_high cannot be inf", "more than 0"),
        ("[space]\nbatch_size = {low = 8, high = 64, log = true}", "range for batch_size: 8 to 64, log", "no step"),
        ("[space]\nbackbone = {low = 1, high = 2}", "backbone is not a range", "a list"),
        ("space = 3", "not a table", "[space]"),
        ("metric = ", "is not valid TOML", "toml.io"),
    ],
)
def test_invalid_settings_raise_with_a_fix(tmp_path: Path, text: str, problem: str, fix: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, text)
    assert problem in error.value.problem
    assert fix in error.value.fix


def test_all_errors_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, "epoch = 3\nseed = -1\n[space]\ndropout = 2")
    assert all(word in error.value.problem for word in ("'epoch'", "seed cannot be -1", "dropout cannot be 2"))


def test_errors_are_two_lines_with_ranges_first_in_the_given_order(tmp_path: Path) -> None:
    text = """
seed = -1
dropout = 0.1
epochs = 10
cycle_epochs = 3
metric = 'acuracy'
[space]
mixup = [5, 1, true]
epochs = 3
depth = {low = 1}
augment = []
"""
    with pytest.raises(ConfigError) as error:
        read(tmp_path, text, patience=0.5)
    assert error.value.problem == (
        "mixup cannot be 5. mixup cannot be True. No hyperparameter named 'epochs'. depth is not a range. "
        "augment is an empty list. seed cannot be -1. No setting named 'dropout'. metric cannot be 'acuracy'. "
        f"patience cannot be 0.5. epochs (10) is not a multiple of cycle_epochs (3). ({tmp_path / 'study.toml'})"
    )
    assert error.value.fix == (
        "Give a number, at least 0 and at most 4. It belongs above [space]. "
        "Write depth = { low = ..., high = ... }, a value, or a list. Remove the line, or list at least one value. "
        "Give a whole number, at least 0 and at most 4,294,967,295. It belongs under [space]. Did you mean 'accuracy'? "
        "Give a whole number, at least 1. Set epochs to a multiple of cycle_epochs."
    )


def test_settings_are_immutable_and_validated() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.epochs = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        SearchSpace().dropout = Fixed(0.5)  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Settings(epochs=0)


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {
            "epochs": 9,
            "cycle_epochs": 3,
            "backbone": ["a", "b"],
            "pixels": 96,
            "mixup": {"low": 0, "high": 1, "step": 1},
        },
        {"depth": {"low": 0, "high": 2}, "lr_high": {"low": 1e-4, "high": 1e-2, "log": True}, "flips": "none"},
    ],
)
def test_settings_from_the_record_are_unchanged(flags: dict[str, Any]) -> None:
    settings = read_settings(None, flags)
    assert settings_from_record(json.loads(json.dumps(definition(settings)))) == settings


def loaded(code: str) -> list[str]:
    """Return the modules that a program has imported at its end."""
    code = f"import atexit, sys; atexit.register(lambda: print('LOADED', *sys.modules)); {code}"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return out.rpartition("LOADED ")[2].split()


@pytest.mark.parametrize("word", ["--help", "plugins"])
def test_help_and_plugins_import_no_settings_and_help_no_pydantic(word: str) -> None:
    names = loaded(f"sys.argv = ['autotune', {word!r}]; from autotune.cli.main import main; main()")
    assert "autotune.cli.app" in names
    assert [name for name in names if name.startswith("autotune.search")] == []
    if word == "--help":  # Typer imports pydantic to read the options of a command
        assert "pydantic" not in names


def test_settings_import_no_optuna() -> None:
    names = loaded("import autotune.search.settings")
    assert "pydantic" in names
    assert "optuna" not in names


def test_pictures_of_writing_are_not_flipped_by_default() -> None:
    assert read_settings(None, {}, is_writing=True).flips == "none"
    assert read_settings(None, {}).flips == "horizontal"


def test_sampled_hyperparameters_are_within_their_ranges() -> None:
    for params in sampled(Settings()):
        assert params.lr_low <= params.lr_high
        assert params.depth in (ARMS[0].depths if params.backbone == "net" else ARMS[1].depths)
        assert params.pixels in (ARMS[0].pixels if params.backbone == "net" else ARMS[1].pixels)
        assert params.augment in (0, 0.25, 0.5, 0.75, 1)
        assert params.batch_size in (32, 64)


def test_the_optimizer_scales_only_default_learning_rates(tmp_path: Path) -> None:
    sgd = sampled(read(tmp_path, "[space]\noptimizer = 'sgd'"))
    assert max(p.lr_high for p in sgd) > 0.03
    given = sampled(read(tmp_path, "[space]\noptimizer = 'sgd'\nlr_high = 0.01\nlr_low = 0.001"))
    assert {(p.lr_low, p.lr_high) for p in given} == {(0.001, 0.01)}


def test_the_number_of_unfrozen_stages_scales_only_default_learning_rates(tmp_path: Path) -> None:
    text = "[space]\noptimizer = 'adamw'"
    default, given = (sampled(read(tmp_path, text + more), 200) for more in ("", "\nlr_high = [1e-3]"))
    limits = {depth: [p.lr_high for p in default if p.backbone == "net" and p.depth == depth] for depth in (0, 1, 2)}
    for depth, factor in ((0, 8), (1, 0.3), (2, 0.3)):
        assert 3e-4 * factor <= min(limits[depth]) < 6e-4 * factor
        assert 3e-3 * factor < max(limits[depth]) <= 5e-3 * factor
    assert {p.lr_high for p in given} == {1e-3}
    scratch = [replace(ARMS[1], from_scratch=True)]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    from_scratch = [suggest(study.ask(), read(tmp_path, text).space, tuple(scratch)).lr_high for _ in range(100)]
    assert 6e-3 < max(from_scratch) <= 1e-2


def test_lr_low_above_lr_high_is_swapped(tmp_path: Path) -> None:
    params = sampled(read(tmp_path, "[space]\nlr_low = 0.1\nlr_high = 0.01\noptimizer = 'adam'"), 1)[0]
    assert (params.lr_low, params.lr_high) == (0.01, 0.1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[space]\noptimizer = ['sgd']\ndropout = {low = 0.4, high = 0.5}",
        "[space]\ndepth = [2]\nlr_high = 1e-3\naugment = 0",
        "[space]\ncycle = ['triangular', 'triangular2']\nbatch_size = [128, 256]",
    ],
)
def test_warm_start_trials_are_within_the_ranges(tmp_path: Path, text: str) -> None:
    settings = read(tmp_path, text)
    arms = (BackboneOptions("net", (224,), (2,)), ARMS[1]) if "depth" in text else ARMS
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for values in first_trials(settings.space, arms):
        study.enqueue_trial(values)
    free = {params.optimizer for params in sampled(settings)}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Fixed parameter .* is out of range")
        for _ in first_trials(settings.space, arms):
            params = suggest(study.ask(), settings.space, arms)
            assert params.optimizer in free


def test_the_warm_start_trains_the_head_only_then_unfreezes_the_last_stage() -> None:
    depths = [values.get("depth[net]") for values in first_trials(SearchSpace(), ARMS)]
    assert depths[:2] == [0, 1]


def test_the_warm_start_unfreezes_one_to_three_and_the_most_stages() -> None:
    arm = BackboneOptions("net", (128,), tuple(range(10)))
    found = first_trials(SearchSpace(), (arm,))
    assert [values["depth[net]"] for values in found] == [0, 1, 2, 3, 9]
    assert {values["augment"] for values in found[1:]} == {0.5}
    for values, depth, rate in zip(found, (0, 1, 2, 3, 9), (1e-2, 1e-3, 1e-3, 3e-4, 3e-4), strict=True):
        assert values["lr_high"] == pytest.approx(rate / depth_factor(arm, depth))


@pytest.mark.parametrize("stages", [3, 6])
def test_the_warm_start_of_a_network_from_scratch_has_a_rate_for_untrained_weights(stages: int) -> None:
    arm = BackboneOptions("small", (32,), (stages,), from_scratch=True)
    (values,) = first_trials(SearchSpace(), (arm,))
    assert (values["lr_high"], values["augment"]) == (1e-3 / SCRATCH_FACTOR, 0.25)


def test_differences_are_reported_by_name(tmp_path: Path) -> None:
    old, new = definition(Settings()), definition(read(tmp_path, "epochs = 5\n[space]\ndropout = 0"))
    assert differences(old, old) == []
    assert [text.partition(" was ")[0] for text in differences(old, new)] == ["epochs", "space.dropout"]


def test_a_study_of_an_earlier_version_goes_on_with_the_default_validation_share() -> None:
    old, default = {**definition(Settings()), "validation": 0.1}, definition(Settings())
    assert differences(old, default) == []
    assert differences({**old, "seed": 1}, default) == ["seed was 1, is 0"]
    assert differences(old, {**default, "validation": 0.2}) == ["validation was 0.1, is 0.2"]
    assert old["validation"] == 0.1


def test_narrow_replaces_only_the_named_ranges() -> None:
    settings = narrow(Settings(seed=3), dropout=Fixed(0.5))
    assert settings == Settings(seed=3, space=SearchSpace(dropout=Fixed(0.5)))


def test_ranges_of_whole_numbers_use_their_step(tmp_path: Path) -> None:
    settings = read(tmp_path, "[space]\npixels = {low = 128, high = 224, step = 32}\naugment = {low = 0.5, high = 1}")
    assert settings.space.pixels == Choice((128, 160, 192, 224))
    assert settings.space.augment == Range(0.5, 1)
