import io

import pytest

from autotune.cli.views.wrap import wrapped


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_are_wrapped_between_words_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    line = "one two three four-five /a/long/path/without/any/space"
    assert wrapped(line, io.StringIO(), indent="  ") == "  " + line
    assert wrapped(line, Terminal(), indent="  ").splitlines() == [
        "  one two three",
        "  four-five",
        "  /a/long/path/without/any/space",
    ]
