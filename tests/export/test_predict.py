import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import run_command
from PIL import Image

from autotune.data import decode
from autotune.errors import BundleError, DataError, StudyError
from autotune.export import bundle
from autotune.export.predict import (
    Classifier,
    Prediction,
    find_pictures,
    load,
    predict_files,
    refuse_missing,
    refuse_unreadable,
    write_predictions,
)
from autotune.formats.onnx_session import Outputs


def brightness(squares: np.ndarray) -> Outputs:
    """Replaces a network, with predictable output: the brightness of a picture."""
    light = squares.reshape(len(squares), -1).mean(1) / 255
    return Outputs(np.stack([1 - light, light], 1).astype(np.float32))


MODEL = Classifier("s", ("dark", "light"), 16, "bilinear", 0.0, brightness)


def picture(file: Path, level: int, size: tuple[int, int] = (20, 30)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, level, level)).save(file)
    return file


def test_folders_patterns_and_files_are_found_in_order(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/1.jpg", "b/deep/3.png", "a.png", "b/.hidden.png"):
        picture(tmp_path / name, 9)
    (tmp_path / "b" / "notes.txt").write_text("x")

    def names(*sources: str | Path) -> list[str]:
        return [str(p.relative_to(tmp_path)) for p in find_pictures(sources)]

    assert names(tmp_path / "b", tmp_path / "a.png") == ["b/1.jpg", "b/2.png", "b/deep/3.png", "a.png"]
    assert names(str(tmp_path / "*" / "*.png")) == ["b/.hidden.png", "b/2.png"]
    assert names(str(tmp_path / "gone.png")) == ["gone.png"]
    for nothing in ("*.gif", "b/notes*/*", "b/**.png", "x" * 300):  # returned unchanged, as an error entry later
        assert names(str(tmp_path / nothing)) == [nothing]
    assert find_pictures(str(tmp_path / "a.png")) == [tmp_path / "a.png"]
    with pytest.raises(DataError, match="No pictures were given"):
        find_pictures([])


def test_a_pipe_an_empty_folder_and_a_too_long_name_are_separate_errors(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "empty").mkdir()
    good = picture(tmp_path / "good.png", 255)
    predictions = MODEL.predict([tmp_path / "pipe.jpg", tmp_path / "empty", tmp_path / ("x" * 300), good])
    assert [one.error is None for one in predictions] == [False, False, False, True]
    assert predictions[1].error == "a folder without pictures"


def test_predictions_and_errors_are_in_the_order_of_the_files(tmp_path: Path) -> None:
    files = [picture(tmp_path / f"{i:03d}.png", 255 * (i % 2)) for i in range(150)]
    files[70].write_bytes(b"none")
    files.insert(100, tmp_path / "gone.png")
    steps: list[tuple[int, int]] = []
    predictions = list(predict_files(MODEL, files, 2, lambda done, total: steps.append((done, total))))
    assert [one.path for one in predictions] == [str(file) for file in files]
    assert [one.path for one in predictions if one.error] == [str(files[70]), str(files[100])]
    expected = ["dark", "light"] * 75
    assert [one.label for one in predictions if not one.error] == [e for i, e in enumerate(expected) if i != 70]
    assert steps[-1] == (151, 151)
    assert predictions[0].top == (("dark", 1.0), ("light", 0.0))


def test_json_has_one_line_per_picture_csv_has_a_header_and_the_table_is_aligned(tmp_path: Path) -> None:
    predictions = [
        Prediction("a, b.png", "light", 0.75, (("light", 0.75), ("dark", 0.25))),
        Prediction("c.png", None, None, (), "not a picture"),
        Prediction("d.png", "unknown", 0.55, (("dark", 0.55),)),
    ]
    out = io.StringIO()
    assert write_predictions(predictions, "json", MODEL.labels, out) == [predictions[1]]
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    assert rows[0]["top"][1] == {"label": "dark", "probability": 0.25}
    assert rows[1] == {"path": "c.png", "error": "not a picture"}
    out = io.StringIO()
    write_predictions(predictions, "csv", MODEL.labels, out)
    assert out.getvalue().splitlines() == [
        "path,label,probability,error", '"a, b.png",light,0.75,', "c.png,,,not a picture", "d.png,unknown,0.55,",
    ]  # fmt: skip
    out = io.StringIO()
    write_predictions(predictions, "table", MODEL.labels, out)
    assert out.getvalue().splitlines() == [
        "light     75.0 %  a, b.png  (then dark 25.0 %)",
        "-              -  c.png: not a picture",
        "unknown   55.0 %  d.png  (candidates: dark 55.0 %)",
    ]


def test_unreadable_pictures_raise_one_error() -> None:
    refuse_unreadable([], 3)
    bad = [Prediction("c.png", None, None, (), "cut short")]
    with pytest.raises(DataError, match=r"1 of 3 files could not be read \(c\.png: cut short\)"):
        refuse_unreadable(bad, 3)
    with pytest.raises(DataError, match="1 of 1 file could not be read"):
        refuse_unreadable(bad, 1)


def test_a_source_that_is_neither_a_bundle_nor_a_study_raises_an_error(here: Path) -> None:
    (here / "photos").mkdir()
    with pytest.raises(BundleError, match="neither a bundle"):
        load("photos")
    with pytest.raises(StudyError, match="No study named 'nope'"):
        load("nope")
    with pytest.raises(StudyError, match=r"No study named 'photos-v1\.2'"):
        load("photos-v1.2")
    with pytest.raises(BundleError, match=r"studies/nope/bundle does not exist"):
        load("studies/nope/bundle")
    with pytest.raises(BundleError, match=r"model\.int8\.onnx does not exist"):
        load("model.int8.onnx")


@pytest.mark.slow
class TestBundle:
    @pytest.fixture(scope="class")
    def made(self, searched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """The bundle of the finished study."""
        from autotune.cli.live.console import PlainConsole
        from autotune.export.export import ExportRequest, export_trial
        from autotune.study.request import Resources

        place = tmp_path_factory.mktemp("made")
        shutil.copytree(searched, place / "s")
        export_trial(
            str(place / "s"), ExportRequest(place / "bundle", ("int8",)), Resources("cpu"), PlainConsole(quiet=True)
        )
        return place / "bundle"

    @pytest.fixture
    def own(self, made: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(made, tmp_path / "bundle"))

    def test_the_command_predicts_without_importing_torch(self, own: Path, here: Path) -> None:
        file = picture(here / "x.png", 200)
        code = (
            f"import sys; sys.argv = ['autotune', 'predict', {str(own)!r}, {str(file)!r}, '--json']\n"
            "from autotune.cli.main import main\n"
            "try: main()\n"
            "finally: print([n for n in ('torch', 'optuna', 'scipy', 'pytorch_lightning') if n in sys.modules])"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        prediction, loaded = result.stdout.splitlines()
        found = json.loads(prediction)  # a grey picture is no digit
        assert (found["label"] == "unknown") == (found["distance"] > 1)
        assert found["top"][0]["label"] in {"0", "1", "2"}
        assert loaded == "[]"

    def test_names_are_read_from_stdin_and_an_unreadable_picture_gives_exit_code_1(self, own: Path, here: Path) -> None:
        picture(here / "x.png", 200)
        (here / "bad.png").write_text("no picture")
        result = run_command("predict", str(own), "-", "--csv", stdin="x.png\n\nbad.png\n")
        assert result.returncode == 1
        assert [line.split(",")[0] for line in result.stdout.splitlines()] == ["path", "x.png", "bad.png"]
        assert result.stderr.splitlines()[0].startswith("1 of 2 files could not be read (bad.png: not a picture")

    def test_one_of_the_models_can_be_selected(self, own: Path, tmp_path: Path) -> None:
        file = picture(tmp_path / "x.png", 120)
        whole, small = (load(own / name).predict([file])[0] for name in ("model.onnx", "model.int8.onnx"))
        assert whole.probability == pytest.approx(small.probability, abs=0.2)
        assert whole.probability != small.probability

    @pytest.mark.parametrize("part", ["model.onnx", "labels.txt", "preprocessing.json", "predict.py"])
    def test_a_missing_or_changed_file_raises_an_error(self, own: Path, part: str) -> None:
        whole = (own / part).read_bytes()
        (own / part).write_bytes(whole + b" ")
        with pytest.raises(BundleError, match="has changed since the export"):
            load(own)
        (own / part).unlink()
        with pytest.raises(BundleError, match=f"has no {part}"):
            load(own)

    def test_a_newer_version_and_a_damaged_index_raise_errors(self, own: Path) -> None:
        index = json.loads((own / bundle.INDEX).read_text())
        (own / bundle.INDEX).write_text(json.dumps({**index, "version": 2}))
        with pytest.raises(BundleError, match="has version 2; this version of autotune reads up to 1"):
            load(own)
        for text in (
            "{",
            "[]",
            '{"version": Infinity}',
            '{"version": 1, "files": []}',
            json.dumps({**index, "files": {"../x": "0"}}),
        ):
            (own / bundle.INDEX).write_text(text)
            with pytest.raises(BundleError, match="is damaged"):
                load(own)

    def test_unusual_pictures_get_the_same_predictions_as_from_predict_py(self, own: Path, tmp_path: Path) -> None:
        """Rotated by EXIF, transparent, 16-bit, CMYK, palette and wide pictures."""
        random = np.random.default_rng(0)
        pixels = random.integers(0, 255, (40, 90, 3), np.uint8)
        image = Image.fromarray(pixels)
        odd = tmp_path / "odd"
        odd.mkdir()
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(odd / "turned.jpg", exif=exif)
        image.convert("CMYK").save(odd / "cmyk.jpg")
        image.convert("P").save(odd / "palette.gif")
        image.convert("L").save(odd / "grey.png")
        Image.fromarray(random.integers(0, 65535, (30, 30)).astype(np.uint16)).save(odd / "deep.png")
        image.putalpha(Image.fromarray(pixels[..., 0]))
        image.save(odd / "clear.webp")
        files = [str(file) for file in find_pictures([odd])]
        ours = load(own).predict(files)
        words = [sys.executable, str(own / "predict.py"), *files]
        theirs = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
        assert theirs == [f"{one.path}\t{one.label}\t{one.probability:.4f}" for one in ours]

    def test_predict_py_continues_after_an_unreadable_picture_and_accepts_another_model(
        self, own: Path, tmp_path: Path
    ) -> None:
        good = picture(tmp_path / "x.png", 120)
        words = [sys.executable, str(own / "predict.py"), "model.int8.onnx", "gone.png", str(good)]
        result = subprocess.run(words, capture_output=True, text=True, check=False)
        assert result.returncode == 1
        assert len(result.stdout.splitlines()) == 1
        assert "gone.png: cannot be read" in result.stderr


def test_predict_py_has_fewer_than_70_lines_and_does_not_use_autotune() -> None:
    text = Path(str(decode.__file__)).read_text()
    code = [line for line in text.partition('"""\n\nimport')[2].splitlines() if line.strip()]
    assert len(code) < 70
    assert "autotune" not in text
    assert os.access(str(decode.__file__), os.R_OK)


def test_missing_pictures_are_refused_before_the_model_is_loaded(here: Path) -> None:
    (here / "one.png").touch()
    refuse_missing([here / "nothing.png", here / "one.png"])
    done = run_command("predict", "no-study", "a.png", "b.png")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "a.png does not exist, nor do the other 1."
