"""Result: what an export has written, and what was measured of it."""

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
    """What was fitted on validation. threshold: 0 where every picture is answered; answered: by part, else empty."""

    temperature: float
    threshold: float
    answered: Mapping[str, AnsweredCount]


@dataclass(frozen=True)
class ExportResult:
    """A written bundle. right: validation pictures that the trained network answers correctly. files: one a format,
    those included that were refused and are not in the bundle.
    """

    study: str
    trial: int
    folder: Path
    refit: bool
    right: int
    calibration: FittedCalibration
    files: tuple[VerifiedFile, ...]

    def to_json(self) -> dict[str, Any]:
        """The object that --json prints and the record keeps."""
        return {
            "study": self.study,
            "trial": self.trial,
            "folder": str(self.folder),
            "refit": self.refit,
            "right": self.right,
            **asdict(self.calibration),
            "table": [asdict(file) for file in self.files],
        }

    def refusal(self) -> BundleError | None:
        """The error for formats that are not in the bundle, because they were refused; None where all are."""
        refused = [f"{file.file}: {file.verdict}" for file in self.files if not file.is_verified]
        if not refused:
            return None
        return BundleError(
            f"Not handed over: {'; '.join(refused)}.",
            f"The rest of the bundle stands in {self.folder}. For this format export another trial: --trial N",
        )
