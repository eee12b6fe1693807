"""The checkpoints of a study: the heads of its probes and the networks of its trials."""

from __future__ import annotations

from pathlib import Path

from autotune.errors import StudyError
from autotune.files import write_whole
from autotune.training.context import TrialContext
from autotune.training.params import Params
from autotune.training.trial import probe_file_name

CHECKPOINTS = "checkpoints"


class Checkpoints:
    """The checkpoints of one study. A file is on disk when the method that saves it returns. Raises StudyError."""

    def __init__(self, folder: Path, context: TrialContext) -> None:
        self.study = folder
        self._folder = folder / CHECKPOINTS
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

    def content(self, path: str) -> bytes:
        """Return the content of a file by its path relative to the study folder. Raises StudyError if it is missing."""
        file = self.study / path
        if not file.is_file():
            raise StudyError(f"{file} is missing.", "Restore the file, or start another study: --study NEW")
        return file.read_bytes()

    def needed_by(self, number: int, params: Params) -> dict[str, bytes]:
        """Return the files that a trial starts from: content by name. Raises StudyError if one is missing."""
        if not self._context.starts_from_probe(params):
            return {}
        head = self._folder / probe_file_name(params.backbone, params.pixels)
        if not head.is_file():
            raise StudyError(
                f"{head} is missing; trial {number} starts from it.",
                "Restore the file, or start another study: --study NEW",
            )
        return {head.name: head.read_bytes()}

    def _keep(self, name: str, content: bytes) -> str:
        file = self._folder / name
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, content, durable=True)
        except OSError as error:
            raise StudyError(
                f"{file} cannot be written: {error.strerror}.",
                "Free some disk space, then run the same command again to resume.",
            ) from error
        return f"{CHECKPOINTS}/{name}"
