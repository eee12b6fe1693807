"""Backbones: what marks one, where they are looked for, and how one becomes a chain of stages."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.errors import PluginError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

from autotune.backbones.spec import Backbone, Traits, checked_traits

ENTRY_POINTS = "autotune.backbones"


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin file that is left out, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class Registry:
    backbones: tuple[Backbone, ...]
    broken: tuple[BrokenPlugin, ...]

    def find(self, name: str) -> Backbone:
        """The backbone of that name; `timm:resnet26` finds the plugin `timm` and asks its file of `resnet26`.

        Raises PluginError where there is none.
        """
        head, _, variant = name.partition(":")
        for entry in self.backbones:
            if entry.name == head and bool(variant) == entry.takes_variant:
                return replace(entry, name=name, traits=_varied(entry, name, variant) if variant else entry.traits)
        for entry in self.backbones:
            if entry.name == head:
                wanted = f"{head}:VARIANT" if entry.takes_variant else head
                raise PluginError(f"There is no backbone {name!r}.", f"This one is written {wanted!r}.")
        for broken in self.broken:
            if Path(broken.file).stem == head:
                raise PluginError(f"Backbone {name!r} does not load: {broken.reason}", f"Mend {broken.file}.")
        raise PluginError(f"There is no backbone {name!r}.", did_you_mean(head, (b.name for b in self.backbones)))


def discover(folders: Sequence[Path] = ()) -> Registry:
    """Every backbone there is: bundled, of installed packages, and of the folders named by the user.

    Raises PluginError where two share a name.
    """
    found: dict[str, Backbone] = {}
    broken: list[BrokenPlugin] = []
    for file in (*_bundled(), *_installed(), *_in_folders(folders)):
        try:
            entries = _read(file)
        except (SyntaxError, ValueError, PluginError) as error:
            reason = error.problem if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
            broken.append(BrokenPlugin(str(file), reason))
            continue
        for entry in entries:
            if entry.name in found and found[entry.name].file != entry.file:
                raise PluginError(
                    f"Two plugins are named {entry.name!r}: {found[entry.name].file} and {entry.file}.",
                    "Rename the function in one of them.",
                )
            found[entry.name] = entry
    return Registry(tuple(found.values()), tuple(broken))


def build_stages(entry: Backbone, pretrained: bool) -> nn.Sequential:
    """Import the backbone's file and run its function.

    Raises PluginError where that fails, or where what it returns is no chain of stages with parameters.
    """
    from torch import nn

    variant = entry.name.partition(":")[2]
    try:
        function = getattr(_imported(entry.file), entry.function)
        chain = function(pretrained, variant) if entry.takes_variant else function(pretrained)
    except Exception as error:
        raise PluginError(
            f"Backbone {entry.name!r} does not load: {type(error).__name__}: {error}", f"Mend {entry.file}."
        ) from error
    if not isinstance(chain, nn.Sequential) or not len(chain):
        raise PluginError(
            f"Backbone {entry.name!r} returns {type(chain).__name__}, not an nn.Sequential of stages.",
            f"Mend {entry.file}.",
        )
    for number, stage in enumerate(chain):
        if not any(True for _ in stage.parameters()):
            raise PluginError(
                f"Stage {number} of backbone {entry.name!r} has no parameters.",
                f"Join it to its neighbour in {entry.file}: pooling belongs to the last stage.",
            )
    return chain


def _bundled() -> Iterable[Path]:
    spec = importlib.util.find_spec("autotune_plugins")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        yield from _files(Path(place))


def _installed() -> Iterable[Path]:
    """The files that the entry points name, found without importing the packages they are in."""
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        top, *inner = point.module.split(".")
        spec = importlib.util.find_spec(top)
        if spec is None:
            continue
        if not inner and spec.origin:
            yield Path(spec.origin)
        for place in spec.submodule_search_locations or ():
            file = Path(place, *inner).with_suffix(".py")
            if inner and file.is_file():
                yield file


def _in_folders(folders: Sequence[Path]) -> Iterable[Path]:
    for folder in folders:
        if not folder.is_dir():
            raise PluginError(
                f"There is no plugin folder {folder}.", "Name a folder that holds .py files: --plugins DIR"
            )
        yield from _files(folder.resolve())


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.py") if not file.name.startswith("_"))


def _read(file: Path) -> list[Backbone]:
    """The backbones in one file, from its text alone."""
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    sentence = (ast.get_docstring(tree) or "").partition("\n")[0].strip()
    entries = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and (call := _marked(node)):
            traits = checked_traits({keyword.arg or "**": _literal(keyword, file) for keyword in call.keywords})
            own = (ast.get_docstring(node) or "").partition("\n")[0].strip()  # one of a family says what it is
            entries.append(Backbone(node.name, own or sentence, str(file), node.name, len(node.args.args) > 1, traits))
    if not entries:
        raise PluginError(f"No function in {file.name} is marked @backbone(...).", "")
    return entries


def _marked(node: ast.FunctionDef) -> ast.Call | None:
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call):
            name = decorator.func
            if getattr(name, "id", getattr(name, "attr", "")) == "backbone":
                return decorator
    return None


def _literal(keyword: ast.keyword, file: Path) -> Any:
    try:
        return ast.literal_eval(keyword.value)
    except ValueError as error:
        raise PluginError(f"{keyword.arg}= in {file.name} is not a literal value.", "") from error


def _varied(entry: Backbone, name: str, variant: str) -> Traits:
    """A variant's traits: where its file has a function `traits`, that says what differs; its ValueError refuses."""
    try:
        ask = getattr(_imported(entry.file), "traits", None)
    except Exception as error:  # whatever the plugin's code raises
        raise PluginError(f"Backbone {name!r} does not load: {error!r}", f"Mend {entry.file}.") from error
    if ask is None:
        return entry.traits
    try:
        told = dict(ask(variant))
    except ValueError as error:
        problem, fix = error.args if len(error.args) == 2 else (str(error), "Look at what follows the colon.")
        raise PluginError(f"There is no backbone {name!r}: {problem}", fix) from error
    except Exception as error:  # whatever the plugin's code raises
        raise PluginError(f"Backbone {name!r} does not load: {error!r}", f"Mend {entry.file}.") from error
    return checked_traits({**asdict(entry.traits), **told})


def _imported(file: str) -> Any:
    """A plugin's module, imported once a process under a name of its own."""
    name = f"autotune_plugin_{Path(file).stem}_{abs(hash(file)):x}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
