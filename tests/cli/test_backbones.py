from pathlib import Path

import pytest

from autotune.backbones.registry import discover
from autotune.cli.backbones import fetch, write_new
from autotune.errors import PluginError, WeightsError
from autotune.testing import check_backbone


@pytest.mark.parametrize("from_scratch", [False, True])
def test_a_new_backbone_passes_its_check_and_names_no_weights(here: Path, from_scratch: bool) -> None:
    file = write_new("my_net", from_scratch)
    assert len([line for line in file.read_text().splitlines() if line.strip()]) <= 18
    check_backbone("my_net", plugins=[here])
    entry = discover([here]).find("my_net")
    assert (entry.label, entry.traits.weights, entry.traits.from_scratch) == ("my_net", None, from_scratch)


@pytest.mark.parametrize("name", ["resnet18", "my-net", "1net", "class", "_x"])
def test_a_new_backbone_needs_an_unused_python_name(here: Path, name: str) -> None:
    with pytest.raises(PluginError):
        write_new(name)


def test_an_existing_file_is_not_overwritten(here: Path) -> None:
    (here / "mine.py").write_text("precious")
    with pytest.raises(PluginError, match="exists"):
        write_new("mine")
    assert (here / "mine.py").read_text() == "precious"


def test_fetch_goes_on_after_a_failure_and_reports_it_at_the_end(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError) as error:
        fetch(["timm:test_vit", "efficientnet_lite0"], to=here)
    assert "efficientnet_lite0: was installed already; wrote " in capsys.readouterr().out
    assert (here / "efficientnet_lite0.safetensors").is_file()
    assert error.value.problem.startswith("Not fetched: timm:test_vit. ")
