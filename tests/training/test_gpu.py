"""The code for GPUs, as far as it can be tested without one."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import write_digits
from pytorch_lightning import Trainer
from small_trials import KeptEpochs, trial_context
from torch import nn

from autotune.cache import features
from autotune.training import process
from autotune.training.context import LoadedBackbones
from autotune.training.lightning import trainer
from autotune.training.lightning.trainer import ResumeCheckpoint, training_precision
from autotune.training.network import build_entry, seed_device
from autotune.training.params import Params
from autotune.training.trial import run_trial

GPU = torch.device("cuda")
TAIL = nn.Sequential(nn.Linear(2, 2))


@pytest.fixture
def restored_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore torch's settings after the test."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]


@pytest.mark.usefixtures("restored_settings")
def test_a_process_chooses_its_kernels_before_its_first_computation_on_a_gpu() -> None:
    process.prepare_process(torch.device("cpu"))
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.are_deterministic_algorithms_enabled()
    process.prepare_process(GPU)
    assert torch.get_float32_matmul_precision() == "high"
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.parametrize(("has_bfloat16", "precision"), [(True, "bf16-mixed"), (False, "16-mixed")])
def test_a_gpu_trains_stages_in_the_half_precision_that_it_has(
    monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool, precision: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has_bfloat16)
    assert training_precision(TAIL, GPU) == precision
    assert training_precision(nn.Sequential(), GPU) == "32-true"


def test_each_device_has_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: seeds.append(("cuda", seed)))
    monkeypatch.setattr(torch.mps, "manual_seed", lambda seed: seeds.append(("mps", seed)))
    for kind in ("cpu", "cuda", "mps"):
        seed_device(7, torch.device(kind))
    assert seeds == [("cuda", 7), ("mps", 7)]


def test_the_rows_of_two_kinds_of_gpu_have_different_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    assert features._processor(GPU) == "Tesla T4"
    assert features._processor(torch.device("cpu")) == "cpu"


def test_all_trials_share_the_frozen_stages(tmp_path: Path) -> None:
    context = trial_context(write_digits(tmp_path / "digits", classes=2, each=20), epochs=1, pixels=[32])
    backbones = LoadedBackbones(context)
    one, other = (build_entry(backbones, "efficientnet_lite0", n) for n in (3, 7))
    assert all(a is b for a, b in zip(one.prefix, other.prefix, strict=False))
    assert not any(p.requires_grad for p in backbones.chain("efficientnet_lite0").parameters())


@pytest.mark.slow
def test_a_checkpoint_does_not_contain_the_frozen_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = trial_context(write_digits(tmp_path / "digits", classes=2, each=40), epochs=1, backbone=["small_cnn"])
    saved = []
    save = Trainer.save_checkpoint

    def kept(self: Trainer, file: Path) -> None:
        save(self, file)
        saved.append(torch.load(file, weights_only=True))

    monkeypatch.setattr(Trainer, "save_checkpoint", kept)
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(trainer, "CHECKPOINT_RATIO", 0)
    params = Params("small_cnn", 3, 32, 1e-5, 1e-3, "one-cycle", 0.5, 0.0, "adamw", 8, 1e-2, 0.2, 0.0)
    (tmp_path / "scratch").mkdir()
    run_trial(LoadedBackbones(context), 0, params, {}, tmp_path / "scratch", KeptEpochs())
    assert len(saved) > 1
    assert {name.partition(".")[0] for name in saved[-1]["state_dict"]} == {"tail", "head"}
    assert saved[-1]["n_steps"] == len(saved)  # a checkpoint after each step, except the last of the epoch


def test_checkpoints_take_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In seconds of a made-up clock: a batch takes 1 s, a save 3 s."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    saves = []

    class FakeTrainer:
        is_last_batch = False

        def save_checkpoint(self, file: Path) -> None:
            saves.append(now[0])
            now[0] += 3

    checkpoint, fake = ResumeCheckpoint(tmp_path / "file"), FakeTrainer()
    for _ in range(200):
        now[0] += 1
        checkpoint.on_train_batch_end(fake)  # type: ignore[arg-type]
    assert saves == [10, 73, 136, 199]
