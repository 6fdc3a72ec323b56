"""Probe: what the attacks of the run saw on their way, and how far they had come at the end."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robust import chance
from robust.core.attack import Attack
from robust.core.errors import RobustError
from robust.core.recorder import Recorder
from robust.diagnosis.subject import Subject, Trial
from robust.registry import label

# Answers at which a curve is kept: the first twenty, then fourteen for each order of magnitude.
_GRID = np.unique(
    np.concatenate([np.arange(1, 21), np.geomspace(20, 2e6, 71).round().astype(np.int64)])
)
_LAST = 0.1  # share of a sample's answers that is the end of its search
_LOST = ("silent", "transferred")
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


def probe(subject: Subject) -> dict[str, Any]:
    """Run the attacks with gradients once more, on what the former ones left, and follow them.

    Indicators of attack failure are those of Pintor et al., 2106.09947. Returns "silent_lost" and
    "transferred_lost", samples that are so for some attack and that the run counts as robust, and
    "attacks", a dict for each:

    attack, minimal     its label; whether it looks for the smallest perturbation
    given, broken       samples it was given, and broke
    silent              not broken, though an answer on the way was a success inside ball and box,
                        and is one on the model itself
    transferred         not broken, and what the search took for a success (on its copy, on what
                        defenses expose, on one draw or a mean) is none on the model itself
    unbroken            samples that reached nothing
    flat                of those, how many never came nearer than their first answer was
    last_rise           over the others, deciles of the share of the whole rise (of the best margin
                        so far; of a minimal attack, the best distance) that the last tenth of the
                        answers brought; [] where there are none. The paper takes a fixed number of
                        last steps and the loss itself, which stages of a search may change
    answers             the most that an unbroken sample was given
    tenths              of the broken, in which tenth of so many answers the first success came
    late                of the broken, those that took more than half as many
    curve               "of" margin or distance, "answers" and for each of them "quantiles" over the
                        samples, of the best so far

    Raises RobustError where attacks searched on surrogates.
    """
    if not subject.white_box:
        raise RobustError("the attacks searched on surrogates, where nothing counts as found")
    rows = torch.arange(len(subject), device=subject.x.device)
    found = []
    lost = {name: torch.zeros(len(subject), dtype=torch.bool) for name in _LOST}
    for attack in subject.attacks:
        if not len(rows):
            break
        seen = _Seen(subject, attack)
        # Batch by batch: of a long search a trace is larger than its samples.
        for number, part in enumerate(torch.split(rows, subject.spec.batch_size)):
            for trial in subject.search(attack, part, salt=f"traces {number}"):
                seen.add(trial)
        found.append(seen.facts())
        for name, places in seen.lost.items():
            lost[name][places] = True
        if not (subject.spec.every or subject.random):
            rows = rows[~torch.cat(seen.success)]
    robust = (subject.left > 0.5).cpu()
    counts = {f"{name}_lost": int((its & robust).sum()) for name, its in lost.items()}
    return {**counts, "attacks": found}


def envelope(recorder: Recorder, *, minimal: bool) -> Tensor:
    """The best that each sample had shown after its first, second, … answer: float64 (n, answers).

    Goal margins inside ball and box, or minus the distances of successes; −∞ before there is any.
    Behind a sample's last answer its best stays.
    """
    values = -recorder.distances if minimal else recorder.inside
    asked = ~recorder.margins.isnan()
    order = (~asked).to(torch.uint8).argsort(dim=1, stable=True)
    return values.nan_to_num(nan=-torch.inf).gather(1, order).cummax(1).values


@dataclass
class _Seen:
    """What the trials of one attack have shown, added up; a list has an entry for each batch."""

    subject: Subject
    attack: Attack
    success: list[Tensor] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    lost: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in _LOST})
    asked: list[Tensor] = field(default_factory=list)
    first: list[Tensor] = field(default_factory=list)
    rises: list[Tensor] = field(default_factory=list)
    curves: list[Tensor] = field(default_factory=list)

    def add(self, trial: Trial) -> None:
        recorder, success = trial.recorder, trial.success
        fools = torch.zeros_like(success)
        missed = (recorder.reached & ~success).nonzero().squeeze(1)
        fools[missed] = self._fool(trial.rows[missed], recorder.best[missed])
        silent = recorder.reached & ~success & fools
        transferred = recorder.reached & ~success & ~fools
        unbroken = ~(recorder.reached | success)
        best = envelope(recorder, minimal=self.attack.minimal)
        whole, last = _rises(best[unbroken], recorder.asked[unbroken])
        self.rises.append(last[whole > 0] / whole[whole > 0])
        for name, its in (
            ("given", torch.ones_like(success)),
            ("broken", success),
            ("silent", silent),
            ("transferred", transferred),
            ("unbroken", unbroken),
        ):
            self.counts[name] = self.counts.get(name, 0) + int(its.sum())
            if name in _LOST:
                self.lost[name] += trial.rows[its].tolist()
        self.counts["flat"] = self.counts.get("flat", 0) + int((whole <= 0).sum())
        self.success.append(success)
        self.asked.append(recorder.asked)
        self.first.append(recorder.first)
        places = torch.from_numpy(_GRID - 1).clamp(max=max(0, best.shape[1] - 1))
        if best.shape[1]:
            self.curves.append(best[:, places.to(best.device)])

    def _fool(self, rows: Tensor, z: Tensor) -> Tensor:
        """Whether the points z reach the goal on the model itself: bool (k,)."""
        subject = self.subject
        if not len(rows):
            return torch.zeros(0, dtype=torch.bool, device=z.device)
        draws = 2 * subject.spec.checks if subject.random else 1
        hits = chance.reached(subject.goal[rows], chance.draw(subject.model, z, draws))
        return hits.double().mean(1) >= 0.5

    def facts(self) -> dict[str, Any]:
        success, asked, first = map(torch.cat, (self.success, self.asked, self.first))
        searched = asked[~success] if bool((~success).any()) else asked
        answers = int(searched.max()) if len(searched) else 0
        broke = first[success & (first > 0)]
        tenths = (10 * broke / max(1, answers)).ceil().long().clamp(1, 10) - 1
        rises = torch.cat(self.rises)
        deciles = torch.linspace(0, 1, 11, dtype=rises.dtype, device=rises.device)
        return {
            "attack": label(self.attack),
            "minimal": self.attack.minimal,
            **self.counts,
            "last_rise": rises.quantile(deciles).tolist() if len(rises) else [],
            "answers": answers,
            "tenths": torch.bincount(tenths, minlength=10).tolist(),
            "late": int((2 * broke > answers).sum()),
            "curve": self._curve(int(asked.max()) if len(asked) else 0),
        }

    def _curve(self, answers: int) -> dict[str, Any]:
        of = "distance" if self.attack.minimal else "margin"
        at = _GRID[answers >= _GRID]
        if not (self.curves and len(at)):
            return {"of": of, "answers": [], "quantiles": {}}
        best = torch.cat(self.curves).cpu().numpy()[:, : len(at)]
        if self.attack.minimal:
            best = -best
        # No mean of two, for one of them may be infinitely far away.
        found = np.quantile(best, _QUANTILES, axis=0, method="inverted_cdf")
        columns = {
            f"{q:g}": [float(f"{v:.5g}") if np.isfinite(v) else None for v in row]
            for q, row in zip(_QUANTILES, found, strict=True)
        }
        return {"of": of, "answers": at.tolist(), "quantiles": columns}


def _rises(best: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """How far each envelope (n, answers) rose in all, and in its last tenth: float64 (n,) each.

    It rises from its first finite value; 0 where there is none.
    """
    if not best.numel():
        return best.new_zeros(len(best)), best.new_zeros(len(best))
    end = (asked - 1).clamp(min=0)
    before = (end - (asked * _LAST).ceil().long()).clamp(min=0)
    began = best.isfinite().long().argmax(1)
    first, mid, last = (best.gather(1, at.unsqueeze(1))[:, 0] for at in (began, before, end))
    mid = torch.maximum(mid, first)  # where the first finite value came late
    whole, part = last - first, last - mid
    return whole.nan_to_num(nan=0.0), part.nan_to_num(nan=0.0)
