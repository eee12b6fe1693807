"""The rows of a record, as the other packages use them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from autotune.data.folder import SkippedFile
from autotune.data.visits import Visits
from autotune.formats.cost import DeviceProfile
from autotune.training.params import Params, describe

COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"
STATES = (COMPLETE, PRUNED, FAILED)

Cuts = Mapping[tuple[str, int], tuple[int, ...]]


@dataclass(frozen=True)
class BackboneFacts:
    """A backbone with the sizes and depths that a study uses. label: the display name.

    digest: of its pretrained weights and structure; "" if it trains from scratch.
    """

    name: str
    label: str
    stages: int
    from_scratch: bool
    pixels: tuple[int, ...]
    depths: tuple[int, ...]
    digest: str

    def describe(self, params: Params) -> str:
        """Describe the hyperparameters of a trial of this backbone in one line."""
        return describe(params, self.label, self.stages, self.from_scratch)


@dataclass(frozen=True)
class Running:
    """The latest run of a study. since: its start, ISO 8601. asked: trials in total. doing: its current work.

    ends: when it is estimated to end, in seconds since the epoch; None: not known yet.
    """

    process: int
    host: str
    since: str
    asked: int
    doing: str
    ends: float | None = None


@dataclass(frozen=True)
class StudyFacts:
    """What a study uses and its progress; empty before its first trial. source: the DATA argument of the search, ""
    for the built-in sample; None in records of earlier versions. root: the folder of the pictures. pictures: counts by
    part. split: the identity of the split. definition: Settings as plain values. epochs: the maximum per
    trial. cuts: the cached cuts, by backbone and size. seconds: by kind of work, over all runs. visits: how pictures
    are grouped. run: the latest one, which may have ended. look_alikes: by class, the digests of pictures that look
    like one scene, if most of the class do. costs: of its networks on a device, if they were measured.
    """

    root: str = ""
    source: str | None = None
    classes: tuple[str, ...] = ()
    pictures: Mapping[str, int] = field(default_factory=dict)
    skipped: tuple[SkippedFile, ...] = ()
    split: str = ""
    device: str | None = None
    definition: Mapping[str, Any] | None = None
    epochs: int = 0
    cuts: Cuts = field(default_factory=dict)
    backbones: Mapping[str, BackboneFacts] | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    first_trials_queued: bool = False
    visits: Visits = field(default_factory=Visits)
    run: Running | None = None
    look_alikes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    after: str | None = None
    earlier_choices: tuple[Params, ...] = ()
    costs: DeviceProfile | None = None

    @property
    def has_started(self) -> bool:
        """Whether trials may have started. Until then, the pictures and settings may change."""
        return self.backbones is not None

    @property
    def data(self) -> str:
        """The DATA argument of the search, ready to be used again; "" for the built-in sample."""
        return self.root if self.source is None else self.source  # records of earlier versions have only the root

    @property
    def settings(self) -> Mapping[str, Any]:
        """The definition of a study that has started."""
        assert self.definition is not None
        return self.definition

    def backbone(self, name: str) -> BackboneFacts:
        """Return a backbone of a study that has started."""
        assert self.backbones is not None
        return self.backbones[name]


@dataclass(frozen=True)
class TrialRow:
    """A finished trial. state: COMPLETE, PRUNED or FAILED. ended: why. checkpoint: a path in the study folder.

    value: the metric on validation, in [0, 1]; log_loss: mean cross-entropy, in nats; both of the best epoch, and None
    if the trial failed. seconds: in total, of which cache_seconds for the feature cache. n_parts: of a batch, computed
    one after another; more than 1 if the memory was not enough for a whole batch.
    """

    number: int
    state: str
    params: Params
    ended: str
    finished: str
    value: float | None = None
    log_loss: float | None = None
    best_epoch: int | None = None
    epochs: int | None = None
    trained_parameters: int | None = None
    checkpoint: str | None = None
    seconds: float | None = None
    cache_seconds: float | None = None
    error: str | None = None
    trace: str | None = None
    n_parts: int = 1

    @property
    def name(self) -> str:
        """The number, or `recipe`."""
        return "recipe" if self.params.is_recipe else str(self.number)

    @property
    def title(self) -> str:
        """The name in a sentence."""
        return f"trial {self.number}" + (", the recipe" if self.params.is_recipe else "")

    @property
    def rank(self) -> tuple[int, float, float, int, int]:
        """Sort key, the winner first: complete before pruned before failed, then by metric, then by lower
        cross-entropy, then by fewer trained parameters, then by number.
        """
        measured = -(self.value or 0.0), self.log_loss or 0.0, self.trained_parameters or 0
        return STATES.index(self.state), *measured, self.number


@dataclass(frozen=True)
class FoldRow:
    """A trial trained again on the pool without one fold. state: COMPLETE or FAILED. n: pictures held out.

    value, log_loss: on the pictures held out. logits, checkpoint: paths in the study folder. fold: WHOLE_POOL if
    nothing is held out. n_parts: as in TrialRow.
    """

    trial: int
    fold: int
    state: str
    n: int = 0
    value: float | None = None
    log_loss: float | None = None
    epochs: int | None = None
    logits: str | None = None
    checkpoint: str | None = None
    seconds: float | None = None
    cache_seconds: float | None = None
    error: str | None = None
    n_parts: int = 1


@dataclass(frozen=True)
class FoldScore:
    """The score of a finalist on one fold. n: pictures held out."""

    fold: int
    n: int
    value: float


@dataclass(frozen=True)
class Finalist:
    """A finalist. mean: the metric over all pictures of the folds that the finalists of its round share, with its 95 %
    interval. behind: the 95 % interval of the winner's lead over it on the same pictures; None for the winner.
    is_reference: whether it loses only to a finalist that is clearly better.
    """

    trial: int
    folds: tuple[FoldScore, ...]
    mean: float
    interval: tuple[float, float]
    behind: tuple[float, float] | None
    won: bool
    is_reference: bool

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Finalist:
        behind = plain["behind"]
        return cls(
            trial=plain["trial"],
            folds=tuple(FoldScore(**one) for one in plain["folds"]),
            mean=plain["mean"],
            interval=tuple(plain["interval"]),
            behind=tuple(behind) if behind else None,
            won=plain["won"],
            is_reference=plain.get("is_reference", False),  # not recorded by earlier versions
        )


SOUP, REFIT, TRIAL = "soup", "refit", "trial"


@dataclass(frozen=True)
class Final:
    """The final model. trial: whose hyperparameters it has. setting: SOUP, REFIT or TRIAL, as asked for; how: as made.

    folds: of the soup's networks; has_whole: whether one of the whole pool is in it, too. checkpoint: a path in the
    study folder. n, value, log_loss: of the networks of the folds, on the pictures held out from them; temperature:
    fitted on the same; None without folds. divergence, changed: as in SoupOutcome. reason: why the model was made in
    this way. is_complete: False if the time limit ended the finals. passed_over: numbers of trials that were better
    than a finalist on the validation set, but too expensive to train again. is_duel: whether the best trial was too
    expensive for more than one fold, and was compared on that.
    """

    trial: int
    setting: str
    how: str
    checkpoint: str
    folds: tuple[int, ...] = ()
    has_whole: bool = False
    n: int = 0
    value: float | None = None
    log_loss: float | None = None
    temperature: float | None = None
    divergence: float | None = None
    changed: float | None = None
    finalists: tuple[Finalist, ...] = ()
    reason: str = ""
    is_complete: bool = True
    passed_over: tuple[int, ...] = ()
    is_duel: bool = False

    @property
    def close(self) -> tuple[int, ...]:
        """Finalists with a better score than the winner, but with too small a lead to win against the reference."""
        if not self.finalists:
            return ()
        first = self.finalists[0]
        full = (one for one in self.finalists if len(one.folds) == len(first.folds))
        return tuple(one.trial for one in full if one.mean > first.mean)

    @property
    def network(self) -> tuple[str, tuple[int, ...], bool]:
        """What identifies the network within a study: a soup of more networks is another one."""
        return self.checkpoint, self.folds if self.how == SOUP else (), self.has_whole

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Final:
        finalists = tuple(Finalist.from_json(one) for one in plain["finalists"])
        return cls(**{**plain, "folds": tuple(plain["folds"]), "finalists": finalists,
                      "passed_over": tuple(plain.get("passed_over", ()))})  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))  # lists for tuples
        return plain


@dataclass(frozen=True)
class ProbeRow:
    """A linear probe. value: the metric on validation. seconds: of the fit.

    log_loss: the cross-validated one, which ranks backbones; None in a study of an earlier version. by_picture,
    by_visit: the metric, cross-validated on folds of pictures and of visits; None where visits are not known.
    """

    backbone: str
    pixels: int
    value: float
    seconds: float
    cache_seconds: float
    log_loss: float | None
    by_picture: float | None = None
    by_visit: float | None = None


@dataclass(frozen=True)
class ExportRow:
    """One exported bundle. facts: the JSON object that the export printed. final: the number of the final model; None:
    the trial's own network.
    """

    id: int
    trial: int
    folder: str
    finished: str
    facts: Mapping[str, Any]
    final: int | None = None
