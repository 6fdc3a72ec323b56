"""What an epoch is judged by: accuracy on clean, FGSM and PGD points of the validation data."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robust.core.attack import Attack
from robust.core.defended import Defended
from robust.core.goal import as_logits, leaving
from robust.core.losses import ce
from robust.core.rng import generator
from robust.core.threat import Threat
from robust.core.victim import Victim
from robust.preflight import frozen
from robust.registry import parse_attack

from .data import Samples, cut
from .label_sets import set_columns


def measure(
    model: Defended,
    samples: Samples,
    threat: Threat,
    attack: Attack,
    *,
    num_classes: int,
    classes: tuple[str, ...] | None,
    batch_size: int,
    seed: int,
) -> dict[str, Any]:
    """The validation columns of a row: mean losses (cross-entropy), accuracies, confusions.

    Of sets of labels the loss is binary cross-entropy, the accuracy that of whole sets, and in
    place of confusions there are Hamming losses and Jaccard indices.

    The attack goes on after success, as it does in training: the robust loss is that of the
    strongest point it found. FGSM starts at the sample itself. Both search on what an adaptive
    attacker sees, one draw a step, and what counts is what the model answers.
    """
    points = {"clean": None, "robust": attack, "fgsm": parse_attack("fgsm")}
    losses = {name: torch.zeros((), dtype=torch.float64) for name in points}
    predicted: dict[str, list[Tensor]] = {name: [] for name in points}
    labels = []
    sets = samples.source.multi_label
    with frozen(model), torch.no_grad():
        chunks = cut(torch.arange(len(samples)), batch_size)
        for number, (x, y) in enumerate(samples.stream(chunks)):
            labels.append(y.cpu())
            for name, search in points.items():
                at = x
                if search is not None:
                    victim = Victim(model.exposed, len(x), search.access, x.device)
                    rng = generator(seed, name, number)
                    at = search.search(victim, x, leaving(y, persist=True), threat, rng)
                logits = as_logits(model(at), len(x))
                losses[name] += ce(logits.double(), leaving(y)).sum().cpu()
                answer = (logits > 0).long() if sets else logits.argmax(1)
                predicted[name].append(answer.cpu())
    y_true = torch.cat(labels).numpy()
    y_pred = {name: torch.cat(parts).numpy() for name, parts in predicted.items()}
    right = {name: y_true == pred for name, pred in y_pred.items()}
    accuracy = {name: float((v.all(1) if sets else v).mean()) for name, v in right.items()}
    columns = {
        "val_loss": float(losses["clean"]) / len(y_true),
        "val_accuracy": accuracy["clean"],
        "val_robust_loss": float(losses["robust"]) / len(y_true),
        "val_robust_accuracy": accuracy["robust"],
        "val_fgsm_accuracy": accuracy["fgsm"],
    }
    if sets:
        return columns | set_columns(y_true, y_pred)
    return columns | {
        "val_class_accuracies": class_accuracies(y_true, y_pred["clean"], num_classes),
        "val_robust_class_accuracies": class_accuracies(y_true, y_pred["robust"], num_classes),
        "confusion": confusion(y_true, y_pred["clean"], num_classes),
        "robust_confusion": confusion(y_true, y_pred["robust"], num_classes),
        "classification_report": report(y_true, y_pred["clean"], num_classes, classes),
        "robust_classification_report": report(y_true, y_pred["robust"], num_classes, classes),
    }


def class_accuracies(
    y_true: NDArray[Any], y_pred: NDArray[Any], num_classes: int
) -> list[float | None]:
    """The accuracy on the samples of each class; None where there are none."""
    right = [y_pred[y_true == number] == number for number in range(num_classes)]
    return [float(of.mean()) if len(of) else None for of in right]


def confusion(y_true: NDArray[Any], y_pred: NDArray[Any], num_classes: int) -> list[list[int]]:
    """Counts: row = true class, column = predicted class."""
    counts = np.bincount(y_true * num_classes + y_pred, minlength=num_classes**2)
    table: list[list[int]] = counts.reshape(num_classes, num_classes).tolist()
    return table


def report(
    y_true: NDArray[Any], y_pred: NDArray[Any], num_classes: int, classes: tuple[str, ...] | None
) -> dict[str, Any]:
    """Precision, recall, f1 and support per class, and their means, as scikit-learn has them."""
    from sklearn.metrics import classification_report

    names = [str(c) for c in classes or range(num_classes)]
    made: dict[str, Any] = classification_report(
        y_true,
        y_pred,
        labels=list(range(num_classes)),
        target_names=names,
        output_dict=True,
        zero_division=0,
    )
    return made
