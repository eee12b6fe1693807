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
class ForeignPictures:
    """What the bundle answers for pictures of none of its classes. by_distance, unknown: of n, refused for the distance
    and in all. auroc, auroc_probability: that a foreign picture is farther, or less probable, than a known one.
    """

    folder: str
    n: int
    by_distance: int
    unknown: int
    auroc: float
    auroc_probability: float


@dataclass(frozen=True)
class UnknownScore:
    """The limit of the distance. refused: of n known pictures held out. foreign: None if not measured."""

    n: int
    refused: int
    foreign: ForeignPictures | None = None


@dataclass(frozen=True)
class ExportResult:
    """A written bundle. how: the kind of its model, as in Final. right: correct predictions of the trained network on
    the validation pictures. unknown: None if the bundle measures no distance. files: one per format, including rejected
    ones, which are not in the bundle.
    """

    study: str
    trial: int
    how: str
    folder: Path
    right: int
    calibration: FittedCalibration
    unknown: UnknownScore | None
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
            "unknown": self.unknown and asdict(self.unknown),
            "table": [asdict(file) for file in self.files],
        }

    def rejection(self) -> BundleError | None:
        """Return the error for rejected files, which are not in the bundle; None if every file is verified."""
        rejected = [f"{file.file} was rejected: {file.verdict}" for file in self.files if file.is_rejected]
        if not rejected:
            return None
        return BundleError(
            f"{'; '.join(rejected)}.",
            f"The other files are in {self.folder} and predict as the network does. Export without this format.",
        )
