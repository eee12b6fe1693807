"""The files in a study's `checkpoints/`: what probes and trials leave, and what later trials start from."""

from __future__ import annotations

from pathlib import Path

from autotune.errors import StudyError
from autotune.files import write_whole
from autotune.training.context import TrialContext
from autotune.training.params import Params
from autotune.training.trial import probe_file_name

CHECKPOINTS = "checkpoints"


class Checkpoints:
    """One study's checkpoints. What is kept is on the disk when the method returns. Raises StudyError."""

    def __init__(self, folder: Path, context: TrialContext) -> None:
        self._folder = folder / CHECKPOINTS
        self._context = context

    def keep_probe(self, backbone: str, pixels: int, head: bytes) -> None:
        self._keep(probe_file_name(backbone, pixels), head)

    def keep_trial(self, number: int, checkpoint: bytes) -> str:
        """Returns the file's path in the study's folder."""
        return self._keep(f"trial-{number:04d}.safetensors", checkpoint)

    def needed_by(self, number: int, params: Params) -> dict[str, bytes]:
        """The content of the files that a trial starts from, by name. Raises StudyError where one is gone."""
        if not self._context.starts_from_probe(params):
            return {}
        head = self._folder / probe_file_name(params.backbone, params.pixels)
        if not head.is_file():
            raise StudyError(f"{head}, which trial {number} starts from, is gone.", "Put it back, or search anew.")
        return {head.name: head.read_bytes()}

    def _keep(self, name: str, content: bytes) -> str:
        file = self._folder / name
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, content, durable=True)
        except OSError as error:
            raise StudyError(
                f"{file} cannot be written: {error.strerror}.", "Free some disk space; the same command goes on."
            ) from error
        return f"{CHECKPOINTS}/{name}"
