"""The engine: cascade, verification, ledger, determinism, targets, curve."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

import robust
from robust import planning
from robust.attacks import APGD, FGSM, PGD
from robust.core.attack import Attack
from robust.core.errors import RobustError
from robust.core.threat import Threat
from robust.core.victim import Access
from robust.data import DataSpec, from_arrays, open_data
from robust.evaluation import Evaluation
from robust.models import in_memory
from robust.preflight import auto_batch_size, frozen
from robust.registry import parse_attack
from robust.store import MemoryStore
from robust.targets import choose_targets

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits():
    source = open_data(DataSpec("digits"))
    batch = source.batch(source.ids[:120])
    return batch.x, batch.y


def shards(net, x, y, attacks, eps=0.1, **options):
    """Run the engine; its shards in order."""
    threat = Threat("linf", eps)
    source = from_arrays(x, y)
    spec = planning.plan(
        in_memory(net), source, {"source": "x"}, threat, attacks, device=CPU, **options
    )
    store = MemoryStore()
    for _ in Evaluation(spec, net, source, attacks).run(store):
        pass
    return list(store.shards())


@dataclass(frozen=True, kw_only=True)
class Cheat(Attack):
    """Returns points that are wrong in the way asked for, and calls them adversarial."""

    access: ClassVar = Access.LABELS
    how: str = "outside"

    def search(self, victim, x, goal, threat, rng):
        best = threat.around(x).extreme(torch.randn(x.shape, generator=rng))
        if self.how == "outside":
            return x + 2 * (best - x)
        if self.how == "nan":
            return torch.full_like(x, float("nan"))
        if self.how == "box":
            return x + threat.eps * torch.sign(x - 0.5)
        return x


@pytest.mark.parametrize(
    ("how", "code"), [("outside", {2, 3}), ("nan", {1}), ("box", {3, 2}), ("clean", {0})]
)
def test_an_attacks_word_is_no_evidence(how, code, digits):
    x, y = digits
    # A model that everything but the clean sample fools.
    clean = {tuple(row) for row in x.flatten(1).tolist()}

    def model(z):
        known = torch.tensor([tuple(row) in clean for row in z.flatten(1).tolist()])
        truth = torch.nn.functional.one_hot(y[: len(z)], 10).float() * 5
        return torch.where(known[:, None], truth, truth.roll(1, 1))

    class Net(torch.nn.Module):
        forward = staticmethod(model)

    (shard,) = shards(Net(), x[:20], y[:20], [Cheat(how=how)], curve=False)
    rows = shard.attacks[0]
    assert set(rows.refused.tolist()) <= code
    assert not rows.success[rows.refused > 0].any()
    assert not rows.success.any()


def test_candidates_stored_are_what_they_are_said_to_be(digits_net, digits):
    x, y = digits
    found = shards(digits_net, x, y, [FGSM(), PGD(steps=5)], batch_size=50)
    assert [len(shard) for shard in found] == [50, 50, 20]
    successes = 0
    for shard in found:
        where = torch.from_numpy(shard.ids)
        assert np.array_equal(shard.labels, y[where].numpy())
        for rows in shard.attacks:
            mine = where[rows.rows[rows.success]]
            x_adv = torch.from_numpy(rows.x_adv)
            assert ((x_adv.double() - x[mine].double()).abs().flatten(1).amax(1) <= 0.1).all()
            assert torch.equal(
                digits_net(x_adv).argmax(1), torch.from_numpy(rows.prediction)[rows.success]
            )
            assert (digits_net(x_adv).argmax(1) != y[mine]).all()
            rounded = (x_adv * 255).round() / 255
            survives = digits_net(rounded).argmax(1) != y[mine]
            assert rows.survives_8bit[rows.success].tolist() == survives.long().tolist()
            kept = np.searchsorted(shard.kept, rows.rows[rows.success])
            assert np.array_equal(shard.x[kept], x[mine].numpy())
            successes += len(mine)
    assert successes > 50


def test_a_cascade_gives_each_attack_what_is_left(digits_net, digits):
    x, y = digits
    (shard,) = shards(digits_net, x, y, [FGSM(), PGD(steps=5), APGD(steps=10)], batch_size=120)
    left = set(np.flatnonzero(shard.prediction == shard.labels).tolist())
    assert shard.attackable.sum() == len(left) < 120
    for rows in shard.attacks:
        assert set(rows.rows.tolist()) == left
        left -= set(rows.rows[rows.success].tolist())
    assert 0 < len(left) < 100
    assert set(np.flatnonzero(np.isinf(shard.broken_at) | (shard.broken_at > 0.1)).tolist()) == left


def test_every_gives_all_to_each(digits_net, digits):
    x, y = digits
    (shard,) = shards(digits_net, x, y, [PGD(steps=5), FGSM()], every=True, batch_size=120)
    for rows in shard.attacks:
        assert rows.rows.tolist() == np.flatnonzero(shard.attackable).tolist()
    broken = shard.attacks[0].success | shard.attacks[1].success
    attacks = [PGD(steps=5), FGSM()]
    options = {"every": True, "batch_size": 120}
    report = robust.evaluate(digits_net, x, y, threat=robust.Linf(0.1), attacks=attacks, **options)
    assert report.robust_accuracy == pytest.approx((shard.attackable.sum() - broken.sum()) / 120)


def test_the_ledger_holds_what_the_search_spent(digits_net, digits):
    x, y = digits
    (shard,) = shards(digits_net, x, y, [PGD(steps=5)], batch_size=120, eps=0.001, curve=False)
    rows = shard.attacks[0]
    lasting = ~rows.success
    assert lasting.sum() > 100
    assert (rows.forwards[lasting] == 6).all()
    assert (rows.backwards[lasting] == 5).all()
    assert (rows.queries == rows.forwards).all()


def test_outcomes_depend_on_the_seed_and_on_nothing_else(digits_net, digits):
    x, y = digits
    attacks = [PGD(steps=3)]
    first = shards(digits_net, x, y, attacks, batch_size=40, eps=0.05)
    torch.manual_seed(5)
    torch.rand(3)
    again = shards(digits_net, x, y, attacks, batch_size=40, eps=0.05)
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.attacks[0].x_adv, b.attacks[0].x_adv)
        assert np.array_equal(a.broken_at, b.broken_at)
        assert np.array_equal(a.attacks[0].margin, b.attacks[0].margin)
    other = shards(digits_net, x, y, attacks, batch_size=40, eps=0.05, seed=1)
    assert not np.array_equal(first[0].attacks[0].margin, other[0].attacks[0].margin)


def test_a_shard_is_the_same_whatever_ran_before_it(digits_net, digits):
    x, y = digits
    threat, source = Threat("linf", 0.05), from_arrays(x, y)
    attacks = [PGD(steps=3)]
    spec = planning.plan(in_memory(digits_net), source, {"source": "x"}, threat, attacks,
                    device=CPU, batch_size=40)  # fmt: skip
    whole, part = MemoryStore(), MemoryStore()
    for _ in Evaluation(spec, digits_net, source, attacks).run(whole):
        pass
    part.write(whole.read(0))
    part.write(whole.read(1))
    for _ in Evaluation(spec, digits_net, source, attacks).run(part):
        pass
    assert np.array_equal(part.read(2).attacks[0].x_adv, whole.read(2).attacks[0].x_adv)


def test_shuffled_samples_keep_their_ids(digits_net, digits):
    x, y = digits
    found = shards(digits_net, x, y, [FGSM()], shuffle=True, limit=30, batch_size=30, curve=False)
    ids = torch.from_numpy(found[0].ids)
    assert ids.tolist() != sorted(ids.tolist())
    assert np.array_equal(found[0].labels, y[ids].numpy())
    assert np.array_equal(found[0].x, x[ids[torch.from_numpy(found[0].kept)]].numpy())


def test_targets_follow_their_rule():
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
    y, ids = torch.tensor([0, 2]), torch.tensor([10, 11])
    assert choose_targets(None, logits, y, ids, 0) is None
    assert choose_targets("next", logits, y, ids, 0).tolist() == [1, 0]
    assert choose_targets("least-likely", logits, y, ids, 0).tolist() == [1, 0]
    assert choose_targets("2", logits, y, ids, 0).tolist() == [2, 2]
    many = torch.zeros(3000, dtype=torch.int64)
    drawn = choose_targets("random", torch.zeros(3000, 3), many, torch.arange(3000), 0)
    assert sorted(set(drawn.tolist())) == [1, 2]
    assert 1350 < int((drawn == 1).sum()) < 1650
    shifted = choose_targets("random", torch.zeros(10, 3), many[:10], torch.arange(50, 60), 0)
    assert torch.equal(shifted, drawn[50:60])  # by the sample's id, not its place in the batch


@pytest.mark.parametrize("rule", ["next", "random", "least-likely", "3"])
def test_targeted_success_is_arrival(rule, digits_net, digits):
    x, y = digits
    found = shards(digits_net, x, y, [PGD(steps=20)], eps=0.3, targeted=rule, batch_size=120)
    (shard,) = found
    rows = shard.attacks[0]
    assert (rows.prediction[rows.success] == shard.targets[rows.rows[rows.success]]).all()
    assert rows.success.mean() > 0.5
    assert not shard.attackable[shard.targets == shard.labels].any()


@pytest.mark.parametrize(("norm", "eps", "text"), [("linf", 0.1, "fmn"), ("l0", 4, "fmn")])
def test_one_minimal_run_is_the_whole_curve(norm, eps, text, digits_net, digits):
    x, y = digits[0][:60], digits[1][:60]
    threat = Threat(norm, eps)
    report = robust.evaluate(digits_net, x, y, threat=threat, attacks=text)
    found, right = parse_attack(text), digits_net(x).argmax(1) == y
    x_adv = found(digits_net, x, y, threat=threat)  # it draws no random numbers
    broken = digits_net(x_adv).argmax(1) != y
    distance = torch.where(broken, threat.distance(x, x_adv), torch.inf)
    assert len(report.curve) == (9 if norm == "l0" else 17)
    for at, accuracy in report.curve:
        assert float(at).is_integer() or norm != "l0"
        left = float((right & (distance > at * (1 + 1e-6))).float().mean())
        assert accuracy == pytest.approx(left)
    assert len({accuracy for _, accuracy in report.curve}) > 4


def test_distances_that_end_inside_eps_draw_no_curve(digits_net, digits):
    x, y = digits[0][:40], digits[1][:40]
    curves = [
        dict(robust.evaluate(digits_net, x, y, threat=robust.Linf(0.1), attacks=text).curve)
        for text in ("fab-t,steps=20,until_eps=true", "fab-t,steps=20")
    ]
    assert len(curves[0]) == 7
    assert len(curves[1]) == 17
    # The short attack fills in what the distances do not tell: no loose bound at half of eps.
    assert curves[0][0.05] <= curves[1][0.05] + 0.03


def test_the_curve_falls_and_meets_the_attack(digits_net, digits):
    x, y = digits
    report = robust.evaluate(digits_net, x, y, threat=robust.Linf(0.1), attacks=["pgd,steps=10"])
    eps, accuracy = zip(*report.curve, strict=True)
    assert eps == pytest.approx((0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2))
    assert list(accuracy) == sorted(accuracy, reverse=True)
    assert accuracy[0] == report.clean_accuracy
    assert accuracy[4] == report.robust_accuracy
    assert accuracy[0] > accuracy[2] > accuracy[4] > accuracy[6]


def test_a_small_batch_gives_the_same_robust_accuracy_to_within_noise(digits_net, digits):
    x, y = digits
    found = [
        robust.evaluate(digits_net, x, y, threat=robust.Linf(0.1), batch_size=size, curve=False)
        for size in (7, 120)
    ]
    assert abs(found[0].robust_accuracy - found[1].robust_accuracy) <= 2 / 120


def test_the_model_comes_back_as_it_was(digits_net, digits):
    x, y = digits
    net = torch.nn.Sequential(torch.nn.Dropout(0.9), digits_net)
    net.train()
    digits_net.eval()
    assert (
        robust.evaluate(net, x, y, threat=robust.Linf(0.01), attacks=["fgsm"]).clean_accuracy > 0.9
    )
    assert net.training
    assert net[0].training
    assert not digits_net.training
    assert all(p.requires_grad for p in net.parameters())
    with pytest.raises(RobustError), frozen(net):
        raise RobustError("halfway")
    assert net.training


def test_batch_size_follows_memory():
    class Hungry(torch.nn.Module):
        def __init__(self, width):
            super().__init__()
            self.width = width

        def forward(self, x):
            wide = x.flatten(1)[:, :1].expand(-1, self.width)
            return wide.exp().view(len(x), 2, -1).mean(2)  # exp keeps its result

    x = torch.rand(300, 1, 4, 4)
    source = from_arrays(x, torch.zeros(300, dtype=torch.int64))
    assert auto_batch_size(Hungry(100), source, CPU) == 128
    assert auto_batch_size(Hungry(4_000_000), source, CPU) == 32  # 16 MB each of 512 MiB


BAD = {
    "nan": (lambda z: torch.full((len(z), 10), float("nan")), "NaN or infinite logits for sample"),
    "probabilities": (lambda z: torch.full((len(z), 10), 0.1), "returns probabilities"),
    "sigmoid": (lambda z: torch.full((len(z), 1), 0.4), "returns probabilities"),
    "shape": (lambda z: z, "model returned shape"),
    "crash": (lambda z: z @ torch.zeros(3, 3), "does not accept samples of shape"),
    "few classes": (lambda z: torch.arange(4.0).expand(len(z), 4), "the model has 4 classes"),
}


@pytest.mark.parametrize("kind", BAD)
def test_models_that_do_not_fit_are_refused(kind, digits):
    model, said = BAD[kind]
    with pytest.raises(RobustError, match=said):
        robust.evaluate(model, *digits, threat=robust.Linf(0.1))


def test_data_and_options_that_do_not_fit_are_refused(digits_net, digits):
    x, y = digits
    for arguments, said in [
        ({"x": x * 255}, "outside the range"),
        ({"y": y + 10}, "sample 0 has the label"),
        ({"targeted": "12"}, "10 classes"),
        ({"targeted": "nearest"}, "--targeted takes"),
        ({"attacks": []}, "no attack"),
        ({"attacks": ["pdg"]}, "did you mean"),
        ({"batch_size": 0}, "--batch-size"),
    ]:
        with pytest.raises(RobustError, match=said):
            robust.evaluate(digits_net, **{"x": x, "y": y, "threat": robust.Linf(0.1), **arguments})


def test_samples_in_memory_keep_their_layout():
    x = torch.rand(40, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    w = torch.randn(192, 5, generator=torch.Generator().manual_seed(1))
    y = (x.flatten(1) @ w).argmax(1)
    report = robust.evaluate(
        lambda z: z.flatten(1) @ w, x, y, threat=robust.Linf(0.01), attacks="fgsm"
    )
    assert report.clean_accuracy == 1


def test_a_plain_function_cannot_be_resumed(digits, tmp_path):
    w = torch.randn(64, 10, generator=torch.Generator().manual_seed(1))
    arguments = {"threat": robust.Linf(0.1), "attacks": "fgsm", "out": tmp_path / "run"}
    robust.evaluate(lambda z: z.flatten(1) @ w, *digits, **arguments)
    with pytest.raises(RobustError, match="a plain function cannot be told from another"):
        robust.evaluate(lambda z: -z.flatten(1) @ w, *digits, **arguments, resume=True)


def test_one_dimensional_audio_and_a_binary_logit():
    rng = torch.Generator().manual_seed(0)
    x = 2 * torch.rand(40, 1, 100, generator=rng) - 1
    w = torch.randn(100, generator=rng)
    y = (x[:, 0] @ w > 0).long()
    threat = robust.Linf(0.2, low=-1.0)
    report = robust.evaluate(lambda z: z[:, 0] @ w, x, y, threat=threat)
    assert report.clean_accuracy == 1
    assert report.robust_accuracy < 0.5
    assert report.survives_8bit is None
