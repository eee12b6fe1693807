from pathlib import Path

import pytest

from autotune.cli.backbones import write_new
from autotune.errors import PluginError
from autotune.testing import check_backbone


def test_a_new_backbone_is_written_and_passes(here: Path) -> None:
    file = write_new("my_net")
    assert len([line for line in file.read_text().splitlines() if line.strip()]) <= 18
    check_backbone("my_net", plugins=[here])


@pytest.mark.parametrize("name", ["resnet18", "my-net", "1net", "class", "_x"])
def test_a_new_backbone_needs_a_free_python_name(here: Path, name: str) -> None:
    with pytest.raises(PluginError):
        write_new(name)


def test_an_existing_file_is_not_overwritten(here: Path) -> None:
    (here / "mine.py").write_text("precious")
    with pytest.raises(PluginError, match="exists"):
        write_new("mine")
    assert (here / "mine.py").read_text() == "precious"
