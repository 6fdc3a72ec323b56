"""A training run's history → the figures and charts of its page, pure."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from . import charts, text
from .charts import Series

HISTORY = [
    ("epoch", "epoch", "count"),
    ("lr", "learning rate", "small"),
    ("eps", "ε", "small"),
    ("train_loss", "training loss", "small"),
    ("val_loss", "validation loss", "small"),
    ("val_robust_loss", "validation loss under attack", "small"),
    ("train_accuracy", "training accuracy", "percent"),
    ("val_accuracy", "validation accuracy", "percent"),
    ("val_robust_accuracy", "validation accuracy under attack", "percent"),
    ("val_fgsm_accuracy", "validation accuracy under FGSM", "percent"),
    ("val_jaccard", "validation Jaccard index", "percent"),
    ("val_robust_jaccard", "validation Jaccard index under attack", "percent"),
    ("val_fgsm_jaccard", "validation Jaccard index under FGSM", "percent"),
    ("val_hamming", "validation Hamming loss", "percent"),
    ("val_robust_hamming", "validation Hamming loss under attack", "percent"),
    ("val_fgsm_hamming", "validation Hamming loss under FGSM", "percent"),
    ("seconds", "seconds", "seconds"),
]


def has(history: Sequence[Mapping[str, Any]], key: str) -> bool:
    return any(row.get(key) is not None for row in history)


def best(
    history: Sequence[Mapping[str, Any]], kept: int | None
) -> tuple[Mapping[str, Any] | None, str]:
    """The epoch whose weights are kept, and the figure that it is judged by: robust validation
    accuracy, for sets of labels the robust Jaccard index; without any, the clean one.

    kept    that epoch, where the run says it; else it is the one of the best figure
    """
    for key in ("val_robust_jaccard", "val_robust_accuracy", "val_accuracy"):
        rows = [r for r in history if r.get(key) is not None and math.isfinite(r[key])]
        if rows:
            theirs = [row for row in rows if kept is not None and row.get("epoch") == kept]
            return (theirs or [max(rows, key=lambda row: float(row[key]))])[0], key
    return None, ""


def figure_name(key: str) -> str:
    """What the best epoch is told by, as a sentence names it."""
    if key == "val_robust_jaccard":
        return "robust Jaccard index"
    return "robust accuracy" if key == "val_robust_accuracy" else "accuracy"


def class_names(spec: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Class names in order, from the options or the classification report; else none."""
    if isinstance(spec.get("classes"), list):
        return [str(name) for name in spec["classes"]]
    report = history[-1].get("classification_report") if history else None
    return [str(name) for name in report if not is_average(name)] if report else []


def weakest(row: Mapping[str, Any], names: Sequence[str]) -> tuple[str, float] | None:
    """The class that attacks break most of in that epoch, and its accuracy under attack; None where
    classes were not measured, or are all alike."""
    found = [
        (value, number)
        for number, value in enumerate(row.get("val_robust_class_accuracies") or ())
        if value is not None
    ]
    if not found or min(found)[0] == max(found)[0]:
        return None
    value, number = min(found)
    return (names[number] if number < len(names) else str(number)), float(value)


def is_average(name: str) -> bool:
    return name == "accuracy" or name.endswith(" avg")


def nothing_learned(row: Mapping[str, Any]) -> str | None:
    """What is to be said of an epoch whose validation accuracy needs no look at the samples: that
    of naming the largest class. None where there is more, or classes were not counted.
    """
    counts = [sum(line) for line in row.get("confusion") or ()]
    accuracy = row.get("val_accuracy")
    if accuracy is None or not sum(counts):
        return None
    largest = max(counts) / sum(counts)
    if accuracy > largest + 1e-9:
        return None
    return (
        f"Nothing was learned: {text.percent(accuracy)} of the validation samples are right, and "
        f"always naming the largest class has {text.percent(largest)}. A lower --lr, more --epochs "
        "or a longer --eps-warmup may help."
    )


def judged_by(spec: Mapping[str, Any]) -> str:
    """ "pgd with 10 steps": the attack of the validation; "" where the options do not say it."""
    attack = spec.get("val_attack")
    name = attack_name(attack)
    params = attack.get("params") if isinstance(attack, Mapping) else None
    steps = (params or {}).get("steps")
    return f"{name} with {text.plural(steps, 'step')}" if steps else name


def attack_name(adv: Any) -> str:
    """ "pgd" of the option "pgd" or {"name": "pgd", …}; "" for natural training."""
    name = str(adv.get("name", "")) if isinstance(adv, Mapping) else str(adv or "")
    return "" if name == "none" else name


def threat_name(spec: Mapping[str, Any]) -> str:
    """ "L∞ ε = 8/255", from the options' threat dict; "" where there is none."""
    threat = spec.get("threat")
    if not isinstance(threat, Mapping) or threat.get("eps") is None:
        return ""
    return f"{text.norm(str(threat.get('norm')))} ε = {text.eps(float(threat['eps']))}"


def curves(epochs: Sequence[int], history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    weight = 0.6 if len(history) < 50 else 0.8 if len(history) < 200 else 0.9
    asked: list[tuple[str, str, list[tuple[str, str]]]] = [
        (
            "Loss",
            "loss",
            [
                ("train_loss", "training"),
                ("val_loss", "validation"),
                ("val_robust_loss", "validation, attacked"),
            ],
        ),
        (
            "Accuracy",
            "accuracy",
            [
                ("train_accuracy", "training"),
                ("val_accuracy", "validation"),
                ("val_robust_accuracy", "validation, attacked"),
                ("val_fgsm_accuracy", "validation, FGSM"),
            ],
        ),
        *(
            (
                title,
                y_name,
                [
                    (f"val_{key}", "validation"),
                    (f"val_robust_{key}", "validation, attacked"),
                    (f"val_fgsm_{key}", "validation, FGSM"),
                ],
            )
            for title, y_name, key in (
                ("Jaccard index", "Jaccard index", "jaccard"),
                ("Hamming loss", "Hamming loss", "hamming"),
            )
        ),
        ("Learning rate", "learning rate", [("lr", "learning rate")]),
        ("Radius trained on", "ε", [("eps", "ε")]),
    ]
    out = []
    for title, y_name, lines in asked:
        series = []
        for key, name in lines:
            if not has(history, key):
                continue
            raw = [None if row.get(key) is None else float(row[key]) for row in history]
            smooth = key not in ("lr", "eps") and len(history) > 2
            series.append(
                Series(name, charts.ema(raw, weight), raw=raw) if smooth else Series(name, raw)
            )
        if not series or (title == "Radius trained on" and len(set(series[0].values)) == 1):
            continue
        share = y_name in ("accuracy", "Jaccard index", "Hamming loss")
        ends = "; ".join(f"{s.name} ends at {_last(s):.3g}" for s in series)
        out.append(
            {
                "title": title,
                "legend": [s.name for s in series] if len(series) > 1 else [],
                "smoothed": weight if series[0].raw is not None else None,
                "svg": charts.line_chart(
                    epochs,
                    series,
                    label=f"{title} by epoch: {ends}",
                    x_name="epoch",
                    y_name=y_name,
                    y_text=text.percent if share else "{:.3g}".format,
                    tick_text=text.whole_percent if share else None,
                    y_range=(0, 1) if share else None,
                ),
            }
        )
    return out


def _last(series: Series) -> float:
    values = [v for v in (series.raw or series.values) if v is not None]
    return values[-1] if values else math.nan
