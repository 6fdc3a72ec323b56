"""Attacks of foolbox and ART, end to end, and what the ledger says they cost."""

import pytest
import torch

import robust
from robust import peers
from robust.core.errors import RobustError
from robust.core.goal import Goal
from robust.core.rng import generator
from robust.core.threat import Threat
from robust.core.victim import Access, Victim
from robust.registry import label, name_of, parse_attack
from robust.reports.summary import Report

# attack, norm, eps (large enough to break digits), targeted, least share of samples broken
CASES = [
    ("foolbox:LinfPGD,steps=20", "linf", 0.3, None, 0.9),
    ("foolbox:LinfDeepFoolAttack,steps=50", "linf", 0.3, None, 0.9),
    ("foolbox:L2FMNAttack,steps=30", "l2", 2.5, "next", 0.8),
    ("foolbox:SparseL1DescentAttack,steps=20", "l1", 12.0, None, 0.8),
    ("foolbox:L0FMNAttack,steps=30", "l0", 12, None, 0.8),
    ("foolbox:HopSkipJumpAttack,steps=2,max_gradient_eval_steps=100", "l2", 3.0, None, 0.8),
    ("foolbox:GenAttack,steps=20", "linf", 0.5, "next", 0.2),
    ("art:ProjectedGradientDescent,max_iter=20", "l2", 2.5, None, 0.9),
    ("art:BasicIterativeMethod,max_iter=20,eps_step=0.05", "linf", 0.3, "next", 0.8),
    ("art:DeepFool,max_iter=20", "l2", 2.5, None, 0.8),
    ("art:HopSkipJump,max_iter=2,max_eval=100", "linf", 0.5, None, 0.8),
    ("art:SquareAttack,max_iter=50", "linf", 0.4, None, 0.5),
]


@pytest.fixture(scope="module")
def digits():
    source = robust.open_data(robust.data.DataSpec("digits"))
    batch = source.batch(source.ids[:16])
    return batch.x, batch.y


@pytest.mark.parametrize(("text", "norm", "eps", "targeted", "least"), CASES)
def test_runs_through_the_engine(text, norm, eps, targeted, least, digits_net, digits):
    x, y = digits
    threat = Threat(norm, eps)
    report: Report = robust.evaluate(
        digits_net, x, y, threat=threat, attacks=text, targeted=targeted, curve=False
    )
    (row,) = report.attacks
    attack = parse_attack(text)
    assert parse_attack(row["label"]) == attack
    assert row["access"] == str(attack.access)
    assert row["success_rate"] >= least  # of what the engine measured itself
    assert (row["backwards"] > 0) == (attack.access == Access.GRADIENT)


def test_the_cost_of_a_known_search(digits_net, digits):
    """Ten steps are ten forwards and ten backwards, and one forward settles the result."""
    x, y = digits
    report = robust.evaluate(
        digits_net, x, y, threat=robust.Linf(0.1), attacks="foolbox:LinfPGD,steps=10", curve=False
    )
    (row,) = report.attacks
    given = round(report.clean_accuracy * len(x))
    assert row["forwards"] == 11 * given
    assert row["backwards"] == 10 * given


COUNTED = [
    ("foolbox:LinfPGD,steps=5", "linf"),
    ("foolbox:L2CarliniWagnerAttack,steps=20,binary_search_steps=2", "l2"),
    ("foolbox:L2RepeatedAdditiveGaussianNoiseAttack,repeats=5", "l2"),
    ("foolbox:DatasetAttack", "l2"),
    ("foolbox:BoundaryAttack,steps=20", "l2"),
    ("art:DeepFool,max_iter=5", "l2"),
    ("art:CarliniL2Method,max_iter=4,binary_search_steps=3", "l2"),
    ("art:ElasticNet,max_iter=10,binary_search_steps=3", "l1"),
    ("art:AutoProjectedGradientDescent,max_iter=6,nb_random_init=2", "linf"),
    ("art:SquareAttack,max_iter=20", "linf"),
    ("art:UniversalPerturbation,max_iter=1", "linf"),
    ("art:SaliencyMapMethod", "l0"),
    ("art:SimBA,max_iter=20", "l2"),
]
EPS = {"linf": 0.1, "l2": 1.0, "l1": 5.0, "l0": 20}


