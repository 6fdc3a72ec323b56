"""Which attack broke what: what each found alone, what several found, and what is left."""

from typing import TYPE_CHECKING, Any

import numpy as np

from .rates import wilson

if TYPE_CHECKING:
    from .summary import Report


def rows(report: "Report") -> list[dict[str, Any]]:
    """One dict per attack, in the order they ran.

    broken      of the `given` samples; of a random model, fooled in half of the draws
    new         of those, how many no attack before it had broken
    alone       how many no other attack broke; None where that is not known, for another one was
                not given some of them
    left        robust accuracy after it and those before, with its interval
    """
    broke = report.columns.broke
    hit, given = broke == 1, broke >= 0
    found = []
    for a, (attack, tally) in enumerate(zip(report.attacks, report.tallies, strict=True)):
        others = np.delete(np.arange(broke.shape[1]), a)
        its = hit[:, a]
        known = bool(given[its][:, others].all())
        found.append(
            {
                "attack": attack["label"],
                "given": int(given[:, a].sum()),
                "broken": int(its.sum()),
                "new": int((its & ~hit[:, :a].any(1)).sum()),
                "alone": int((its & ~hit[:, others].any(1)).sum()) if known else None,
                "left": tally.left / report.n if report.n else None,
                "left_ci": wilson(tally.left, report.n),
            }
        )
    return found


def overlap(report: "Report") -> list[list[int | None]]:
    """How many samples both attacks broke, (attacks, attacks); along the diagonal, each of them.

    None where that is not known: one was not given some sample that the other broke, as in a
    cascade each gets only what is left.
    """
    broke = report.columns.broke
    hit, given = broke == 1, broke >= 0
    both = hit.astype(np.int64).T @ hit.astype(np.int64)
    # Samples that one broke and the other was not given.
    missed = hit.astype(np.int64).T @ (~given).astype(np.int64)
    known = (missed == 0) & (missed.T == 0)
    return [
        [int(k) if there else None for k, there in zip(*pair, strict=True)]
        for pair in zip(both.tolist(), known.tolist(), strict=True)
    ]
