import math

import pytest
import torch

from autotune.data.augment import N_DRAWS, Invariances, augment, random_draws

P = 64


def blob(x: float = 0.0, y: float = 0.0) -> torch.Tensor:
    """Return a soft bright spot at (x, y), in units of half the picture's width."""
    line = torch.linspace(-1, 1, P)
    spot = torch.exp(-((line[None, :] - x) ** 2 + (line[:, None] - y) ** 2) * 60)
    return (spot.expand(1, 3, P, P) * 255).to(torch.uint8)


def centre(image: torch.Tensor) -> tuple[float, float]:
    weight = image[0].mean(0)
    weight = (weight - weight.median()).clamp(min=0)
    line = torch.linspace(-1, 1, P)
    total = weight.sum()
    return float((weight.sum(0) * line).sum() / total), float((weight.sum(1) * line).sum() / total)


def drawn(**values: float) -> torch.Tensor:
    """Return draws that change nothing, except those given by position: d3=1.0."""
    out = torch.full((1, N_DRAWS), 0.5)
    out[:, 8:10] = 0.9  # no flip
    for name, value in values.items():
        out[0, int(name[1:])] = value
    return out


def view(
    magnitude: float, draws: torch.Tensor, invariances: Invariances, image: torch.Tensor | None = None
) -> torch.Tensor:
    return augment(blob() if image is None else image, torch.tensor([magnitude]), draws, invariances)


def test_magnitude_0_leaves_the_picture_unchanged() -> None:
    noise = torch.randint(0, 256, (5, 3, P, P), dtype=torch.uint8)
    out = augment(noise, torch.zeros(5), torch.rand(5, N_DRAWS), Invariances("both", 90))
    assert torch.equal(out, noise.float() / 255)


def test_draws_depend_only_on_seed_content_and_view() -> None:
    one = random_draws(["aa", "bb"], [1, 1], seed=0)
    assert torch.equal(one[1], random_draws(["bb", "cc"], [1, 7], seed=0)[0])
    others = [random_draws(["aa"], [2], 0), random_draws(["aa"], [1], 1), random_draws(["ab"], [1], 0)]
    assert all(not torch.equal(one[0], other[0]) for other in others)


def test_draws_are_uniform() -> None:
    found = random_draws([str(i) for i in range(4000)], [1] * 4000, 0)
    assert found.min() >= 0
    assert found.max() < 1
    assert torch.allclose(found.mean(0), torch.tensor(0.5), atol=0.03)


@pytest.mark.parametrize("magnitude", [0.5, 1.0])
def test_largest_shift_is_a_fifth_of_the_width(magnitude: float) -> None:
    x, y = centre(view(magnitude, drawn(d3=0.0, d4=1.0), Invariances("none", 0)))
    assert x == pytest.approx(0.4 * magnitude, abs=0.03)  # the width is 2
    assert y == pytest.approx(-0.4 * magnitude, abs=0.03)


def test_the_largest_angle_is_that_of_the_invariances() -> None:
    x, y = centre(view(1.0, drawn(d0=1.0), Invariances("none", 90), blob(0.5, 0.0)))
    assert math.hypot(x, y) == pytest.approx(0.5, abs=0.03)
    assert abs(y) == pytest.approx(0.5, abs=0.03)
    same = view(1.0, drawn(d0=1.0), Invariances("none", 0), blob(0.5, 0.0))
    assert centre(same)[0] == pytest.approx(0.5, abs=0.03)


def test_shear_and_zoom_reach_their_ranges() -> None:
    sheared = centre(view(1.0, drawn(d1=1.0), Invariances("none", 0), blob(0.0, 0.5)))
    assert abs(sheared[0]) == pytest.approx(0.3 * 0.5, abs=0.03)
    zoomed = centre(view(1.0, drawn(d2=1.0), Invariances("none", 0), blob(0.5, 0.0)))
    assert zoomed[0] == pytest.approx(0.5 / 1.1, abs=0.02)


def test_channels_shift_independently_by_up_to_a_fifth() -> None:
    grey = torch.full((1, 3, P, P), 128, dtype=torch.uint8)
    out = view(1.0, drawn(d5=1.0, d6=0.0), Invariances("none", 0), grey).mean((2, 3))[0]
    assert torch.allclose(out - 128 / 255, torch.tensor([0.2, -0.2, 0.0]), atol=0.01)


@pytest.mark.parametrize(
    ("flips", "mirrored"),
    [("none", (1, 1)), ("horizontal", (-1, 1)), ("vertical", (1, -1)), ("both", (-1, -1))],
)
def test_only_allowed_flips_are_applied(flips: str, mirrored: tuple[int, int]) -> None:
    """The magnitude is nearly 0: only a flip can move the spot."""
    x, y = centre(view(1e-6, drawn(d8=0.0, d9=0.0), Invariances(flips, 0), blob(0.4, 0.3)))
    assert [x, y] == pytest.approx([0.4 * mirrored[0], 0.3 * mirrored[1]], abs=0.03)


def test_each_picture_of_a_batch_has_its_own_draws() -> None:
    batch = torch.cat([blob(0.2, 0.1)] * 2)
    draws = torch.cat([drawn(d3=0.0), drawn(d3=1.0)])
    out = augment(batch, torch.ones(2), draws, Invariances("none", 0))
    assert centre(out[:1])[0] > centre(out[1:])[0] + 0.5
    alone = augment(batch[:1], torch.ones(1), draws[:1], Invariances("none", 0))
    assert torch.allclose(out[:1], alone, atol=1e-6)
