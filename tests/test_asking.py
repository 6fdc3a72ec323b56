"""A run on an oracle: budgets hold, nothing is asked twice, chance is averaged."""

import itertools
import json
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import robust
from robust.core.attack import Attack
from robust.core.errors import RobustError
from robust.core.oracle import Oracle
from robust.core.rng import uniform
from robust.core.victim import Access
from robust.data import from_arrays
from robust.models import in_memory
from robust.models.info import Loaded
from robust.planning import plan
from robust.probing import answers_at_random

GENERATOR = torch.Generator().manual_seed(5)
X = torch.rand(12, 1, 6, 6, generator=GENERATOR)
EXACT = (X * 255).round() / 255
EPS = 0.2


class Counted(nn.Module):
    """A linear model that lists the samples it was asked about, one entry a row."""

    def __init__(self, classes=3, noise=0.0, x=X):
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.weight = torch.randn(36, classes, generator=generator)
        self.noise, self.rows = noise, []
        self.random = torch.Generator().manual_seed(7)

    def forward(self, x):
        self.rows += [row.numpy().tobytes() for row in x.detach()]
        logits = x.flatten(1) @ self.weight
        return logits + self.noise * torch.randn(logits.shape, generator=self.random)


def labels_of(net, x=X):
    y = net(x).argmax(1)
    net.rows.clear()
    return y


@dataclass(frozen=True, kw_only=True)
class Nosy(Attack):
    """Asks until nobody answers any more, and heeds no budget."""

    access: ClassVar[Access] = Access.LABELS
    minimal: ClassVar[bool] = True
    eager: bool = True

    def search(self, victim, x, goal, threat, rng):
        for _ in itertools.count() if self.eager else range(40):
            victim.labels(threat.around(x).random(rng))
        return x


@dataclass(frozen=True, kw_only=True)
class Blends(Attack):
    """Goes to samples of other classes, and forgets what it has found."""

    access: ClassVar[Access] = Access.LABELS
    minimal: ClassVar[bool] = True
    seen: ClassVar[list] = []

    def search(self, victim, x, goal, threat, rng):
        self.seen.append((victim.pool.x, victim.pool.labels))
        for share in (0.3, 0.6, 0.85, 1.0):
            other = torch.stack(
                [victim.pool.x[victim.pool.labels != own][0] for own in goal.labels]
            )
            victim.labels(torch.lerp(x, other, share))
        return x


@dataclass(frozen=True, kw_only=True)
class Late(Attack):
    """Asks to the end, or `most` times, and then returns a success that it never asked about."""

    access: ClassVar[Access] = Access.LABELS
    most: int = 10**6

    def search(self, victim, x, goal, threat, rng):
        victim = victim.limited(self.most)
        while bool((victim.left > 0).all()):
            victim.labels(x + 0.001 * uniform(rng, x) * (x < 0.5))
        other = [victim.pool.x[victim.pool.labels != own][0] for own in goal.labels]
        return torch.lerp(x, torch.stack(other), 0.9)


def run(net, attacks, x=X, **options):
    y = labels_of(net, x)
    given = {"threat": robust.Linf(EPS), "attacks": attacks, "access": "labels", **options}
    return robust.evaluate(net, x, y, **given)


@pytest.mark.parametrize("queries", [12, 30, 57])
def test_a_search_that_heeds_no_budget_is_stopped(queries):
    net = Counted()
    run(net, [Nosy()], queries=queries)
    assert 0.7 * queries * len(X) < len(net.rows) <= queries * len(X)


@pytest.mark.parametrize("attacks", [[Late()], [Late(most=9), Nosy()]])
@pytest.mark.parametrize("queries", [12, 30])
def test_the_budget_is_not_exceeded_by_one(queries, attacks):
    """Whatever is asked about a sample counts: the clean one, the search, checks, 8 bits."""
    net = Counted()
    report = run(net, attacks, queries=queries, threat=robust.Linf(1.0), draws=1)
    assert report.attacks[0]["success_rate"] == 1 == report.survives_8bit
    alone = len(attacks) == 1
    # A candidate, and it rounded, lie near another sample; so the sum holds for all together.
    assert len(net.rows) <= queries * len(X)
    if alone:
        assert len(net.rows) >= (queries - 1) * len(X)


def test_attacks_of_a_cascade_share_the_budget():
    net = Counted()
    attacks = [Nosy(eager=False), Late(most=9), Nosy()]
    report = run(net, attacks, queries=60, threat=robust.Linf(1e-4), draws=1)
    assert [attack["successes"] for attack in report.attacks] == [0, 0, 0]
    assert 50 * len(X) <= len(net.rows) <= 60 * len(X)
    assert report.attacks[2]["queries"] > 0


