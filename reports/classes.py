"""Robust accuracy class by class: with intervals, their mean, and the worst of them."""

from typing import TYPE_CHECKING, Any

import numpy as np

from . import statistics, text
from .rates import rate, wilson

if TYPE_CHECKING:
    from .summary import Report


def rows(report: "Report") -> list[dict[str, Any]]:
    """One dict per class that occurs: see `Report.per_class`."""
    found = []
    for index, n, clean, left in zip(*_sums(report), strict=True):
        measured = n if report.tallies else 0
        found.append(
            {
                "class": report.classes[index],
                "n": n,
                "clean_accuracy": clean / n,
                "clean_accuracy_ci": wilson(clean, n),
                "robust_accuracy": rate(left, measured),
                "robust_accuracy_ci": wilson(left, measured),
            }
        )
    return found


def _sums(report: "Report") -> tuple[list[int], list[int], list[float], list[float]]:
    """Of the classes that occur: index, samples, right samples, and robust ones."""
    labels = report.columns.labels
    if not len(labels):
        return [], [], [], []
    sizes = np.bincount(labels)
    there = np.flatnonzero(sizes)
    right, left = (
        np.bincount(labels, weights=column)[there].tolist()
        for column in (report.columns.right, report.withstood)
    )
    clipped = [min(robust, clean) for robust, clean in zip(left, right, strict=True)]
    return there.tolist(), sizes[there].tolist(), right, clipped


def macro(report: "Report") -> dict[str, Any] | None:
    """The mean over classes of clean and robust accuracy, with intervals, however many samples each
    has; None where fewer than two classes occur.

    largest, smallest   samples of the classes with most and fewest
    """
    _, sizes, right, left = _sums(report)
    if len(sizes) < 2:
        return None
    clean, clean_ci = statistics.macro(right, sizes)
    robust, robust_ci = statistics.macro(left, sizes) if report.tallies else (None, None)
    return {
        "classes": len(sizes),
        "largest": max(sizes),
        "smallest": min(sizes),
        "clean_accuracy": clean,
        "clean_accuracy_ci": clean_ci,
        "robust_accuracy": robust,
        "robust_accuracy_ci": robust_ci,
    }


def worst(report: "Report") -> dict[str, Any] | None:
    """The class of lowest robust accuracy; None where no attack ran or fewer than two occur.

    robust_accuracy_ci      the interval of that class, as if nobody had chosen it for being lowest
    lowest_ci               in which the lowest of the true robust accuracies lies, whichever class
                            has it (see `statistics.Worst`)
    candidates              the classes that may be the worst, as far as these samples tell
    """
    there, sizes, _, left = _sums(report)
    if len(sizes) < 2 or not report.tallies:
        return None
    found = statistics.worst(left, sizes)
    assert found is not None
    n = sizes[found.index]
    return {
        "class": report.classes[there[found.index]],
        "n": n,
        "robust_accuracy": found.rate,
        "robust_accuracy_ci": wilson(left[found.index], n),
        "lowest_ci": found.interval,
        "candidates": [report.classes[there[i]] for i in found.candidates],
    }


def sentences(report: "Report") -> list[str]:
    """What a reader makes of it: the worst class, and the mean where classes are not balanced."""
    said, low, mean = list[str](), report.worst_class, report.macro
    if low is not None:
        n, several = int(low["n"]), len(low["candidates"])
        said.append(
            f"The worst class is {low['class']}: {text.percent(low['robust_accuracy'], n)} of "
            f"{text.plural(n, 'sample')} are robust (95{text.NARROW}% interval "
            f"{text.interval(low['robust_accuracy_ci'], n)})."
        )
        said.append(
            "Of several figures that vary by chance the lowest tends to come out too low: whichever"
            " class is truly the weakest, its robust accuracy lies within "
            f"{text.interval(low['lowest_ci'], n)}{text.NARROW}%, and "
            + (
                f"{several:,} of {len(report.per_class):,} classes may be the one."
                if several > 1
                else "no other class may be the one."
            )
        )
    if mean is not None and mean["robust_accuracy"] is not None:
        size = report.n
        uneven = (
            ""
            if mean["smallest"] * 2 > mean["largest"]
            else (
                f", which here have between {mean['smallest']:,} and {mean['largest']:,} samples,"
            )
        )
        said.append(
            f"Macro average: with every class{uneven} counting as much as any other, robust "
            f"accuracy is {text.percent(mean['robust_accuracy'], size)} "
            f"({text.interval(mean['robust_accuracy_ci'], size)}), clean accuracy "
            f"{text.percent(mean['clean_accuracy'], size)} "
            f"({text.interval(mean['clean_accuracy_ci'], size)})."
        )
    return said
