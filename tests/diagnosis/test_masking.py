"""Models that mask their gradients are called masked, honest ones are not, and attacks that are
crippled are told from both.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diagnosis_subjects import Around
from torch.nn.functional import cross_entropy

import robust
from robust.attacks.pgd import PGD
from robust.core.defended import compose
from robust.core.defense import Frame
from robust.core.losses import ce
from robust.core.rng import seeded
from robust.data import DataSpec, open_data
from robust.defenses.distillation import Distillation
from robust.defenses.kwta import KWTA
from robust.defenses.quantisation import Quantisation
from robust.diagnosis import engine
from robust.diagnosis.probes import answers, gradients, reference
from robust.models import build, load_model
from robust.reports.checks import athalye, attack_failure, autoattack, second_opinion

CHECKS = (athalye, attack_failure, autoattack, second_opinion)
BENCH = Path(__file__).parents[3] / "shared" / "bench"
FRAME = Frame((1, 8, 8), 10)
EPS = 0.15  # of which natural training on digits leaves little


@pytest.fixture(autouse=True)
def probes(monkeypatch):
    """The probes of this file alone."""
    chosen = {"answers": answers, "gradients": gradients, "reference": reference}
    found = {name: module.probe for name, module in chosen.items()}
    monkeypatch.setattr(engine, "PROBES", found)


@pytest.fixture(scope="module")
def digits():
    source = open_data(DataSpec("digits", "test"))
    batch = source.batch(source.ids[:48])
    return batch.x, batch.y


@pytest.fixture(scope="module")
def kwta():
    """Digits learned with k-winners-take-all in place of ReLUs."""
    source = open_data(DataSpec("digits", split="train"))
    batch = source.batch(source.ids)
    with seeded(0):
        net = build("small-cnn", (1, 8, 8), 10)
        model = compose(net, [KWTA(ratio=0.05)], ["kwta"], FRAME)
        optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
        for _ in range(8):
            for rows in torch.randperm(len(batch.y)).split(64):
                optimiser.zero_grad()
                cross_entropy(model(batch.x[rows]), batch.y[rows]).backward()
                optimiser.step()
    return model.eval()


def judged(model, samples, eps, attacks="auto", **how):
    """The checks of a run by their keys."""
    report = robust.evaluate(
        model, *samples, threat=robust.Linf(eps), attacks=attacks, curve=False,
        diagnose="subset", **how,
    )  # fmt: skip
    return report, {one.key: one for module in CHECKS for one in module.checks(report)}


def masking(checks):
    return {key for key, one in checks.items() if one.failed and one.masking}


def broken(checks):
    return {key for key, one in checks.items() if one.failed and one.weight == "broken"}


# Models


def test_a_distilled_model_is_masked(digits_net, digits):
    # Distillation deploys logits so many times larger than those that were trained.
    hot = Around(digits_net, after=lambda z: 50 * z)
    model = compose(hot, [Distillation()], ["distillation"], FRAME)
    naive, checks = judged(model, digits, EPS, "pgd", view="naive")
    assert {"zero-gradients", "black-box"} <= masking(checks)
    assert {"unavailable-gradients", "second-opinion"} <= broken(checks)
    report, checks = judged(model, digits, EPS)
    assert {"zero-gradients", "black-box"} <= masking(checks)
    assert not broken(checks)  # the run sees through it
    assert report.robust_accuracy < naive.robust_accuracy - 0.3


def test_winners_that_take_all_are_masked(kwta, digits):
    _, checks = judged(kwta, digits, EPS, "pgd", view="naive")
    assert {"unavailable-gradients", "black-box"} <= masking(checks)
    assert "second-opinion" in broken(checks)
    _, checks = judged(kwta, digits, EPS)
    assert {"unavailable-gradients", "black-box"} <= masking(checks)
    assert not broken(checks)


def test_hard_quantisation_is_masked(digits_net, digits):
    model = compose(digits_net, [Quantisation(levels=4)], ["quantisation"], FRAME)
    _, checks = judged(model, digits, EPS, "pgd", view="naive")
    assert {"zero-gradients", "unavailable-gradients", "black-box"} <= masking(checks)
    assert {"unavailable-gradients", "second-opinion"} <= broken(checks)
    _, checks = judged(model, digits, EPS)
    assert {"zero-gradients", "unavailable-gradients", "black-box"} <= masking(checks)
    assert not broken(checks)


@pytest.mark.parametrize("eps", [0.03, EPS])
def test_a_plain_network_is_not_masked(digits_net, digits, eps):
    report, checks = judged(digits_net, digits, eps)
    assert not masking(checks)
    assert not broken(checks)
    assert {one.status for one in checks.values()} == {"passed"}
    assert (report.robust_accuracy > 0.5) == (eps == 0.03)


def bench(name, n=None):
    """A published checkpoint, samples of its data, and the eps that it was trained for."""
    if not (BENCH / "reference.json").exists():
        pytest.skip(f"no models in {BENCH}")
    its = json.loads((BENCH / "reference.json").read_text())["models"][name]
    loaded = load_model(
        BENCH / f"models/{name}.pt", arch=f"{BENCH}/archs.py:{its['arch']}",
        mean=its["mean"], std=its["std"], shape=tuple(its["shape"]),
    )  # fmt: skip
    source = open_data(DataSpec(str(BENCH / "data" / its["data"])))
    batch = source.batch(source.ids[: n or its["n"]])
    return loaded.module, (batch.x, batch.y), its["eps"]


@pytest.mark.parametrize("name", ["cifar_cnn_a_adv", "cifar_cnn_a_mix4", "mnist_cnn_a_adv"])
def test_adversarial_training_is_not_masked(name):
    model, samples, eps = bench(name, None if "mnist" in name else 60)
    _, checks = judged(model, samples, eps)
    assert not masking(checks)
    assert not broken(checks)
    doubts = {key for key, one in checks.items() if one.failed}
    # On MNIST random search finds a little more than gradients do.
    assert doubts == ({"square-gain"} if name == "mnist_cnn_a_adv" else set())


# Attacks


@dataclass(frozen=True, kw_only=True)
class StandsStill(PGD):
    """PGD whose steps have no length."""

    def search(self, victim, x, goal, threat, rng):
        start = threat.around(x).random(rng)
        for _ in range(self.steps):
            victim.gradient(start, ce, goal)
        return start


@dataclass(frozen=True, kw_only=True)
class GoesDown(PGD):
    """PGD with the sign of its gradient turned."""

    def search(self, victim, x, goal, threat, rng):
        ball = threat.around(x)
        now = ball.random(rng)
        for _ in range(self.steps):
            _, _, slope = victim.gradient(now, ce, goal)
            now = ball.project(ball.advance(now, -slope, threat.eps / 10))
        return now


CRIPPLED = {
    "one step": "pgd,steps=1",
    "step size 0": StandsStill(steps=10),
    "wrong sign": GoesDown(steps=10),
}


@pytest.mark.parametrize("attack", CRIPPLED.values(), ids=list(CRIPPLED))
def test_a_crippled_attack_is_told_from_a_masked_model(digits_net, digits, attack):
    _, checks = judged(digits_net, digits, 0.08, attack)
    assert broken(checks)
    assert not masking(checks)


def test_the_same_on_a_robust_model():
    model, samples, eps = bench("cifar_cnn_a_adv", 60)
    _, checks = judged(model, samples, eps, "pgd,steps=1")
    assert "one-step" in broken(checks)
    assert not masking(checks)


def test_a_sound_attack_is_none_of_these():
    model, samples, eps = bench("cifar_cnn_a_adv", 60)
    _, checks = judged(model, samples, eps, "pgd")
    assert not broken(checks)
    assert not masking(checks)
