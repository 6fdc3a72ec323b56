"""FAB and its targeted form: what until_eps saves, and where they aim."""

import pytest
import torch

from robust.core.goal import Goal
from robust.core.rng import generator
from robust.core.threat import Threat
from robust.core.victim import Victim
from robust.registry import parse_attack


def run(text, net, x, y, threat):
    victim = Victim(net, len(x))
    with torch.no_grad():
        found = parse_attack(text).search(victim, x, Goal(y), threat, generator(0))
    return threat.distance(x, found), victim.ledger


@pytest.mark.parametrize("name", ["fab", "fab-t"])
def test_until_eps_finds_the_same_breaks_for_less(name, make_net, make_samples):
    net, x = make_net((3, 4, 4), 5), make_samples((3, 4, 4), 24)
    y = net(x).argmax(1)
    whole, spent = run(f"{name},steps=40", net, x, y, Threat("linf", 0.0))
    eps = float(whole.median())
    short, saved = run(f"{name},steps=40,until_eps=true", net, x, y, Threat("linf", eps))
    broken = whole <= eps
    assert torch.equal(short <= eps, broken)
    # What the last two points alone would have broken has cost every step by then.
    early = run(f"{name},steps=38", net, x, y, Threat("linf", 0.0))[0] <= eps
    assert (broken & early).sum() >= 0.8 * broken.sum()
    assert (saved.backwards[broken & early] < spent.backwards[broken & early]).all()
    assert (saved.backwards <= spent.backwards).all()
    assert torch.equal(saved.backwards[~broken], spent.backwards[~broken])
    assert (short[~broken] == whole[~broken]).all()


def test_each_target_costs_one_backward_a_step(make_net, make_samples):
    net, x = make_net((20,), 6), make_samples((20,), 8)
    y = net(x).argmax(1)
    threat = Threat("l2", 0.0)
    _, ledger = run("fab,steps=7", net, x, y, threat)
    assert (ledger.backwards == 7 * 5).all()
    assert (ledger.forwards == 1 + 7 + 1).all()
    _, ledger = run("fab-t,steps=7,targets=3", net, x, y, threat)
    assert (ledger.backwards == 7 * 3).all()
    assert (ledger.forwards == 1 + 3 * (7 + 1)).all()


def test_more_targets_come_no_less_close(make_net, make_samples):
    net, x = make_net((3, 4, 4), 6), make_samples((3, 4, 4), 24)
    y = net(x).argmax(1)
    threat = Threat("l2", 0.0)
    distances = [run(f"fab-t,steps=20,targets={k}", net, x, y, threat)[0] for k in (1, 5)]
    assert (distances[1] <= distances[0]).all()
    assert (distances[1] < distances[0]).any()


def test_a_random_start_lies_at_half_the_threat(make_net, make_samples):
    net, x = make_net((20,), 4), make_samples((20,), 6)
    asked = []
    victim = Victim(lambda z: asked.append(z.detach().clone()) or net(z), len(x))
    attack = parse_attack("fab,steps=1,random_start=true")
    with torch.no_grad():
        attack.search(victim, x, Goal(net(x).argmax(1)), Threat("linf", 0.2), generator(0))
    away = (asked[1] - x).abs().amax(1)
    assert torch.equal(asked[0], x)
    assert (away <= 0.1 + 1e-6).all()
    assert (away > 0.05).all()
