"""What a search has shown is kept: the nearest success, and when it was seen."""

import pytest
import torch

from robust.core.goal import Goal
from robust.core.grid import Grid, rounded
from robust.core.progress import Progress, first_nearest
from robust.core.threat import Threat
from robust.core.victim import Access, Victim


def threshold(x):
    """Class 1 where the first value is at least 0.5."""
    return torch.stack([torch.zeros(len(x)), (x[:, 0] >= 0.5).float() - 0.5], 1)


def asked(points, eps=0.3, box=(0.0, 1.0), **options):
    """A progress over three samples at 0 that were asked about (points, 1) in turn."""
    x = torch.zeros(3, 2)
    goal = Goal(torch.zeros(3, dtype=torch.int64))
    progress = Progress(x, goal, Threat("linf", eps, *box))
    victim = Victim(threshold, 3, Access.LABELS, progress=progress, **options)
    for rows, value in points:
        rows = torch.tensor(rows)
        victim[rows].labels(torch.tensor([[value, 0.0]]).expand(len(rows), 2))
    return progress


def test_the_nearest_success_is_kept():
    progress = asked([([0, 1], 0.4), ([0], 0.9), ([0], 0.6), ([0], 0.7), ([1, 2], 0.2)])
    assert progress.distance.tolist()[1:] == [float("inf")] * 2
    assert abs(progress.distance[0].item() - 0.6) < 1e-6
    assert progress.x_adv[0, 0] == torch.tensor(0.6)
    assert progress.x_adv[1:].sum() == 0
    trace = progress.trace
    assert trace.rows.tolist() == [0, 0]
    assert trace.queries.tolist() == [2, 3]
    assert torch.allclose(trace.distance, torch.tensor([0.9, 0.6]).double())


def test_small_steps_are_no_news_unless_they_come_inside_eps():
    progress = asked([([0], 0.9), ([0], 0.899), ([0], 0.5005), ([0], 0.4999), ([0], 0.5)], eps=0.5)
    assert torch.allclose(progress.trace.distance, torch.tensor([0.9, 0.5005, 0.5]).double())
    assert progress.trace.queries.tolist() == [1, 3, 5]


def test_of_several_answers_at_once_the_nearest_success_counts():
    x, goal = torch.zeros(3, 2), Goal(torch.zeros(3, dtype=torch.int64))
    progress = Progress(x, goal, Threat("linf", 0.3))
    victim, watch = Victim(threshold, 3, Access.LABELS, progress=progress).watched(goal)
    rows, values = torch.tensor([0, 0, 1, 0, 0, 1]), torch.tensor([0.9, 0.6, 0.2, 0.7, 0.1, 0.0])
    victim[rows].labels(torch.stack([values, torch.zeros(6)], 1))
    assert progress.distance.tolist()[1:] == [float("inf")] * 2
    assert progress.x_adv[0, 0] == torch.tensor(0.6)
    assert progress.trace.rows.tolist() == [0]
    assert progress.trace.queries.tolist() == [4]
    assert watch.margin[0] == 0.5
    assert watch.margin[1] == -0.5


def test_points_outside_the_box_are_no_success():
    assert asked([([0], 1.5)]).distance[0] == float("inf")


def test_what_a_search_lost_is_found_again():
    progress = asked([([0], 0.9), ([1], 0.6)], eps=0.7)
    lost = torch.full((3, 2), 0.1)
    inside = progress.best(lost, inside=True)
    assert inside[:, 0].tolist() == [lost[0, 0], progress.x_adv[1, 0], lost[2, 0]]
    anywhere = progress.best(lost, inside=False)
    assert anywhere[0, 0] == torch.tensor(0.9)
    assert anywhere[2, 0] == torch.tensor(0.1)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_grid_moves_questions_to_its_values_inside_the_ball(norm):
    threat = Threat(norm, {"linf": 0.2, "l2": 0.35, "l1": 0.7}[norm])
    generator = torch.Generator().manual_seed(1)
    x = rounded(torch.rand(40, 6, generator=generator), 0.0, 1.0)
    ball, rows = threat.around(x), torch.arange(40)
    grid = Grid(x, threat)
    corner = ball.extreme(torch.randn(x.shape, generator=generator))
    for share in (1.0, 0.999, 0.77, 0.3, 0.01):
        z = x + (corner - x) * share
        moved = grid.snap(z, rows)
        assert threat.in_ball(x, moved).all()
        steps = (moved - x) * 255
        assert ((steps - steps.round()).abs() < 2e-3).all()
        # nearest wherever that is inside, and never far away
        near = threat.in_ball(x, rounded(z, 0.0, 1.0))
        assert ((moved - z).abs() < 0.501 / 255)[near].all()
        assert ((z - moved).abs() < 0.11 * (z - x).abs() + 1.001 / 255).all()
    assert torch.equal(grid.snap(x, rows), x)
    far = x + 0.9 * (torch.rand(x.shape, generator=generator) - x)
    assert torch.equal(grid.snap(far, rows)[:5], grid.snap(far[:5], rows[:5]))


def test_a_grid_lets_the_whole_of_eps_be_used():
    threat = Threat("linf", 0.2)  # 51 levels; floats at the edge stay as they are
    x = rounded(torch.rand(4, 6, generator=torch.Generator().manual_seed(1)), 0.0, 1.0)
    ball, rows = threat.around(x), torch.arange(4)
    assert torch.equal(Grid(x, threat).snap(ball.upper, rows), ball.upper)
    odd = Threat("linf", 8.7 / 255)
    moved = Grid(x, odd).snap(odd.around(x).upper, rows)
    assert ((moved - x) * 255).round().max() == 8
    assert odd.in_ball(x, moved).all()


def test_a_victim_asks_about_points_of_its_grid():
    x = torch.full((1, 2), 100 / 255)
    threat, seen = Threat("linf", 1.0), []
    progress = Progress(x, Goal(torch.zeros(1, dtype=torch.int64)), threat)

    def model(z):
        seen.append(z.clone())
        return threshold(z)

    victim = Victim(model, 1, Access.LABELS, progress=progress, grid=Grid(x, threat))
    victim.labels(torch.tensor([[150.6 / 255, 90.2 / 255]]))
    assert (seen[0] * 255).round().tolist() == [[151, 90]]
    assert torch.equal(progress.x_adv, seen[0])


def test_of_repeated_rows_the_first_nearest_counts():
    rows = torch.tensor([2, 0, 2, 2, 0, 1])
    distance = torch.tensor([0.5, 0.9, 0.4, 0.4, 0.3, 0.7])
    found = first_nearest(rows, distance, 4)
    assert found.tolist() == [False, False, True, False, True, True]
