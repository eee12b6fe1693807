"""Print a study, and its evaluations on later pictures."""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING

from autotune.cli.views.tables import cell_name, new_table, short_path
from autotune.text import duration, percent, plural, points_apart

if TYPE_CHECKING:
    from rich.table import Table

    from autotune.cli.live.console import PlainConsole
    from autotune.study.storage.evaluations import Evaluation, LaterRow
    from autotune.study.storage.rows import Finalist, Running
    from autotune.study.summary import Summary

N_LEADERS = 10
FEW_TRIALS = 50  # the default of a search


def show_study(summary: Summary, console: PlainConsole) -> None:
    """Print a study: the leaderboard, the finals, and the test score of the final model."""
    pictures, trials = summary.pictures, summary.n_trials
    console.say()
    console.say(
        f"Study {summary.study}: {pictures['train']} training, {pictures['validation']} validation and "
        f"{pictures['test']} test pictures in {plural(len(summary.classes), 'class')}; "
        f"{plural(trials['complete'], 'trial')} complete, {trials['pruned']} pruned, {trials['failed']} failed"
    )
    if summary.running:
        console.say(_running(summary.running, trials["total"]))
    elif trials["total"] < summary.asked:
        console.say(f"Not running: {trials['total']} of {plural(summary.asked, 'trial')} done.")
    if summary.best is None:
        console.say("No trial is complete yet.")
        return
    console.rich.print(_leaderboard(summary))
    if trials["total"] > N_LEADERS:
        console.say(f"... and {trials['total'] - N_LEADERS} more (--json lists all)")
    name = "Winner" if summary.is_decided and not summary.running else "Best so far"
    console.say(f"{name}: {summary.winner.title}, {summary.describe(summary.winner)}")
    for line in (*_final_model(summary), *_scores(summary)):
        console.say(line)
    for row in summary.comparisons:
        for line in row.lines:
            console.say(line)
    seconds = summary.seconds
    console.say(
        f"{'Finished work' if summary.running else 'Time'}: {duration(seconds.total)} in total: "
        f"reading {seconds.read:.1f} s, probes and trials {seconds.trials:.1f} s, "
        f"finals {seconds.finals:.1f} s, test {seconds.test:.1f} s, other {seconds.other:.1f} s. "
        f"The workers filled the feature cache for {seconds.cache:.1f} s of it."
    )
    console.say(f"Folder: {short_path(summary.folder)}")
    console.rich.print(_next_commands(summary))
    if not summary.running:
        console.say(_continue(summary))


def _running(one: Running, n_done: int) -> str:
    left = "" if one.ends is None else f"; about {duration(max(one.ends - time.time(), 0.0))} left"
    return (
        f"Running since {one.since[11:16]} UTC ({one.since[:10]}), process {one.process} on {one.host}: {one.doing}; "
        f"{n_done} of {plural(one.asked, 'trial')} done{left}."
    )


def _next_commands(summary: Summary) -> Table:
    name, table = shlex.quote(summary.study), new_table()
    table.show_header = False
    table.add_column(no_wrap=True)
    table.add_column()
    for command, result in (
        (f"autotune report {name}", "curves, hyperparameters and misclassified pictures in one HTML file"),
        (f"autotune predict {name} PICTURE...", "labels for new pictures"),
        (f"autotune export {name}", "a standalone model"),
    ):
        table.add_row(cell_name(command), result)
    return table


def _continue(summary: Summary) -> str:
    """Say how the search goes on."""
    done, asked = summary.n_trials["total"], summary.asked
    if done < asked:
        return f"The {plural(asked - done, 'missing trial')}: {summary.command(asked)}"
    if not summary.is_decided:
        return f"The finals and the test: {summary.command(done)}"
    return f"More trials: {summary.command(max(FEW_TRIALS, 2 * done))}"


