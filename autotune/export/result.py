"""Result: the files of an export and their measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autotune.errors import BundleError
from autotune.export.verify import VerifiedFile
from autotune.training.calibration import AnsweredCount


@dataclass(frozen=True)
class FittedCalibration:
    """The parameters fitted on validation. threshold: 0 for none; answered: counts by part, empty without threshold."""

    temperature: float
    threshold: float
    answered: Mapping[str, AnsweredCount]


@dataclass(frozen=True)
class ExportResult:
    """A written bundle. right: correct predictions of the trained network on validation. files: one per format,
    including rejected ones, which are not in the bundle.
    """

    study: str
    trial: int
    folder: Path
    refit: bool
    right: int
    calibration: FittedCalibration
    files: tuple[VerifiedFile, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the object that --json prints and the record contains."""
        return {
            "study": self.study,
            "trial": self.trial,
            "folder": str(self.folder),
            "refit": self.refit,
            "right": self.right,
            **asdict(self.calibration),
            "table": [asdict(file) for file in self.files],
        }

    def rejection(self) -> BundleError | None:
        """Return the error for rejected files, which are not in the bundle; None if every file is verified."""
        rejected = [f"{file.file} was rejected: {file.verdict}" for file in self.files if not file.is_verified]
        if not rejected:
            return None
        return BundleError(
            f"{'; '.join(rejected)}.",
            f"The other files are in {self.folder}. For this format, export another trial: --trial N",
        )
