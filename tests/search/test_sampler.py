import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import Trial, TrialState
from sqlalchemy.orm import Session

from autotune.errors import ConfigError
from autotune.search import space
from autotune.search.optuna_study import OptunaStudy
from autotune.search.ranges import Domain
from autotune.search.sampler import PRUNERS, SAMPLERS, Pruner, Sampler
from autotune.search.settings import Settings, read_settings
from autotune.search.space import BackboneOptions
from autotune.training.outcome import Epoch
from autotune.training.params import Params, Value

ARMS = (BackboneOptions("net", (224,), (0, 1, 2)), BackboneOptions("other", (32,), (3,)))
SETTINGS = Settings(epochs=9)


def row(number: int, validation: float, cycle_end: bool = True) -> Epoch:
    return Epoch(number, 0.0, 0.0, 1.0, validation, 1.0, 0.0, cycle_end, 0.0)


def value(params: Params) -> float:
    return 1 - abs(params.dropout - 0.3) - 0.1 * params.depth


def run(file: Path, n: int, settings: Settings = SETTINGS) -> list[Params]:
    search = OptunaStudy(file, settings, ARMS)
    out = []
    for _ in range(n):
        trial = search.ask()
        out.append(search.params(trial))
        search.tell(trial, value(out[-1]), TrialState.COMPLETE)
    return out


@pytest.mark.in_make_faults
def test_the_same_seed_gives_the_same_trials(tmp_path: Path) -> None:
    assert run(tmp_path / "a.db", 14) == run(tmp_path / "b.db", 14)


def test_another_seed_gives_other_trials(tmp_path: Path) -> None:
    assert run(tmp_path / "a.db", 3) != run(tmp_path / "b.db", 3, SETTINGS.model_copy(update={"seed": 1}))


def test_a_resumed_search_gives_the_same_trials(tmp_path: Path) -> None:
    assert [*run(tmp_path / "a.db", 6), *run(tmp_path / "a.db", 8)] == run(tmp_path / "b.db", 14)


def test_two_interrupts_during_a_commit_do_not_lock_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Session.commit, Session.close

    def interrupted(number: int) -> Callable[[Session], None]:
        def call(session: Session) -> None:
            session.flush()
            raw = session.connection().connection.dbapi_connection
            if getattr(raw, "in_transaction", False):  # something was written
                raise KeyboardInterrupt
            whole[number](session)

        return call

    search = OptunaStudy(tmp_path / "a.db", SETTINGS, ARMS)
    with monkeypatch.context() as patch:
        patch.setattr(Session, "commit", interrupted(0))
        patch.setattr(Session, "close", interrupted(1))
        with pytest.raises(KeyboardInterrupt) as kept:  # as a notebook keeps it
            search.ask()
    search.close()
    assert run(tmp_path / "a.db", 1) == run(tmp_path / "b.db", 1)
    assert kept


def test_a_killed_trial_keeps_its_number_and_params(tmp_path: Path) -> None:
    search = OptunaStudy(tmp_path / "a.db", SETTINGS, ARMS)
    trial = search.ask()
    params = search.params(trial)
    again = OptunaStudy(tmp_path / "a.db", SETTINGS, ARMS)
    (left,) = again.unfinished()
    assert left.number == trial.number
    assert again.params(left) == params


@dataclass(frozen=True)
class Begun:
    """A search after some trials. file: a copy of its database. following: the params of the next trial."""

    settings: Settings
    file: Path
    following: Params


@pytest.fixture(scope="module", params=SAMPLERS)
def begun(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Begun]:
    """The search of each sampler after 0, 3 and 8 trials."""
    folder = tmp_path_factory.mktemp(request.param)
    settings = SETTINGS.model_copy(update={"sampler": request.param})
    whole, found, done = folder / "whole.db", {}, 0
    for n in (0, 3, 8):
        run(whole, n - done, settings)
        copy = Path(shutil.copy(whole, folder / f"{n}.db")) if n else folder / "none.db"
        (following,) = run(whole, 1, settings)
        found[n], done = Begun(settings, copy, following), n + 1
    return found


