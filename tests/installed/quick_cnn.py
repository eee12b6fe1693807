"""Quick CNN: a network for tests that learns digits in a seventieth of the operations of `small_cnn`."""

from torch import nn

from autotune import backbone


@backbone(pixels=16, features=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), fixed_pixels=True, from_scratch=True)
def quick_cnn(pretrained: bool) -> nn.Sequential:
    first = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, stride=2), nn.ReLU(inplace=True))
    second = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2))
    dense = nn.Sequential(nn.Flatten(1), nn.Linear(32 * 4 * 4, 64), nn.ReLU(inplace=True))
    return nn.Sequential(first, second, dense)
