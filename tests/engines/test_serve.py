"""A worker's main loop, run in this process with lists of received and sent messages."""

import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import write_digits
from small_trials import trial_context

from autotune.engines.base import (
    Answer,
    Assignment,
    CacheProgress,
    ChannelClosedError,
    Failed,
    ProbeTask,
    Ready,
    Refused,
    Report,
    TrialTask,
    Unfinished,
    serve,
)
from autotune.training.batches import LabelledPictures
from autotune.training.context import TrialContext
from autotune.training.outcome import Epoch, ProbeOutcome, TrialOutcome
from autotune.training.params import Params

PARAMS = Params("quick_cnn", 3, 16, 1e-5, 1e-3, "triangular", 0.0, 0.0, "adamw", 32, 0.0, 0.0, 0.0)
CONTINUE = Answer(None)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> TrialContext:
    data = write_digits(tmp_path_factory.mktemp("serve") / "digits", classes=2, each=20)
    return trial_context(data, backbone=["quick_cnn"], epochs=2)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Restore the process settings that a worker changes."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    torch.set_flush_denormal(False)


def served(context: TrialContext, scratch: Path, *messages: Assignment | Answer) -> list[Ready | Report]:
    """Return what a worker sends if it receives these messages and then the channel closes."""
    left, sent = deque(messages), list[Ready | Report]()

    def receive() -> Assignment | Answer:
        if not left:
            raise ChannelClosedError
        return left.popleft()

    serve(context, receive, sent.append, scratch)
    return sent


def trial(number: int = 0, params: Params = PARAMS) -> Assignment:
    return Assignment(TrialTask(number, params), {})


def test_the_protocol_and_the_local_engine_do_not_import_torch() -> None:
    code = "import sys, autotune.engines.base, autotune.engines.local; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_a_worker_reports_ready_and_exits_when_the_channel_closes(context: TrialContext, tmp_path: Path) -> None:
    assert served(context, tmp_path) == [Ready()]


def test_a_trial_reports_its_epochs_and_then_its_outcome(context: TrialContext, tmp_path: Path) -> None:
    ready, first, second, outcome = served(context, tmp_path, trial(), CONTINUE, CONTINUE)
    assert ready == Ready()
    assert isinstance(first, Epoch)
    assert isinstance(second, Epoch)
    assert (first.number, second.number) == (1, 2)
    assert isinstance(outcome, TrialOutcome)
    assert outcome.checkpoint
    assert outcome.value == max(first.validation, second.validation)
    assert not list(tmp_path.iterdir())


def test_a_reply_stops_a_trial_and_the_next_task_runs(context: TrialContext, tmp_path: Path) -> None:
    sent = served(context, tmp_path, trial(0), Answer("timeout"), trial(1), CONTINUE, CONTINUE)
    kinds = [type(one) for one in sent]
    assert kinds == [Ready, Epoch, TrialOutcome, Epoch, Epoch, TrialOutcome]
    assert [one.ended for one in sent if isinstance(one, TrialOutcome)] == ["timeout", "done"]


def test_a_task_whose_time_is_over_is_unfinished_and_the_next_runs(context: TrialContext, tmp_path: Path) -> None:
    late = replace(trial(0), seconds=0.0)
    sent = served(context, tmp_path, late, trial(1), CONTINUE, CONTINUE)
    assert [type(one) for one in sent] == [Ready, Unfinished, Epoch, Epoch, TrialOutcome]


def test_a_task_that_raises_fails_and_the_next_runs(
    context: TrialContext, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = replace(PARAMS, backbone="none")
    _, failed, _, ended = served(context, tmp_path, trial(0, unknown), trial(1), Answer("pruned"))
    assert isinstance(failed, Failed)
    assert failed.error == "KeyError: 'none'"
    assert failed.trace.startswith("Traceback")
    assert failed.trace in capsys.readouterr().err
    assert isinstance(ended, TrialOutcome)


def test_a_problem_that_the_user_must_fix_is_refused(context: TrialContext, tmp_path: Path) -> None:
    missing = replace(context, train=LabelledPictures(("0" * 32, "1" * 32), (0, 1)))
    _, refused = served(missing, tmp_path, trial())
    assert isinstance(refused, Refused)
    assert "were deleted while in use" in refused.problem
    assert refused.fix


def test_a_channel_that_closes_during_a_trial_ends_the_worker_and_the_trial_resumes(
    context: TrialContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotune.training.lightning.trainer.CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr("autotune.training.lightning.trainer.CHECKPOINT_RATIO", 0)
    monkeypatch.setattr(
        "autotune.training.lightning.phased.HEAD_STEPS", 1
    )  # otherwise an epoch is one batch of Lightning's
    task = trial(0, replace(PARAMS, batch_size=16))
    uninterrupted = served(context, tmp_path, task, CONTINUE, CONTINUE)[-1]
    assert [type(one) for one in served(context, tmp_path, task, CONTINUE)] == [Ready, Epoch, Epoch]
    assert [file.name for file in tmp_path.iterdir()] == ["trial-0000.unfinished.ckpt"]
    _, last, resumed = served(context, tmp_path, task, CONTINUE)
    assert isinstance(last, Epoch)
    assert last.number == 2
    assert isinstance(uninterrupted, TrialOutcome)
    assert isinstance(resumed, TrialOutcome)
    assert resumed.checkpoint == uninterrupted.checkpoint


def test_a_probe_reports_cache_progress_and_its_head(
    context: TrialContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last_stage = replace(context, cuts={("quick_cnn", 16): (3,)})
    sent = served(last_stage, tmp_path, Assignment(ProbeTask("quick_cnn", 16), {}))
    n = len(set(context.train.digests) | set(context.validation.digests))
    assert sent[:-1] == [Ready(), CacheProgress(n, n)]
    assert isinstance(sent[-1], ProbeOutcome)
    assert sent[-1].head
