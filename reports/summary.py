"""Rows → figures, pure: a Report holds no figure that was not derived from the stored outcomes."""

import math
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np

from robust.core.outcome import DIAGNOSIS_VERSION, SCHEMA_VERSION, Bools, Floats, Ints, Shard
from robust.core.threat import COUNTS

from . import (
    cascade,
    checks,
    classes,
    defended,
    distances,
    margins,
    notes,
    oracle,
    record,
    statistics,
    survival,
    text,
    transfer,
)
from .checks import Check, Verdict
from .gallery import Example
from .rates import Interval, rate, ratio, wilson
from .rows import Columns, Tally, Whole, consume


class Report:
    """What an attack run found.

    run      the record of run.json: schema_version, spec, status, argv, created, versions; seconds,
             where it has them, else the sum over the shards; fits, what is known of the things that
             attacks crafted for all samples; diagnosis, what the probes have found;
             damage, file → why of those that cannot be read, filled in while shards are
    shards   its shards; read one at a time, of which small columns and at most 24 examples stay

    Besides the figures it has `run` and `spec` (its RunSpec as a dict), `seconds` of the whole run,
    and `gallery`, a few broken samples with their adversarial examples.

    Accuracies are fractions in [0, 1], and NaN (null in JSON) where nothing was measured.
    Raises ValueError for a record of another schema version or another kind.
    """

    def __init__(self, run: dict[str, Any], shards: Iterable[Shard]) -> None:
        if run.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
            raise ValueError(
                f"run.json has schema version {run['schema_version']}, this is {SCHEMA_VERSION}"
            )
        if run.get("kind", "attack") != "attack":
            raise ValueError(f"a Report is made of an attack run, not of a {run['kind']} run")
        self.run = run
        self.spec: dict[str, Any] = run["spec"]
        self.columns: Columns
        self.tallies: list[Tally]
        self._whole: Whole
        self.columns, self.tallies, gallery, self._whole = consume(shards, self.spec)
        self.seconds: float = run.get("seconds") or self._whole.seconds
        self.gallery: list[Example] = list(gallery)

    def __repr__(self) -> str:
        return (
            f"Report(robust_accuracy={self.robust_accuracy:.4g}, "
            f"clean_accuracy={self.clean_accuracy:.4g}, n={self.n}, "
            f"threat={self.threat['norm']} eps={text.eps(self.eps)}, attacks={len(self.attacks)})"
        )

    # What was asked

    @property
    def threat(self) -> dict[str, Any]:
        """norm, eps, low, high."""
        threat: dict[str, Any] = self.spec["threat"]
        return threat

    @property
    def eps(self) -> float:
        """Radius of the threat, in the units of the data."""
        return float(self.threat["eps"])

    @property
    def targeted(self) -> str | None:
        """The rule that chose the targets; None where any wrong class counts."""
        return self.spec.get("targeted")

    @property
    def every(self) -> bool:
        """Whether each attack ran on every sample, or on what survived the former ones."""
        return bool(self.spec.get("every"))

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes; "0", "1", … where neither model nor data name them."""
        c = self.columns
        seen = max(int(a.max(initial=-1)) for a in (c.labels, c.prediction, c.adv_prediction))
        given = self.spec["model"].get("classes") or self.spec["data"].get("classes") or []
        return [*map(str, given), *map(str, range(len(given), seen + 1))]

    # How far it came

    @property
    def n(self) -> int:
        """Number of samples measured."""
        return len(self.columns.labels)

    @property
    def n_expected(self) -> int | None:
        """Number of samples the run was to measure; None where the record does not say."""
        sizes = [self.spec["data"].get("n"), self.spec.get("limit")]
        known = [int(size) for size in sizes if size is not None]
        return min(known) if known else None

    @property
    def complete(self) -> bool:
        """Whether every sample was measured."""
        return self.n_expected is None or self.n >= self.n_expected

    @property
    def damaged(self) -> list[dict[str, str]]:
        """Files of the run that could not be read, {file, why}: what they held is left out."""
        damage: dict[str, str] = self.run.get("damage") or {}
        return [{"file": file, "why": why} for file, why in sorted(damage.items())]

    # Accuracies

    @cached_property
    def radius(self) -> Floats:
        """Smallest eps known to break each sample: 0 misclassified already, inf never broken."""
        c = self.columns
        radius = np.where(c.first >= 0, np.minimum(c.broken_at, self.eps), c.broken_at)
        return np.where(c.correct, radius, 0.0)

    def _withstand(self, eps: float) -> Bools:
        withstand: Bools = self.radius > eps * (1 + 1e-9)
        return withstand

    @cached_property
    def withstood(self) -> Floats:
        """Sample by sample, in the order of `columns.ids`: 1 robust, 0 not; of a random model the
        share of draws that its worst point does not fool.
        """
        return self.columns.left if self.random else self._withstand(self.eps).astype(np.float64)

    @property
    def _right(self) -> float:
        """How many samples are predicted correctly, in the mean over draws if random."""
        return float(self.columns.right.sum())

    @property
    def _left(self) -> float:
        """How many are robust: not more, as other draws may tell, than are right."""
        return min(float(self.withstood.sum()), self._right)

    @property
    def clean_accuracy(self) -> float:
        """Fraction of samples predicted correctly unaltered."""
        return rate(self._right, self.n)

    @property
    def clean_accuracy_ci(self) -> Interval:
        """95 % Wilson interval of the clean accuracy."""
        return wilson(self._right, self.n)

    @property
    def robust_accuracy(self) -> float:
        """Fraction predicted correctly and broken by no attack; NaN where no attack ran."""
        return rate(self._left, self.n if self.tallies else 0)

    @property
    def robust_accuracy_ci(self) -> Interval:
        """95 % Wilson interval of the robust accuracy."""
        return wilson(self._left, self.n if self.tallies else 0)

    @property
    def _alone(self) -> float | None:
        """How many samples the naive attacks leave; None where there was no such question."""
        if not defended.viewed(self.spec, adaptive=False):
            return None
        return min(max(float(self.columns.naive.sum()), self._left), self._right)

    @property
    def naive_accuracy(self) -> float | None:
        """What those attacks alone leave that take a defended model for a plain one; None where the
        model has no defenses, or no such attack ran.
        """
        return None if self._alone is None else rate(self._alone, self.n)

    @property
    def naive_accuracy_ci(self) -> Interval | None:
        """95 % Wilson interval of the naive accuracy."""
        return None if self._alone is None else wilson(self._alone, self.n)

    @property
    def false_security(self) -> float | None:
        """Naive less robust accuracy: what only attackers who do not look through defenses see;
        None where not both were measured.
        """
        if self.naive_accuracy is None or not defended.viewed(self.spec, adaptive=True):
            return None
        return self.naive_accuracy - self.robust_accuracy

    @property
    def false_security_ci(self) -> Interval | None:
        """95 % interval of that difference, whose two figures are of the same samples."""
        if self.false_security is None:
            return None
        low, high = statistics.paired(self.columns.naive, self.withstood).interval
        return max(0.0, low), high

    @property
    def false_security_words(self) -> str:
        """The same as a sentence; "" where it was not measured."""
        return defended.words(self)

    @property
    def defenses(self) -> list[dict[str, Any]]:
        """One dict per defense, in the order in which a sample meets them: name, params, label,
        family, paper, claims, broken_by.
        """
        return list(self.run.get("defenses") or self.spec["model"].get("defenses") or [])

    @property
    def random(self) -> bool:
        """Whether the model, which is no oracle, answers at random: every figure is then a mean
        over `checks` draws of each answer.
        """
        gradient = self.spec.get("access", "gradient") == "gradient"
        return bool(gradient and self.spec.get("checks", 1) > 1)

    @cached_property
    def counts(self) -> dict[str, int]:
        """The samples in three parts: robust, broken, misclassified (unaltered); of a random model
        in the mean over its draws, rounded.
        """
        robust, correct = round(self._left), round(self._right)
        return {"robust": robust, "broken": correct - robust, "misclassified": self.n - correct}

    @cached_property
    def curve(self) -> list[tuple[float, float]]:
        """(eps, accuracy) at 0 and every eps tested: an upper bound, for it only counts finds."""
        if self.random:
            ends = [(self.eps, self.robust_accuracy)] if self.tallies else []
            return [(0.0, self.clean_accuracy), *ends]
        tested = {0.0}
        if self.tallies:
            tested |= {self.eps, *(self.eps * m for m in self.spec.get("curve") or [])}
        if any(attack.get("measures") for attack in self.spec["attacks"]):
            # Distances were measured: the curve can be read at any eps.
            more = {self.eps * k / 8 for k in range(1, 17)}
            tested |= {round(eps) for eps in more} if self.threat["norm"] in COUNTS else more
        return [(eps, rate(int(self._withstand(eps).sum()), self.n)) for eps in sorted(tested)]

    def curve_ci(self, accuracy: float) -> Interval:
        """95 % Wilson interval of an accuracy on the curve."""
        k = accuracy * self.n
        return wilson(k if self.random else round(k), self.n)

    @cached_property
    def attacks(self) -> list[dict[str, Any]]:
        """One dict per attack, in the order they ran.

        robust_accuracy is what this attack and those before it left; with `every`, what this attack
        alone left. Figures that end in _ci are 95 % intervals of those of that name, by Wilson for
        rates and by bootstrap for quantiles. success_rate is over the samples it was given,
        queries_mean, queries_median and queries_p90 over its successes, up to the first one inside
        eps where that is known; each is None where there are none. adaptive says whether it sees
        through defenses, where there are any; fooled, of a random model, is the share of draws in
        which its candidates fool the model, over the samples it was given: a success there fools in
        half of them. success_by_queries and distance_by_queries (see `queries.Economy`) are None
        for attacks whose answers nobody followed, the latter, and distance_median, also where they
        look for no smallest distance (`minimal` of the spec); a sample without any counts as
        infinitely far. fooled_mean is over the successes that were checked again. `crafting` is
        what an attack spent once for all samples: contained in its sums, in no figure per sample.
        `stages` are the attack's own, with the samples that came into each and those that it broke;
        `remarks` what it says of so many samples.
        """
        return cascade.rows(self)

    @cached_property
    def oracle(self) -> dict[str, Any]:
        """What the model was asked in all (see `oracle.record`); empty where it is no oracle."""
        searched = sum(attack["queries"] for attack in self.attacks)
        return oracle.record(self.run, self._whole, searched, self.seconds)

    @property
    def priced(self) -> str:
        """What its answers cost, in words; "" where that is not known."""
        return oracle.priced(self.oracle)

    @cached_property
    def per_class(self) -> list[dict[str, Any]]:
        """One dict per class that occurs: class, n, clean and robust accuracy with intervals."""
        return classes.rows(self)

    @cached_property
    def macro(self) -> dict[str, Any] | None:
        """Accuracies in the mean over classes (see `classes.macro`)."""
        return classes.macro(self)

    @cached_property
    def worst_class(self) -> dict[str, Any] | None:
        """The class of lowest robust accuracy (see `classes.worst`)."""
        return classes.worst(self)

    @cached_property
    def survival(self) -> list[dict[str, Any]]:
        """What each attack found first, alone, and left (see `survival.rows`)."""
        return survival.rows(self)

    @cached_property
    def distances(self) -> dict[str, Any] | None:
        """The smallest distances, where an attack looks for them (see `distances.of`)."""
        return distances.of(self)

    @cached_property
    def margins(self) -> dict[str, Any] | None:
        """How far right answers are ahead, before and after (see `margins.of`)."""
        return margins.of(self)

    @cached_property
    def transfer(self) -> dict[str, Any] | None:
        """Which models' examples fool which (see `transfer.of`); None where there was but one."""
        return transfer.of(self)

    @property
    def samples_needed(self) -> int | None:
        """How many samples the 95 % interval of the robust accuracy takes to be ± 1 point."""
        if math.isnan(self.robust_accuracy):
            return None
        return statistics.samples_needed(self.robust_accuracy)

    @cached_property
    def confusion(self) -> Ints:
        """Counts (true class, class predicted) of the broken samples' first adversarial example."""
        c, k = self.columns, len(self.classes)
        broken = c.correct & (c.first >= 0)
        matrix = np.zeros((k, k), dtype=np.int64)
        np.add.at(matrix, (c.labels[broken], c.adv_prediction[broken]), 1)
        return matrix

    @property
    def _saved(self) -> Ints:
        """Of the broken samples that were asked: 1 if the first example survives 8 bits."""
        asked: Ints = self.columns.survives_8bit[self.columns.correct & (self.columns.first >= 0)]
        return asked[asked >= 0]

    @property
    def survives_8bit(self) -> float | None:
        """Fraction of the broken samples whose first example survives rounding to 8 bits."""
        return ratio(int(self._saved.sum()), len(self._saved))

    @property
    def survives_8bit_ci(self) -> Interval:
        """95 % Wilson interval of that fraction."""
        return wilson(int(self._saved.sum()), len(self._saved))

    # Whether to believe it

    @property
    def diagnosis(self) -> dict[str, dict[str, Any]]:
        """What each probe has found, by its name; {} where the run was not diagnosed, or by another
        version, whose facts say other things.
        """
        found = dict(self.run.get("diagnosis") or {})
        ours = DIAGNOSIS_VERSION
        return {name: facts for name, facts in found.items() if facts.get("version", ours) == ours}

    @cached_property
    def checks(self) -> list[Check]:
        """Every check of the run, with its figure and what that means."""
        return checks.of(self)

    @cached_property
    def verdict(self) -> Verdict | None:
        """Whether the robust accuracy can be trusted; None where nothing was checked."""
        return checks.judge(self, self.checks)

    # What a reader must know besides

    @cached_property
    def notes(self) -> list[str]:
        """Honest remarks: what the figures leave out, or rest on."""
        return [*notes.coverage(self), *defended.notes(self), *notes.of(self)]

    # The record

    def to_json(self) -> dict[str, Any]:
        """report.json: JSON types alone, null for what was not measured."""
        return record.of(self)
