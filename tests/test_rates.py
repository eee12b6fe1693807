import torch

from autotune import plugins, rates, weights


def test_deeper_tails_take_longer_and_no_tail_more_than_all() -> None:
    entry = plugins.catalogue().find("efficientnet_lite0")
    chain = weights.stages(entry, weights.find(entry), pretrained=False)
    found = rates.measured(chain, 64, (0, 2, 9), torch.device("cpu"))
    assert found.steps[0] < found.steps[2] < found.steps[9]
    assert 0 < found.cleans[0] < found.cleans[9]
    assert 0 < found.forward < found.steps[9]
