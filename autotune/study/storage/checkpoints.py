"""The checkpoints of a study: the heads of its probes and the networks of its trials and finals."""

from __future__ import annotations

from autotune.study.storage.files import StudyFiles
from autotune.training.context import TrialContext
from autotune.training.params import Params
from autotune.training.probe import probe_file_name

CHECKPOINTS = "checkpoints"


class Checkpoints:
    """The checkpoints of one study. A file is on disk when the method that saves it returns. Raises StudyError."""

    def __init__(self, files: StudyFiles, context: TrialContext) -> None:
        self.files = files
        self._context = context

    def keep_probe(self, backbone: str, pixels: int, head: bytes) -> None:
        self._keep(probe_file_name(backbone, pixels), head)

    def keep_trial(self, number: int, checkpoint: bytes) -> str:
        """Save a trial's checkpoint and return its path relative to the study folder."""
        return self._keep(f"trial-{number:04d}.safetensors", checkpoint)

    def keep_fold(self, number: int, fold: int, logits: bytes, checkpoint: bytes) -> tuple[str, str]:
        """Save the held-out logits and the network of a fold; return their paths relative to the study folder."""
        name = f"fold-{number:04d}-{'pool' if fold < 0 else fold}"
        return self._keep(f"{name}.logits.safetensors", logits), self._keep(f"{name}.safetensors", checkpoint)

    def keep_soup(self, number: int, checkpoint: bytes) -> str:
        """Save the average of a trial's networks and return its path relative to the study folder."""
        return self._keep(f"soup-{number:04d}.safetensors", checkpoint)

    def needed_by(self, params: Params) -> dict[str, bytes]:
        """Return the files that a trial starts from: content by name. Raises StudyError if one cannot be used."""
        return self.probe(params) if self._context.starts_from_probe(params) else {}

    def probe(self, params: Params) -> dict[str, bytes]:
        """Return the file of the probe of a trial's backbone and size, by name. Raises StudyError if it is unusable."""
        name = probe_file_name(params.backbone, params.pixels)
        return {name: self.files.content(f"{CHECKPOINTS}/{name}")}

    def _keep(self, name: str, content: bytes) -> str:
        return self.files.keep(f"{CHECKPOINTS}/{name}", content)
