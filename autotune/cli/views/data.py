"""Print what a study would use of a folder or table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from autotune.cli.views.tables import cell_name, new_table
from autotune.text import percent, plural

if TYPE_CHECKING:
    from rich.table import Table

    from autotune.cli.live.console import PlainConsole
    from autotune.data.picture import Picture
    from autotune.report.data_survey import DataSurvey
    from autotune.report.label_issues import LabelIssue

N_LISTED = 20  # entries per list
FEW = 10  # test pictures of a class: even if all are right, the 95 % interval of its recall is 30 points wide


def show_data(found: DataSurvey, console: PlainConsole) -> None:
    """Print what a study would use."""
    from autotune.study.announce import several_labels_line

    console.say(f"{found.folder}: {plural(found.pictures, 'picture')} in {plural(len(found.classes), 'class')}")
    console.rich.print(_class_counts(found))
    if line := several_labels_line(list(found.classes)):
        console.say(line)
    console.say(f"Largest class: {found.uneven:.1f} times as many pictures as the smallest.")
    console.say(f"Median of the shorter side: {found.side} pixels.")
    if found.parts:
        source = "given" if len(found.given_parts) > 1 else "by a hash of the content"
        parts = ", ".join(f"{n} {name}" for name, n in found.parts.items())
        console.say(f"Split, {source}: {parts}")
        if line := few_test_pictures({name: parts["test"] for name, parts in found.class_parts.items()}):
            console.say(line)
    _show_visits(found, console)
    _list(console, "Skipped", [f"{one.path}: {one.reason}" for one in found.skipped])
    _list(console, "Duplicates, kept in the same set", [_group(group) for group in found.duplicates])
    _list(console, "Near-duplicates, kept in the same set", [_group(group) for group in found.near_duplicates])
    if found.too_much_alike:
        console.say("  Not searched: the pictures are too similar to tell near-duplicates from others.")
    contradictions = [" = ".join(f"{one.path} ({one.label})" for one in group) for group in found.contradictions]
    _list(console, "Duplicates with conflicting labels", contradictions)
    if found.suspects:
        title = f"Likely label errors among {plural(found.judged, 'picture')}, largest difference first"
        _list(console, title, [_label_issue(one) for one in found.suspects])
    if found.problem:
        console.say(f"No study can start: {found.problem}")


def _class_counts(found: DataSurvey) -> Table:
    table = new_table()
    table.add_column("class")
    for name in ("pictures", *(found.parts or ())):
        table.add_column(name, justify="right", no_wrap=True)
    for name, n in found.classes.items():
        table.add_row(cell_name(name), str(n), *(str(count) for count in found.class_parts.get(name, {}).values()))
    return table


def few_test_pictures(counts: Mapping[str, int]) -> str:
    """Name the classes with so few test pictures that their own scores say next to nothing; "" if there are none."""
    few = sorted((n, name) for name, n in counts.items() if n < FEW)
    if not few:
        return ""
    some = ", ".join(f"{name} {n}" for n, name in few[:5]) + (", ..." if len(few) > 5 else "")
    return (
        f"Fewer than {FEW} test pictures in {len(few)} of {plural(len(counts), 'class')} ({some}): their own scores "
        "say little."
    )


def _show_visits(found: DataSurvey, console: PlainConsole) -> None:
    """Print how the pictures are grouped by visit, and what else could show visits."""
    from autotune.study.announce import visit_lines

    for line in visit_lines(found.visits) or ["Pictures are not grouped by visit."]:
        console.say(line)
    for one in found.signals:
        if one.by != found.visits.by:
            console.say(f"  {one.words}; use it with --group-by {one.by}.")


def _group(group: Sequence[Picture]) -> str:
    return " = ".join(picture.path for picture in group)


def _label_issue(one: LabelIssue) -> str:
    own = percent(one.probability - one.doubt)
    return f"{one.path}: labelled {one.label} ({own}), predicted {one.answer} ({percent(one.probability)})"


def _list(console: PlainConsole, title: str, lines: list[str]) -> None:
    console.say(f"{title}: {len(lines) or 'none'}")
    for line in lines[:N_LISTED]:
        console.say(f"  {line}")
    if len(lines) > N_LISTED:
        console.say(f"  ... and {len(lines) - N_LISTED} more (--json lists all)")
