import numpy as np

from autotune.training.look_alikes import find_look_alikes


def test_a_class_of_which_most_pictures_are_near_each_other_is_found() -> None:
    rng = np.random.default_rng(0)
    features = rng.random((120, 64), dtype=np.float32) ** 4
    labels = np.repeat([0, 1, 2], 40)
    features[3:33] = features[3] + 0.05 * rng.random((30, 64), dtype=np.float32)
    found = find_look_alikes(features, labels)
    assert list(found) == [0]
    assert set(range(3, 33)) <= set(found[0])


def test_classes_without_a_scene_and_with_few_pictures_are_not_found() -> None:
    rng = np.random.default_rng(0)
    features = rng.random((49, 64), dtype=np.float32) ** 4
    features[40:] = features[40]
    assert find_look_alikes(features, np.repeat([0, 1], [40, 9])) == {}
