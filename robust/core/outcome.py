"""What a run asked (RunSpec) and what the engine itself measured (one row per sample and attack).

Aggregates are never stored: `robust.reports.summary` derives every figure from these rows.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

SCHEMA_VERSION = 1
DIAGNOSIS_VERSION = 1  # of the facts that the probes of a diagnosis keep

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides the outcomes of an attack run; two runs with equal specs agree.

    model       path, kind, sha256, architecture, class names, … of the file that was attacked;
                where it has defenses or answers at random: these `defenses`, the `draws` that
                attackers average gradients over, and whether how to attack it was `guessed`
    data        source, split, fingerprint, number of samples, shape, range
    threat      norm, eps, low, high
    attacks     one {"name", "label", "params", "access", …} per attack, in cascade order; on models
                with defenses `adaptive` says whether it sees through them
    targeted    None, or the rule that chose the targets: next, random, least-likely, a class index
    every       each attack on every sample (True) or on what survived the former ones (False)
    shuffle     the order of samples, and so what `limit` takes, is drawn at random from the seed
    curve       the further eps, as multiples of the threat's, at which accuracy is measured too
    surrogates  what stood in for the model while attacks searched, each as `model`; [] where none
    search      "auto": attacks search on a copy of the model, prepared for that, wherever it is
                faster; "exact": on the model itself, as every run before there was a choice;
                "compiled": on a copy by torch.compile
    access      the most that attacks may see of the model: gradient, scores or labels. With less
                than gradient the model is an oracle, which counts and remembers
    queries     at most so many questions about a sample, those of the engine itself included, over
                all attacks together (with `every`: for each attack); None: what the attacks say
    draws       answers of an oracle that make one; more than 1 where it answers at random
    checks      how often each candidate is checked: 1, or more where the model is random; where
                it is no oracle, the clean samples too are asked about so often
    """

    model: dict[str, Any]
    data: dict[str, Any]
    threat: dict[str, Any]
    attacks: list[dict[str, Any]]
    batch_size: int
    limit: int | None = None
    targeted: str | None = None
    every: bool = False
    shuffle: bool = False
    curve: list[float] = field(default_factory=list)
    seed: int = 0
    device: str = "cpu"
    surrogates: list[dict[str, Any]] = field(default_factory=list)
    search: str = "exact"
    access: str = "gradient"
    queries: int | None = None
    draws: int = 1
    checks: int = 1

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Self:
        return cls(**record)

    @property
    def hash(self) -> str:
        """Hex digest that a resumed run must share; paths may change, the bytes there may not."""
        record = self.to_dict()
        for part, path in (("model", "path"), ("data", "source")):
            record[part] = {k: v for k, v in record[part].items() if k != path}
        for name, default in _OLD.items():  # so that those runs keep their hash
            if record[name] == default:
                del record[name]
        surrogates = record.pop("surrogates")
        if surrogates:  # a run without has the hash that it had before there were any
            record["surrogates"] = [
                {k: v for k, v in one.items() if k != "path"} for one in surrogates
            ]
        text = json.dumps(record, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


# What every run asked before there was a choice.
_OLD = {"search": "exact", "access": "gradient", "queries": None, "draws": 1, "checks": 1}


@dataclass
class AttackRows:
    """One attack on the samples of one shard that it was given; every array has length k.

    rows            int64, position of the sample within its shard
    success         bool, measured again on the original model: inside ball and box, goal reached
    prediction      int64, class predicted for the candidate (success or not)
    confidence      softmax probability of that class
    distance        float64, ‖x_adv − x‖ in the threat's norm
    margin          goal margin of the candidate (> 0: reached)
    survives_8bit   int64: 1 yes, 0 no, −1 not asked (no success, or no image)
    forwards, backwards, queries    int64, what the search spent on the sample
    refused         int64: 0, or why a candidate was thrown out (see REFUSALS)
    x_adv           float32 (number of successes, …), the successes in the order of `rows`
    seconds         wall time of the search on this shard (the one figure that is not reproducible)
    stages          the search's own stages, if it names any: one name a line, in order
    entered         bool (k, number of stages): which of them the sample came into
    remarks         what the search said of samples, if anything: one text a line
    remarked        bool (k, number of remarks): whether that is said of the sample
    fooled          float64 (k,): in which share of RunSpec.checks the goal was reached; success
                    wants half of them
    trial           float64 (k,), of a random model that is no oracle: the same for as many other
                    draws, by which the worst candidate of a sample is chosen (`Shard.withstood`);
                    a sample is attacked until one fools in all. Empty for others
    trace_rows, trace_queries, trace_distance   of attacks on an oracle, how far each sample had
                    come: int64 place among the k, int64 queries spent by then, float64 distance of
                    its nearest success from then on; in the order of the search, (m,) each
    """

    label: str
    rows: Ints
    success: Bools
    prediction: Ints
    confidence: Floats
    distance: Floats
    margin: Floats
    survives_8bit: Ints
    forwards: Ints
    backwards: Ints
    queries: Ints
    refused: Ints
    x_adv: Pixels
    seconds: float
    stages: str = ""
    entered: Bools = field(default_factory=lambda: np.zeros((0, 0), dtype=np.bool_))
    remarks: str = ""
    remarked: Bools = field(default_factory=lambda: np.zeros((0, 0), dtype=np.bool_))
    fooled: Floats = field(default_factory=lambda: np.zeros(0))
    trial: Floats = field(default_factory=lambda: np.zeros(0))
    trace_rows: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    trace_queries: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    trace_distance: Floats = field(default_factory=lambda: np.zeros(0))


@dataclass
class Fit:
    """What an attack crafted once, before the first shard, and then applied to every sample.

    number      the attack's place in the cascade
    tensor      float32, what it crafted
    samples     how many samples it was crafted on
    held_out    whether these are others than those attacked
    forwards, backwards, queries, seconds    what the crafting took in all
    """

    number: int
    tensor: Pixels
    samples: int
    held_out: bool
    forwards: int
    backwards: int
    queries: int
    seconds: float


REFUSALS = ("", "not finite", "outside the ball", "outside the box")


@dataclass
class Shard:
    """One batch of samples, whole: the unit of work, of storage and of determinism.

    ids             int64 (n,), stable position of the sample in its data set
    labels          int64 (n,)
    targets         int64 (n,), −1 where untargeted
    prediction      int64 (n,), on the clean sample; `confidence` its softmax probability
    margin          (n,), goal margin on the clean sample
    attackable      bool (n,): predicted correctly, and not of its target class already
    broken_at       float64 (n,): smallest eps tested at which some attack succeeded; 0 where the
                    clean sample is misclassified already, inf where none did
    x               float32 (m, …), the clean samples for which some attack has an x_adv,
                    `kept` int64 (m,) their positions
    seconds         wall time of the whole shard
    asked           answers that an oracle gave for this shard, those to the engine itself included;
                    0 where the model is none
    repeated        answers that needed no question, for the same had been asked before
    not_finite      answers with NaN, which reach no goal
    right           float64 (n,), of a random model that is no oracle: the share of RunSpec.checks
                    in which the clean sample is classified correctly; `prediction` is the vote of
                    all draws. Empty for others
    trial           the same for as many other draws, as of AttackRows
    """

    index: int
    ids: Ints
    labels: Ints
    targets: Ints
    prediction: Ints
    confidence: Floats
    margin: Floats
    attackable: Bools
    broken_at: Floats
    kept: Ints
    x: Pixels
    seconds: float = 0.0
    asked: int = 0
    repeated: int = 0
    not_finite: int = 0
    right: Floats = field(default_factory=lambda: np.zeros(0))
    trial: Floats = field(default_factory=lambda: np.zeros(0))
    attacks: list[AttackRows] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def random(self) -> bool:
        """Whether a model that answers at random was asked, which is no oracle."""
        return len(self.right) > 0

    def withstood(self, attacks: Iterable[AttackRows]) -> Floats:
        """For each sample what these attacks leave: 1 where it is right and none breaks it, else 0.

        Of a random model the share of draws that its worst point does not fool: that candidate, or
        the clean sample, which is wrong most often in the draws of `trial`. What that comes to is
        told by others, for a share that won a comparison flatters the winner. A target that is
        reached is another thing than a wrong class: there the clean sample must be right and, in
        another draw, the candidate not of the target class.
        """
        correct = self.prediction == self.labels
        aimed = self.targets >= 0
        left = self.right.copy() if self.random else correct.astype(np.float64)
        wrong = np.where(aimed, 0.0, 1 - self.trial) if self.random else ~correct
        for rows in attacks:
            fooled = rows.trial if self.random else rows.success
            worse = fooled > wrong[rows.rows]
            at = rows.rows[worse]
            wrong[at] = fooled[worse]
            kept = 1 - rows.fooled[worse] if self.random else 0.0
            left[at] = np.where(aimed[at], self.right[at] * kept, kept) if self.random else 0.0
        return left
