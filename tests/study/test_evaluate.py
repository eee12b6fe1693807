import torch

from autotune.data.picture import Picture
from autotune.study.evaluate import score_logits
from autotune.study.storage.evaluations import ClassScore

CLASSES = ("a", "b", "c")


def test_an_evaluation_contains_all_scores() -> None:
    labels = ["a", "a", "a", "b", "b", "c"]
    predicted = [0, 0, 1, 1, 1, 0]
    pictures = [Picture(f"{label}/{i}.png", label, "test", "", 8, "") for i, label in enumerate(labels)]
    logits = torch.nn.functional.one_hot(torch.tensor(predicted), 3).float() * 4
    logits[5] *= 2  # the more confident mistake
    found = score_logits("balanced_accuracy", logits, pictures, CLASSES)
    assert found.n == 6
    assert found.accuracy == 4 / 6
    assert found.value == found.balanced_accuracy == (2 / 3 + 1 + 0) / 3
    assert found.value_interval[0] < found.value < found.value_interval[1]
    assert found.interval[0] < 4 / 6 < found.interval[1]
    assert found.confusion == ((2, 1, 0), (0, 2, 0), (1, 0, 0))
    assert found.per_class["b"] == ClassScore(2, 2, 1.0, 2 / 3)
    assert [(one.path, one.answer) for one in found.mistakes] == [("c/5.png", "a"), ("a/2.png", "b")]
