"""Square: where its windows are and what is in them, its schedule, queries and strength."""

import pytest
import torch

from robust.attacks import Square, _square
from robust.core.goal import Goal
from robust.core.losses import LOSSES
from robust.core.rng import generator
from robust.core.threat import L1, L2, Linf, Threat
from robust.core.victim import Access, Victim


class Watched:
    """A model that keeps every point that it is asked about."""

    def __init__(self, net):
        self.net, self.asked = net, []

    def __call__(self, x):
        self.asked.append(x.clone())
        return self.net(x)


def never(x):
    """Class 0 is predicted whatever is asked, and every answer is better than the one before."""
    never.count += 1
    z = torch.zeros(len(x), 3)
    z[:, 0] = 1 + 1 / never.count
    return z


def flat(x):
    """No point is better than any other."""
    return torch.tensor([[1.0, 0.0, 0.0]]).expand(len(x), -1).clone()


def search(model, x, goal, threat, attack, seed=0):
    victim = Victim(model, len(x), Access.SCORES)
    with torch.no_grad():
        return attack.search(victim, x, goal, threat, generator(seed)), victim.ledger


def test_the_share_falls_as_published():
    """p_init, halved after 10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000 of 10,000 queries."""
    last = {0: 10, 1: 50, 2: 200, 3: 500, 4: 1000, 5: 2000, 6: 4000, 7: 6000, 8: 8000, 9: 9999}
    for times, number in last.items():
        assert _square.share(0.8, number, 10_000) == 0.8 / 2**times
        assert times == 9 or _square.share(0.8, number + 1, 10_000) == 0.8 / 2 ** (times + 1)
    assert [_square.share(0.4, n, 5000) for n in (5, 6, 4000, 4001)] == [
        0.4, 0.2, 0.4 / 256, 0.4 / 512,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sizes", "area", "sides"),
    [
        ((32, 32), 0.8, (29, 29)),  # √(0.8 · 1024) = 28.6
        ((28, 28), 0.8 / 512, (1, 1)),
        ((32, 32), 1.0, (32, 32)),
        ((4, 40), 0.4, (4, 16)),  # a square of side 8 is too high: all rows, and 64 positions
        ((40, 4), 0.4, (16, 4)),
        ((40,), 0.3, (12,)),
        ((8, 8, 8), 0.125, (4, 4, 4)),
    ],
)
def test_a_window_covers_its_share(sizes, area, sides):
    assert _square.extents(sizes, area) == sides


def test_windows_of_the_other_norms_are_odd_and_at_least_three():
    for area in (0.001, 0.02, 0.2):
        (side, other) = _square.extents((32, 32), area, smallest=3, odd=True)
        assert side == other
        assert side % 2 == 1
        assert side >= 3
    assert _square.extents((2, 2), 0.1, smallest=3, odd=True) == (2, 2)


@pytest.mark.parametrize("shape", [(3, 9, 12), (2, 30), (25,)])
def test_a_query_changes_one_window_to_a_corner_of_the_ball(shape):
    """Linf: one box of the right sides, anywhere, one sign per channel, and never nothing."""
    x = 0.3 + 0.4 * torch.rand(64, *shape, generator=torch.Generator().manual_seed(0))
    model, threat = Watched(flat), Linf(0.1)
    queries = 60
    search(model, x, Goal(torch.zeros(64).long()), threat, Square(queries=queries))
    start, ball = model.asked[0], threat.around(x)
    assert torch.equal(torch.minimum(start - ball.lower, ball.upper - start), torch.zeros_like(x))
    if len(shape) == 3:
        assert torch.equal((start > x), (start > x)[:, :, :1].expand_as(x))  # stripes
    channels, sizes = _square.layout(shape)
    starts = set()
    for number, z in enumerate(model.asked[1:]):
        sides = _square.extents(sizes, _square.share(0.8, number, queries))
        changed = (z != start).view(64, channels, *sizes)
        assert changed.flatten(1).any(1).all()
        assert torch.equal(torch.minimum(z - ball.lower, ball.upper - z), torch.zeros_like(x))
        up = (z > x).view(64, channels, *sizes)
        for i in range(64):
            places = changed[i].any(0).nonzero()
            first, last = places.amin(0), places.amax(0)
            # What changed lies in a window of these sides; with stripes it may be smaller.
            assert all(int(b - a) < s for a, b, s in zip(first, last, sides, strict=True))
            for channel in range(channels):
                assert len(set(up[i, channel][changed[i, channel]].tolist())) <= 1
            starts.add((number, *first.tolist()))
    assert len(starts) > queries  # each sample has windows of its own


