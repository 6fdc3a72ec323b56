"""What a training run asks for: TrainSpec, its checks, and its schedules."""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any, Self

from robust.core.defense import Defense
from robust.core.errors import RobustError
from robust.core.threat import Threat
from robust.data import DataSpec
from robust.registry import parse_attack

from .adv import describe_attack, make_attack, parse_adv
from .augment import parse_augment
from .label_sets import refuse
from .trainer import Named, choose_trainer, make_defenses

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("one-cycle", "piecewise", "constant")
PRECISIONS = ("fp32", "bf16", "fp16")
CLASS_WEIGHTS = ("none", "balanced")
UNIONS = ("max", "average")
# Options that came after runs were stored: see `TrainSpec.identity`.
_LATER = (
    *("defenses", "awp", "also", "union", "nesterov", "label_smoothing", "grad_clip", "ema", "swa"),
    *("guard", "extra", "extra_fraction", "augment"),
)


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """Everything that decides the weights; on a CPU, two runs with equal specs agree bit for bit.

    data            DataSpec of what is trained on: the train split, where the source has one. Its
                    `multi_label` decides that the run is about sets of labels
    validation      DataSpec of separate validation data; None: `val_fraction` of `data` is held out
    test            DataSpec that `robust attack` takes by default; None: the source's test split,
                    where it has one, else the validation data
    arch            a name of robust.models.architectures(), or "file.py:factory"
    adv             the inner attack, {"name", "params"}; see `parse_adv`. "none": natural training
    mix             share of each batch that is adversarial
    defenses        {"name", "params"} of defenses around the network, in the order in which a
                    sample meets them; one that trains in a way of its own does so
    awp             relative length of the perturbation of the weights that they are trained
                    against; 0: none
    also            threats besides {"norm", "eps", "low", "high"}, of which `union` "max" trains
                    each sample on the worst, "average" on all
    threat          {"norm", "eps", "low", "high"}
    epochs          passes over the training data
    batch_size      at most; an epoch is cut into batches of nearly equal size
    optimizer       "sgd" (with `momentum`), "adam" or "adamw", with `weight_decay`
    nesterov        Nesterov's momentum
    lr              the highest learning rate of the schedule: see `lr_at`
    eps_scale       train on this multiple of the threat's eps; measured is the threat itself. A
                    margin of a quarter gave 2 to 3 points of robust accuracy on digits
    eps_warmup      epochs (fractions allowed) in which eps grows linearly from 0
    precision       "fp32", or "bf16" or "fp16": autocast
    init            file whose weights to start from; its normalisation holds where it has one,
                    unless `normalise` gives another
    freeze          fnmatch patterns of the names of parameters that keep their values
    class_weights   "balanced": the loss of a sample weighs n / (classes · n of its class)
    label_smoothing share of the probability that all classes get alike
    grad_clip       longest gradient, in the Euclidean norm over all parameters; 0: any
    ema             decay of an exponential moving average of the weights, see `averaging`; 0: none
    swa             the mean of the weights at the ends of this many last epochs; 0: none. A mean
                    takes the place of the weights in all that is measured, kept and written
    guard           roll back and go on with a stronger attack where the weights have overfitted to
                    a weak one, see `guard`
    extra           DataSpec of samples besides, which make up `extra_fraction` of each batch
    augment         "crop", "flip", "cutout", "mixup", see `augment`
    patience        stop after so many epochs, warm-up not counted, without a better one by
                    validation robust accuracy (accuracy, in natural training); 0: never
    val_attack      {"name", "params"} of the attack that measures validation robust accuracy
    val_limit       validation samples to measure, a seeded choice
    normalise       "auto": mean and std per channel of the training data; "none"; or
                    {"mean": […], "std": […]}
    fingerprints    content hashes of data, validation and init, filled in when the run starts
    """

    data: dict[str, Any] = field(default_factory=lambda: DataSpec("digits").to_dict())
    validation: dict[str, Any] | None = None
    val_fraction: float = 0.1
    test: dict[str, Any] | None = None
    arch: str = "small-cnn"
    adv: dict[str, Any] = field(default_factory=lambda: parse_adv("pgd"))
    mix: float = 1.0
    defenses: list[dict[str, Any]] = field(default_factory=list)
    awp: float = 0.0
    also: list[dict[str, Any]] = field(default_factory=list)
    union: str = "max"
    threat: dict[str, Any] = field(default_factory=lambda: dataclasses.asdict(Threat("linf", 0.1)))
    epochs: int = 30
    batch_size: int = 64
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 2e-3
    schedule: str = "one-cycle"
    eps_scale: float = 1.25
    eps_warmup: float = 0.0
    precision: str = "fp32"
    init: str | None = None
    freeze: list[str] = field(default_factory=list)
    class_weights: str = "none"
    label_smoothing: float = 0.0
    grad_clip: float = 0.0
    ema: float = 0.0
    swa: int = 0
    guard: bool = True
    extra: dict[str, Any] | None = None
    extra_fraction: float = 0.5
    augment: list[str] = field(default_factory=list)
    patience: int = 0
    val_attack: dict[str, Any] = field(
        default_factory=lambda: describe_attack(parse_attack("pgd,steps=10"))
    )
    val_limit: int = 1000
    normalise: str | dict[str, list[float]] = "auto"
    seed: int = 0
    device: str = "cpu"
    fingerprints: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The fields, JSON-able."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Self:
        """The reverse of to_dict. RobustError for fields that this version does not know."""
        unknown = sorted(set(record) - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise RobustError(f"unknown fields in the record of a training: {', '.join(unknown)}")
        return cls(**record)

    @property
    def hash(self) -> str:
        """Hex digest that a resumed run must share. Paths may change, the content there may not."""
        record = self.identity()
        text = json.dumps(record, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def identity(self) -> dict[str, Any]:
        """to_dict without the paths of what `fingerprints` describes, and without options that
        came later and are not used: runs from before they were there have the same."""
        plain = type(self)().to_dict()
        record = {
            k: v
            for k, v in self.to_dict().items()
            if k not in ("init", "test") and not (k in _LATER and v == plain[k])
        }
        for part in ("data", "validation", "extra"):
            if record.get(part) is not None:
                record[part] = {k: v for k, v in record[part].items() if k != "source"}
        return record

    def check(self) -> None:
        """Raise RobustError for values that cannot be meant, before any data are read."""
        for name, choices in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
            ("class_weights", CLASS_WEIGHTS),
            ("union", UNIONS),
        ):
            if getattr(self, name) not in choices:
                raise RobustError(
                    f"{_flag(name)} is one of {', '.join(choices)}, not {getattr(self, name)!r}"
                )
        for name, least in (
            *(("epochs", 1), ("batch_size", 1), ("val_limit", 1), ("patience", 0), ("swa", 0)),
        ):
            if getattr(self, name) < least:
                raise RobustError(f"{_flag(name)} must be at least {least}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise RobustError(f"--lr must be a number above 0, not {self.lr:g}")
        for name in ("momentum", "ema", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise RobustError(
                    f"{_flag(name)} is a number from 0 up to 1, not {getattr(self, name):g}"
                )
        if not 0 < self.extra_fraction < 1:
            raise RobustError(
                f"--extra-fraction is a number between 0 and 1, not {self.extra_fraction:g}"
            )
        for name in ("weight_decay", "grad_clip", "awp"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise RobustError(f"{_flag(name)} must be at least 0, not {value:g}")
        if self.nesterov and not (self.optimizer == "sgd" and self.momentum > 0):
            raise RobustError("--nesterov is a kind of momentum of sgd")
        if self.ema and self.swa:
            raise RobustError("--ema and --swa are two averages of the weights: give one")
        if self.swa > self.epochs:
            raise RobustError(f"--swa {self.swa} is more than the {self.epochs} epochs of the run")
        if not (math.isfinite(self.eps_scale) and self.eps_scale > 0):
            raise RobustError(f"--eps-scale must be a number above 0, not {self.eps_scale:g}")
        if not 0 <= self.eps_warmup <= self.epochs:
            raise RobustError(
                f"--eps-warmup is {self.eps_warmup:g} epochs, but the run has {self.epochs}: "
                "the full eps would never be trained on"
            )
        if isinstance(self.normalise, str) and self.normalise not in ("auto", "none"):
            raise RobustError(f"--normalise is auto, none or mean and std, not {self.normalise!r}")
        if self.freeze and self.init is None:
            raise RobustError("--freeze without --init would keep random weights: give a model")
        parse_augment(self.augment)
        self.defense()
        for name, defense in self.named():
            if defense.freezes and self.init is None:
                raise RobustError(
                    f"{name} learns before a network that keeps its weights: give it by --init"
                )
        make_attack(self.val_attack).check(Threat(**self.threat))
        sources = {"validation": self.validation, "extra": self.extra, "test": self.test}
        if self.multi_label:
            refuse(
                adv=self.adv,
                val_attack=self.val_attack,
                augment=self.augment,
                defenses=self.named(),
                data=sources,
            )
        elif any(record and record.get("multi_label") for record in sources.values()):
            raise RobustError("--data has one class per sample, but other data have sets of labels")

    @property
    def multi_label(self) -> bool:
        """Whether labels are sets, as `data` says."""
        return bool(self.data.get("multi_label"))

    def defense(self) -> Defense:
        """The defense that trains. RobustError where its attack does not answer the threat."""
        return choose_trainer(
            self.named(),
            self.adv,
            Threat(**self.threat),
            mix=self.mix,
            awp=self.awp,
            also=tuple(Threat(**threat) for threat in self.also),
            union=self.union,
        )

    def named(self) -> list[Named]:
        """Names and defenses of `defenses`. RobustError for what cannot be made."""
        return make_defenses(self.defenses)


def lr_at(spec: TrainSpec, progress: float) -> float:
    """The learning rate at `progress` (0 … 1) of the run.

    one-cycle   linear from lr/25 to lr in the first 30 %, then half a cosine to 0 (1708.07120, as
                torch's OneCycleLR does it, but for the end at 0)
    piecewise   lr, a tenth of it from one half on, a hundredth from three quarters on (2002.11569)
    constant    lr
    """
    if spec.schedule == "constant":
        return spec.lr
    if spec.schedule == "piecewise":
        return spec.lr * (1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01)
    if progress < 0.3:
        return spec.lr * (1 / 25 + (1 - 1 / 25) * progress / 0.3)
    return spec.lr * (1 + math.cos(math.pi * (progress - 0.3) / 0.7)) / 2


def eps_at(spec: TrainSpec, epoch: float) -> float:
    """The eps to train on after `epoch` epochs (a fraction counts), growing linearly to the end
    of the warm-up."""
    eps: float = spec.threat["eps"] * spec.eps_scale
    return eps * min(1.0, epoch / spec.eps_warmup) if spec.eps_warmup else eps


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