def test_with_every_each_attack_has_a_budget_of_its_own():
    net = Counted()
    report = run(net, [Nosy(), Nosy(eager=False)], queries=30, every=True)
    assert report.attacks[1]["queries"] > 20 * len(X)
    assert len(net.rows) <= 60 * len(X)


def test_a_budget_for_nothing_is_refused():
    with pytest.raises(RobustError, match="leaves nothing to search with"):
        run(Counted(), [Nosy()], queries=4)
    with pytest.raises(RobustError, match="add --access"):
        run(Counted(), ["pgd"], queries=4, access="gradient")
    with pytest.raises(RobustError, match="needs gradient, and attackers have access to scores"):
        run(Counted(), ["pgd"], access="scores")


def test_nothing_is_asked_twice_and_what_was_found_is_kept():
    net, x = Counted(), EXACT
    report = run(net, [Blends()], x, threat=robust.Linf(1.0), draws=1)
    assert len(net.rows) == len(set(net.rows))
    attack = report.attacks[0]
    assert attack["success_rate"] == 1
    assert attack["queries_per_sample"] == 3  # the fourth blend is a sample, and known
    assert report.robust_accuracy == 0


def test_a_search_starts_from_classes_that_its_shard_lacks():
    net = Counted()
    y = labels_of(net)
    order = y.argsort(stable=True)
    Blends.seen.clear()
    robust.evaluate(
        net, X[order], y[order], threat=robust.Linf(1.0), attacks=[Blends()], access="labels",
        batch_size=2, draws=1,
    )  # fmt: skip
    for x, labels in Blends.seen:
        assert len(set(labels.tolist())) >= 2
        assert torch.equal(net(x).argmax(1), labels)


def test_access_alone_changes_no_outcome():
    net = Counted()
    y = labels_of(net)
    given = {"threat": robust.Linf(EPS), "attacks": ["square,queries=60"], "search": "exact"}
    free = robust.evaluate(net, X, y, **given)
    counted = robust.evaluate(net, X, y, access="scores", **given)
    assert free.robust_accuracy == counted.robust_accuracy < free.clean_accuracy
    assert free.attacks[0]["successes"] == counted.attacks[0]["successes"]
    assert counted.attacks[0]["queries"] <= free.attacks[0]["queries"]


@pytest.mark.parametrize("labels", [False, True])
def test_chance_is_noticed(labels):
    for noise in (0.0, 0.3):
        oracle = Oracle(Counted(noise=noise), labels=labels)
        assert answers_at_random(oracle, X[:8]) == (noise > 0)
        assert oracle.asked <= 60
    faint = Oracle(Counted(noise=0.01), labels=True)
    assert not labels or answers_at_random(faint, X[:8])  # noticed next to a boundary alone


def test_floating_point_is_no_chance():
    assert not answers_at_random(Oracle(Counted(noise=1e-6)), X[:8])


def test_a_random_model_is_asked_several_times_and_checked_again():
    net = Counted(noise=0.5)
    y = labels_of(Counted())
    found = robust.evaluate(
        net, X, y, threat=robust.Linf(EPS), attacks=["square,queries=200"], access="scores"
    )
    assert found.spec["draws"] == 5
    assert found.spec["checks"] == 20
    declared = robust.evaluate(
        net, X, y, threat=robust.Linf(EPS), attacks=["square,queries=200"], access="scores", draws=3
    )
    assert declared.spec["draws"] == 3


def test_success_on_a_random_model_wants_half_of_the_checks():
    from robust.core.goal import Goal
    from robust.core.threat import Threat
    from robust.core.victim import Victim
    from robust.verification import verify

    class Often(nn.Module):
        """Class 1 in the first ten answers, and later in so many of ten as the sample's first value
        says; else class 0.
        """

        def __init__(self):
            super().__init__()
            self.asked = {}

        def forward(self, x):
            out = []
            for share in x[:, 0].tolist():
                number = self.asked[share] = self.asked.get(share, -1) + 1
                out.append([0.5, float(number < 10 or number % 10 < round(10 * share))])
            return torch.tensor(out)

    x = torch.zeros(4, 1)
    x_adv = torch.tensor([[0.2], [0.5], [0.8], [1.0]])
    oracle = Oracle(Often(), labels=True)
    oracle.draws = 10
    goal = Goal(torch.zeros(4, dtype=torch.int64))
    victim = Victim(oracle, 4, Access.LABELS)
    rows = verify(
        oracle, "a", torch.arange(4), x, x_adv, goal, Threat("linf", 1.0), victim,
        minimal=False, image=False, checks=20,
    )  # fmt: skip
    assert np.allclose(rows.fooled, [0.2, 0.5, 0.8, 1.0])
    assert oracle.asked == 4 * 30  # checks are draws of their own
    assert rows.success.tolist() == [False, True, True, True]