def test_the_last_row_and_column_are_reached_as_often_as_the_first():
    window = _square._window(generator(0), torch.zeros(4000, 1, 6, 6), (6, 6), (2, 2), 1)
    counts = torch.bincount(window[:, 0, 0], minlength=36).view(6, 6)
    assert counts[:5, :5].min() > 100  # 160 expected of each corner
    assert counts[5:].sum() + counts[:, 5:].sum() == 0
    covered = torch.bincount(window.flatten(), minlength=36).view(6, 6)
    assert abs(int(covered[0, 0]) - int(covered[5, 5])) < 80


@pytest.mark.parametrize("threat", [L2(0.8), L1(3.0)])
@pytest.mark.parametrize("shape", [(3, 11, 14), (2, 30), (25,)])
def test_a_query_moves_what_two_windows_hold(threat, shape):
    x = torch.rand(16, *shape, generator=torch.Generator().manual_seed(0))
    never.count = 0
    model, attack = Watched(never), Square(queries=80)
    search(model, x, Goal(torch.zeros(16).long()), threat, attack)
    channels, sizes = _square.layout(shape)
    for number, (before, after) in enumerate(zip(model.asked, model.asked[1:], strict=False)):
        assert threat.contains(x, after).all()
        share = _square.share(0.8, number, 80)
        sides = _square.extents(sizes, share, smallest=3, odd=True)
        if threat.norm == "l2":  # the projection of L1 changes what is outside, too
            changed = (after != before).view(16, channels, -1).any(1).sum(1)
            assert (changed <= 2 * torch.Size(sides).numel()).all()
    # What the box cuts off is spent again: little of eps is ever left.
    assert threat.distance(x, model.asked[-1]).mean() > 0.9 * threat.eps


@pytest.mark.parametrize("threat", [L2(0.8), L1(3.0)])
def test_the_start_of_the_other_norms_is_five_by_five_tiles(threat):
    x = torch.full((8, 2, 21, 32), 0.5)
    start = _square.first_point(threat.around(x), generator(0))
    delta = (start - x).view(8, 2, 21, 32)
    assert threat.distance(x, start) == pytest.approx(threat.eps, rel=1e-4)
    used = (delta != 0).any(0).any(0)
    if threat.norm == "l2":
        expected = torch.zeros(21, 32, dtype=torch.bool)
        expected[:20, 1:31] = True  # tiles of 4 × 6; one column is left over on either side
        assert torch.equal(used, expected)
        tile = delta[0, 0, :4, 1:7]
        assert float(tile.sum().abs()) < 0.2 * float(tile.abs().sum())  # halves of opposite sign
        assert not torch.equal(delta[0].sign(), delta[1].sign())


