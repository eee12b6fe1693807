import torch

from autotune.backbones.registry import build_stages, discover
from autotune.backbones.weights import find_weights, load_stages
from autotune.search.speed import measure_speed


def test_more_unfrozen_stages_take_longer() -> None:
    entry = discover().find("efficientnet_lite0")
    chain = load_stages(entry, find_weights(entry), pretrained=False)
    found = measure_speed(chain, 64, (0, 2, 9), torch.device("cpu"))
    assert found.steps[0] < found.steps[2] < found.steps[9]
    assert 0 < found.cleans[0] < found.cleans[9]
    assert 0 < found.forward < found.steps[9]


def test_a_network_that_keeps_tensors_in_evaluation_mode_is_measured() -> None:
    chain = build_stages(discover().find("timm:levit_128s"), pretrained=False)
    found = measure_speed(chain, 224, (1,), torch.device("cpu"))
    assert found.steps[1] > found.cleans[1] > 0
