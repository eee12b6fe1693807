"""Small CNN: four convolutions and a dense layer, trained from scratch on small pictures (Keras's CIFAR-10 example).

Each picture is standardised by its own mean and standard deviation, over all pixels and channels.
"""

from torch import nn

from autotune import backbone


@backbone(pixels=32, features=512, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), fixed_pixels=True, from_scratch=True)
def small_cnn(pretrained: bool) -> nn.Sequential:
    def block(wide_in: int, wide_out: int) -> nn.Sequential:
        return nn.Sequential(
            *(nn.Conv2d(wide_in, wide_out, 3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(wide_out, wide_out, 3, padding=1), nn.ReLU(inplace=True)),
            nn.MaxPool2d(2),
        )

    dense = nn.Sequential(nn.Flatten(1), nn.Linear(64 * 8 * 8, 512), nn.ReLU(inplace=True))
    standardise = nn.LayerNorm((3, 32, 32), elementwise_affine=False)
    return nn.Sequential(nn.Sequential(standardise, block(3, 32)), block(32, 64), dense)
