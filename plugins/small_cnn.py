"""Small CNN for tiny pictures, trained from scratch: four convolutions and a dense layer (Keras's CIFAR-10 example)."""

from torch import nn

from autotune import backbone


@backbone(pixels=32, features=512, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), from_scratch=True)
def small_cnn(pretrained: bool) -> nn.Sequential:
    def block(wide_in: int, wide_out: int) -> nn.Sequential:
        return nn.Sequential(
            *(nn.Conv2d(wide_in, wide_out, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(wide_out, wide_out, 3, padding=1), nn.ReLU()),
            *(nn.MaxPool2d(2), nn.Dropout(0.25)),
        )

    # At 32 pixels the pooling changes nothing; it lets other sizes in.
    dense = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(1), nn.Linear(64 * 8 * 8, 512), nn.ReLU())
    return nn.Sequential(block(3, 32), block(32, 64), dense)
