"""Network of one trial: the frozen and the unfrozen stages of a backbone, and a head."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autotune.backbones.weights import load_stages
from autotune.cache.features import FrozenPrefix
from autotune.training.context import LoadedBackbones
from autotune.training.params import Params


class TrialNetwork(nn.Module):
    """Unfrozen stages, `tail`, and a head, on the output of the frozen stages, `entry`.

    frozen_statistics: in the tail, train BatchNorm's scale and shift but keep its running statistics, because small
    batches degrade them. n_frozen: stages at the start of the tail that a phase does not train; n_skipped: those of
    them whose output the input already is.
    """

    def __init__(
        self, entry: FrozenPrefix, tail: nn.Sequential, head: nn.Module, params: Params, frozen_statistics: bool
    ) -> None:
        super().__init__()
        self.entry = entry
        self.tail = tail
        self.head = nn.Sequential(nn.Dropout(params.dropout), head)
        self.params = params
        self.frozen_statistics = frozen_statistics
        self.n_frozen = 0
        self.n_skipped = 0
        self.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> TrialNetwork:
        super().train(mode)
        if self.frozen_statistics:
            for module in self.tail.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        self.tail[: self.n_frozen].eval()
        return self

    def forward(self, batch: Sequence[Tensor]) -> Tensor:
        """Return logits (N, C) of a batch in the form `FrozenPrefix` takes."""
        logits: Tensor = self.head(self.through_tail(self.entry(batch)))
        return logits

    def through_tail(self, x: Tensor) -> Tensor:
        """Return features (N, F) of what `entry` returns."""
        tail = self.tail[self.n_skipped :] if self.n_skipped else self.tail
        features: Tensor = tail(x)
        return features

    def trained(self) -> list[nn.Parameter]:
        """Return the parameters of tail and head that are trained."""
        return [*self.tail[self.n_frozen :].parameters(), *self.head.parameters()]

    def state(self) -> dict[str, Tensor]:
        """Return a copy of the trained tensors, tail and head, on their device."""
        return {
            name: value.detach().clone(memory_format=torch.contiguous_format)
            for name, value in self.state_dict().items()
            if name.startswith(("tail.", "head."))
        }


def build_network(backbones: LoadedBackbones, params: Params, seed: int, with_prefix: bool = True) -> TrialNetwork:
    """Build the untrained network of a trial. with_prefix: include the frozen stages; else it takes cached features."""
    context = backbones.context
    backbone, weights = context.backbones[params.backbone]
    from_scratch = backbone.traits.from_scratch
    seed_device(seed, torch.device("cpu"))
    chain = load_stages(backbone, weights).eval() if from_scratch else backbones.chain(params.backbone)
    entry = build_entry(backbones, params.backbone, len(chain) - params.depth if with_prefix else 0)
    features = backbones.profile(params.backbone, params.pixels).features
    return assemble_network(chain, entry, params, context.classes, features, seed, from_scratch)


def build_entry(backbones: LoadedBackbones, name: str, n_stages: int) -> FrozenPrefix:
    """Return the first stages of a backbone; 0 stages take cached features, or pixels if all are trained."""
    traits = backbones.context.backbones[name][0].traits
    return FrozenPrefix(backbones.frozen(name)[:n_stages], traits, backbones.context.invariances, backbones.device)


def assemble_network(chain: nn.Sequential, entry: FrozenPrefix, params: Params, n_classes: int, features: int,
                     seed: int, from_scratch: bool) -> TrialNetwork:  # fmt: skip
    """Assemble a network. Its tail is a copy of the last `depth` stages of the chain, which is not changed."""
    seed_device(seed, torch.device("cpu"))  # for the head
    tail = copy.deepcopy(chain[len(chain) - params.depth :]).requires_grad_(True)  # also if the plugin froze it
    return TrialNetwork(entry, tail, build_head(features, params.hidden, n_classes), params, not from_scratch)


def build_head(features: int, hidden: int, n_classes: int) -> nn.Module:
    """Return a head from features (N, F) to logits (N, C): linear, or with a hidden layer."""
    if not hidden:
        return nn.Linear(features, n_classes)
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, n_classes))


def seed_device(seed: int, device: torch.device) -> None:
    """Seed the generators of the CPU and the device. torch.manual_seed also queues a call per absent device."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
