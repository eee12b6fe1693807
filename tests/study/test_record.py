import contextlib
import sqlite3
import threading
from pathlib import Path

import pytest

from autotune.data.folder import SkippedFile
from autotune.errors import StudyError
from autotune.study.storage.evaluations import CalibrationError, ClassScore, Evaluation, Mistake
from autotune.study.storage.record import Record, check_database
from autotune.study.storage.rows import BackboneFacts, StudyFacts
from autotune.training.outcome import Epoch, ProbeOutcome, TrialOutcome
from autotune.training.params import Params

PARAMS = Params("net", 1, 64, 1e-5, 1e-3, "triangular", 0.5, 0.0, "adamw", 32, 0.0, 0.0, 0.0)

EVALUATION = Evaluation(
    n=2, value=0.5, value_interval=(0.1, 0.9), accuracy=0.5, interval=(0.1, 0.9), balanced_accuracy=0.5, macro_f1=0.3,
    log_loss=0.7, per_class={"a": ClassScore(1, 1, 1.0, 0.5), "b": ClassScore(1, 0, 0.0, 0.0)},
    confusion=((1, 0), (1, 0)), calibration=CalibrationError(1.1, 0.2, 0.1), right=(True, False),
    confidence=(0.9, 0.6), mistakes=(Mistake("b/1.png", "b", "a", 0.6),),
)  # fmt: skip


def outcome(value: float, log_loss: float = 1.0, parameters: int = 10, ended: str = "done") -> TrialOutcome:
    return TrialOutcome(value, log_loss, 1, 2, ended, parameters, b"weights", 1.0, 0.5)


def test_ties_go_to_the_lower_log_loss_then_the_smaller_then_the_earlier_trial(tmp_path: Path) -> None:
    record = Record(tmp_path / "record.db")
    rows = [(0.9, 0.1, 1), (1.0, 0.3, 10), (1.0, 0.2, 99), (1.0, 0.2, 10), (1.0, 0.2, 10), (0.5, 0.0, 1)]
    for number, (value, loss, parameters) in enumerate(rows):
        record.keep_outcome(number, PARAMS, outcome(value, loss, parameters), "checkpoints/x")
    assert [row.number for row in record.trials()] == [3, 4, 2, 1, 0, 5]
    best = record.best()
    assert best
    assert best.number == 3


def test_probes_are_ordered_by_their_cross_validated_loss(tmp_path: Path) -> None:
    record = Record(tmp_path / "record.db")
    for name, value, loss in (("a", 0.9, 0.5), ("b", 0.8, 0.3), ("c", 0.7, 0.5)):
        record.keep_probe(name, 64, ProbeOutcome(value, loss, b"head", 1.0, 2.0))
    assert [row.backbone for row in record.probes()] == ["b", "a", "c"]


def test_only_complete_trials_can_win(tmp_path: Path) -> None:
    record = Record(tmp_path / "record.db")
    record.keep_failure(0, PARAMS, "ValueError: x", "Traceback ...")
    record.keep_outcome(1, PARAMS, outcome(1.0, ended="pruned"), "checkpoints/x")
    assert record.best() is None
    record.keep_outcome(2, PARAMS, outcome(0.2, ended="gap"), "checkpoints/x")
    best = record.best()
    assert best
    assert (best.number, best.ended) == (2, "gap")
    failed = record.trial(0)
    assert failed
    assert failed.trace == "Traceback ..."
    assert record.last_states(2) == ["complete", "pruned"]


def test_a_trial_recorded_twice_is_stored_once(tmp_path: Path) -> None:
    record = Record(tmp_path / "record.db")
    record.keep_outcome(0, PARAMS, outcome(0.5), "checkpoints/x")
    record.keep_outcome(0, PARAMS, outcome(0.5), "checkpoints/x")
    record.keep_epoch(0, Epoch(1, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, True, 0.7))
    record.keep_epoch(0, Epoch(1, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, True, 0.7))
    assert len(record.trials()) == len(record.curve(0)) == 1
    assert record.trials()[0].params == PARAMS


def test_evaluations_are_counted_and_facts_are_restored(tmp_path: Path) -> None:
    record = Record(tmp_path / "record.db")
    backbone = BackboneFacts("net", "Net", 3, False, (64, 96), (0, 1), "abc")
    facts = StudyFacts(
        classes=("a", "b"), skipped=(SkippedFile("a/x.txt", "no picture", bad=False),), cuts={("net", 64): (2, 3)},
        backbones={"net": backbone}, seconds={"read": 1.5, "test": 2.0},
    )  # fmt: skip
    record.keep_facts(classes=facts.classes, skipped=facts.skipped, cuts=facts.cuts, backbones=facts.backbones)
    record.add_seconds(read=1.0)
    record.add_seconds(read=0.5, test=2.0)
    record.keep_evaluation(1, 0.5, EVALUATION)
    record.keep_evaluation(1, 0.5, EVALUATION)
    record.close()
    again = Record(tmp_path / "record.db")
    assert again.facts() == facts
    assert [row.id for row in again.evaluations()] == [1, 2]
    assert again.trial_evaluation(1) == EVALUATION
    assert again.trial_evaluation(2) is None


def test_a_study_that_has_not_started_has_no_facts(tmp_path: Path) -> None:
    assert Record(tmp_path / "record.db").facts() == StudyFacts()


def test_a_damaged_record_raises_an_error_with_a_fix(tmp_path: Path) -> None:
    file = tmp_path / "record.db"
    Record(file).close()
    whole = file.read_bytes()
    for damaged in (b"not a database, but long enough to be taken for one" * 20, whole[:5000]):
        file.write_bytes(damaged)
        with pytest.raises(StudyError, match="is damaged") as error:
            Record(file)
        assert error.value.fix


def test_a_record_opened_by_many_threads_is_created_once(tmp_path: Path) -> None:
    barrier, errors = threading.Barrier(6), []

    def open_it() -> None:
        barrier.wait()
        try:
            Record(tmp_path / "record.db").close()
        except Exception as error:  # any error fails the test
            errors.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.slow
def test_a_database_that_another_process_writes_is_in_use(tmp_path: Path) -> None:
    file = tmp_path / "trials.db"
    with contextlib.closing(sqlite3.connect(file)) as writer:
        writer.execute("create table t (x)")
        writer.execute("begin exclusive")
        with pytest.raises(StudyError, match="in use by another process"):
            check_database(file)