def searched(text, net, x, norm, *, eps=None, targeted=False, low=0.0, high=1.0, seed=0):
    attack = parse_attack(text)
    threat = Threat(norm, eps or EPS[norm] * (1 if norm == "l0" else high - low), low, high)
    y = net.net(x).argmax(1)
    goal = Goal((y + 1) % 4 if targeted else y, targeted=targeted)
    victim = Victim(net, len(x), attack.access)
    with torch.no_grad():
        return attack.search(victim, x, goal, threat, generator(seed)), victim.ledger


@pytest.mark.parametrize(("text", "norm"), COUNTED)
def test_the_ledger_is_exact(text, norm, make_net, make_samples):
    net, x = make_net(), make_samples()
    before = x.clone()
    _, ledger = searched(text, net, x, norm)
    assert int(ledger.forwards.sum()) == net.forwards
    assert int(ledger.queries.sum()) == net.forwards
    assert int(ledger.backwards.sum()) == net.backwards
    assert (ledger.forwards > 0).all()
    assert net.types == {torch.float32}
    assert torch.equal(x, before)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_queries_are_entered_for_their_sample(make_net, make_samples):
    """A search that drops what it solved asks about a part of the batch: whose rows are they?"""
    net, x = make_net(), make_samples()
    solved = torch.arange(8) % 2 == 0
    y = net.net(x).argmax(1)
    goal = Goal(torch.where(solved, (y + 1) % 4, y))  # from the start, for every second sample
    victim = Victim(net, 8, Access.SCORES)
    with torch.no_grad():
        parse_attack("art:SquareAttack,max_iter=20").search(
            victim, x, goal, Threat("linf", 0.001), generator(0)
        )
    queries = victim.ledger.queries
    assert (queries[~solved] > 60).all()
    assert (queries[solved] <= 25).all()


@pytest.mark.parametrize(
    ("text", "norm", "low", "high"),
    [
        ("foolbox:LinfPGD,steps=10", "linf", 0, 256),
        ("foolbox:L2DeepFoolAttack", "l2", -1, 1),
        ("art:ElasticNet,max_iter=10,learning_rate=0.1", "l1", -1, 1),
        ("art:ProjectedGradientDescent,max_iter=5,eps_step=8", "linf", 0, 256),
        ("art:SaliencyMapMethod", "l0", -1, 1),
    ],
)
def test_the_range_of_the_data_does_not_matter(text, norm, low, high, make_net):
    """Packages that assume pixels in [0, 1] see them so, and lengths are scaled with them."""
    net, span = make_net(), high - low
    unit = torch.randint(0, 257, (8, 3, 8, 8), generator=torch.Generator().manual_seed(2)) / 256
    plain, _ = searched(text.replace("eps_step=8", f"eps_step={8 / 256}"), net, unit, norm)
    wide = make_net()
    first = wide.net[1]
    with torch.no_grad():  # the same function of (x − low) / span
        first.bias -= first.weight.sum(1) * low / span
        first.weight /= span
    x_adv, _ = searched(text, wide, unit * span + low, norm, low=low, high=high)
    assert not torch.equal(plain, unit)
    torch.testing.assert_close((x_adv - low) / span, plain, atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("text", "norm"),
    [
        ("foolbox:L2AdditiveGaussianNoiseAttack", "l2"),
        ("foolbox:LinfPGD,steps=3", "linf"),
        (
            "art:HopSkipJump,max_iter=1,init_eval=10,max_eval=10",
            "l2",
        ),  # seeds itself, from the system
        ("art:UniversalPerturbation,max_iter=1", "linf"),
    ],
)
def test_the_seed_alone_decides(text, norm, make_net, make_samples):
    net, x = make_net(), make_samples()
    first, _ = searched(text, net, x, norm, seed=3)
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    again, _ = searched(text, net, x, norm, seed=3)
    assert torch.equal(first, again)
    assert torch.equal(before, torch.random.get_rng_state())
    if "Universal" not in text:
        assert not torch.equal(first, searched(text, net, x, norm, seed=4)[0])


