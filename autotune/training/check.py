"""Checks that every backbone must pass, bundled or not."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autotune.backbones.profile import profile_stages
from autotune.backbones.registry import backbone_of, build_stages, discover
from autotune.backbones.spec import Backbone
from autotune.backbones.weights import WeightsSource, find_weights, load_stages
from autotune.cache.features import FrozenPrefix
from autotune.data.augment import Invariances
from autotune.errors import AutotuneError, PluginError
from autotune.training.network import TrialNetwork, assemble_network
from autotune.training.params import Params

N_CLASSES = 3


@dataclass(frozen=True)
class CheckResult:
    """One check of a backbone. problem, fix: why it fails, and how to correct that; both None if it passes."""

    requirement: str
    problem: str | None = None
    fix: str | None = None

    @property
    def passed(self) -> bool:
        return self.problem is None


def check_backbone(
    plugin: str | Callable[..., Any],
    *,
    plugins: Sequence[Path | str] = (),
    weights: Path | str | None = None,
    callback: Callable[[CheckResult], None] | None = None,
) -> list[CheckResult]:
    """Check a backbone, like `autotune plugins check`.

    plugin: its name as on the command line, or the function marked `@backbone(...)`, which is read from its file.
    plugins: folders to search for the name, in addition to the bundled and installed backbones. weights: a folder of
    NAME.safetensors or NAME.pth. callback: called with each result as soon as it is available.

    Raises PluginError for an unknown backbone, or with all problems if a check fails.
    """
    if isinstance(plugin, str):
        entry = discover([Path(folder) for folder in plugins]).find(plugin)
    else:
        entry = backbone_of(plugin)
    results = []
    for result in run_checks(entry, find_weights(entry, Path(weights) if weights else None)):
        results.append(result)
        if callback:
            callback(result)
    if failed := [result for result in results if not result.passed]:
        raise _check_error(entry, failed)
    return results


def run_checks(entry: Backbone, weights: WeightsSource) -> Iterator[CheckResult]:
    """Run the checks in order. Stops if the stages do not load or return no features: the later checks need both."""
    loads = "loads as a chain of stages, each with parameters"
    try:
        chain = build_stages(entry, pretrained=False)
    except PluginError as error:
        yield CheckResult(loads, error.problem, error.fix)
        return
    yield CheckResult(loads)
    features = _attempt("returns a feature vector (N, F)", lambda: _check_features(entry, chain))
    yield features
    if not features.passed:
        return
    for requirement, check in (
        ("features do not depend on the other pictures of a batch", _check_independence),
        ("every depth freezes and trains the expected parameters", _check_depths),
        ("training and evaluation mode differ only in dropout", _check_modes),
        ("gradients reach every stage", _check_gradients),
    ):
        yield _attempt(requirement, partial(check, entry, chain))
    if weights.installed and not entry.traits.from_scratch:
        yield _attempt(f"weights load ({weights.reason})", lambda: _check_weights(entry, weights))


def _attempt(requirement: str, check: Callable[[], str | None]) -> CheckResult:
    try:
        return CheckResult(requirement, check())
    except AutotuneError as error:
        return CheckResult(requirement, error.problem, error.fix)
    except Exception as error:  # plugin code can raise anything
        return CheckResult(requirement, f"{type(error).__name__}: {error}")


def _check_error(entry: Backbone, failed: Sequence[CheckResult]) -> PluginError:
    """All problems in one error. The backbone is named once, and no fix is repeated."""
    problem = " ".join(str(result.problem) for result in failed)
    if repr(entry.name) not in problem:
        problem = f"Backbone {entry.name!r} fails its check: {problem}"
    return PluginError(problem, " ".join(dict.fromkeys(result.fix or f"Fix {entry.file}." for result in failed)))


def _check_features(entry: Backbone, chain: nn.Sequential) -> str | None:
    profile_stages(entry, chain, entry.traits.pixels)
    return None


@torch.no_grad()
def _check_independence(entry: Backbone, chain: nn.Sequential) -> str | None:
    """The feature cache stores features independently of the batch that they are computed in."""
    chain.eval()
    x = _random_pixels(entry)
    if torch.allclose(chain(x)[:1], chain(x[:1]), rtol=1e-3, atol=1e-4):
        return None
    return "In evaluation mode, the features of a single picture differ from those in a batch."


def _check_depths(entry: Backbone, chain: nn.Sequential) -> str | None:
    bare = copy.deepcopy(chain).to("meta")  # tensors without values, which are copied at no cost
    features = _n_features(entry, chain)
    for depth in range(len(chain) + 1):
        net = _network(entry, bare, depth, features)
        trainable = sum(p.requires_grad for p in net.entry.prefix.parameters())
        frozen = sum(not p.requires_grad for p in net.trained())
        if trainable or frozen:
            return f"At depth {depth}, {trainable} frozen parameters are trainable and {frozen} unfrozen ones are not."
    return None


def _check_modes(entry: Backbone, chain: nn.Sequential) -> str | None:
    """With frozen BatchNorm statistics, only random layers may differ between the modes."""
    net = _network(entry, chain, len(chain), _n_features(entry, chain))
    for module in net.modules():
        if _is_random(module):
            module.p = 0.0  # type: ignore[assignment]
            if hasattr(module, "drop_prob"):
                module.drop_prob = 0.0  # type: ignore[assignment]
    x = [_random_pixels(entry)]
    with torch.no_grad():
        trained, evaluated = net.train()(x), net.eval()(x)
    if torch.allclose(trained, evaluated, rtol=1e-3, atol=1e-4):
        return None
    return "Its stages compute other features in training mode, apart from BatchNorm and dropout."


def _check_gradients(entry: Backbone, chain: nn.Sequential) -> str | None:
    net = _network(entry, chain, len(chain), _n_features(entry, chain)).eval()
    net([_random_pixels(entry)]).square().sum().backward()  # type: ignore[no-untyped-call]
    for number, stage in enumerate(net.tail):
        if all(p.grad is None or not p.grad.any() for p in stage.parameters()):
            return f"No gradient reaches stage {number}."
    return None


def _check_weights(entry: Backbone, weights: WeightsSource) -> str | None:
    load_stages(entry, weights)
    return None


def _n_features(entry: Backbone, chain: nn.Sequential) -> int:
    return entry.traits.features or profile_stages(entry, chain, entry.traits.pixels).features


def _network(entry: Backbone, chain: nn.Sequential, depth: int, features: int) -> TrialNetwork:
    params = Params(
        entry.name, depth, entry.traits.pixels, 1e-4, 1e-3, "one-cycle", 0.0, 0.0, "adamw", 2, 0.0, 0.0, 0.0
    )
    prefix = FrozenPrefix(chain[: len(chain) - depth], entry.traits, Invariances())
    return assemble_network(chain, prefix, params, N_CLASSES, features, 0, False)


def _random_pixels(entry: Backbone) -> torch.Tensor:
    """Return two random pictures (2, 3, P, P) with the statistics of normalised pixels."""
    return torch.randn(2, 3, entry.traits.pixels, entry.traits.pixels, generator=torch.Generator().manual_seed(0))


def _is_random(module: nn.Module) -> bool:
    return "drop" in type(module).__name__.lower() or type(module).__name__ == "StochasticDepth"
