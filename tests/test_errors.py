from autotune.errors import DataError, did_you_mean


def test_an_error_has_a_problem_and_a_fix() -> None:
    error = DataError("No such folder.", "Name one.")
    assert (error.problem, error.fix) == ("No such folder.", "Name one.")


def test_a_misspelled_word_suggests_the_nearest_one() -> None:
    assert did_you_mean("macro_f2", ["accuracy", "macro_f1"]) == "Did you mean 'macro_f1'?"


def test_an_unknown_word_lists_all_words() -> None:
    assert did_you_mean("zzz", ["b", "a"]) == "Choose from: a, b."
