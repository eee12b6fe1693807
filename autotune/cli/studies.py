"""The commands `autotune studies`: list the studies in this folder, or remove one."""

from __future__ import annotations

import typer

from autotune.cli.options import Json, StudyName, Yes, confirmed, print_json

studies_app = typer.Typer(help="List the studies in this folder, or remove one.", invoke_without_command=True)


@studies_app.callback()
def studies(context: typer.Context, as_json: Json = False) -> None:
    """List the studies in ./studies, most recently used first."""
    if context.invoked_subcommand:
        return
    from autotune.cli.live.console import PlainConsole
    from autotune.cli.views import results
    from autotune.study.studies import list_studies
    from autotune.study.summary import STUDIES

    found = list_studies()
    if as_json:
        print_json({"folder": str(STUDIES.resolve()), "studies": [row.to_json() for row in found]})
    else:
        results.show_studies(found, PlainConsole())


@studies_app.command()
def rm(study: StudyName, yes: Yes = False) -> None:
    """Remove a study: trials, checkpoints and reports. Its study.toml and your pictures are kept."""
    from autotune.study.studies import remove_study, study_row

    found = study_row(study)
    if yes or confirmed(f"Remove {found.words}?", f"studies rm {study} --yes"):
        typer.echo(f"Removed {remove_study(study).words}.")
