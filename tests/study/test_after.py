"""Next month's pictures: a study that follows another one, and comparisons of two studies."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from commands import run_command
from conftest import write_digits
from small_studies import Lines, search

from autotune.data.split import TEST, Split, carried_parts, read_manifest
from autotune.errors import AutotuneError, ConfigError, DataError, StudyError
from autotune.search.optuna_study import OptunaStudy
from autotune.search.ranges import Range
from autotune.search.settings import read_settings
from autotune.search.space import BackboneOptions, suggest
from autotune.search.warm_start import repeated
from autotune.study.growth import compare, earlier_model
from autotune.study.growth.after import changes
from autotune.study.growth.compare import compare_studies
from autotune.study.storage.comparisons import ComparisonRow, PairedScore
from autotune.study.storage.record import open_record
from autotune.study.summary import study_status


@pytest.fixture
def more(tmp_path: Path) -> Path:
    """The digits of the finished study and new ones, without one of the old pictures."""
    folder = write_digits(tmp_path / "more", each=80)
    sorted((folder / "0").iterdir())[0].unlink()
    return folder


def parts(study: str) -> dict[str, str | None]:
    return {picture.digest: picture.part for picture in read_manifest(Path("studies", study, "manifest.csv"))}


@pytest.mark.slow
def test_a_study_after_another_keeps_its_sides_and_starts_with_its_choices_and_is_compared(
    finished: Path, more: Path
) -> None:
    shown, before = Lines(), json.dumps(study_status("s").to_json()["test"])
    found = search(more, trials=2, name="t", after="s", listener=shown)
    old, new = parts("s"), parts("t")
    assert all(new[digest] == part for digest, part in old.items() if digest in new)
    said = next(line for line in shown.lines if line.startswith("After study s: 90 new pictures"))
    assert "1 of its 150 pictures are gone" in said
    choices = {name: study_status("s").winner.params.recorded()[name] for name in ("augment", "optimizer", "cycle")}
    first = next(row for row in found["leaderboard"] if row["number"] == 0)["params"]
    assert {name: first[name] for name in choices} == choices
    assert first["lr_high"] == pytest.approx(study_status("s").winner.params.lr_high)

    (row,) = found["comparisons"]
    tested = [picture for picture in read_manifest(Path("studies/t/manifest.csv")) if picture.part == TEST]
    added = [digest for digest in new if digest not in old]
    assert sum(sum(one.values()) for one in row["added"].values()) == len(added) == 90
    assert row["test"]["n"] == len(tested)
    assert row["fresh"]["n"] == sum(new[digest] != TEST for digest in added)
    assert row["test"]["value"] == pytest.approx(found["test"]["value"])
    low, high = row["test"]["interval"]
    assert low <= row["test"]["value"] - row["test"]["other"] <= high
    (other,) = study_status("s").comparisons
    assert (Path(other.later).name, Path(other.earlier).name) == ("t", "s")
    assert other.test.value == row["test"]["value"]
    assert "--after" in study_status("t").command(5)
    assert json.dumps(study_status("s").to_json()["test"]) == before  # its own evaluations are as they were

    again = Lines()
    assert search(more, trials=2, name="t", after="s", listener=again)["comparisons"] == [row]  # once for each model
    assert not any(line.startswith("After study") for line in again.lines)
    done = run_command("compare", "s", "t", columns=200)
    assert done.returncode == 0, done.stderr
    shared = sum(new.get(digest) == TEST for digest, part in old.items() if part == TEST)
    assert f"n = {shared})" in done.stdout
    assert f"All test pictures of t: t {100 * row['test']['value']:.1f} %" in done.stdout
    assert "All test pictures of t" in run_command("status", "s", columns=200).stdout


@pytest.mark.slow
def test_a_search_ends_well_if_the_earlier_model_cannot_be_compared(
    finished: Path, more: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: Any) -> None:
        raise StudyError("studies/s/checkpoints/final is damaged.", "Restore it.")

    with monkeypatch.context() as patched:
        patched.setattr(earlier_model, "reopen_trial", damaged)
        shown = Lines()
        found = search(more, trials=1, name="t", after="s", listener=shown)
    assert "Not compared with study s: studies/s/checkpoints/final is damaged." in shown.lines
    assert found["test"]
    assert found["comparisons"] == []
    assert len(search(more, trials=1, name="t")["comparisons"]) == 1  # made up for by the same command, also without it

    shutil.rmtree("studies/s")
    shown = Lines()
    found = search(more, trials=2, name="t", after="s", listener=shown)
    assert found["trials"]["total"] == 2
    if found["comparisons"] == []:  # another final model, and the earlier study is gone
        assert any(line.startswith("Not compared with study s: ") for line in shown.lines)
    assert not Path("studies/s").exists()


@pytest.mark.slow
def test_pictures_of_new_classes_are_left_out_of_the_comparison(finished: Path, tmp_path: Path) -> None:
    wider = write_digits(tmp_path / "wider", classes=4)
    (row,) = search(wider, trials=1, name="t", after="s")["comparisons"]
    tested = [picture for picture in read_manifest(Path("studies/t/manifest.csv")) if picture.part == TEST]
    assert row["test"]["n"] == sum(picture.label != "3" for picture in tested) < len(tested)
    assert (row["fresh"], row["unknown"]) == (None, 50)
    assert "Left out: 50 pictures of classes that s does not know." in run_command("status", "t", columns=200).stdout


@pytest.mark.slow
def test_studies_that_were_moved_together_still_follow_each_other(
    finished: Path, more: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = search(more, trials=1, name="t", after="s")["comparisons"]
    shutil.move("studies", tmp_path / "moved" / "studies")
    monkeypatch.chdir(tmp_path / "moved")
    assert search(more, trials=1, name="t", after="s")["comparisons"] == before  # found again, and not repeated
    with open_record(Path("studies/t")) as record:
        record._db.execute("delete from comparisons")
        record._db.conn.commit()
    (again,) = search(more, trials=1, name="t", after="s")["comparisons"]
    assert again["test"] == before[0]["test"]


@pytest.mark.slow
def test_a_study_keeps_what_it_follows(finished: Path, more: Path) -> None:
    shutil.copytree(finished, "studies/u")
    search(more, trials=1, name="t", after="s")
    for after, follows in (("u", "follows s"), ("gone", "follows s")):
        with pytest.raises(StudyError, match=f"Study t has started, and {follows}"):
            search(more, trials=2, name="t", after=after)
    with pytest.raises(StudyError, match="Study s has started, and follows no other study"):
        search(more, trials=5, name="s", after="u")


def test_a_file_that_was_saved_again_keeps_its_part_and_is_not_new(finished: Path, tmp_path: Path) -> None:
    pictures = read_manifest(finished / "manifest.csv")
    changed = [replace(p, digest=p.digest[::-1], part=None) if i % 10 == 0 else p for i, p in enumerate(pictures)]
    kept = carried_parts(pictures, changed)
    assert all(kept[now.digest] == old.part for old, now in zip(pictures, changed, strict=True))
    found = changes("s", pictures, changed)
    assert (found.n_added, found.gone) == (0, 0)
    renumbered = [replace(pictures[0], digest="f" * 32), *pictures]  # a new picture under an old name; the old is there
    assert "f" * 32 not in carried_parts(pictures, renumbered)


def test_a_study_that_cannot_follow_is_refused_before_it_reads_its_pictures(finished: Path, more: Path) -> None:
    for options, kind, problem in (
        ({"after": "gone"}, StudyError, "No study named 'gone'"),
        ({"after": "s", "name": "s"}, StudyError, "Study s has started, and follows no other study."),
        ({"after": "s", "manifest": finished / "manifest.csv"}, ConfigError, "--after and --manifest exclude"),
    ):
        with pytest.raises(kind, match=problem):
            search(more, **{"name": "t", **options})  # type: ignore[arg-type]
    assert not Path("studies/t").exists()


def test_a_folder_without_any_of_the_old_pictures_is_refused(finished: Path, tmp_path: Path) -> None:
    others = write_digits(tmp_path / "others", each=30, first=60)
    with pytest.raises(DataError, match="None of the pictures of study s is in this folder"):
        search(others, name="t", after="s")


def test_a_study_without_a_final_model_cannot_be_followed(finished: Path, more: Path) -> None:
    with open_record(finished) as record:
        for table in ("finals", "evaluations"):
            record._db.execute(f"delete from {table}")
        record._db.conn.commit()
    with pytest.raises(StudyError, match="Study s has no final model to start from"):
        search(more, name="t", after="s")
    with pytest.raises(StudyError, match="has no evaluation on its test set"):
        compare_studies("s", "s")


def test_two_studies_are_compared_on_the_test_pictures_of_both(finished: Path) -> None:
    shutil.copytree(finished, "studies/t")
    with open_record(Path("studies/t")) as record:
        scores = record.evaluations()[-1].scores
        predicted = [(one + 1) % 3 if place < 5 else one for place, one in enumerate(scores.predicted)]
        facts = json.dumps({**scores.to_json(), "predicted": predicted})
        record._db.execute("update evaluations set scores = ?", [facts])
        record._db.conn.commit()
    found = compare_studies("s", "t")
    assert found.shared
    assert (found.shared.n, found.trained_on, found.other_labels) == (scores.n, 0, 0)
    truth = [one if right else (one + 1) % 3 for one, right in zip(scores.predicted, scores.right, strict=True)]
    lost = sum(a == t for a, t in zip(scores.predicted[:5], truth[:5], strict=True))
    gained = sum(b == t for b, t in zip(predicted[:5], truth[:5], strict=True))
    assert lost - gained > 0
    assert found.shared.difference == pytest.approx((lost - gained) / scores.n)
    low, high = found.shared.interval
    assert 0 <= low < found.shared.difference < high <= 1
    shown = json.loads(run_command("compare", "s", "t", "--json").stdout)
    assert shown["shared"]["n"] == scores.n
    assert [side["study"] for side in shown["studies"]] == ["s", "t"]


def test_pictures_that_one_study_has_learned_from_are_left_out(finished: Path) -> None:
    other = Path(shutil.copytree(finished, "studies/t"))
    manifest = read_manifest(other / "manifest.csv")
    tested = [picture.path for picture in manifest if picture.part == TEST]
    rows = (other / "manifest.csv").read_text().splitlines()
    moved = [row.replace(",test,", ",train,") if row.startswith(tuple(tested[:2])) else row for row in rows]
    (other / "manifest.csv").write_text("\n".join(moved) + "\n")
    with open_record(other) as record:
        facts = record.facts()
        split = Split(facts.classes, read_manifest(other / "manifest.csv"), (), {}, facts.visits)
        scores = record.evaluations()[-1].scores
        record.keep_facts(split=split.identity)
        kept = json.dumps({**scores.to_json(), "predicted": scores.predicted[2:]})
        record._db.execute("update evaluations set scores = ?", [kept])
        record._db.conn.commit()
    found = compare_studies("s", "t")
    assert found.shared
    assert (found.shared.n, found.trained_on) == (len(tested) - 2, 2)
    assert found.shared.difference == 0
    assert "Left out: 2 test pictures that the other study has learned from." in run_command("compare", "s", "t").stdout


def test_pictures_in_a_group_with_learned_ones_are_left_out(finished: Path) -> None:
    pictures = read_manifest(finished / "manifest.csv")
    tested = next(i for i, picture in enumerate(pictures) if picture.part == TEST)
    learned = next(i for i, picture in enumerate(pictures) if picture.part != TEST)
    grouped = [replace(p, group="burst") if i in (tested, learned) else p for i, p in enumerate(pictures)]
    split = Split(("0", "1", "2"), tuple(grouped), (), {})
    assert pictures[tested].digest in compare._learned(split)
    assert compare._learned(split) - {pictures[tested].digest} == {p.digest for p in pictures if p.part != TEST}
    own = split.part(TEST)
    places, _ = compare._shared_places(own, own, compare._learned(split))
    assert len(places) == len(own) - 1
    assert all(own[one] == own[other] and own[one].group == "" for one, other in places)


def test_studies_with_and_without_folds_are_shown_side_by_side(finished: Path) -> None:
    other = Path(shutil.copytree(finished, "studies/t"))
    with open_record(other) as record:
        final = record.final()
        assert final
        assert not final.folds
        changed = replace(final, folds=(1, 2), value=0.875)
        record._db.execute("update finals set facts = ?", [json.dumps(changed.to_json())])
        record._db.conn.commit()
    shown = run_command("compare", "s", "t", columns=150).stdout
    assert "87.5 %, cross-validation" in shown
    assert ", validation" in shown


def test_comparisons_of_earlier_models_are_not_those_of_the_final_model(finished: Path) -> None:
    folder = str(finished.resolve())
    row = ComparisonRow(folder, "/elsewhere/r", "accuracy", 99, 1, {}, 0, 0, None, PairedScore(9, 0.9, 0.8, (0.0, 0.2)))
    with open_record(finished) as record:
        record.keep_comparison(row, 1.0)
        record.keep_comparison(replace(row, later_model=record.final_id()), 1.0)
    found = study_status("s")
    assert (len(found.comparisons), len(found.comparisons_before)) == (1, 1)
    assert run_command("status", "s", columns=150).stdout.count("All test pictures of s") == 1


def test_studies_that_share_no_picture_are_refused(finished: Path) -> None:
    other = Path(shutil.copytree(finished, "studies/t"))
    text = (other / "manifest.csv").read_text().splitlines()
    changed = [text[0]]
    for row in text[1:]:
        cells = row.split(",")
        cells[3] = cells[3][::-1]  # the digest
        changed.append(",".join(cells))
    (other / "manifest.csv").write_text("\n".join(changed) + "\n")
    with open_record(other) as record:
        facts = record.facts()
        record.keep_facts(split=Split(facts.classes, read_manifest(other / "manifest.csv"), (), {}).identity)
    done = run_command("compare", "s", "t", columns=200)
    assert (done.returncode, done.stderr.splitlines()) == (
        1,
        ["Studies s and t share no picture.",
         "Compare studies of the same pictures: autotune search PHOTOS --after s"],
    )  # fmt: skip
    with pytest.raises(AutotuneError, match="are the same study"):
        compare_studies("s", "s")


@pytest.mark.parametrize("seed", range(20))
def test_repeated_choices_are_drawn_again_as_they_were(seed: int) -> None:
    space = read_settings(None, {}, is_writing=True).space
    arms = (BackboneOptions("a", (32, 64), (0, 1, 2)), BackboneOptions("b", (32,), (0,), from_scratch=True))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    drawn = suggest(study.ask(), space, arms)
    (values,) = repeated(space, arms, [drawn])
    study.enqueue_trial(values)
    again = suggest(study.ask(), space, arms)
    assert (again.backbone, again.depth, again.pixels, again.optimizer) == (
        drawn.backbone, drawn.depth, drawn.pixels, drawn.optimizer
    )  # fmt: skip
    for name, value in drawn.recorded().items():
        found = getattr(again, name)
        assert found == (pytest.approx(value) if isinstance(value, float) else value), name


def test_repeated_choices_come_first_and_are_no_warm_start(tmp_path: Path) -> None:
    settings = read_settings(None, {"epochs": 4}, is_writing=True)
    arms = (BackboneOptions("a", (32,), (0, 1, 2)),)
    drawn = suggest(optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask(), settings.space, arms)
    study = OptunaStudy(tmp_path / "trials.db", settings, arms)
    study.enqueue(arms, [drawn])
    first = study.params(study.ask())
    assert (first.depth, first.optimizer, first.augment) == (drawn.depth, drawn.optimizer, drawn.augment)
    # One of the warm start may be the reference of the finals, which was not selected on this study's pictures.
    assert study.warm_starts() == study.numbers() - {0}


def test_choices_outside_the_ranges_are_moved_to_the_nearest_limit() -> None:
    space = read_settings(None, {}, is_writing=True).space
    arms = (BackboneOptions("a", (32, 64), (0, 1, 2)),)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = suggest(study.ask(), space, arms)
    narrow = space.model_copy(update={"lr_high": Range(0.5, 1.0)})
    fewer = (BackboneOptions("a", (64,), (0,)),)
    (values,) = repeated(narrow, fewer, [drawn])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.enqueue_trial(values)
    again = suggest(study.ask(), narrow, fewer)
    assert (again.pixels, again.depth, again.lr_high) == (64, 0, 0.5)
    assert repeated(space, (BackboneOptions("c", (64,), (0,)),), [drawn]) == []
    (values,) = repeated(space.model_copy(update={"augment": Range(0.0, 1.0, step=0.25)}), arms, [
        replace(drawn, augment=0.3)
    ])  # fmt: skip
    assert values["augment"] == 0.25
