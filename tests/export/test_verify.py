"""The rules of verification, on synthetic probabilities. test_export uses real ones."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autotune.errors import BundleError
from autotune.export.verify import VERIFIED, VerifiedFile, require_verified
from autotune.export.verify import verdict as verdict_of
from autotune.formats.onnx_session import Outputs
from autotune.formats.table import FORMATS
from autotune.formats.tolerance import Reference, Tolerance
from autotune.training import calibration

RANDOM = np.random.default_rng(0)
FLOAT32, INT8 = FORMATS["onnx"].tolerance, FORMATS["int8"].tolerance


def verdict(tolerance: Tolerance, known: Reference, found: np.ndarray) -> str:
    return verdict_of(tolerance, known, Outputs(found))


def reference(n: int = 300, classes: int = 4) -> Reference:
    probabilities = RANDOM.dirichlet(np.full(classes, 0.1), n).astype(np.float32)
    labels = probabilities.argmax(1)
    return Reference(Path(), tuple(f"{i}.png" for i in range(n)), labels, tuple("abcd"[:classes]), probabilities)


@pytest.mark.parametrize("name", FORMATS)
def test_equal_probabilities_are_verified_in_every_format(name: str) -> None:
    known = reference()
    assert verdict(FORMATS[name].tolerance, known, known.probabilities) == VERIFIED


@pytest.mark.parametrize("name", ["onnx", "pt2", "safetensors"])
def test_a_float32_probability_may_differ_by_at_most_a_thousandth(name: str) -> None:
    known, tolerance = reference(), FORMATS[name].tolerance
    near, far = known.probabilities.copy(), known.probabilities.copy()
    near[7, 0] += 9e-4
    far[7, 0] += 2e-3
    assert verdict(tolerance, known, near) == VERIFIED
    reason = verdict(tolerance, known, far)
    assert "7.png" in reason
    assert "0.002" in reason


def test_the_largest_differences_are_listed_first() -> None:
    known = reference()
    far = known.probabilities.copy()
    for place, difference in ((3, 2e-3), (5, 9e-3), (8, 4e-3), (9, 3e-3)):
        far[place, 0] += difference
    reason = verdict(FLOAT32, known, far)
    assert reason.startswith("the predictions for 4 of 300 pictures differ, with probabilities by up to 0.009, ")
    assert reason.index("5.png") < reason.index("8.png") < reason.index("9.png")
    assert reason.endswith("; ...)")


def test_a_prediction_may_change_only_if_it_was_a_tie() -> None:
    labels, likeliest = np.array([0, 0]), np.array([[0.5003, 0.4997], [0.9, 0.1]], np.float32)
    tie = Reference(Path(), ("tie.png", "clear.png"), labels, ("a", "b"), likeliest)
    turned = np.array([[0.4999, 0.5001], [0.9, 0.1]], np.float32)
    assert verdict(FLOAT32, tie, turned) == VERIFIED
    swapped = np.array([[0.5003, 0.4997], [0.1, 0.9]], np.float32)
    assert "clear.png: a 0.9000 became b 0.9000" in verdict(FLOAT32, tie, swapped)


@pytest.mark.parametrize(("n", "lost", "passes"), [(50, 2, True), (50, 3, False), (300, 3, True), (300, 4, False)])
def test_int8_may_lose_one_percent_or_two_correct_predictions(n: int, lost: int, passes: bool) -> None:
    known = reference(n)
    found = known.probabilities.copy()
    found[:lost] = np.roll(found[:lost], 1, axis=1)
    reason = verdict(INT8, known, found)
    assert (reason == VERIFIED) == passes
    assert passes or "0.png" in reason


def test_int8_gains_offset_losses() -> None:
    known = reference(50)
    labels = known.labels.copy()
    labels[:5] = (labels[:5] + 1) % 4  # incorrect in the trained network, correct after the roll
    known = Reference(known.root, known.paths, labels, known.names, known.probabilities)
    found = known.probabilities.copy()
    found[:10] = np.roll(found[:10], 1, axis=1)
    assert verdict(INT8, known, found) == VERIFIED


@pytest.mark.parametrize("name", FORMATS)
def test_nan_probabilities_are_rejected(name: str) -> None:
    known = reference()
    tolerance = FORMATS[name].tolerance
    assert "not finite" in verdict(tolerance, known, np.full_like(known.probabilities, np.nan))


def test_a_float32_probability_cannot_differ_by_more_than_the_margin_of_a_fitted_threshold() -> None:
    known = Reference(Path(), ("a.png",), np.array([0]), ("a", "b"), np.array([[0.9, 0.1]], np.float32))
    shift = 1.01 * calibration.MARGIN
    assert verdict(FLOAT32, known, known.probabilities + np.array([[-shift, shift]], np.float32)) != VERIFIED


def test_a_distance_cannot_differ_by_a_thousandth() -> None:
    distances = np.array([0.5, 0.9, 1.2], np.float32)
    known = replace(reference(3), distances=distances)
    for shift, passes in ((1e-3, True), (2e-3, False), (np.nan, False)):
        found = Outputs(known.probabilities, distances + np.array([0, 0, shift], np.float32))
        assert (verdict_of(FLOAT32, known, found) == VERIFIED) == passes
    assert verdict_of(INT8, known, Outputs(known.probabilities)) == VERIFIED  # it has none


def test_a_file_that_is_not_verified_raises_an_error() -> None:
    row = VerifiedFile("onnx", "model.onnx", 1, 4, "3 of 4 differ", 0.5, 3, 1)
    with pytest.raises(BundleError, match=r"model\.onnx was rejected: 3 of 4"):
        require_verified(row)
