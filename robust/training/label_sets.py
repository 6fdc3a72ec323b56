"""Sets of labels in place of one class per sample: what can train on them, and how they are judged.

The model has one sigmoid per label, and says that a sample has the labels whose logits are above 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from robust.core.attack import Attack
from robust.core.defense import InputDefense
from robust.core.errors import RobustError

from .adv import inner_attack, is_trainer, make_attack
from .trainer import Named

# The figure by which epochs are compared, as it stands in the history's columns and in sentences.
# Exact matches are rare where labels are many, and a Jaccard index tells models apart there, too.
FIGURES = {False: ("accuracy", "accuracy"), True: ("jaccard", "Jaccard index")}


def refuse(
    *,
    adv: dict[str, Any],
    val_attack: dict[str, Any],
    augment: Sequence[str],
    defenses: Sequence[Named],
    data: Mapping[str, Mapping[str, Any] | None],
) -> None:
    """RobustError for what a run on sets of labels asks for, and is about classes.

    data    by option, the records of the sources of the run
    """
    for flag, record in data.items():
        if record is not None and not record.get("multi_label"):
            raise RobustError(f"--{flag} has one class per sample, but --data has sets of labels")
    if any(text.partition(":")[0] == "mixup" for text in augment):
        raise RobustError("--augment mixup is for one class per sample, not for --multi-label")
    for name, defense in defenses:
        if not isinstance(defense, InputDefense) or defense.trains:
            raise RobustError(
                f"--defense {name} is for one class per sample: with --multi-label take one that "
                "only changes the input, such as bit-depth"
            )
    if is_trainer(adv["name"]):
        raise RobustError(
            f"--adv {adv['name']} is for one class per sample: with --multi-label train against "
            "pgd, fgsm, bim, momentum-pgd or none"
        )
    for flag, attack in (("adv", inner_attack(adv)), ("val-attack", make_attack(val_attack))):
        if attack is not None:
            refuse_attack(flag, attack)


def refuse_attack(flag: str, attack: Attack) -> None:
    """RobustError for an attack that does not know how to break a set of labels."""
    name = type(getattr(attack, "attack", attack)).__name__
    if "label-sets" not in attack.goals:
        raise RobustError(
            f"--{flag}: {name} attacks one class per sample, not sets of labels: take pgd, fgsm, "
            "bim or momentum-pgd"
        )
    if attack.params.get("loss") == "dlr":
        raise RobustError(
            f"--{flag}: the loss dlr compares classes, and --multi-label has none: take loss=ce or "
            "loss=margin"
        )


def jaccard(y_true: NDArray[Any], y_pred: NDArray[Any]) -> float:
    """The mean over samples of |true ∩ predicted| / |true ∪ predicted|: 1 where both are empty."""
    from sklearn.metrics import jaccard_score

    return float(jaccard_score(y_true, y_pred, average="samples", zero_division=1.0))


def set_columns(y_true: NDArray[Any], y_pred: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """The columns of a row that only sets of labels have: Hamming losses and Jaccard indices of
    "clean", "robust" and "fgsm" predictions, (n, K) of 0 and 1; and a report for each label.
    """
    from sklearn.metrics import classification_report, hamming_loss

    columns: dict[str, Any] = {}
    for name, key in (("clean", "val"), ("robust", "val_robust"), ("fgsm", "val_fgsm")):
        columns[f"{key}_hamming"] = float(hamming_loss(y_true, y_pred[name]))
        columns[f"{key}_jaccard"] = jaccard(y_true, y_pred[name])
    for name, key in (("clean", ""), ("robust", "robust_")):
        columns[f"{key}classification_report"] = classification_report(
            y_true,
            y_pred[name],
            target_names=[str(number) for number in range(y_true.shape[1])],
            output_dict=True,
            zero_division=0,
        )
    return columns
