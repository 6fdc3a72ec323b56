"""What the page of a training run says of classes, defenses and rollbacks."""

import pytest

from robust.reports import training
from robust.reports.html import render_training


def row(**changes):
    names = {str(k): {"precision": 1, "recall": 1, "f1-score": 1, "support": 5} for k in range(3)}
    plain = {
        "epoch": 1,
        "lr": 0.1,
        "eps": 0.1,
        "train_loss": 1.0,
        "val_accuracy": 0.9,
        "val_robust_accuracy": 0.5,
        "val_robust_class_accuracies": [0.75, 0.125, None],
        "classification_report": {**names, "macro avg": names["0"]},
        "alarm": None,
    }
    return {**plain, **changes}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.75, 0.125, None], ("b", 0.125)),
        ([0.5, 0.5], None),
        ([None, None], None),
        (None, None),
    ],
)
def test_the_weakest_class(values, expected):
    assert training.weakest({"val_robust_class_accuracies": values}, ["a", "b", "c"]) == expected


def test_the_page_names_the_weakest_class_the_defenses_and_what_was_rolled_back():
    spec = {
        "adv": {"name": "fgsm", "params": {}},
        "defenses": [{"name": "bit-depth", "params": {}}],
    }
    text = "catastrophic overfitting in epoch 1; went back to step 5, and on with pgd"
    page = render_training({"spec": spec, "status": "done"}, [row(alarm=text)])
    assert "Weakest under attack is class <b>1</b>: 12.5" in page
    assert "defenses: <b>bit-depth</b>" in page
    assert text in page
    assert page.count("<td>–</td>") >= 2  # a class without samples, and the averages


def test_rows_from_before_have_no_such_column():
    old = {k: v for k, v in row().items() if k != "val_robust_class_accuracies"}
    page = render_training({"spec": {}, "status": "done"}, [old])
    assert "Weakest" not in page
    assert '<th scope="col">attacked</th>' not in page


def test_the_title_is_that_of_the_epoch_that_is_kept():
    """Of epochs within one standard error the one of lowest loss is, not the highest."""
    rows = [row(epoch=1, val_robust_accuracy=0.62), row(epoch=2, val_robust_accuracy=0.58)]
    page = render_training({"spec": {}, "status": "done", "best_epoch": 2}, rows)
    assert "<strong>58.0" in page
    assert "best, at epoch 2 of 2" in page
    assert "<strong>62.0" in render_training({"spec": {}, "status": "interrupted"}, rows)
