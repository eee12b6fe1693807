from pathlib import Path

import pytest

from autotune.backbones.fetch import fetch_weights
from autotune.backbones.registry import discover
from autotune.backbones.weights import find_weights, load_stages, stages_digest
from autotune.errors import WeightsError

FOUND = discover()


def test_installed_weights_are_written_for_another_machine(tmp_path: Path) -> None:
    lines: list[str] = []
    entry = FOUND.find("efficientnet_lite0")
    found = fetch_weights(entry, tmp_path / "weights", lines.append)
    assert found.was_installed
    assert not lines  # nothing is downloaded
    copy = find_weights(entry, tmp_path / "weights")
    assert copy.file == str(found.file)
    assert stages_digest(load_stages(entry, copy)) == stages_digest(load_stages(entry, find_weights(entry)))


def test_the_size_and_the_licence_are_said_before_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    lines: list[str] = []
    for variant in ("resnet18.a1_in1k", "convnextv2_atto.fcmae_ft_in1k"):
        with pytest.raises(WeightsError, match="cannot be downloaded"):
            fetch_weights(FOUND.find(f"timm:{variant}"), None, lines.append)
    assert lines == [
        "Downloading the weights of timm:resnet18.a1_in1k: 47 MB, licence apache-2.0",
        "Downloading the weights of timm:convnextv2_atto.fcmae_ft_in1k: 15 MB, licence cc-by-nc-4.0: "
        "check that it allows your use",
    ]