def test_a_bump_has_two_hills_of_opposite_sign():
    rows, columns = _square._bumps((5, 5), torch.device("cpu")).view(2, 5, 5)
    assert torch.equal(rows, columns.T)
    assert (rows[:2] > 0).all()
    assert (rows[2:] < 0).all()
    assert rows[:2].square().sum() == pytest.approx(1)
    assert rows[2:].square().sum() == pytest.approx(1)
    lower = rows[2:].abs()  # 3 × 5 around (1, 2): Σ 1/j² from the distance on, up to 3
    heights = torch.tensor([1 + 1 / 4 + 1 / 9, 1 / 4 + 1 / 9, 1 / 9]).double()
    distance = torch.tensor([[2, 1, 1, 1, 2], [2, 1, 0, 1, 2], [2, 1, 1, 1, 2]])
    expected = heights[distance]
    assert torch.allclose(lower, expected / expected.norm())


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.5), L1(2.0)])
@pytest.mark.parametrize("queries", [1, 2, 37])
def test_queries_are_counted_and_never_more(threat, queries):
    x = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    _, ledger = search(flat, x, Goal(torch.zeros(6).long()), threat, Square(queries=queries))
    assert ledger.queries.tolist() == [queries] * 6
    assert ledger.forwards.tolist() == [queries] * 6
    assert not ledger.backwards.any()


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.5), L1(2.0)])
def test_samples_of_smaller_budgets_leave_with_their_best_point(threat):
    """Each spends what it has; the others' squares stay those of `queries`, and one with nothing
    left is not asked about at all.
    """
    x = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    budget = [0, 1, 7, 30, 90]
    w = torch.randn(192, generator=torch.Generator().manual_seed(2))

    def score(z):
        return torch.stack([torch.full((len(z),), 1e3), z.flatten(1) @ w], 1)

    model = Watched(score)
    victim = Victim(model, 5, Access.SCORES, budget=torch.tensor(budget))
    with torch.no_grad():
        goal = Goal(torch.zeros(5).long())
        found = Square(queries=60).search(victim, x, goal, threat, generator(0))
    assert victim.ledger.queries.tolist() == [0, 1, 7, 30, 60]
    assert [len(z) for z in model.asked] == [4] + [3] * 6 + [2] * 23 + [1] * 30
    assert torch.equal(found[0], x[0])
    for i in range(1, 5):
        place = i - 5  # those that go on are the last of a batch
        mine = torch.stack([z[place] for z in model.asked if len(z) >= -place])
        assert (mine == found[i]).flatten(1).all(1).any()
        assert found[i].flatten() @ w == pytest.approx(float((mine.flatten(1) @ w).amax()))


def test_a_search_that_may_ask_nothing_asks_nothing():
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    model = Watched(flat)
    victim = Victim(model, 3, Access.SCORES, budget=torch.zeros(3, dtype=torch.int64))
    found = Square().search(victim, x, Goal(torch.zeros(3).long()), Linf(0.1), generator(0))
    assert torch.equal(found, x)
    assert not model.asked


def test_solved_samples_leave_with_the_point_that_solved_them(make_net, make_samples):
    net, x = make_net((1, 6, 6), 4), make_samples((1, 6, 6), 40)
    y = net(x).argmax(1)
    model, attack = Watched(net), Square(queries=60)
    x_adv, ledger = search(model, x, Goal(y), Linf(0.06), attack)
    solved = net(x_adv).argmax(1) != y
    assert 5 < int(solved.sum()) < 40
    assert (ledger.queries[~solved] == 60).all()
    assert (ledger.queries[solved] < 60).any()
    sizes = [len(z) for z in model.asked]
    assert sizes == sorted(sizes, reverse=True)
    assert int(ledger.queries.sum()) == sum(sizes)


@pytest.mark.parametrize("loss", ["margin", "ce"])
@pytest.mark.parametrize("targeted", [False, True])
def test_where_it_fails_it_returns_its_best_point(loss, targeted, make_net, make_samples):
    net, x = make_net((1, 6, 6), 4), make_samples((1, 6, 6), 40)
    far = net(x).topk(2).values.diff().squeeze(1).argsort()[:12]
    x, y = x[far], net(x[far]).argmax(1)
    goal = Goal((y + 1) % 4 if targeted else y, targeted)
    model, attack = Watched(net), Square(queries=40, loss=loss)
    x_adv, _ = search(model, x, goal, Linf(0.01), attack)
    assert not goal.reached(net(x_adv)).any()
    best = torch.stack([LOSSES[loss](net(z), goal) for z in model.asked]).amax(0)
    assert torch.allclose(LOSSES[loss](net(x_adv), goal), best)


