import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_digits
from torch import Tensor, nn

from autotune.backbones.registry import discover
from autotune.backbones.weights import find_weights, load_stages
from autotune.cache import features, pixels
from autotune.cache.features import N_VIEWS, FeatureCache, FrozenPrefix
from autotune.cache.pixels import fill_pixels, pixel_rows
from autotune.cache.resident import ResidentPool, ResidentRows
from autotune.cache.rows import RowStore
from autotune.data import augment as augmentation
from autotune.data.augment import AugmentRanges, Invariances, augment, random_draws
from autotune.data.catalog import read_catalog
from autotune.training.batches import EvaluationBatches, FeatureSource, PixelSource, TrainBatches, views_up_to

SIZE = 64
ENTRY = discover().find("efficientnet_lite0")
SUBJECT = Invariances("none", 10)
CUTS = (6, 8, 9)


@pytest.fixture(scope="module")
def chain() -> nn.Sequential:
    return load_stages(ENTRY, find_weights(ENTRY)).eval()


@pytest.fixture(scope="module")
def digests(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    root = write_digits(tmp_path_factory.mktemp("features"), classes=2, each=20)
    pictures = read_catalog(root).pictures
    store = pixel_rows(SIZE, ENTRY.traits.interpolation)
    fill_pixels(store, root, pictures, ENTRY.traits.interpolation, lambda *_: None)
    return tuple(p.digest for p in pictures)


@pytest.fixture
def fresh_cache(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder with the decoded pixels and no features."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "pixels").symlink_to(cache / "pixels", target_is_directory=True)
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def opened(chain: nn.Sequential, cuts: tuple[int, ...] = CUTS) -> FeatureCache:
    return FeatureCache(ENTRY.name, chain, ENTRY.traits, SIZE, SUBJECT, 0, torch.device("cpu"), cuts, (6, 7, 8))


def on_disk(rows: RowStore, digests: tuple[str, ...]) -> ResidentRows:
    return ResidentRows(rows, digests, torch.device("cpu"), resident=False)


def filled(
    chain: nn.Sequential, digests: tuple[str, ...], views: list[int]
) -> tuple[FeatureCache, list[tuple[int, int]]]:
    seen: list[tuple[int, int]] = []
    found = opened(chain)
    found.fill(dict.fromkeys(views, digests), lambda done, total: seen.append((done, total)))
    return found, seen


@torch.no_grad()
def test_cached_rows_equal_the_outputs_of_the_frozen_stages(
    chain: nn.Sequential, digests: tuple[str, ...], fresh_cache: Path
) -> None:
    found, _ = filled(chain, digests, [0, 2])
    raw = torch.from_numpy(found.pixels.take(found.pixels.places(digests)))
    magnitude = torch.full((len(digests),), 2 / N_VIEWS)
    views = {0: [raw], 2: [raw, magnitude, random_draws(digests, [2] * len(digests), 0)]}
    for cut in CUTS:
        whole = FrozenPrefix(chain[:cut], ENTRY.traits, SUBJECT)
        for view, batch in views.items():
            rows = found.rows(cut, view)
            cached = torch.from_numpy(rows.take(rows.places(digests))).float()
            exact = whole(batch)
            assert float((cached - exact).norm() / exact.norm()) < 1e-3  # half precision causes 2e-4


def test_a_row_does_not_depend_on_its_batch(chain: nn.Sequential, digests: tuple[str, ...], fresh_cache: Path) -> None:
    found, _ = filled(chain, digests[:1], [0, 1])
    found.fill({0: digests, 1: digests}, lambda *_: None)
    one = [found.rows(cut, view).take(np.array([0])) for cut in CUTS for view in (0, 1)]
    for place in found.folder.glob("cut*"):
        for file in place.iterdir():
            file.unlink()
    again, _ = filled(chain, digests[::-1], [0, 1])
    stores = [again.rows(cut, view) for cut in CUTS for view in (0, 1)]
    other = [rows.take(rows.places(digests[:1])) for rows in stores]
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_features_are_computed_once(chain: nn.Sequential, digests: tuple[str, ...], fresh_cache: Path) -> None:
    _, first = filled(chain, digests, [0])
    _, second = filled(chain, digests, [0])
    assert first[-1] == (40, 40)
    assert second == []


def test_truncated_rows_are_computed_again(chain: nn.Sequential, digests: tuple[str, ...], fresh_cache: Path) -> None:
    found, _ = filled(chain, digests, [0])
    whole = found.rows(8, 0).take(found.rows(8, 0).places(digests))
    with next(found.folder.glob("cut8-view0*/keys.bin")).open("r+b") as out:
        out.truncate(16 * 10 + 3)
    again, seen = filled(chain, digests, [0])
    assert seen[-1] == (30, 30)
    assert np.array_equal(again.rows(8, 0).take(again.rows(8, 0).places(digests)), whole)


def test_a_deeper_cut_is_computed_from_a_cached_shallower_one(
    chain: nn.Sequential, digests: tuple[str, ...], fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = filled(chain, digests, [0, 3])
    expected = [whole.rows(9, view).take(whole.rows(9, view).places(digests)) for view in (0, 3)]
    for folder in (fresh_cache / "features").glob("*/cut[89]-*"):
        shutil.rmtree(folder)
    again = opened(chain, (8, 9))
    monkeypatch.setattr(FrozenPrefix, "__call__", lambda *_: pytest.fail("computed from pixels"))
    again.fill({0: digests, 3: digests}, lambda *_: None)
    computed = [again.rows(9, view).take(again.rows(9, view).places(digests)) for view in (0, 3)]
    assert all(np.array_equal(a, b) for a, b in zip(expected, computed, strict=True))


def test_other_weights_have_other_rows(chain: nn.Sequential, fresh_cache: Path) -> None:
    other = load_stages(ENTRY, find_weights(ENTRY), pretrained=False).eval()
    assert opened(chain).rows(9, 0).folder != opened(other).rows(9, 0).folder


def test_rows_with_other_augmentation_are_not_reused(
    chain: nn.Sequential, digests: tuple[str, ...], fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, _ = filled(chain, digests, [0, 2])
    old = before.rows(9, 2).take(before.rows(9, 2).places(digests))
    monkeypatch.setattr(augmentation, "RANGES", AugmentRanges(shift=0.1))
    after, seen = filled(chain, digests, [0, 2])
    assert seen == [(len(digests), len(digests))]  # view 2 only: view 0 is not augmented
    new = after.rows(9, 2).take(after.rows(9, 2).places(digests))
    assert not np.allclose(old, new)


@pytest.mark.parametrize("module", [features, pixels])
def test_rows_of_another_code_version_are_not_reused(
    chain: nn.Sequential, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch, module: Any
) -> None:
    before = [opened(chain).rows(9, view).folder for view in (0, 2)]
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    after = [opened(chain).rows(9, view).folder for view in (0, 2)]
    assert not set(before) & set(after)


def test_a_row_depends_on_no_other_picture_of_its_batch(
    chain: nn.Sequential, digests: tuple[str, ...], fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the larger batches of a GPU, whose rows are not those of smaller batches."""
    keys = set()
    for size in (features.BATCH, features.GPU_BATCH):
        monkeypatch.setattr(features, "BATCH", size)
        shutil.rmtree(fresh_cache / "features", ignore_errors=True)
        whole, _ = filled(chain, digests, [0])
        rows = whole.rows(9, 0)
        expected = rows.take(rows.places(digests[:3]))
        keys.add(rows.folder.name)
        shutil.rmtree(rows.folder)
        filled(chain, digests[:3], [0])
        rows = whole.rows(9, 0)
        assert (rows.take(rows.places(digests[:3])) == expected).all()
    assert len(keys) == 2


def test_outputs_beyond_half_precision_raise() -> None:
    class Loud(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.level = nn.Parameter(torch.tensor(1e6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) + self.level

    with pytest.raises(OverflowError):
        opened(nn.Sequential(Loud()), (1,))


def test_a_magnitude_uses_the_views_up_to_it() -> None:
    assert [len(views_up_to(s)) - 1 for s in (0, 0.2, 0.25, 0.5, 0.99, 1)] == [0, 0, 1, 2, 3, 4]


def test_a_cached_batch_mixes_the_allowed_views(
    chain: nn.Sequential, digests: tuple[str, ...], fresh_cache: Path
) -> None:
    found, _ = filled(chain, digests, [0, 1, 2])
    source = FeatureSource([on_disk(found.rows(9, view), digests) for view in views_up_to(0.5)])
    places = np.arange(len(digests))
    (rows,) = source.augmented(places, 0.5, np.random.default_rng(0))
    stores = [found.rows(9, view) for view in (0, 1, 2)]
    options = [torch.from_numpy(store.take(store.places(digests))) for store in stores]
    chosen = [next(v for v in range(3) if torch.equal(rows[i], options[v][i])) for i in range(len(digests))]
    assert set(chosen) == {0, 1, 2}
    assert torch.equal(source.clean(places)[0], options[0])


def test_feature_maps_are_flipped_and_vectors_are_not(
    chain: nn.Sequential, digests: tuple[str, ...], fresh_cache: Path
) -> None:
    found, _ = filled(chain, digests, [0, 1])
    places = np.arange(len(digests))
    maps = FeatureSource([on_disk(found.rows(8, view), digests) for view in (0, 1)], "horizontal")
    rows, which = maps.augmented(places, 0.25, np.random.default_rng(0))
    entry = FrozenPrefix(nn.Sequential(), ENTRY.traits, SUBJECT)
    out = entry([rows, which])
    assert 5 < int(which[:, 0].sum()) < 35
    assert not which[:, 1].any()
    for i in places:
        assert torch.equal(out[i], rows[i].float().flip(2) if which[i, 0] else rows[i].float())
    assert len(maps.augmented(places, 0.0, np.random.default_rng(0))) == 1
    vectors = FeatureSource([on_disk(found.rows(9, view), digests) for view in (0, 1)], "both")
    assert len(vectors.augmented(places, 0.25, np.random.default_rng(0))) == 1


def test_resident_rows_equal_those_on_disk(chain: nn.Sequential, digests: tuple[str, ...], fresh_cache: Path) -> None:
    found, _ = filled(chain, digests, [0, 1])
    stores = [found.rows(8, view) for view in (0, 1)]
    size = stores[0].row_bytes * len(digests)
    pool = ResidentPool(torch.device("cpu"), 2 * size)
    held = pool.held([(rows, digests) for rows in stores])
    read = [on_disk(rows, digests) for rows in stores]
    places = np.array([3, 1, 1, 39])
    assert all(torch.equal(a.take(places), b.take(places)) for a, b in zip(held, read, strict=True))
    assert all(one.is_resident for one in held)

    def again(*rows: RowStore) -> list[ResidentRows]:
        return pool.held([(one, digests) for one in rows])

    assert again(stores[0])[0] is held[0]
    assert again(stores[0], found.rows(9, 0))[0] is held[0]  # evicts view 1, the least recently used
    assert again(stores[1])[0] is not held[1]


def test_the_rows_of_a_trial_do_not_evict_each_other(
    chain: nn.Sequential, digests: tuple[str, ...], fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = filled(chain, digests, [0, 1, 2])
    wanted = [(found.rows(8, view), digests) for view in (0, 1, 2)]
    size = wanted[0][0].row_bytes * len(digests)
    assert not any(one.is_resident for one in ResidentPool(torch.device("cpu"), 3 * size - 1).held(wanted))
    copies = []

    def copied(rows: ResidentRows) -> Tensor:
        copies.append(rows)
        return torch.empty(0)

    monkeypatch.setattr(ResidentRows, "_copied", copied)
    pool = ResidentPool(torch.device("cpu"), 3 * size)
    for _ in range(5):
        pool.held(wanted)
    assert len(copies) == 3


def test_prefetched_batches_equal_those_without_prefetching(digests: tuple[str, ...]) -> None:
    source = PixelSource(on_disk(pixel_rows(SIZE, ENTRY.traits.interpolation), digests), digests, 0)
    labels = tuple(range(len(digests)))
    eager = PixelSource(on_disk(pixel_rows(SIZE, ENTRY.traits.interpolation), digests), digests, 0, n_prefetch=2)
    plain, ahead = (TrainBatches(one, labels, 8, 0.5, seed=3) for one in (source, eager))
    for a, b in zip(plain, ahead, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    cut = TrainBatches(eager, labels, 8, 0.5, seed=3)
    next(iter(cut))
    assert cut.state_dict() == {"epoch": 0, "next": 1}  # prefetched batches do not count
    clean = [list(EvaluationBatches(one, labels)) for one in (source, eager)]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(*clean, strict=True))


def test_an_interrupted_epoch_resumes_with_the_remaining_batches(digests: tuple[str, ...]) -> None:
    def batches() -> TrainBatches:
        source = PixelSource(on_disk(pixel_rows(SIZE, ENTRY.traits.interpolation), digests), digests, 0)
        return TrainBatches(source, tuple(range(len(digests))), 8, 0.5, seed=3)

    whole = batches()
    first, second = list(whole), list(whole)
    assert [len(b[-1]) for b in first] == [8] * 5
    assert sorted(int(y) for b in first for y in b[-1]) == list(range(40))
    assert not torch.equal(first[0][-1], second[0][-1])
    cut = batches()
    list(cut)
    iterator = iter(cut)
    next(iterator), next(iterator)
    resumed = batches()
    resumed.load_state_dict(cut.state_dict())
    rest = list(resumed)
    assert len(rest) == 3
    for a, b in zip(rest, second[2:], strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_pixel_batches_at_magnitude_0_are_unchanged(digests: tuple[str, ...]) -> None:
    source = PixelSource(on_disk(pixel_rows(SIZE, ENTRY.traits.interpolation), digests), digests, 0)
    batch = source.augmented(np.arange(4), 0.0, np.random.default_rng(0))
    assert torch.equal(augment(batch[0], batch[1], batch[2], SUBJECT), batch[0].float() / 255)


def test_a_single_remaining_picture_is_not_a_batch(digests: tuple[str, ...]) -> None:
    source = PixelSource(on_disk(pixel_rows(SIZE, ENTRY.traits.interpolation), digests), digests, 0)
    batches = TrainBatches(source, tuple(range(len(digests))), 13, 0.0, seed=4)
    first, second = ([b[-1].tolist() for b in batches] for _ in range(2))
    assert [len(b) for b in first] == [13, 13, 13]
    assert {y for b in first for y in b} != {y for b in second for y in b}