@pytest.mark.parametrize(("n_finished", "n_drawn"), [(0, 1), (3, 1), (8, 0), (8, 1), (8, 5)])
def test_a_trial_killed_between_two_draws_gets_the_same_params(
    begun: dict[int, Begun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_finished: int, n_drawn: int
) -> None:
    one, file, drawn = begun[n_finished], tmp_path / "a.db", list[str]()
    if n_finished:
        shutil.copy(one.file, file)
    search = OptunaStudy(file, one.settings, ARMS)
    real = space._suggest_value

    def killed(trial: Trial, name: str, domain: Domain) -> Value:
        if len(drawn) == n_drawn:
            raise KeyboardInterrupt
        drawn.append(name)
        return real(trial, name, domain)

    trial = search.ask()
    with monkeypatch.context() as patch:
        patch.setattr(space, "_suggest_value", killed)
        with pytest.raises(KeyboardInterrupt):
            search.params(trial)
    again = OptunaStudy(file, one.settings, ARMS)
    (left,) = again.unfinished()
    assert again.params(left) == one.following


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("pruner", PRUNERS)
def test_every_sampler_works_with_every_pruner(tmp_path: Path, sampler: str, pruner: str) -> None:
    settings = SETTINGS.model_copy(update={"sampler": sampler, "pruner": pruner})
    search = OptunaStudy(tmp_path / "a.db", settings, ARMS)
    for _ in range(3):
        trial = search.ask()
        search.params(trial)
        search.should_prune(trial, row(1, 0.5))
        search.tell(trial, 0.5, TrialState.COMPLETE)
    assert search.n_finished() == 3


def test_a_sampler_and_a_pruner_are_added_by_an_entry_in_their_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(settings: Settings, seed: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.PartialFixedSampler({"dropout": 0.25}, optuna.samplers.RandomSampler(seed=seed))

    monkeypatch.setitem(SAMPLERS, "quarter", Sampler("dropout 0.25", build))
    monkeypatch.setitem(PRUNERS, "floor", Pruner("below a half", lambda _: optuna.pruners.ThresholdPruner(lower=0.5)))
    file = tmp_path / "study.toml"
    file.write_text('epochs = 9\nsampler = "quarter"\npruner = "floor"')
    search = OptunaStudy(tmp_path / "a.db", read_settings(file, {}), ARMS)
    good, bad = search.ask(), search.ask()
    assert (search.params(good).dropout, search.params(bad).dropout) == (0.25, 0.25)
    assert not search.should_prune(good, row(1, 0.6))
    assert search.should_prune(bad, row(1, 0.4))
    file.write_text('sampler = "quarte"\npruner = "flor"')
    with pytest.raises(ConfigError) as error:
        read_settings(file, {})
    assert error.value.fix == "Did you mean 'quarter'? Did you mean 'floor'?"


@pytest.mark.parametrize(("kind", "known"), [("sampler", "random"), ("pruner", "median")])
def test_an_unknown_name_raises(tmp_path: Path, kind: str, known: str) -> None:
    with pytest.raises(ConfigError, match=f"No {kind} named '{known}s'(.|\n)*Did you mean '{known}'"):
        run(tmp_path / "a.db", 1, SETTINGS.model_copy(update={kind: f"{known}s"}))


@pytest.mark.in_make_faults
def test_hyperband_prunes_weak_trials_only_at_cycle_ends(tmp_path: Path) -> None:
    search = OptunaStudy(tmp_path / "a.db", SETTINGS, ARMS)
    quality = np.random.default_rng(0).permutation(50) / 50
    pruned: set[int] = set()
    for number, good in enumerate(quality):
        trial = search.ask()
        search.params(trial)
        assert not search.should_prune(trial, row(1, good, cycle_end=False))
        if any(search.should_prune(trial, row(epoch, good)) for epoch in (1, 3)):
            pruned.add(number)
        assert not search.should_prune(trial, row(9, 0.0))
        search.tell(trial, good, TrialState.PRUNED if number in pruned else TrialState.COMPLETE)
    kept = set(range(50)) - pruned
    assert 10 <= len(pruned) <= 40
    assert np.mean(quality[list(kept)]) > np.mean(quality[list(pruned)]) + 0.1


@pytest.mark.in_make_faults
def test_a_row_reported_before_a_restart_gets_the_same_decision(tmp_path: Path) -> None:
    def decisions(search: OptunaStudy) -> dict[int, bool]:
        return {
            trial.number: search.should_prune(trial, row(1, quality[trial.number])) for trial in search.unfinished()
        }

    quality = np.random.default_rng(1).permutation(20) / 20
    search = OptunaStudy(tmp_path / "a.db", SETTINGS, ARMS)
    for _ in quality:
        search.params(search.ask())
    first = decisions(search)
    assert set(first.values()) == {True, False}
    quality = quality[::-1]
    assert decisions(OptunaStudy(tmp_path / "a.db", SETTINGS, ARMS)) == first


def test_warm_start_trials_are_enqueued_once(tmp_path: Path) -> None:
    search = OptunaStudy(tmp_path / "a.db", SETTINGS, ARMS)
    search.enqueue(ARMS)
    search.enqueue(ARMS)
    first = [search.params(search.ask()) for _ in range(4)]
    assert [(p.backbone, p.depth, p.optimizer) for p in first] == [
        *(("net", depth, "adamw") for depth in (0, 1, 2)),
        ("other", 3, "adamw"),
    ]
    assert search.warm_starts() == {0, 1, 2, 3}
    assert not any(t.number > 3 for t in search.unfinished())
