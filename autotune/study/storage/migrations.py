"""The tables of record.db, and their changes from version to version."""

from __future__ import annotations

import json

from sqlite_utils import Database, Migrations

migrations = Migrations("autotune")


@migrations()
def m001_start(db: Database) -> None:
    db.table("study").create({"key": str, "value": str}, pk="key")
    db.table("probes").create({"backbone": str, "pixels": int, "value": float, "seconds": float, "bank_seconds": float},
                        pk=("backbone", "pixels"))  # fmt: skip
    db.table("trials").create(
        {
            "number": int, "state": str, "value": float, "log_loss": float, "best_epoch": int, "epochs": int,
            "ended": str, "trained_parameters": int, "checkpoint": str, "params": str, "error": str, "trace": str,
            "seconds": float, "bank_seconds": float, "finished": str,
        },
        pk="number",
    )  # fmt: skip
    db.table("epochs").create(
        {
            "trial": int, "number": int, "rate": float, "loss": float, "train": float, "validation": float,
            "log_loss": float, "gap": float, "cycle_end": int, "seconds": float,
        },
        pk=("trial", "number"),
    )  # fmt: skip
    db.table("looks").create({"id": int, "trial": int, "finished": str, "seconds": float, "scores": str}, pk="id")


@migrations()
def m002_exports(db: Database) -> None:
    columns = {"id": int, "trial": int, "folder": str, "finished": str, "facts": str}
    db.table("exports").create(columns, pk="id")


@migrations()
def m003_plain_names(db: Database) -> None:
    db.rename_table("looks", "evaluations")
    for table in ("trials", "probes"):
        db.table(table).transform(rename={"bank_seconds": "cache_seconds"})
    renamed = {"arms": "backbones", "banked": "cuts", "set_aside": "skipped", "enqueued": "first_trials_queued"}
    for old, new in renamed.items():
        db.execute("update study set key = ? where key = ?", [new, old])


@migrations()
def m004_skipped_and_verified(db: Database) -> None:
    db.execute("update study set value = replace(value, '\"set_aside\":', '\"skipped\":') where key = 'pictures'")
    db.execute('update exports set facts = replace(facts, \'"verdict": "proven"\', \'"verdict": "verified"\')')


@migrations()
def m005_finals(db: Database) -> None:
    db.table("folds").create(
        {
            "trial": int, "fold": int, "state": str, "n": int, "value": float, "log_loss": float, "epochs": int,
            "logits": str, "checkpoint": str, "seconds": float, "cache_seconds": float, "error": str, "finished": str,
        },
        pk=("trial", "fold"),
    )  # fmt: skip
    db.table("finals").create({"id": int, "facts": str, "finished": str}, pk="id")
    db.table("evaluations").add_column("final", int)


@migrations()
def m006_files_and_order(db: Database) -> None:
    """The hashes of the study's files, and the order in which trials finished, which a clock may get wrong."""
    db.table("files").create({"path": str, "digest": str}, pk="path")
    db.table("trials").add_column("position", int)
    db.execute("update trials set position = (select count(*) from trials as t where t.finished < trials.finished)")


@migrations()
def m007_parts(db: Database) -> None:
    for table in ("trials", "folds"):
        db.table(table).add_column("n_parts", int, not_null_default=1)


@migrations()
def m008_epochs(db: Database) -> None:
    """The epochs of a study, which were computed from the number of pictures whenever it was opened."""
    facts = {row["key"]: json.loads(row["value"]) for row in db.table("study").rows}
    if facts.get("backbones"):
        by_pictures = min(max(round(6000 / facts["pictures"]["train"]), 4), 12)
        epochs = facts["definition"].get("epochs") or by_pictures
        db.table("study").insert({"key": "epochs", "value": json.dumps(epochs)})


@migrations()
def m009_probe_log_loss(db: Database) -> None:
    db.table("probes").add_column("log_loss", float)


@migrations()
def m010_visits(db: Database) -> None:
    for name in ("by_picture", "by_visit"):
        db.table("probes").add_column(name, float)
    db.table("later").create({"id": int, "facts": str, "finished": str, "seconds": float}, pk="id")


@migrations()
def m011_seconds(db: Database) -> None:
    """The seconds by kind of work, which add up to the total: earlier versions kept the total, reading and the test."""
    row = next(iter(db.query("select value from study where key = 'seconds'")), None)
    known = json.loads(row["value"]) if row else {}
    if "total" not in known:
        return
    total, read, test = known["total"], known.get("read", 0.0), known.get("test", 0.0)

    def summed(sql: str) -> float:
        return float(next(iter(db.query(sql)))["seconds"] or 0.0)

    trials = summed("select sum(seconds) as seconds from trials")
    trials += summed("select sum(cache_seconds) as seconds from probes")
    finals = summed("select sum(seconds) as seconds from folds")
    other = max(total - read - trials - finals - test, 0.0)
    kinds = {"read": read, "trials": trials, "finals": finals, "test": test, "other": other}
    db.table("study").upsert({"key": "seconds", "value": json.dumps(kinds)}, pk="key")


@migrations()
def m012_models(db: Database) -> None:
    """Which final model was exported, or evaluated on later pictures: None for a trial's own network."""
    db.table("exports").add_column("final", int)
    finals = list(db.query("select id, finished from finals order by id"))

    def at(finished: str) -> int | None:
        return next((row["id"] for row in reversed(finals) if row["finished"] <= finished), None)

    for row in list(db.table("exports").rows):
        if json.loads(row["facts"]).get("how", "trial") != "trial":
            db.table("exports").update(row["id"], {"final": at(row["finished"])})
    for row in list(db.table("later").rows):
        facts = {**json.loads(row["facts"]), "final": at(row["finished"])}
        db.table("later").update(row["id"], {"facts": json.dumps(facts)})


@migrations()
def m013_comparisons(db: Database) -> None:
    columns = {"id": int, "facts": str, "finished": str, "seconds": float}
    db.table("comparisons").create(columns, pk="id")
