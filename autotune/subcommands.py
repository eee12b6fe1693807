"""Commands with commands of their own: plugins, cache, studies. Imports of weight wait until one needs them."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from autotune.errors import ConfigError
from autotune.options import Json, Plugins, StudyName, WeightsDir, Yes, backbone_names, print_json

plugins_app = typer.Typer(help="List backbones, write a new one, try one.", invoke_without_command=True)
cache_app = typer.Typer(help="Show, trim or clear decoded pixels and banks.", invoke_without_command=True)
studies_app = typer.Typer(help="List the studies in this folder, or remove one.", invoke_without_command=True)


@plugins_app.callback()
def plugins(
    context: typer.Context,
    folders: Plugins = None,
    weights: WeightsDir = None,
    full: Annotated[bool, typer.Option("--full", help="Add parameters and stages; this imports torch.")] = False,
    as_json: Json = False,
) -> None:
    """List backbones."""
    if context.invoked_subcommand:
        return
    from autotune import listing, views

    found = listing.listing(tuple(folders or ()), weights, full)
    if as_json:
        print_json(found)
    else:
        views.show_backbones(found)


@plugins_app.command()
def new(name: Annotated[str, typer.Argument(help="A Python name, e.g. my_net.")]) -> None:
    """Write NAME.py here, a working backbone of some fifteen lines."""
    from autotune import listing

    file = listing.write_new(name)
    typer.echo(f"Wrote {file}. Try it: autotune plugins check {name} --plugins {file.parent}")


@plugins_app.command()
def check(
    name: Annotated[str, typer.Argument(help="A backbone's name.", autocompletion=backbone_names)],
    folders: Plugins = None,
    weights: WeightsDir = None,
) -> None:
    """Try a backbone: shapes, what each depth freezes and trains, train and evaluation mode, gradients."""
    from autotune import listing

    listing.check(name, tuple(folders or ()), weights)


@cache_app.callback()
def cache(context: typer.Context, as_json: Json = False) -> None:
    """Show what the cache holds, what was used last first."""
    if context.invoked_subcommand:
        return
    from autotune.cache import status
    from autotune.console import PlainConsole
    from autotune.views import show_cache

    found = status()
    if as_json:
        print_json(found)
    else:
        show_cache(found, PlainConsole())


@cache_app.command()
def trim(
    to: Annotated[str | None, typer.Option(help="A size, e.g. 5GB; by default the limit.")] = None,
) -> None:
    """Delete what was used longest ago until the cache is no larger than its limit."""
    from autotune import cache

    _tell_deleted(cache.trim(cache.size(to) if to else cache.limit()))


@cache_app.command()
def clear(yes: Yes = False) -> None:
    """Delete all decoded pixels and banks. Nothing is lost but the time to compute them again."""
    from autotune import cache

    if yes or _agreed(f"Delete all decoded pixels and banks in {cache.status()['folder']}?", "cache clear --yes"):
        _tell_deleted(cache.clear())


def _tell_deleted(gone: list[Any]) -> None:
    from autotune.text import file_size

    typer.echo(f"Deleted {file_size(sum(one.n_bytes for one in gone))}.")


@studies_app.callback()
def studies(context: typer.Context, as_json: Json = False) -> None:
    """List the studies in ./studies, the one last worked on first."""
    if context.invoked_subcommand:
        return
    from autotune import shelf, views
    from autotune.console import PlainConsole

    found = shelf.studies()
    if as_json:
        print_json(found)
    else:
        views.show_studies(found, PlainConsole())


@studies_app.command()
def rm(study: StudyName, yes: Yes = False) -> None:
    """Remove a study: trials, checkpoints, reports. Its study.toml and your pictures stay."""
    from autotune import shelf

    found = shelf.opened(study)
    if yes or _agreed(f"Remove {shelf.in_words(found)}?", f"studies rm {study} --yes"):
        typer.echo(f"Removed {shelf.remove(study)}.")


def _agreed(question: str, beforehand: str) -> bool:
    """Ask. Raises ConfigError where nobody can answer."""
    if not sys.stdin.isatty():
        raise ConfigError("Nobody is there to be asked.", f"Say it beforehand: autotune {beforehand}")
    return typer.confirm(question)
