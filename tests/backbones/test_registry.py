import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_plugins import write_plugin
from torch import nn

from autotune.backbones.registry import build_stages, discover
from autotune.errors import PluginError


def test_listing_backbones_does_not_import_torch() -> None:
    code = """
import sys
from autotune.cli.backbones import list_backbones
print(list_backbones((), None, False))
print("torch" in sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "efficientnet_lite0" in out
    assert out.splitlines()[-1] == "False"


def test_a_plugin_in_a_folder_is_listed_and_built(tmp_path: Path) -> None:
    write_plugin(tmp_path)
    entry = discover([tmp_path]).find("tiny")
    assert (entry.label, entry.traits.pixels) == ("Tiny", 32)
    assert build_stages(entry, False)(torch.zeros(2, 3, 32, 32)).shape == (2, 8)


def test_an_edited_plugin_is_built_anew(tmp_path: Path) -> None:
    for channels in (16, 24):
        file = write_plugin(tmp_path, stages=f"nn.Sequential(nn.Flatten(1), nn.Linear(3072, {channels}))")
        os.utime(file, ns=(channels, channels * 10**9))
        entry = discover([tmp_path]).find("tiny")
        assert build_stages(entry, False)(torch.zeros(2, 3, 32, 32)).shape == (2, channels)


def test_listing_a_plugin_does_not_run_it(tmp_path: Path) -> None:
    write_plugin(tmp_path).open("a").write("\nraise SystemExit('it ran')\n")
    assert discover([tmp_path]).find("tiny").name == "tiny"


def test_a_duplicate_name_raises_with_both_files(tmp_path: Path) -> None:
    file = write_plugin(tmp_path, "resnet18")
    with pytest.raises(PluginError) as error:
        discover([tmp_path])
    assert str(file) in error.value.problem
    assert str(Path("plugins") / "resnet.py") in error.value.problem


def test_invalid_plugins_are_skipped_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def (:")
    (tmp_path / "plain.py").write_text("x = 1")
    (tmp_path / "typo.py").write_text("from autotune import backbone\n@backbone(pixel=3)\ndef net(pretrained): ...\n")
    write_plugin(tmp_path)
    found = discover([tmp_path])
    assert found.find("tiny")
    reasons = {Path(one.file).name: one.reason for one in found.broken}
    assert "SyntaxError" in reasons["bad.py"]
    assert "No function" in reasons["plain.py"]
    assert "no keyword 'pixel'" in reasons["typo.py"]
    with pytest.raises(PluginError, match=r"'bad' does not load: SyntaxError"):
        found.find("bad")


def test_an_unknown_backbone_suggests_the_nearest_name() -> None:
    with pytest.raises(PluginError) as error:
        discover().find("resnet19")
    assert error.value.fix == "Did you mean 'resnet18'?"


def test_the_variant_is_passed_to_the_plugin(tmp_path: Path) -> None:
    (tmp_path / "wide.py").write_text(
        '"""Wide: a network for tests."""\n'
        "from torch import nn\nfrom autotune import backbone\n"
        "@backbone(pixels=8, from_scratch=True)\n"
        "def wide(pretrained, variant):\n"
        "    return nn.Sequential(nn.Sequential(nn.Flatten(1), nn.Linear(192, int(variant))))\n"
    )
    entry = discover([tmp_path]).find("wide:7")
    assert build_stages(entry, False)(torch.zeros(1, 3, 8, 8)).shape == (1, 7)
    assert entry.label == "Wide 7"
    with pytest.raises(PluginError, match="No backbone named 'wide'"):
        discover([tmp_path]).find("wide")


def test_backbones_of_installed_packages_are_found_by_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "their_nets"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('listing must not import this package')")
    write_plugin(package, "theirs")
    info = tmp_path / "their_nets-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-nets\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[autotune.backbones]\ntheirs = their_nets.theirs\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert discover().find("theirs").file == str(package / "theirs.py")


def test_a_missing_plugin_folder_raises(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"Plugin folder .* does not exist"):
        discover([tmp_path / "nowhere"])


def test_the_small_cnn_has_the_parameters_of_the_write_up() -> None:
    chain = build_stages(discover().find("small_cnn"), pretrained=False)
    whole = nn.Sequential(*chain, nn.Linear(512, 10))
    assert sum(p.numel() for p in whole.parameters()) == 2_168_362
    assert whole(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