@pytest.mark.parametrize(
    ("text", "norm", "eps"),
    [
        ("art:SignOPTAttack,max_iter=1,k=3,num_trial=10", "l2", 5.0),
        ("art:PixelAttack,th=40,max_iter=2", "l0", 120),
        ("art:FastGradientMethod", "linf", 0.1),
        ("foolbox:LinfDeepFoolAttack", "linf", 0.1),
    ],
)
def test_one_logit_is_two_classes(text, norm, eps, make_net, make_samples):
    """ART has attacks that refuse two classes: those that only ask for answers see a third."""
    net, x = make_net(classes=1), make_samples(n=4)
    with torch.no_grad():
        net.net[3].bias -= net.net(x).median()
    y = (net.net(x)[:, 0] > 0).long()
    x_adv = parse_attack(text)(net, x, y, threat=Threat(norm, eps))
    assert ((net.net(x_adv)[:, 0] > 0).long() != y).sum() >= 2


def test_restarts_keep_what_reached_the_goal(make_net, make_samples):
    net, x = make_net(), make_samples()
    y = net.net(x).argmax(1)
    text = "foolbox:L2ProjectedGradientDescentAttack,steps=3,rel_stepsize=0.5"
    once = net.net(searched(text, net, x, "l2", eps=0.7)[0]).argmax(1) != y
    four = net.net(searched(f"{text},restarts=4", net, x, "l2", eps=0.7)[0]).argmax(1) != y
    assert 0 < once.sum() < len(x)
    assert four.sum() > once.sum()


def test_large_logits_are_no_error(make_net, make_samples):
    """One attack takes the exponential of logits as they are."""
    net, x = make_net(), make_samples(n=4)
    with torch.no_grad():
        net.net[3].weight *= 100
    x_adv, _ = searched("foolbox:GenAttack,steps=3", net, x, "linf", eps=0.3, targeted=True)
    assert (x_adv != x).flatten(1).any(1).all()


def test_a_minimal_attack_is_one_for_the_engine(digits_net, digits):
    """One run of it gives the whole curve, and successes outside eps are no successes."""
    x, y = digits
    report = robust.evaluate(
        digits_net, x, y, threat=robust.L2(0.05), attacks="foolbox:L2DeepFoolAttack"
    )
    assert report.attacks[0]["success_rate"] < 0.2
    assert parse_attack("foolbox:L2DeepFoolAttack").minimal
    assert parse_attack("foolbox:L2DeepFoolAttack,restarts=2").minimal
    assert not parse_attack("foolbox:L2PGD").minimal


@pytest.mark.parametrize(
    ("text", "norm", "targeted", "said"),
    [
        ("foolbox:LinfDeepFoolAttack", "l2", None, "answers linf threats, not l2"),
        ("art:CarliniL0Method", "linf", None, "answers l0 threats, not linf"),
        ("art:HopSkipJump", "l1", None, "answers linf, l2 threats, not l1"),
        ("art:DeepFool", "l2", "next", "art:DeepFool answers untargeted goals only"),
        ("foolbox:LinfDeepFoolAttack,restarts=2", "linf", "next", "untargeted goals only"),
        ("foolbox:GenAttack", "linf", None, "answers targeted goals only, not untargeted"),
    ],
)
def test_what_it_does_not_answer_is_refused_before_any_work(
    text, norm, targeted, said, make_net, make_samples, tmp_path
):
    net, x = make_net(), make_samples()
    y = net.net(x).argmax(1)
    with pytest.raises(RobustError, match=said):
        robust.evaluate(
            net, x, y, threat=Threat(norm, 1.0), attacks=text, targeted=targeted, out=tmp_path / "r"
        )
    assert net.forwards == 0
    assert not (tmp_path / "r").exists()


