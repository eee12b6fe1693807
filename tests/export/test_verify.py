"""What a proof lets pass and what not, on made-up probabilities; the real ones are in test_export."""

import numpy as np
import pytest

from autotune.errors import BundleError
from autotune.export.verify import PROVEN, Reference, VerifiedFile, refuse_unverified, verdict

RANDOM = np.random.default_rng(0)


def reference(n: int = 300, classes: int = 4) -> Reference:
    sure = RANDOM.dirichlet(np.full(classes, 0.1), n).astype(np.float32)
    labels = sure.argmax(1)
    return Reference(tuple(f"{i}.png" for i in range(n)), labels, tuple("abcd"[:classes]), sure)


def test_the_same_answers_are_proven_in_every_format() -> None:
    known = reference()
    for name in ("onnx", "int8", "pt2", "safetensors"):
        assert verdict(name, known, known.probabilities) == PROVEN


def test_a_float32_probability_may_be_off_by_a_thousandth_and_no_more() -> None:
    known = reference()
    near, far = known.probabilities.copy(), known.probabilities.copy()
    near[7, 0] += 9e-4
    far[7, 0] += 2e-3
    assert verdict("onnx", known, near) == PROVEN
    said = verdict("onnx", known, far)
    assert "7.png" in said
    assert "0.002" in said


def test_a_changed_answer_passes_only_where_it_was_a_tie() -> None:
    labels = np.array([0, 0])
    tie = Reference(("tie.png", "clear.png"), labels, ("a", "b"), np.array([[0.5003, 0.4997], [0.9, 0.1]], np.float32))
    turned = np.array([[0.4999, 0.5001], [0.9, 0.1]], np.float32)
    assert verdict("onnx", tie, turned) == PROVEN
    swapped = np.array([[0.5003, 0.4997], [0.1, 0.9]], np.float32)
    assert "clear.png: a 0.9000 became b 0.9000" in verdict("onnx", tie, swapped)


@pytest.mark.parametrize(("n", "lost", "passes"), [(50, 2, True), (50, 3, False), (300, 3, True), (300, 4, False)])
def test_int8_may_lose_a_hundredth_or_two_pictures(n: int, lost: int, passes: bool) -> None:
    known = reference(n)
    found = known.probabilities.copy()
    found[:lost] = np.roll(found[:lost], 1, axis=1)
    said = verdict("int8", known, found)
    assert (said == PROVEN) == passes
    assert passes or "0.png" in said


def test_pictures_that_int8_wins_make_up_for_those_it_loses() -> None:
    known = reference(50)
    labels = known.labels.copy()
    labels[:5] = (labels[:5] + 1) % 4  # wrong in the trained network, right after a turn
    known = Reference(known.paths, labels, known.names, known.probabilities)
    found = known.probabilities.copy()
    found[:10] = np.roll(found[:10], 1, axis=1)
    assert verdict("int8", known, found) == PROVEN


def test_no_numbers_are_no_answers() -> None:
    known = reference()
    assert "no numbers" in verdict("int8", known, np.full_like(known.probabilities, np.nan))


def test_what_is_not_proven_is_refused() -> None:
    row = VerifiedFile("onnx", "model.onnx", 1, 0.5, 3, 1, 4, 1.0, 1.0, None, "3 of 4 pictures are answered otherwise")
    with pytest.raises(BundleError, match=r"model\.onnx is not handed over: 3 of 4"):
        refuse_unverified(row)
