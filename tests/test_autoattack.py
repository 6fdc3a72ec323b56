"""AutoAttack: its stages as published, and what a report says of a run that followed it."""

import pytest
import torch

import robust
from robust.attacks import APGD, APGDT, EOT, FAB, FABT, Restarts, Square
from robust.core.errors import RobustError
from robust.core.protocols import VERSIONS, autoattack, recognise
from robust.registry import label, parse_attack, parse_attacks
from robust.reports import protocol

STAGES = {
    ("standard", "linf"): [APGD(), APGDT(), FABT(until_eps=True), Square()],
    ("standard", "l2"): [APGD(), APGDT(), FABT(until_eps=True), Square()],
    ("standard", "l1"): [
        Restarts(attack=APGD(), restarts=5), APGDT(targets=5), FABT(until_eps=True), Square(),
    ],
    ("plus", "linf"): [
        Restarts(attack=APGD(), restarts=5),
        Restarts(attack=APGD(loss="dlr"), restarts=5),
        FAB(until_eps=True),
        Restarts(attack=FAB(until_eps=True, random_start=True), restarts=4),
        Square(), APGDT(), FABT(until_eps=True),
    ],
    ("rand", "l2"): [EOT(attack=APGD(), eot=20), EOT(attack=APGD(loss="dlr"), eot=20)],
}  # fmt: skip


@pytest.mark.parametrize(("version", "norm"), STAGES)
def test_the_stages_are_those_published(version, norm):
    attacks = parse_attacks([f"autoattack,version={version}"], norm)
    assert attacks == STAGES[version, norm]
    if version == "standard":
        assert parse_attacks(["autoattack"], norm) == attacks


def test_their_published_parameters_are_the_defaults():
    assert (APGD().steps, APGD().loss, APGD().rho) == (100, "ce", 0.75)
    assert (APGDT().steps, APGDT().targets, APGDT().loss) == (100, 9, "dlr")
    for fab in (FAB(), FABT()):
        assert (fab.steps, fab.alpha_max, fab.eta, fab.beta) == (100, 0.1, 1.05, 0.9)
    assert FABT().targets == 9
    assert (Square().queries, Square().p_init, Square().loss) == (5000, 0.8, "margin")


@pytest.mark.parametrize(
    ("version", "norm"),
    [(v, n) for v in VERSIONS for n in ("linf", "l2", "l1") if (v, n) != ("plus", "l1")],
)
def test_labels_parse_back_to_the_stages(version, norm):
    texts = autoattack(version, norm)
    assert tuple(label(parse_attack(text)) for text in texts) == texts


@pytest.mark.parametrize(
    ("text", "norm", "said"),
    [
        ("autoattack,version=full", "linf", "takes version=standard, plus or rand, not .*full"),
        ("autoattack,steps=50", "linf", "takes version=.* nothing else, not steps"),
        ("autoattack,plus", "linf", "write parameters as key=value"),
        ("autoattack,version=plus", "l1", "AutoAttack plus is published for linf, l2, not for l1"),
        ("autoattack", "l0", "AutoAttack standard is published for linf, l2, l1, not for l0"),
        ("auto-attack", "linf", "did you mean 'autoattack'"),
    ],
)
def test_what_it_does_not_take_is_said(text, norm, said):
    with pytest.raises(RobustError, match=said):
        parse_attacks([text], norm)
    with pytest.raises(RobustError, match="stands for several attacks"):
        parse_attack("autoattack")


def test_a_protocol_is_recognised_whole_and_in_order_alone():
    stages = autoattack("standard", "linf")
    assert recognise(stages, "linf") == ("standard", stages)
    assert recognise(["pgd", *stages, "auto"], "linf") == ("standard", stages)
    assert recognise(autoattack("plus", "linf"), "linf").version == "plus"
    assert recognise(stages, "l1") is None
    for wrong in (stages[:-1], stages[::-1], (*stages[:2], "pgd", *stages[2:]),
                  (*stages[:3], "square,queries=1000")):  # fmt: skip
        assert recognise(wrong, "linf") is None


def spec(version="standard", *, norm="linf", classes=10, before=(), after=(), **more):
    """As much of a run's spec as the notes rest on."""
    attacks = parse_attacks([*before, f"autoattack,version={version}", *after], norm)
    return {
        "attacks": [
            {"name": label(a).partition(",")[0], "label": label(a), "params": a.params}
            for a in attacks
        ],
        "threat": {"norm": norm},
        "model": {"num_classes": classes},
        **more,
    }


def test_a_report_says_which_protocol_ran():
    (note,) = protocol.notes(spec(), complete=True)
    assert note.startswith("AutoAttack standard: all 4 stages complete, with the published steps")
    (note,) = protocol.notes(spec("rand"), complete=False)
    assert "all 2 stages complete on the samples measured so far" in note
    (note,) = protocol.notes(spec(before=["pgd"], after=["auto"]), complete=True)
    assert "2 further attacks ran beside them" in note
    (note,) = protocol.notes(spec(targeted="next"), complete=True)
    assert "not the published protocol" in note
    (note,) = protocol.notes(spec(surrogates=[{"path": "s.pt"}]), complete=True)
    assert "searching on surrogates: this is not the published protocol" in note
    shorter = spec()
    shorter["attacks"].pop()
    assert protocol.notes(shorter, complete=True) == []


@pytest.mark.parametrize(
    ("version", "classes", "said"),
    [
        ("standard", 10, None),
        ("standard", 1000, None),
        ("standard", 5, "5 classes: apgd-t and fab-t aim at all 4 other classes instead of 9."),
        (
            "standard",
            3,
            "all 2 other classes instead of 9; the targeted DLR loss, which needs four",
        ),
        ("standard", 2, "the one other class instead of 9; the plain margin stands in for the DLR"),
        ("rand", 5, None),
        ("rand", 2, "2 classes: the plain margin stands in"),
        ("plus", 3, "the targeted DLR loss, which needs four"),
    ],
)
def test_too_few_classes_are_said(version, classes, said):
    _, *more = protocol.notes(spec(version, classes=classes), complete=True)
    assert len(more) == (said is not None)
    assert said is None or said in more[0]


def test_a_run_with_three_classes_from_start_to_report(make_three):
    net, x, y = make_three
    report = robust.evaluate(net, x, y, threat=robust.Linf(0.2), attacks="autoattack", curve=False)
    assert [row["label"] for row in report.attacks] == list(autoattack("standard", "linf"))
    assert report.robust_accuracy == report.attacks[-1]["robust_accuracy"] == 0
    assert any("AutoAttack standard: all 4 stages complete" in note for note in report.notes)
    assert any("AutoAttack on a model with 3 classes" in note for note in report.notes)
    again = robust.evaluate(net, x, y, threat=robust.L1(3.0), attacks="autoattack", curve=False)
    assert again.attacks[1]["params"]["targets"] == 5


@pytest.fixture
def make_three():
    """Three classes in twelve dimensions, and samples so near a boundary that no stage is long."""
    rng = torch.Generator().manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(3, 12, generator=rng))
        net[1].bias.zero_()
        x = torch.rand(20, 1, 3, 4, generator=rng)
        y = net(x).argmax(1)
        margin = (net(x).topk(2).values * torch.tensor([1, -1])).sum(1)
    keep = margin.argsort()[:12]
    return net, x[keep], y[keep]