def _leaderboard(summary: Summary) -> Table:

    from autotune.study.storage.rows import FAILED
    from autotune.training.metrics import find_metric

    table = new_table()
    for name in ("trial", f"val. {find_metric(summary.metric).label}", "epochs", "ended", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("hyperparameters")
    for row in summary.leaderboard[:N_LEADERS]:
        if row.state == FAILED:
            continue
        numbers = (row.name, percent(row.value), str(row.epochs), row.ended, f"{row.seconds:.1f}")
        table.add_row(*numbers, cell_name(summary.describe(row)))
    return table


def _final_model(summary: Summary) -> list[str]:
    """Describe the finals and the final model; nothing for a study of an earlier version."""
    final = summary.final
    if final is None:
        return []
    finalists = ", ".join(f"trial {one.trial}: {percent(one.mean)} ({_folds(one)})" for one in final.finalists)
    lines = [f"Finals, on the folds other than the validation set: {finalists}"] if finalists else []
    if summary.passed_over:
        some = ", ".join(f"{row.title} ({percent(row.value)})" for row in summary.passed_over)
        lines.append(
            f"Better on the validation set, or as good with a lower cross-entropy, but too expensive to train again in "
            f"the finals: {some}."
        )
    if final.close:
        lines.append(f"Trial {final.trial} is the reference and wins: the lead over it is at most one standard error.")
    return [*lines, f"Final model: {final.reason}."]


def _folds(one: Finalist) -> str:
    return f"{plural(len(one.folds), 'fold')}, {plural(sum(fold.n for fold in one.folds), 'picture')}"


def _scores(summary: Summary) -> list[str]:
    from autotune.training.metrics import find_metric

    test, label = summary.test, find_metric(summary.metric).label
    name = label[0].upper() + label[1:]
    unseen, value = "validation", summary.winner.value
    if summary.final and summary.final.folds:
        unseen, value = "cross-validation", summary.final.value
    n_times = "once" if summary.n_evaluations == 1 else f"{summary.n_evaluations} times"
    if test is None:
        others = f" Earlier models were, {n_times}." if summary.n_evaluations else ""
        return [
            f"{name}: {unseen} {percent(value)}. Not evaluated on the test set yet.{others}",
            *(_later_line(row) for row in summary.later if row.scores),
        ]
    low, high = test.value_interval
    visits = f" in {plural(test.n_visits, summary.visits.noun)}" if test.n_visits else ""
    lines = [
        f"{name}: test {percent(test.value)} (95 % interval {percent(low)} to {percent(high)}, n = {test.n}{visits}), "
        f"{unseen} {percent(value)}{_optimism(value, test)}. Evaluated {n_times} on the test set."
    ]
    lines.append(summary.scope)
    lines += [_later_line(row) for row in summary.later if row.scores]
    weak = sorted(test.per_class.items(), key=lambda item: item[1].recall)
    if wrong := [f"{name} {one.right} of {one.n}" for name, one in weak if one.right < one.n][:3]:
        lines.append(f"Weakest classes: {', '.join(wrong)}")
    return lines


def show_later(later: LaterRow, summary: Summary, console: PlainConsole) -> None:
    """Print an evaluation on later pictures beside the test score."""
    console.say()
    console.say(f"{plural(later.n_read, 'later picture')} in {later.source}")
    for line in (*_left_out(later), *_later_scores(later, summary)):
        console.say(line)


def _left_out(later: LaterRow) -> list[str]:
    lines = []
    if later.copies:
        some = [f"{path} = {own}" for path, own in list(later.copies.items())[:3]]
        lines.append(f"Left out, copies of the study's pictures: {len(later.copies)} ({'; '.join(some)})")
    if later.skipped:
        some = [f"{one.path}: {one.reason}" for one in later.skipped[:3]]
        lines.append(f"Skipped: {plural(len(later.skipped), 'file')} ({'; '.join(some)})")
    if later.unlabelled:
        lines.append(f"Without a label: {plural(later.unlabelled, 'picture')}, used for the drift only.")
    if later.unknown:
        some = [f"{name} ({n})" for name, n in later.unknown.items()]
        lines.append(f"Labels that the study does not know, used for the drift only: {', '.join(some)}")
    if later.missing:
        lines.append(f"Classes without later pictures: {', '.join(later.missing)}")
    return lines


def _later_scores(later: LaterRow, summary: Summary) -> list[str]:
    from autotune.training.metrics import find_metric

    if later.scores is None:
        return [
            "No picture has a label of the study, so nothing else was measured. Labels are names of sub-folders: pass "
            "the folder that contains one folder per class, or a table."
        ]
    found, label = later.scores.evaluation, find_metric(summary.metric).label
    low, high = found.value_interval
    of_visits = f" in {plural(found.n_visits, 'visit')}" if found.n_visits else ""
    lines = [
        f"{label[0].upper()}{label[1:]}: later {percent(found.value)} "
        f"(95 % interval {percent(low)} to {percent(high)}, n = {found.n}{of_visits})."
    ]
    if summary.test:
        lines[0] += _beside_the_test(summary.test, found)
    if fell := [(name, fall) for name, fall in later.scores.fall.items() if fall > 0][:5]:
        words = [f"{name} ({found.per_class[name].right} of {found.per_class[name].n} correct)" for name, _ in fell]
        lines.append(f"Fell most against the test set: {', '.join(words)}")
    if found.calibration:
        error = percent(found.calibration.error_after)
        lines.append(f"Expected calibration error: {error} between confidence and accuracy, on average")
    if one := later.scores.answered:
        share = one.right / one.answered if one.answered else None
        lines.append(
            f"Threshold {one.threshold:.4g}: {one.answered} of {one.n} predictions reach it; {percent(share)} of these "
            "are correct."
        )
    lines.append(f"The mistakes as pictures: autotune report {shlex.quote(summary.study)}")
    return lines


def _beside_the_test(test: Evaluation, later: Evaluation) -> str:
    """The test score; if classes have no later pictures, that of the others, as the number of correct predictions."""
    whole = f" On the test set: {percent(test.value)}"
    same = test.of_classes(name for name, one in later.per_class.items() if one.n)
    if same.n == test.n:
        return f"{whole}."
    return f"{whole}; of its pictures of the same classes, {same.right} of {same.n} are classified correctly."


def _later_line(row: LaterRow) -> str:
    assert row.scores
    found = row.scores.evaluation
    low, high = found.value_interval
    when = row.finished[:16].replace("T", " ")
    return (
        f"Later pictures ({when} UTC, {row.source}; {row.model}): {percent(found.value)} "
        f"(95 % interval {percent(low)} to {percent(high)}, n = {found.n})"
    )


def _optimism(value: float | None, test: Evaluation) -> str:
    """The difference to the test score in words; nothing where both are shown as the same number."""
    points = points_apart(value or 0.0, test.value)
    if not points:
        return ""
    return f" ({abs(points):.1f} percentage points {'above' if points > 0 else 'below'} the test score)"
