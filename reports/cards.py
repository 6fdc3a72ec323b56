"""Examples of a report → the cards of its gallery: pictures, waveforms and clips, as fit a page."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from . import charts, pictures, sound
from .charts import Series
from .gallery import Example
from .pictures import Place, Sheet
from .summary import Report

# Characters that pictures, or clips and curves, may take; the rest of a page is far below the 2 MB
# that it may have.
PICTURES = 1_400_000
CLIPS = 900_000
CURVES = PICTURES - CLIPS
_POINTS = 64  # values of a signal that can be read one by one
_DOTS = 24  # values that are drawn as such, for what lies between them is nothing
_DRAWN = 240  # places of a signal that are drawn at most


@dataclass(frozen=True)
class Card:
    """An example with the words and pictures that stand for it.

    label, clean, adv, target    names of classes: the true one, the predictions, the one aimed at
    confidence, adv_confidence   None where the model gave labels alone
    factor                       how often the perturbation is magnified, in the picture
    place                        of its three pictures: original, perturbation, adversarial example
    curves, clips                of a signal: charts, and (name, WAV)
    """

    example: Example
    label: str
    clean: str
    adv: str
    target: str | None
    confidence: float | None
    adv_confidence: float | None
    factor: float = 1.0
    place: Place | None = None
    curves: tuple[Markup, ...] = ()
    clips: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Shown:
    """The gallery of a page.

    cards    one of every class first, then a second one
    broken   how many samples were broken in all
    sheets   the images that hold the pictures; `aspect` is the width of one over its height
    crisp    whether the pictures are to be drawn as squares, one a pixel
    shrunk   whether they are smaller than the samples
    lossless whether every pixel is as it was
    rate     values a second, where the samples can be heard
    """

    cards: list[Card]
    broken: int
    sheets: list[Sheet] = field(default_factory=list)
    aspect: float = 1.0
    crisp: bool = True
    shrunk: bool = False
    lossless: bool = True
    rate: int | None = None

    @property
    def audible(self) -> int:
        """How many cards have clips."""
        return sum(bool(card.clips) for card in self.cards)

    @property
    def labels(self) -> list[str]:
        """The classes that occur, in their order."""
        return list(dict(sorted((card.example.label, card.label) for card in self.cards)).values())

    @property
    def became(self) -> list[str]:
        """What the samples were taken for, in alphabetical order."""
        return sorted({card.adv for card in self.cards})

    @property
    def attacks(self) -> list[str]:
        """The attacks that found them, in alphabetical order."""
        return sorted({card.example.attack for card in self.cards})

    @property
    def distances(self) -> tuple[float, float] | None:
        """Ends of their range, rounded outwards; None where all are as far, or as good as."""
        low, high = (end(c.example.distance for c in self.cards) for end in (min, max))
        if not low < 0.99 * high < math.inf:
            return None
        unit = 10.0 ** math.floor(math.log10(high) - 1)
        return round(math.floor(low / unit) * unit, 12), round(math.ceil(high / unit) * unit, 12)


def gallery(report: Report) -> Shown | None:
    """As many examples as fit, spread over the classes; None where there are none."""
    examples = report.gallery
    if not examples:
        return None
    # So they are spread over the classes where only few fit, and where only few are looked at.
    seen = Counter[int]()
    turns = [(seen.update([e.label]) or seen[e.label], i) for i, e in enumerate(examples)]
    order = [examples[i] for _, i in sorted(turns)]
    shape = order[0].x.shape
    low, high = float(report.threat.get("low", 0)), float(report.threat.get("high", 1))
    drawn = pictures.is_image(shape) and report.spec["data"].get("image") is not False
    return _pictures(report, order, low, high) if drawn else _signals(report, order, low, high)


def _card(report: Report, example: Example, **more: Any) -> Card:
    def name(index: int) -> str:
        return report.classes[index] if 0 <= index < len(report.classes) else str(index)

    def known(confidence: float) -> float | None:
        return None if math.isnan(confidence) else confidence

    return Card(
        example,
        name(example.label),
        name(example.prediction),
        name(example.adv_prediction),
        name(example.target) if example.target >= 0 else None,
        known(example.confidence),
        known(example.adv_confidence),
        **more,
    )


def _pictures(report: Report, examples: Sequence[Example], low: float, high: float) -> Shown:
    rows, factors = list[list[NDArray[np.uint8]]](), list[float]()
    for e in examples:
        delta, factor = pictures.perturbation(e.x_adv - e.x, low, high)
        x, x_adv = (pictures.image(a, low, high) for a in (e.x, e.x_adv))
        rows.append([x[..., : delta.shape[-1]], delta, x_adv[..., : delta.shape[-1]]])
        factors.append(factor)
    side = max(examples[0].x.shape[1:])
    lossless = side <= pictures.CRISP
    sheets, places = pictures.pack(rows, PICTURES, lossless)
    height, width = rows[0][0].shape[:2]
    return Shown(
        [
            _card(report, example, factor=factor, place=place)
            for example, factor, place in zip(examples, factors, places, strict=False)
        ],
        report.counts["broken"],
        sheets,
        aspect=width / height,
        crisp=lossless,
        shrunk=side > pictures.LARGEST,
        lossless=lossless,
    )


def _signals(report: Report, examples: Sequence[Example], low: float, high: float) -> Shown:
    rate = sound.rate_of(examples[0].x.shape, low, high, report.run.get("sample_rate"))
    cards, curves_left, clips_left = list[Card](), CURVES if rate else PICTURES, CLIPS
    for example in examples:
        curves = tuple(_curves(example, rate))
        curves_left -= sum(map(len, curves))
        if cards and curves_left < 0:
            break
        clips, factor = _clips(example, rate, low, high) if rate and clips_left > 0 else ((), 1.0)
        clips_left -= sum(len(uri) for _, uri in clips)
        if clips_left < 0 and any(card.clips for card in cards):
            clips = ()
        cards.append(_card(report, example, factor=factor, curves=curves, clips=clips))
    return Shown(cards, report.counts["broken"], rate=rate)


def _clips(
    example: Example, rate: int, low: float, high: float
) -> tuple[tuple[tuple[str, str], ...], float]:
    """What is heard of an example, and how often its perturbation is magnified for that: until it
    is as loud as the original at its loudest.
    """
    delta, middle = example.x_adv.astype(np.float64) - example.x, (low + high) / 2
    loudest = float(np.abs(example.x - middle).max()) or (high - low) / 2
    factor = max(1.0, loudest / (float(np.abs(delta).max()) or loudest))
    return (
        ("original", sound.clip(example.x, rate, low, high)),
        ("adversarial", sound.clip(example.x_adv, rate, low, high)),
        (f"perturbation ×{factor:.3g}", sound.clip(delta + middle, rate, low, high, factor)),
    ), factor


def _curves(example: Example, rate: int | None) -> Iterator[Markup]:
    x, x_adv = (a.astype(np.float64).ravel() for a in (example.x, example.x_adv))
    delta = x_adv - x
    # One channel has a time; two lie one behind the other.
    timed = rate if rate and len(x) == example.x.shape[-1] else None
    name = "seconds" if timed else "position" if len(x) > 1 else "feature"
    several = [
        ("Original and adversarial signal", 150, [("original", x), ("adversarial", x_adv)]),
        ("Perturbation", 110, [("perturbation", delta)]),
    ]
    for title, height, lines in several:
        most = _DRAWN // len(lines)
        at = sorted({i for _, values in lines for i in charts.envelope(values.tolist(), most)})
        said = f", at most {np.abs(delta).max():.3g}" if len(lines) == 1 else ""
        yield charts.line_chart(
            [i / timed for i in at] if timed else at,
            [Series(one, values[at].tolist(), points=len(x) <= _DOTS) for one, values in lines],
            label=f"{title} of sample {example.id}{said}",
            x_name=name,
            y_name="value" if len(lines) > 1 else "perturbation",
            height=height,
            hover=len(x) <= _POINTS,
        )
