"""The commands `autotune cache`: show, trim or clear the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli.options import Json, Yes, confirmed, print_json

if TYPE_CHECKING:
    from autotune.cache.eviction import CacheEntry

cache_app = typer.Typer(help="Show, trim or clear decoded pixels and cached features.", invoke_without_command=True)


@cache_app.callback()
def cache(context: typer.Context, as_json: Json = False) -> None:
    """Show the content of the cache, most recently used first."""
    if context.invoked_subcommand:
        return
    from autotune.cache.eviction import cache_status
    from autotune.cli.live.console import PlainConsole
    from autotune.cli.views.results import show_cache

    found = cache_status()
    if as_json:
        print_json(found.to_json())
    else:
        show_cache(found, PlainConsole())


@cache_app.command()
def trim(
    to: Annotated[str | None, typer.Option(help="Target size, e.g. 5GB; default: the cache limit.")] = None,
) -> None:
    """Delete the least recently used entries until the cache fits its limit."""
    from autotune.cache import eviction

    _print_deleted(eviction.trim(eviction.parse_size(to) if to else eviction.limit()))


@cache_app.command()
def clear(yes: Yes = False) -> None:
    """Delete all decoded pixels and cached features. They are computed again when needed."""
    from autotune.cache import eviction
    from autotune.files import cache_folder

    if yes or confirmed(f"Delete all decoded pixels and cached features in {cache_folder()}?", "cache clear --yes"):
        _print_deleted(eviction.clear())


def _print_deleted(gone: list[CacheEntry]) -> None:
    from autotune.text import file_size

    typer.echo(f"Deleted {file_size(sum(one.n_bytes for one in gone))}.")
