"""The contract of a backbone: what every plugin is tried on, the bundled ones and a newcomer's alike."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from autotune.backbones.profile import profile_stages
from autotune.backbones.registry import build_stages
from autotune.backbones.spec import Backbone
from autotune.backbones.weights import WeightsSource, load_stages
from autotune.cache.features import FrozenPrefix
from autotune.data.augment import Invariances
from autotune.errors import AutotuneError
from autotune.training.network import Schedule, TrialNetwork, assemble_network
from autotune.training.params import Params

CLASSES = 3


@dataclass(frozen=True)
class CheckResult:
    """One thing that was tried. problem: None where it holds."""

    tried: str
    problem: str | None


def check_backbone(entry: Backbone, found: WeightsSource) -> list[CheckResult]:
    """Try a backbone: shapes, what each depth trains, train against evaluation mode, gradients; weights if at hand."""
    findings: list[CheckResult] = []

    def attempt(tried: str, test: Callable[[], str | None]) -> bool:
        try:
            problem = test()
        except AutotuneError as error:
            problem = f"{error.problem} {error.fix}"
        except Exception as error:  # whatever the plugin's code raises
            problem = f"{type(error).__name__}: {error}"
        findings.append(CheckResult(tried, problem))
        return problem is None

    if not attempt("it loads: a chain of stages, each with parameters", lambda: _loads(entry)):
        return findings
    chain = build_stages(entry, pretrained=False)
    if not attempt("it gives a feature vector (N, F)", lambda: _gives_features(entry, chain)):
        return findings
    attempt("a picture's features do not depend on its neighbours", lambda: _is_per_picture(entry, chain))
    attempt("every depth freezes and trains what it should", lambda: _depths(entry, chain))
    attempt("train and evaluation mode differ by dropout alone", lambda: _modes(entry, chain))
    attempt("gradients reach every stage", lambda: _gradients(entry, chain))
    if found.at_hand and not entry.traits.from_scratch:
        attempt(f"its weights ({found.reason}) fit", lambda: _weights(entry, found))
    return findings


def _loads(entry: Backbone) -> str | None:
    build_stages(entry, pretrained=False)
    return None


def _gives_features(entry: Backbone, chain: nn.Sequential) -> str | None:
    profile_stages(entry, chain, entry.traits.pixels)
    return None


@torch.no_grad()
def _is_per_picture(entry: Backbone, chain: nn.Sequential) -> str | None:
    chain.eval()
    x = _pictures(entry)
    if torch.allclose(chain(x)[:1], chain(x[:1]), rtol=1e-3, atol=1e-4):
        return None
    return "In evaluation mode, a picture alone gives other features than in a batch."


def _depths(entry: Backbone, chain: nn.Sequential) -> str | None:
    bare = copy.deepcopy(chain).to("meta")  # its tensors without their values: copied for each depth at no cost
    features = _n_features(entry, chain)
    for depth in range(len(chain) + 1):
        net = _network(entry, bare, depth, features)
        frozen = [p for p in net.entry.parameters() if p.requires_grad]
        still = [p for p in net.trained() if not p.requires_grad]
        if frozen or still:
            return (
                f"At depth {depth}, {len(frozen)} frozen parameters would train and {len(still)} would not that should."
            )
    return None


def _modes(entry: Backbone, chain: nn.Sequential) -> str | None:
    """With BatchNorm's statistics frozen, only random layers may make a difference."""
    net = _network(entry, chain, len(chain), _n_features(entry, chain))
    for module in net.modules():
        if _is_random(module):
            module.p = 0.0  # type: ignore[assignment]
            if hasattr(module, "drop_prob"):
                module.drop_prob = 0.0  # type: ignore[assignment]
    x = [torch.rand(2, 3, entry.traits.pixels, entry.traits.pixels)]
    with torch.no_grad():
        trained, evaluated = net.train()(x), net.eval()(x)
    if torch.allclose(trained, evaluated, rtol=1e-3, atol=1e-4):
        return None
    return "Its stages compute something else in train mode, beside BatchNorm and dropout."


def _gradients(entry: Backbone, chain: nn.Sequential) -> str | None:
    net = _network(entry, chain, len(chain), _n_features(entry, chain)).eval()
    net([torch.rand(2, 3, entry.traits.pixels, entry.traits.pixels)]).square().sum().backward()  # type: ignore[no-untyped-call]
    for number, stage in enumerate(net.tail):
        if all(p.grad is None or not p.grad.any() for p in stage.parameters()):
            return f"No gradient reaches stage {number}."
    return None


def _weights(entry: Backbone, found: WeightsSource) -> str | None:
    load_stages(entry, found)
    return None


def _n_features(entry: Backbone, chain: nn.Sequential) -> int:
    return entry.traits.features or profile_stages(entry, chain, entry.traits.pixels).features


def _network(entry: Backbone, chain: nn.Sequential, depth: int, features: int) -> TrialNetwork:
    params = Params(
        entry.name, depth, entry.traits.pixels, 1e-4, 1e-3, "one-cycle", 0.0, 0.0, "adamw", 2, 0.0, 0.0, 0.0
    )
    front = FrozenPrefix(
        copy.deepcopy(chain[: len(chain) - depth]), entry.traits, Invariances()
    )  # the tail is copied anyway
    return assemble_network(chain, front, params, CLASSES, features, Schedule(1, 1, 1), [0, 1, 2], 0, False)


def _pictures(entry: Backbone) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 3, entry.traits.pixels, entry.traits.pixels)


def _is_random(module: nn.Module) -> bool:
    return "drop" in type(module).__name__.lower() or type(module).__name__ == "StochasticDepth"
