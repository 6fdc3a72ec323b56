"""What `--adv` means: names, parameters, records, and what goes around them."""

import json

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import robust
from robust.core.defense import Task
from robust.core.errors import RobustError
from robust.core.rng import generator, seeded
from robust.registry import find
from robust.training import parse_adv
from robust.training.adv import inner_attack, is_trainer, make_trainer, trainers

THREAT = robust.Linf(0.1)


def test_the_kinds_of_training_are_found_by_file():
    assert trainers() == ["free", "mart", "n-fgsm", "trades"]
    assert not is_trainer("pgd")
    # Defenses, but of another kind, or made of something else.
    for name in ("adversarial-training", "awp", "union", "distillation", "bit-depth"):
        assert not is_trainer(name)


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("trades,beta=3,step-size=0.01", {"beta": 3.0, "steps": 10, "step_size": 0.01}),
        ("mart", {"lam": 5.0, "steps": 10, "step_size": None}),
        ("n-fgsm,k=1", {"k": 1.0, "alpha": 1.0}),
        ("free,replays=8", {"replays": 8}),
    ],
)
def test_a_kind_of_training_is_recorded_and_made_again(text, given):
    record = parse_adv(text)
    assert record == {"name": text.partition(",")[0], "params": given}
    made = make_trainer(json.loads(json.dumps(record)), THREAT)
    assert made == find("defenses", record["name"])(**given)
    assert made.attacks
    with pytest.raises(RobustError, match="is no attack, but a way to train"):
        inner_attack(record)


def test_attacks_become_adversarial_training():
    made = make_trainer(parse_adv("apgd,steps=5"), THREAT, mix=0.5)
    assert made.params == {"attack": robust.attacks.APGD(steps=5), "mix": 0.5}
    assert inner_attack(parse_adv("none")) is None
    assert not make_trainer(parse_adv("none"), THREAT).attacks


@pytest.mark.parametrize("text", ["pgd", "trades", "mart", "n-fgsm", "none"])
def test_weight_perturbation_goes_around_whatever_trains(text):
    plain = make_trainer(parse_adv(text), THREAT)
    made = make_trainer(parse_adv(text), THREAT, awp=0.01)
    assert made == find("defenses", "awp")(around=plain, gamma=0.01)


def test_a_union_goes_inside_of_weight_perturbation():
    also = (robust.L2(1.5), robust.L1(4))
    made = make_trainer(parse_adv("pgd"), THREAT, awp=0.01, also=also, union="average")
    assert made.around.threats == (THREAT, *also)
    assert made.around.how == "average"
    assert made.around.around.attack == robust.attacks.PGD(steps=7)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("tradez", "unknown --adv 'tradez'; did you mean 'trades'\\?; give an attack"),
        ("nfgsm", "did you mean 'n-fgsm'"),
        ("pdg", "did you mean 'pgd'"),
        ("awp", "type --adv pgd --awp 0.005"),
        ("adversarial-training", "type --adv pgd"),
        ("pgdd", "give an attack .*, free, mart, n-fgsm, trades or none"),
        ("trades,bta=1", "trades has no parameter 'bta'; did you mean 'beta'"),
        ("trades,beta=-1", "beta must be a finite number, at least 0"),
        ("mart,steps=1.5", "steps must be a whole number"),
        ("fab", "smallest perturbation, and training wants the worst point"),
        ("hop-skip-jump", "smallest perturbation, and training wants the worst point"),
        ("universal", "one thing for all samples"),
        ("autoattack", "stands for several attacks"),
        ("foolbx:LinfPGD", "unknown engine 'foolbx'"),
    ],
)
def test_what_nobody_can_train_with_is_one_line(text, match):
    with pytest.raises(RobustError, match=match) as caught:
        parse_adv(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "options", "match"),
    [
        ("trades", {"mix": 0.5}, "--mix is a share of samples under attack, and trades decides"),
        ("free", {"awp": 0.01}, "--awp wants training that searches points"),
        ("free", {"also": [robust.L2(1)]}, "--also wants training against an attack"),
        ("none", {"also": [robust.L2(1)]}, "--also wants training against an attack"),
        ("pgd", {"also": [robust.L0(2)]}, "PGD answers linf, l2, l1 threats, not l0"),
        ("pgd", {"also": [robust.L2(1)], "union": "min"}, "--union is max or average"),
        ("pgd", {"awp": -1.0}, "gamma must be a finite number above 0"),
    ],
)
def test_what_does_not_go_together_is_one_line(text, options, match):
    with pytest.raises(RobustError, match=match):
        make_trainer(parse_adv(text), THREAT, **options)


@pytest.mark.parametrize("text", ["pgd", "trades", "mart", "n-fgsm", "free"])
def test_a_threat_without_steepest_ascent_is_refused(text):
    with pytest.raises(RobustError, match="answers linf, l2, l1 threats, not patch"):
        make_trainer(parse_adv(text), robust.Patch(2))


@pytest.mark.parametrize(
    "text",
    [
        "pgd",
        "fgsm",
        "apgd,steps=3",
        "square,queries=20",
        "foolbox:LinfPGD,steps=3,rel-stepsize=0.5",
    ],
)
def test_any_attack_with_a_budget_is_an_inner_attack(text):
    """Each raises the loss at points of the ball: gradients, questions, another package's."""
    if text.startswith("foolbox"):
        pytest.importorskip("foolbox")
    with seeded(0, "net"):
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 3))
    rng = generator(0, "batch")
    x, y = torch.rand(20, 1, 4, 4, generator=rng), torch.randint(0, 3, (20,), generator=rng)

    def criterion(logits, y):
        return cross_entropy(logits, y, reduction="none")

    trainer = make_trainer(parse_adv(text), THREAT)
    result = trainer.step(net, net, Task(x, y, THREAT, generator(0), criterion))
    assert bool(THREAT.contains(x, result.x_adv).all())
    assert result.loss > criterion(net(x), y).mean() + 0.02
