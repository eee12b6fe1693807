import pytest
import torch

from autotune.backbones.registry import build_stages, discover
from autotune.backbones.weights import find_weights, load_stages
from autotune.search.speed import measure_speed


def test_more_unfrozen_stages_take_longer() -> None:
    entry = discover().find("efficientnet_lite0")
    chain = load_stages(entry, find_weights(entry), pretrained=False)
    found = measure_speed(chain, 64, torch.device("cpu"))
    assert len(found.stages) == len(chain)
    assert found.tail(0) == 0 < found.tail(2) < found.tail(9) == pytest.approx(found.forward)


def test_a_network_that_keeps_tensors_in_evaluation_mode_is_measured() -> None:
    chain = build_stages(discover().find("timm:levit_128s"), pretrained=False)
    assert measure_speed(chain, 224, torch.device("cpu")).tail(1) > 0
