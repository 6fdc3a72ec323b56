"""Defensive distillation: what it learns, what it hides, and what sees through it."""

import pytest
import torch
from defense_steps import batch, network, step
from torch import nn
from torch.nn.functional import cross_entropy

from robust.core.defended import compose
from robust.core.defense import Frame
from robust.core.errors import RobustError
from robust.core.rng import seeded
from robust.defenses.distillation import Distillation

FRAME = Frame((6,), 3)


def teacher():
    with seeded(1, "teacher"):
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).requires_grad_(False)


def student(temperature=20.0, frame=FRAME, open_model=lambda path: teacher()):
    return Distillation(temperature=temperature, teacher="t.pt").opened(open_model, frame)


def test_a_teacher_is_trained_at_the_temperature():
    model, (x, y) = network(), batch()
    result = step(Distillation(temperature=20), model)
    torch.testing.assert_close(result.loss, cross_entropy(model(x) / 20, y))
    assert torch.equal(result.x_adv, x)


def test_a_student_learns_the_soft_labels_at_the_temperature():
    model, (x, _) = network(), batch()
    result = step(student(20), model)
    soft = (teacher()(x) / 20).softmax(1)
    torch.testing.assert_close(result.loss, cross_entropy(model(x) / 20, soft))
    # Nothing is left to learn where the student answers as the teacher does.
    same = teacher().requires_grad_(True)
    step(student(20), same).loss.backward()
    assert max(float(p.grad.abs().max()) for p in same.parameters()) < 1e-7
    assert all(p.grad is None for p in model.parameters())


def test_deployed_cross_entropy_has_no_gradient_and_exposed_it_has():
    with seeded(0, "sure"):
        model = nn.Linear(6, 3)
    with torch.no_grad():
        model.weight *= 400  # logits as training at a high temperature makes them
    defended = compose(model, [Distillation(temperature=50)], ["distillation"], FRAME)
    x = batch(100)[0]
    y = model(x).argmax(1)
    right = model(x).topk(2, 1).values.diff(dim=1).abs()[:, 0] > 110
    x, y = x[right].requires_grad_(), y[right]
    assert len(x) > 20
    slopes = {}
    for name, seen in (("deployed", defended.model), ("exposed", defended.exposed)):
        (slopes[name],) = torch.autograd.grad(cross_entropy(seen(x), y, reduction="sum"), x)
    assert not slopes["deployed"].any()
    assert bool(slopes["exposed"].flatten(1).any(1).all())
    assert torch.equal(defended(x), model(x))
    torch.testing.assert_close(defended.exposed(x), model(x) / 50)
    assert torch.equal(defended.exposed(x).argmax(1), y)


def test_a_teacher_is_opened_once_by_its_path():
    asked = []

    def open_model(path):
        asked.append(path)
        return teacher()

    assert Distillation(teacher="t.pt").files == ("t.pt",)
    assert Distillation().files == ()
    plain = Distillation()
    assert plain.opened(open_model, FRAME) is plain
    assert not asked
    made = student(open_model=open_model)
    step(made, network())
    assert asked == ["t.pt"]
    assert Distillation(teacher="t.pt").params == {"temperature": 50.0, "teacher": "t.pt"}


@pytest.mark.parametrize(
    ("frame", "match"),
    [
        (Frame((6,), 4), "the teacher t.pt knows 3 classes, and the data have 4"),
        (Frame((7,), 3), r"the teacher t.pt does not take samples of shape \(7,\): mat1 and mat2"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(frame, match):
    with pytest.raises(RobustError, match=match) as caught:
        student(frame=frame)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(RobustError, match="temperature must be a finite number above 0"):
        Distillation(temperature=0)
    with pytest.raises(RobustError, match="the teacher t.pt is not opened"):
        step(Distillation(teacher="t.pt"), network())
    assert Distillation.trained