@pytest.mark.parametrize("shape", [(1, 8, 8), (30,)])
@pytest.mark.parametrize("targeted", [False, True])
def test_it_finds_the_best_corner_of_a_linear_model(shape, targeted):
    """Linf: every window to the right corner; the optimum is known, and most of it is found."""
    features = torch.Size(shape).numel()
    w = torch.randn(features, generator=torch.Generator().manual_seed(5))
    x = torch.rand(5, *shape, generator=torch.Generator().manual_seed(6))

    def model(z):
        score = (z - x[: len(z)]).flatten(1) @ w
        return torch.stack([torch.full_like(score, 1e3), score], 1)  # never enough

    goal = Goal(torch.full((5,), int(targeted)), targeted)
    threat = Linf(0.1)
    x_adv, _ = search(model, x, goal, threat, Square(queries=3000))
    best = ((threat.around(x).extreme(w.view(shape).expand_as(x)) - x).flatten(1) @ w).tolist()
    gain = ((x_adv - x).flatten(1) @ w).tolist()
    for found, most in zip(gain, best, strict=True):
        assert 0.999 * most <= found <= most * (1 + 1e-5)


@pytest.mark.parametrize(("norm", "eps", "needed"), [("l2", 0.5, 0.6), ("l1", 2.0, 0.5)])
def test_it_climbs_a_linear_model_in_the_other_norms(norm, eps, needed):
    w = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(5))
    x = torch.full((5, 1, 8, 8), 0.5)
    threat = Threat(norm, eps)

    def model(z):
        score = ((z - 0.5) * w).flatten(1).sum(1)
        return torch.stack([torch.full_like(score, 1e3), score], 1)

    x_adv, _ = search(model, x, Goal(torch.zeros(5).long()), threat, Square(queries=1000))
    best = ((threat.around(x).extreme(w.expand_as(x)) - x) * w).flatten(1).sum(1)
    gain = ((x_adv - x) * w).flatten(1).sum(1)
    assert (gain >= needed * best).all()


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.7), L1(3.0)])
def test_a_long_search_stays_inside_to_the_last_bit(threat):
    x = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    x[:, :, :4] = x[:, :, :4].round()  # many pixels at the edge of the box
    never.count = 0
    model = Watched(never)
    search(model, x, Goal(torch.zeros(8).long()), threat, Square(queries=400))
    assert all(threat.contains(x, z).all() for z in model.asked)


def test_projecting_the_changed_coordinates_is_projecting():
    rng = torch.Generator().manual_seed(3)
    x = torch.rand(7, 3, 6, 6, generator=rng)
    delta = torch.randn(x.shape, generator=rng) * (torch.rand(x.shape, generator=rng) < 0.2)
    delta[0] = 0
    ball = L1(2.0).around(x)
    z = x + delta
    assert torch.allclose(_square._project_changed(ball, z), ball.project(z), atol=1e-6)


def test_a_start_may_be_anywhere_in_the_ball(make_net, make_samples):
    """`climb_windows` goes on from a point that another search has found."""
    net, x = make_net((1, 6, 6), 4), make_samples((1, 6, 6), 12)
    goal, ball = Goal(net(x).argmax(1)), Linf(0.02).around(x)
    value = goal.margin(net(x))
    best, after, solved = _square.climb_windows(
        Victim(net, 12, Access.SCORES), x, value, goal, ball, generator(0),
        loss=lambda logits, goal: goal.margin(logits), areas=[0.3] * 20,
    )  # fmt: skip
    assert (after >= value).all()
    assert (after > value).any()
    assert torch.equal(solved, goal.reached(net(best)))
    assert torch.allclose(goal.margin(net(best)), after)
