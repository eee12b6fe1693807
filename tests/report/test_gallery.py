from collections import Counter
from pathlib import Path

import pytest
from awkward_study import finished

from autotune.data.split import MANIFEST, TEST, read_manifest
from autotune.report import gallery
from autotune.report.gallery import class_galleries
from autotune.study.storage.record import open_record

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory)


def test_every_test_picture_is_in_the_gallery_of_its_class_with_its_prediction(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = study / "studies" / "s"
    pictures = [one for one in read_manifest(folder / MANIFEST) if one.part == TEST]
    with open_record(folder) as record:
        scores, classes = record.evaluations()[-1].scores, record.facts().classes
    found = class_galleries(scores, pictures, classes, study / "photos")
    assert [one.name for one in found] == list(classes)
    labels = {one.path: one.label for one in pictures}
    shown = {each.picture.path: (one.name, each.predicted) for one in found for each in (*one.wrong, *one.right)}
    assert {path: label for path, (label, _) in shown.items()} == labels
    wrong = {each.picture.path: each.predicted for one in found for each in one.wrong}
    assert wrong == {one.path: one.answer for one in scores.mistakes}
    counts = Counter((classes.index(label), classes.index(predicted)) for label, predicted in shown.values())
    assert all(counts[i, j] == n for i, row in enumerate(scores.confusion) for j, n in enumerate(row))
    assert all(each.picture.source for one in found for each in one.wrong)

    monkeypatch.setattr(gallery, "MOST", len(wrong) + 1)
    few = class_galleries(scores, pictures, classes, study / "photos")
    assert {each.picture.path for one in few for each in one.wrong} == set(wrong)
    assert sum(len(one.right) for one in few) == 1
    assert sum(one.n_hidden for one in few) == len(pictures) - len(wrong) - 1
    assert class_galleries(scores, pictures[1:], classes, study / "photos") == []  # of another manifest