def test_attacks_on_images_say_so(make_net, make_samples):
    net, x = make_net((20,)), make_samples((20,))
    y, said = net.net(x).argmax(1), r"art:SquareAttack needs images .*not samples of shape \(20,\)"
    with pytest.raises(RobustError, match=said):
        parse_attack("art:SquareAttack")(net, x, y, threat=robust.Linf(0.1))
    with pytest.raises(RobustError, match=said):
        robust.evaluate(net, x, y, threat=robust.Linf(0.1), attacks="art:SquareAttack")
    assert net.forwards == 0


def test_resumes_to_the_same_rows(make_net, make_samples, tmp_path):
    net, x = make_net(), make_samples(n=12)
    y = net.net(x).argmax(1)
    options = {
        "attacks": ["foolbox:LinfPGD,steps=3", "art:SquareAttack,max_iter=5"],
        "threat": robust.Linf(0.1), "batch_size": 4, "curve": False,
    }  # fmt: skip
    whole = robust.evaluate(net, x, y, **options, out=tmp_path / "a")
    robust.evaluate(net, x, y, **options, out=tmp_path / "b")
    for shard in sorted((tmp_path / "b/shards").glob("*.h5"))[1:]:
        shard.unlink()
    again = robust.evaluate(net, x, y, **options, out=tmp_path / "b", resume=True)

    def figures(report):
        return [{k: v for k, v in row.items() if "second" not in k} for row in report.attacks]

    assert figures(again) == figures(whole)
    assert len(list((tmp_path / "b/shards").glob("*.h5"))) == 3


@pytest.mark.parametrize("engine", peers.ENGINES)
def test_each_can_be_made_and_its_label_parses_back(engine):
    for name, cls in peers.attacks(engine).items():
        attack = cls()
        assert name_of(attack) == cls.__name__ == f"{engine}:{name}"
        assert label(attack) == f"{engine}:{name}"
        assert attack.norms
        assert attack.goals
        for key, value in attack.params.items():
            other = value
            if isinstance(value, bool):
                other = not value
            elif isinstance(value, float):
                other = value / 3
            elif isinstance(value, int):
                other = value + 1
            changed = cls(**{key: other})
            assert parse_attack(label(changed)) == changed
            assert hash(changed) is not None
    assert len(peers.attacks(engine)) >= 28


def direct_foolbox(net, x, y):
    import foolbox

    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.L2CarliniWagnerAttack(steps=60, binary_search_steps=3, stepsize=0.05)
    return attack(model, x, y, epsilons=None)[0]


def direct_art(net, x, y):
    from art.attacks.evasion import DeepFool
    from art.estimators.classification import PyTorchClassifier

    model = PyTorchClassifier(
        net, torch.nn.CrossEntropyLoss(), (3, 8, 8), 4, clip_values=(0, 1), device_type="cpu"
    )
    attack = DeepFool(model, max_iter=20, batch_size=8, verbose=False)
    return torch.from_numpy(attack.generate(x.numpy()))


@pytest.mark.parametrize(
    ("text", "direct"),
    [
        (
            "foolbox:L2CarliniWagnerAttack,steps=60,binary_search_steps=3,stepsize=0.05",
            direct_foolbox,
        ),
        ("art:DeepFool,max_iter=20", direct_art),
    ],
)
def test_the_result_is_what_the_package_itself_finds(text, direct, make_net, make_samples):
    net, x = make_net(), make_samples()
    y = net.net(x).argmax(1)
    want = direct(net.net, x, y)
    broken = net.net(want).argmax(1) != y
    x_adv, _ = searched(text, net, x, "l2")
    assert broken.sum() >= 4
    torch.testing.assert_close(x_adv[broken], want[broken], atol=1e-5, rtol=0)
    assert torch.equal(x_adv[~broken], x[~broken])
