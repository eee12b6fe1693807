"""Print two studies side by side, and comparisons of their models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.cli.views.tables import cell_name, new_table
from autotune.text import duration, file_size, percent, plural

if TYPE_CHECKING:
    from autotune.cli.live.console import PlainConsole
    from autotune.study.growth.compare import Side, StudyComparison


def show_comparison(found: StudyComparison, console: PlainConsole) -> None:
    """Print two studies side by side, and the paired scores of their models."""
    from autotune.study.storage.comparisons import distinct_names
    from autotune.training.metrics import find_metric

    one, other = distinct_names(found.one.summary.folder, found.other.summary.folder)
    table = new_table()
    for name in ("", one, other):
        table.add_column(cell_name(name))
    columns = [_side(side) for side in (found.one, found.other)]
    for name in columns[0]:
        table.add_row(name, *(cell_name(column[name]) for column in columns))
    console.rich.print(table)
    label = find_metric(found.metric).label
    if found.shared:
        console.say(f"{label[0].upper()}{label[1:]} on the test pictures of both: {found.shared.words(one, other)}")
    else:
        console.say("No picture is in both test sets, so the models cannot be compared on the same pictures.")
    if found.trained_on:
        console.say(f"Left out: {plural(found.trained_on, 'test picture')} that the other study has learned from.")
    if found.other_labels:
        console.say(f"Left out: {plural(found.other_labels, 'test picture')} with another label in the other study.")
    for row in found.rows:
        for line in row.lines:
            console.say(line)


def _side(side: Side) -> dict[str, str]:
    """Return what is known about a study, by the name of its row."""
    from autotune.training.metrics import find_metric

    summary, test = side.summary, side.test
    low, high = test.value_interval
    counts, size = summary.pictures, side.bundle_bytes
    final = summary.final
    has_folds = bool(final and final.folds)
    unseen = final.value if final and has_folds else summary.winner.value
    later = [row.scores.evaluation for row in summary.later if row.scores]
    return {
        "pictures": f"{counts['train']} training, {counts['validation']} validation, {counts['test']} test",
        "classes": str(len(summary.classes)),
        "trials": str(summary.n_trials["total"]),
        "time": duration(summary.seconds.total),
        "winner": f"{summary.winner.title}, {summary.describe(summary.winner)}",
        "final model": final.how if final else "the trial's own network",
        "metric": find_metric(summary.metric).label,
        "not the test set": f"{percent(unseen)}, {'cross-validation' if has_folds else 'validation'}",
        "test": f"{percent(test.value)} ({percent(low)} to {percent(high)}, n = {test.n})",
        "later pictures": percent(later[-1].value) + f" (n = {later[-1].n})" if later else "-",
        "trained parameters": f"{summary.winner.trained_parameters or 0:,}",
        "model.onnx": file_size(size) if size else "not exported",
    }
