"""Samples that can be heard, from the option to the page."""

import json

import numpy as np
import pytest
import torch
from synthetic import rows, run, shard
from test_report_html import Page, broken

import robust
from robust.reports.html import render
from robust.reports.summary import Report

RATE = 8000


@pytest.fixture(scope="module")
def tones():
    """A tone or its negative, and a model that tells them apart by their first value."""
    wave = torch.cos(torch.arange(4000) * 0.3)
    x = torch.stack([wave, -wave, wave, -wave])[:, None] * 0.5
    return (lambda z: torch.cat([z[:, 0, :1], -z[:, 0, :1]], 1)), x, torch.tensor([0, 1, 0, 1])


def test_the_rate_that_was_said_is_kept_and_used(tones, tmp_path):
    model, x, y = tones
    threat = robust.Linf(0.6, -1.0, 1.0)
    options = {"threat": threat, "attacks": "fgsm", "diagnose": "off", "out": tmp_path / "run"}
    report = robust.evaluate(model, x, y, sample_rate=RATE, **options)
    assert report.robust_accuracy == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["sample_rate"] == RATE
    source = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert source.count("<audio controls") == 3 * 4
    assert "They can be heard, at 8,000 values a second." in Page(source).words
    assert "nobody said otherwise" not in source


@pytest.mark.parametrize(
    ("shape", "rate", "says"),
    [
        ((2, 3, 8, 8), 8000, r"signals of shape \(n,\).*have shape \(3, 8, 8\)"),
        ((2, 1, 4000), 80, "between 3,000 and 768,000 Hz, not be 80"),
    ],
)
def test_a_rate_that_means_nothing_is_refused(shape, rate, says):
    with pytest.raises(robust.RobustError, match=says):
        robust.evaluate(
            lambda z: z.flatten(1)[:, :2],
            torch.zeros(shape),
            torch.zeros(2, dtype=torch.int64),
            threat=robust.Linf(0.1, -1.0, 1.0),
            sample_rate=rate,
        )


def test_the_command_line_refuses_it_too(robust_cli, tmp_path):
    (tmp_path / "net.py").write_text("def answer(x):\n    return x.reshape(len(x), -1)[:, :10]\n")
    told = robust_cli(
        *("attack", "--model", "net.py:answer", "--access", "scores", "--eps", "0.1"),
        *("--sample-rate", "16000"),
        cwd=tmp_path,
    )
    assert told.returncode == 2
    assert "signals of shape" in told.stderr
    assert "Traceback" not in told.stderr
    assert not (tmp_path / "runs").exists()


def test_long_signals_around_zero_look_like_sound():
    page = Page(render(broken(40, (1, 16_000), low=-1.0)))
    assert "for nobody said otherwise by --sample-rate" in page.words
    # Three clips of a second are 128 kB: all samples are drawn, as many heard as 0.9 MB hold.
    assert page.tags.count("audio") == 3 * 7
    assert "40 broken samples" in page.words
    assert "7 samples can be heard, at 16,000 values a second" in page.words
    quiet = Page(render(broken(3, (1, 16_000), low=0.0)))
    assert "audio" not in quiet.tags


def test_the_clip_of_a_perturbation_is_as_loud_as_the_original():
    x = np.full((1, 1, 4000), 0.5, np.float32)
    attack = rows("first", [0], {0: 1}, (1, 4000), x_adv=x - 0.05)
    given = shard([0], [0], [attack], x=x, shape=(1, 4000))
    page = render(Report(run(["first"], low=-1.0, image=False), [given]))
    assert "<span>perturbation ×10</span>" in page
