"""Whether there are gradients, and whether they tell the truth, on models where both are known."""

import pytest
import torch
from diagnosis_subjects import Around, Linear, subject
from torch import nn

from robust.attacks.pgd import PGD
from robust.core.defended import Defended
from robust.core.rng import generator, seeded
from robust.core.threat import Threat
from robust.diagnosis.probes import gradients

W = [3.0, -2.0, 1.0, 0.5]
THREATS = [("linf", 0.1), ("l2", 0.3), ("l1", 0.5), ("l0", 1), ("patch", 1)]


@pytest.fixture
def samples():
    x = torch.rand(12, 4, generator=generator(0))
    return x, (x @ torch.tensor(W) > 1.0).long()


def probed(net, samples, threat=Threat("linf", 0.1), **run):  # noqa: B008  # frozen
    attacks = run.pop("attacks", [PGD(steps=1)])
    found = subject(net.eval(), *samples, threat, attacks, batch_size=5, **run)
    return len(found), gradients.probe(found)["views"]


@pytest.mark.parametrize(("norm", "eps"), THREATS)
def test_the_gradient_of_a_linear_model_is_the_truth(samples, norm, eps):
    x, y = samples
    net = Linear(W, 1.0)
    if norm == "patch":
        x = x.view(-1, 1, 2, 2)
    attacks = [PGD(steps=1)]
    if norm in ("l0", "patch"):
        from robust.attacks.uniform_noise import UniformNoise

        attacks = [UniformNoise(samples=1)]
    n, views = probed(net, (x, y), Threat(norm, eps), attacks=attacks)
    (view,) = views.values()
    assert view["zero"] == {"ce": 0, "margin": 0}
    assert view["asked"] == n
    assert view["misleading"] == view["not_finite"] == 0
    assert view["change"] == pytest.approx(1, abs=1e-3)
    assert view["cosine"] == pytest.approx(1)
    assert not view["missing"]


def test_a_step_function_has_no_gradient(samples):
    n, views = probed(Around(Linear(W, 1.0), before=lambda x: (4 * x).round() / 4), samples)
    assert views["deployed"]["zero"] == {"ce": n, "margin": n}
    assert views["deployed"]["asked"] == 0
    assert views["deployed"]["cosine"] is views["deployed"]["change"] is None


def test_cross_entropy_vanishes_before_the_margin_does(samples):
    x, y = samples
    clear = (x @ torch.tensor(W) - 1.0).abs() > 0.4  # 0.65 is the most that eps can change
    x, y = x[clear], y[clear]
    n, views = probed(
        Around(Linear(W, 1.0), after=lambda z: 1000 * z), (x, y), Threat("linf", 1e-3)
    )
    assert views["deployed"]["zero"] == {"ce": n, "margin": 0}
    assert views["deployed"]["misleading"] == 0


def test_a_gradient_that_is_gone_at_the_sample_alone_is_not_gone(samples):
    x, y = samples
    x, y = x[:8], y[:8]
    marked = x[:, 0].sort().values

    def flat_there(z):  # exactly at the samples, and nowhere near them
        at = torch.isin(z[:, :1].detach(), marked)
        return torch.where(at, z.detach(), z)

    n, views = probed(Around(Linear(W, 1.0), before=flat_there), (x, y))
    assert views["deployed"]["zero"] == {"ce": 0, "margin": 0}
    assert views["deployed"]["asked"] == 0  # of n at the samples
    assert n > 0


def test_a_function_is_compared_with_the_gradient_of_the_same_draw(samples):
    def shaken(z):
        return z + torch.randn(len(z), 1) * torch.tensor([1.0, 0.0])

    with seeded(0):
        n, views = probed(Around(Linear(W, 1.0), after=shaken), samples, view="naive")
    assert views["deployed"]["asked"] == n
    assert views["deployed"]["misleading"] == 0


def test_a_gradient_of_nothing_that_happens_misleads(samples):
    def through(x):
        return x + ((4 * x).round() / 4 - x).detach()

    n, views = probed(Around(Linear(W, 1.0), before=through), samples)
    view = views["deployed"]
    assert view["zero"] == {"ce": 0, "margin": 0}
    assert view["asked"] == n
    assert view["misleading"] >= n - 2  # a step may cross a threshold
    assert view["change"] == pytest.approx(0, abs=1e-6)


def test_gradients_that_are_not_finite_are_counted(samples):
    class Root(nn.Module):
        def forward(self, x):  # ∂√u/∂u at 0 is infinite
            z = Linear(W, 1.0)(x)
            return z + (x[:, :1].clamp(min=0.5) - 0.5).sqrt()

    x, y = samples
    x = x.clone()
    x[:5, 0] = 0.5
    y = (x @ torch.tensor(W) > 1.0).long()
    n, views = probed(Root(), (x, y), Threat("linf", 1e-6))
    assert 5 <= views["deployed"]["not_finite"] < n


def test_draws_that_agree_and_draws_that_do_not(samples):
    class Flipped(nn.Module):
        """Answers as a linear model, with a slope that is turned in about half of the draws."""

        def forward(self, x):
            turn = torch.randint(0, 2, (len(x), 1)) * 2 - 1
            z = Linear(W, 1.0)(x)
            shake = 1e-3 * torch.rand(len(x), 1)
            return z.detach() + turn * (z - z.detach()) + shake * torch.tensor([1.0, 0.0])

    with seeded(0):
        n, views = probed(Flipped(), samples, view="naive")
    assert set(views) == {"deployed", "exposed"}
    assert abs(views["deployed"]["cosine"]) < 0.7
    assert views["deployed"]["asked"] == n
    assert 0 < views["deployed"]["misleading"] < n  # the turned ones, at the same draw
    assert views["exposed"] == views["deployed"]


def test_both_views_of_a_defended_model(samples):
    net = Linear(W, 1.0)
    hidden = Around(net, before=lambda x: (8 * x).round() / 8)
    n, views = probed(Defended(hidden, net), samples, view="naive")
    assert views["deployed"]["zero"] == {"ce": n, "margin": n}
    assert views["exposed"]["zero"] == {"ce": 0, "margin": 0}
    assert views["exposed"]["misleading"] == 0


def test_a_model_without_a_path_to_its_input(samples):
    found = subject(Linear(W, 1.0).eval(), *samples, Threat("linf", 0.1), [PGD(steps=1)])
    found.run.model = Around(
        Linear(W, 1.0), before=lambda x: x.detach(), after=lambda z: z.detach()
    )
    view = gradients.probe(found)["views"]["deployed"]
    assert view["missing"]
    assert view["zero"] == {"ce": len(found), "margin": len(found)}
