from autotune.errors import DataError, did_you_mean


def test_an_error_carries_its_problem_and_its_fix() -> None:
    error = DataError("No such folder.", "Name one.")
    assert (error.problem, error.fix) == ("No such folder.", "Name one.")


def test_a_typo_is_answered_with_the_nearest_word() -> None:
    assert did_you_mean("macro_f2", ["accuracy", "macro_f1"]) == "Did you mean 'macro_f1'?"


def test_a_word_like_none_is_answered_with_all() -> None:
    assert did_you_mean("zzz", ["b", "a"]) == "Choose from: a, b."
