"""Discovery of backbones, and building their chains of stages. Discovery reads plugin files without running them."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.backbones.spec import Backbone, Traits, checked_traits
from autotune.errors import PluginError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

ENTRY_POINTS = "autotune.backbones"


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin file that is skipped, with the reason."""

    file: str
    reason: str


@dataclass(frozen=True)
class Registry:
    """The discovered backbones, and the plugin files that could not be read."""

    backbones: tuple[Backbone, ...]
    broken: tuple[BrokenPlugin, ...]

    def find(self, name: str) -> Backbone:
        """Return a backbone by name. The traits of `timm:resnet26` come from the function `traits` in the plugin.

        Raises PluginError if there is no such backbone.
        """
        head, _, variant = name.partition(":")
        for entry in self.backbones:
            if entry.name != head:
                continue
            if bool(variant) != entry.takes_variant:
                wanted = f"{head}:VARIANT" if entry.takes_variant else head
                raise PluginError(f"No backbone named {name!r}.", f"Write it as {wanted!r}.")
            return replace(entry, name=name, traits=_variant_traits(entry, name, variant)) if variant else entry
        for broken in self.broken:
            if Path(broken.file).stem == head:
                raise PluginError(f"Backbone {name!r} does not load: {broken.reason}", f"Fix {broken.file}.")
        raise PluginError(f"No backbone named {name!r}.", did_you_mean(head, (b.name for b in self.backbones)))


def discover(folders: Sequence[Path] = ()) -> Registry:
    """Find all backbones: bundled, in installed packages, and in the given folders.

    Raises PluginError if two have the same name or a folder does not exist.
    """
    found: dict[str, Backbone] = {}
    broken: list[BrokenPlugin] = []
    for file in (*_bundled(), *_installed(), *_in_folders(folders)):
        try:
            entries = _backbones_in(file)
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


def backbone_of(function: Callable[..., Any]) -> Backbone:
    """Return the backbone that a function decorated with `@backbone(...)` defines, parsed from its file.

    Raises PluginError if the function is not decorated, or not at the top level of a file.
    """
    name = function.__name__
    if not hasattr(function, "__autotune__"):
        raise PluginError(f"Function {name!r} has no decorator @backbone(...).", "See docs/backbones.md.")
    file = inspect.getsourcefile(function)
    if function.__qualname__ != name or not file or not Path(file).is_file():
        raise PluginError(
            f"Backbone {name!r} is not at the top level of a file.", "Move it there; it is imported by file and name."
        )
    return Registry(tuple(_backbones_in(Path(file))), ()).find(name)


def build_stages(entry: Backbone, pretrained: bool) -> nn.Sequential:
    """Import the backbone's file and call its function.

    Raises PluginError if that fails, or if it does not return a chain of stages with parameters.
    """
    variant = entry.name.partition(":")[2]
    try:
        function = getattr(_import_plugin(entry.file), entry.function)
        chain = function(pretrained, variant) if entry.takes_variant else function(pretrained)
    except (Exception, SystemExit) as error:  # plugins can raise any exception
        raise _load_error(entry.name, entry.file, error) from error
    return _checked_chain(entry, chain)


def _load_error(name: str, file: str, error: BaseException) -> PluginError:
    return PluginError(f"Backbone {name!r} does not load: {type(error).__name__}: {error}", f"Fix {file}.")


def _checked_chain(entry: Backbone, chain: Any) -> nn.Sequential:
    from torch import nn

    if not isinstance(chain, nn.Sequential) or not len(chain):
        raise PluginError(
            f"Backbone {entry.name!r} returns {type(chain).__name__}, not an nn.Sequential of stages.",
            f"Fix {entry.file}.",
        )
    for number, stage in enumerate(chain):
        if not any(True for _ in stage.parameters()):
            raise PluginError(
                f"Stage {number} of backbone {entry.name!r} has no parameters.",
                f"Merge it with an adjacent stage in {entry.file}; pooling belongs to the last stage.",
            )
    return chain


def _bundled() -> Iterable[Path]:
    spec = importlib.util.find_spec("autotune_plugins")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        yield from _files(Path(place))


def _installed() -> Iterable[Path]:
    """Yield the files named by entry points, without importing their packages."""
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
                f"Plugin folder {folder} does not exist.", "Name a folder of .py files with --plugins DIR."
            )
        yield from _files(folder.resolve())


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.py") if not file.name.startswith("_"))


def _backbones_in(file: Path) -> list[Backbone]:
    """Return the backbones in one file, by parsing its text."""
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    entries = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and (call := _decorator(node)):
            traits = checked_traits({keyword.arg or "**": _literal_value(keyword, file) for keyword in call.keywords})
            description = _docstring_line(node) or _docstring_line(tree)  # a file may contain a family
            entries.append(Backbone(node.name, description, str(file), node.name, len(node.args.args) > 1, traits))
    if not entries:
        raise PluginError(f"No function in {file.name} has the decorator @backbone(...).", "")
    return entries


def _docstring_line(node: ast.Module | ast.FunctionDef) -> str:
    return (ast.get_docstring(node) or "").partition("\n")[0].strip()


def _decorator(node: ast.FunctionDef) -> ast.Call | None:
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call):
            name = decorator.func
            if getattr(name, "id", getattr(name, "attr", "")) == "backbone":
                return decorator
    return None


def _literal_value(keyword: ast.keyword, file: Path) -> Any:
    try:
        return ast.literal_eval(keyword.value)
    except ValueError as error:
        raise PluginError(f"{keyword.arg}= in {file.name} is not a literal value.", "") from error


def _variant_traits(entry: Backbone, name: str, variant: str) -> Traits:
    """Return the traits of a variant: the backbone's, updated by the file's function `traits` if there is one.

    That function raises ValueError(problem, fix) if there is no such variant.
    """
    try:
        traits_of = getattr(_import_plugin(entry.file), "traits", None)
    except (Exception, SystemExit) as error:  # plugins can raise any exception
        raise _load_error(name, entry.file, error) from error
    if traits_of is None:
        return entry.traits
    try:
        stated = dict(traits_of(variant))
    except ValueError as error:
        problem, fix = error.args if len(error.args) == 2 else (str(error), "Check the name after the colon.")
        raise PluginError(f"No backbone named {name!r}: {problem}", fix) from error
    except (Exception, SystemExit) as error:  # plugins can raise any exception
        raise _load_error(name, entry.file, error) from error
    return checked_traits({**asdict(entry.traits), **stated})


def _import_plugin(file: str) -> Any:
    """Return a plugin's module, imported once per process, and again after the file was edited, as in a notebook."""
    version = file, Path(file).stat().st_mtime_ns
    name = f"autotune_plugin_{Path(file).stem}_{abs(hash(version)):x}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:  # also Ctrl-C: a module that is half there must be loaded again
            del sys.modules[name]
            raise
    return sys.modules[name]
