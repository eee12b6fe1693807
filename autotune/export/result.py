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
    """The parameters of an export. fitted_on: "held-out", or "validation" without folds. threshold: 0 for none.
    answered: counts by kind of pictures, empty without a threshold.
    """

    fitted_on: str
    temperature: float
    threshold: float
    answered: Mapping[str, AnsweredCount]


@dataclass(frozen=True)
class ExportResult:
    """A written bundle. how: the kind of its model, as in Final. right: correct predictions of the trained network on
    the validation pictures. files: one per format, including rejected ones, which are not in the bundle.
    """

    study: str
    trial: int
    how: str
    folder: Path
    right: int
    calibration: FittedCalibration
    files: tuple[VerifiedFile, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the object that --json prints and the record contains."""
        return {
            "study": self.study,
            "trial": self.trial,
            "how": self.how,
            "folder": str(self.folder),
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
            f"The other files are in {self.folder} and predict as the network does. Export without this format.",
        )