def test_specs_of_old_runs_keep_their_hash():
    report = robust.evaluate(Counted(), X, labels_of(Counted()), threat=robust.Linf(0.1),
                             attacks="pgd,steps=2", search="exact", curve=False)  # fmt: skip
    from robust.core.outcome import RunSpec

    spec = RunSpec.from_dict(report.spec)
    old = {
        k: v for k, v in report.spec.items() if k not in ("access", "queries", "draws", "checks")
    }
    assert RunSpec.from_dict(old).hash == spec.hash
    assert replace(spec, access="labels").hash != spec.hash
    assert replace(spec, queries=9).hash != spec.hash


def test_noise_of_the_search_does_not_reach_the_callers_generator():
    before = torch.get_rng_state()
    run(Counted(), [Nosy(eager=False)], queries=30)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("name", "norm"),
    [("art:HopSkipJump,max_iter=20", "linf"), ("foolbox:BoundaryAttack,steps=400", "l2")],
)
def test_attacks_of_other_packages_are_stopped_sample_by_sample(name, norm):
    pytest.importorskip("art" if name.startswith("art") else "foolbox")
    net, few = Counted(), X[:3]
    y = labels_of(net, few)
    report = robust.evaluate(
        net, few, y, threat=robust.Threat(norm, 3.0), attacks=[name], access="labels",
        queries=150, draws=1,
    )  # fmt: skip
    assert 0.8 * 150 * 3 < len(net.rows) <= 150 * 3
    assert report.attacks[0]["success_rate"] == 1  # what it found on its way is not lost


def test_a_search_does_not_end_on_a_lucky_answer(monkeypatch):
    import robust.core.victim as module

    found = []
    for confirm in (0, module.CONFIRM):
        monkeypatch.setattr(module, "CONFIRM", confirm)
        report = robust.evaluate(
            Counted(noise=0.7), X, labels_of(Counted()), threat=robust.Linf(EPS), access="scores",
            attacks=["square,queries=900"], queries=1500, draws=5,
        )  # fmt: skip
        found.append(report.attacks[0]["successes"])
    assert found[1] > found[0] + 1


@pytest.mark.parametrize("budget", [2, 9, 12, 13, 24, 25])
def test_confirming_stays_within_the_budget(budget):
    from robust.core.goal import Goal
    from robust.core.progress import Progress
    from robust.core.victim import Victim

    net = Counted(noise=0.7)
    oracle, y = Oracle(net), labels_of(Counted())
    oracle.draws = 2
    progress = Progress(X, Goal((y + 1) % 3), robust.Linf(1.0))  # whatever it says is a success
    victim = Victim(oracle, 12, Access.SCORES, budget=torch.full((12,), budget), progress=progress)
    rows = torch.tensor([0, 0, 1])
    while bool((victim.left >= 2).all()):
        victim[rows].logits(X[rows] + 0.001 * torch.rand(3, 1, 6, 6))
    assert victim.ledger.queries.max() <= budget
    assert len(net.rows) == victim.ledger.queries.sum()


def test_what_failed_its_checks_breaks_no_sample():
    net = Counted(noise=1.5)
    report = robust.evaluate(
        net, X, labels_of(Counted()), threat=robust.Linf(EPS), access="labels", draws=3,
        queries=300, attacks=["block-flips,until_eps=false"],
    )  # fmt: skip
    assert report.attacks[0]["successes"] < report.attacks[0]["given"]
    assert report.robust_accuracy == report.attacks[0]["robust_accuracy"]


def test_the_model_is_looked_at_in_eval_mode_and_left_as_it_was():
    net = nn.Sequential(Counted(), nn.BatchNorm1d(3), nn.Dropout(0.5))
    net.eval()
    y = net(X).argmax(1)
    net.train()
    state = {key: value.clone() for key, value in net.state_dict().items()}
    report = robust.evaluate(
        net, X, y, threat=robust.Linf(EPS), attacks="square,queries=9", access="scores"
    )
    assert report.spec["draws"] == 1
    assert report.clean_accuracy == 1
    assert net.training
    assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())


