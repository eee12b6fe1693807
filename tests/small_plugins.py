"""Small plugins, written by several tests."""

from pathlib import Path

PLUGIN = '''"""{title}: a network for tests."""

from torch import nn

from autotune import backbone


@backbone(pixels=32, features={features}, from_scratch=True)
def {name}(pretrained):
    return nn.Sequential({stages})
'''
GOOD = "nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(4, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(1))"


def write_plugin(folder: Path, name: str = "tiny", stages: str = GOOD, features: int = 8, title: str = "Tiny") -> Path:
    file = folder / f"{name}.py"
    file.write_text(PLUGIN.format(name=name, stages=stages, features=features, title=title))
    return file