def test_chance_is_drawn_from_the_seed():
    y, found = labels_of(Counted()), set()
    noisy = nn.Sequential(Counted(), Jitter())
    for seed in range(6):
        torch.manual_seed(seed)
        report = robust.evaluate(
            noisy, X, y, threat=robust.Linf(EPS), attacks="uniform-noise", access="labels"
        )
        found.add(report.spec["draws"])
    assert len(found) == 1


class Jitter(nn.Module):
    """So little noise that a few labels of points on a boundary may or may not show it."""

    def forward(self, logits):
        return logits + 0.002 * torch.randn_like(logits)


def test_candidates_of_surrogates_count_towards_the_budget():
    net = Counted()
    y = labels_of(net)
    other = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    attacks = [f"transfer,steps={steps}" for steps in range(1, 9)]
    report = robust.evaluate(
        net, X, y, threat=robust.Linf(1e-3), attacks=attacks, access="labels", queries=6,
        surrogates=other, draws=1,
    )  # fmt: skip
    assert len(net.rows) <= 6 * len(X)
    assert report.attacks[0]["given"] > 0


def test_with_every_an_attack_pays_for_what_another_asked():
    net = Counted()
    given = ["rays,queries=50", "rays,queries=51"]  # which draws nothing at random
    report = run(net, given, every=True, draws=1)
    alone = run(Counted(), given[1:], draws=1)
    assert report.attacks[1]["queries"] == alone.attacks[0]["queries"]
    assert len(net.rows) == len(set(net.rows))


def test_one_probability_for_two_classes_is_no_logit():
    def sigmoid(x):
        return torch.sigmoid(8 * (x[:, 0, 0, 0] - 0.5))

    with pytest.raises(RobustError, match="pass --probabilities"):
        robust.evaluate(sigmoid, X, (X[:, 0, 0, 0] > 0.5).long(), threat=robust.Linf(0.1),
                        attacks="square,queries=9", access="scores")  # fmt: skip


def test_the_least_likely_class_needs_scores():
    net = Counted()
    source = from_arrays(X, labels_of(net), channels_last=False)
    loaded = Loaded(Oracle(net, labels=True, scores=False), in_memory(net).info)
    with pytest.raises(RobustError, match="least-likely needs scores"):
        plan(loaded, source, {}, robust.Linf(0.1), [Late()], device=torch.device("cpu"),
             targeted="least-likely", access="labels")  # fmt: skip


def test_an_attack_that_finds_no_query_left_says_so():
    net = Counted()
    report = run(net, [Nosy(), Late(most=9)], queries=30, threat=robust.Linf(1e-4), draws=1)
    later = report.attacks[1]
    assert later["given"] == len(X)
    assert later["queries"] == 0
    assert later["remarks"] == [{"text": "had no query left for a search", "samples": len(X)}]


def test_an_attack_that_is_given_nothing_leaves_a_report():
    net = Counted()
    report = run(net, [Blends(), Nosy()], EXACT, threat=robust.Linf(1.0), draws=1)
    assert report.robust_accuracy == 0
    assert report.attacks[1]["given"] == 0
    assert report.to_json()["attacks"][1]["distance_by_queries"] in (None, [])


def test_samples_that_the_model_answers_with_nan_are_misjudged():
    class Broken(nn.Module):
        def forward(self, x):
            logits = x.flatten(1)[:, :3].clone()
            logits[x[:, 0, 0, 0] > 0.7] = float("nan")
            return logits

    y = X.flatten(1)[:, :3].argmax(1)
    bad = int((X[:, 0, 0, 0] > 0.7).sum())
    assert 0 < bad < len(X)
    for access, labels in (("scores", y), ("labels", torch.zeros_like(y))):
        report = robust.evaluate(
            Broken(), X, labels, threat=robust.Linf(0.05), attacks="uniform-noise", access=access,
            draws=1,
        )  # fmt: skip
        right = ((labels == y) & (X[:, 0, 0, 0] <= 0.7)).float().mean().item()
        assert report.clean_accuracy == pytest.approx(right)
        assert report.oracle["not_finite"] >= bad
        json.dumps(report.to_json(), allow_nan=False)
    with pytest.raises(RobustError, match="NaN or infinite logits"):
        robust.evaluate(Broken(), X, y, threat=robust.Linf(0.05), attacks="uniform-noise")


def test_nothing_but_nan_is_refused():
    with pytest.raises(RobustError, match="answers with NaN, whatever"):
        robust.evaluate(
            lambda x: x.flatten(1)[:, :3] * float("nan"), X, torch.zeros(12).long(),
            threat=robust.Linf(0.05), attacks="uniform-noise", access="scores",
        )  # fmt: skip
