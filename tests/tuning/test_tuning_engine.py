"""The search: what is tried, given up, failed, and gone on with."""

import json
import math
import time

import optuna
import pytest
from tuning_runs import MODE, K, Known, X, search, told

from robust.core.errors import RobustError
from robust.tuning import (
    Axis,
    TrialDone,
    TrialProgress,
    TrialStarted,
    TuneDone,
    TuneStarted,
    read_run,
)


def rows_of(folder):
    return read_run(folder)[1]


def test_the_first_trial_is_without_tuning_and_the_search_finds_better_ones(tmp_path):
    events = search(Known(), tmp_path / "run", trials=30, out=tmp_path / "m.pt")
    assert isinstance(events[0], TuneStarted)
    done = events[-1]
    assert isinstance(done, TuneDone)
    first = done.rows[0]
    assert first.values == {"x": 0.8, "k": 2}
    assert first.robust == pytest.approx(0.9 - 0.25 - 0.1)
    assert done.row.value == max(row.value for row in done.rows if row.value is not None)
    assert done.row.value > 0.89  # the optimum is 0.9 at x = 0.3, k = 4
    assert done.row.values["k"] == 4
    assert abs(done.row.values["x"] - 0.3) < 0.1
    assert json.loads((tmp_path / "m.pt").read_text())["x"] == done.row.values["x"]
    assert (tmp_path / "run/best.pt").read_bytes() == (tmp_path / "m.pt").read_bytes()
    assert done.options == f"--x {done.row.values['x']} --k 4"


def test_later_trials_are_nearer_than_random_ones(tmp_path):
    rows = search(Known(), tmp_path / "run", axes=[X], trials=25, prune=False)[-1].rows

    def far(part):
        return sum(abs(row.values["x"] - 0.3) for row in part) / len(part)

    assert far(rows[10:]) < 0.5 * far(rows[1:9])


def test_the_objective_is_what_is_raised(tmp_path):
    for objective, wanted in (("clean", 1.0), ("robust", 0.3), ("mean", 0.5)):
        done = search(
            Known(), tmp_path / objective, axes=[X], trials=18, objective=objective, prune=False
        )[-1]
        assert abs(done.row.values["x"] - wanted) < 0.1, objective
        clean, robust = done.row.clean, done.row.robust
        mean = (clean + robust) / 2
        assert done.row.value == {"clean": clean, "robust": robust, "mean": mean}[objective]


def test_what_is_below_the_median_is_given_up(tmp_path):
    events = search(Known(), tmp_path / "run", axes=[X, MODE], trials=20, seed=1)
    rows = events[-1].rows
    pruned = [row for row in rows if row.state == "pruned"]
    assert pruned
    assert all(row.number > 4 for row in pruned)  # of four, the median says something
    assert all(row.value is None for row in pruned)
    for row in pruned:
        steps = [e.part for e in events if isinstance(e, TrialProgress) and e.number == row.number]
        assert 0.3 <= steps[-1] < 1  # not at once, and not to the end
        ended = [r.robust for r in rows[: row.number - 1] if r.state == "complete"]
        # Both came so far linearly: it was below the median at the same point.
        assert row.robust < sorted(ended)[len(ended) // 2] * steps[-1] + 1e-9
        clean, robust = Known().figures(row.values)
        assert (row.clean, row.robust) == pytest.approx((clean * steps[-1], robust * steps[-1]))
    assert "bad" in {row.values["mode"] for row in pruned}


def test_nothing_is_given_up_where_nobody_wants_it(tmp_path):
    rows = search(Known(), tmp_path / "run", axes=[X, MODE], trials=20, seed=1, prune=False)[
        -1
    ].rows
    assert {row.state for row in rows} == {"complete"}


def test_the_baseline_is_never_given_up_and_may_lie_outside(tmp_path):
    axes = [Axis(name="x", low=0.0, high=0.5)]
    rows = search(Known(), tmp_path / "run", axes=axes, trials=6)[-1].rows
    assert rows[0].values == {"x": 0.8}
    assert rows[0].state == "complete"
    assert all(row.values["x"] <= 0.5 for row in rows[1:])


def test_values_are_tried_once_and_no_more_than_there_are(tmp_path):
    done = search(Known(), tmp_path / "run", axes=[K, MODE], trials=30)[-1]
    tried = [tuple(row.values.values()) for row in done.rows]
    assert len(tried) == len(set(tried)) == 8
    assert done.exhausted
    assert done.row.values == {"k": 4, "mode": "good"}


def test_a_failed_trial_is_told_and_counted(tmp_path):
    def at(trial, step):
        if trial in (3, 4) and step == 3:
            raise RobustError("the loss is no longer a finite number")

    events = search(Known(at), tmp_path / "run", trials=6)
    rows = events[-1].rows
    assert [row.state for row in rows].count("failed") == 2
    assert rows[2].error == "the loss is no longer a finite number"
    assert rows[2].robust == pytest.approx(0.2 * Known().figures(rows[2].values)[1])
    assert [e.row.number for e in events if isinstance(e, TrialDone)] == list(range(1, 7))


def test_where_every_trial_fails_there_is_no_model(tmp_path):
    def at(trial, step):
        raise RobustError(f"diverged in trial {trial}")

    with pytest.raises(RobustError, match="none of the 3 trials .* diverged in trial 3"):
        search(Known(at), tmp_path / "run", trials=3)
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "failed"


def test_what_cannot_begin_without_tuning_is_bad_input(tmp_path):
    class Hopeless(Known):
        def run(self, values, folder):
            raise RobustError("this cannot be trained")
            yield

    with pytest.raises(RobustError, match="^this cannot be trained"):
        search(Hopeless(), tmp_path / "run")


def test_the_seed_decides_what_is_tried(tmp_path):
    same = [told(search(Known(), tmp_path / f"a{i}", seed=3)[-1].rows) for i in range(2)]
    assert same[0] == same[1]
    other = told(search(Known(), tmp_path / "b", seed=4)[-1].rows)
    assert [row["values"] for row in other[1:]] != [row["values"] for row in same[0][1:]]


@pytest.mark.parametrize("every", [1, 7, 23])
def test_an_interrupted_run_ends_as_an_undisturbed_one(tmp_path, every):
    """Stopped after every so many events, wherever that is."""
    whole = search(Known(), tmp_path / "whole", axes=[X, MODE], trials=14, seed=1)[-1]
    run, sessions = tmp_path / "run", 0

    def some(events):
        seen = []
        for event in events:
            seen.append(event)
            if len(seen) > every + 15 and not isinstance(event, TuneDone):
                events.close()  # type: ignore[attr-defined]
                break
        return seen

    while True:
        last = search(Known(), run, axes=[X, MODE], trials=14, seed=1, events=some, resume=True)[-1]
        sessions += 1
        if isinstance(last, TuneDone):
            break
        assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
    assert sessions > 2
    assert told(last.rows) == told(whole.rows)
    assert any(row.state == "pruned" for row in last.rows)
    assert (run / "best.pt").read_bytes() == (tmp_path / "whole/best.pt").read_bytes()


def test_killed_before_it_was_given_up_a_trial_ends_with_the_same_figures(tmp_path, monkeypatch):
    whole = search(Known(), tmp_path / "whole", axes=[X, MODE], trials=14, seed=1)[-1]
    plain = optuna.trial.Trial.should_prune

    def killed(trial):
        if plain(trial):
            raise KeyboardInterrupt
        return False

    monkeypatch.setattr(optuna.trial.Trial, "should_prune", killed)
    with pytest.raises(KeyboardInterrupt):
        search(Known(), tmp_path / "run", axes=[X, MODE], trials=14, seed=1)
    monkeypatch.undo()
    done = search(Known(), tmp_path / "run", axes=[X, MODE], trials=14, seed=1, resume=True)[-1]
    assert told(done.rows) == told(whole.rows)


def test_more_trials_are_added_to_a_finished_run(tmp_path):
    whole = search(Known(), tmp_path / "whole", trials=12)[-1]
    search(Known(), tmp_path / "run", trials=5)
    events = search(Known(), tmp_path / "run", trials=12, resume=True)
    assert len(events[0].rows) == 5
    assert [e.number for e in events if isinstance(e, TrialStarted)] == list(range(6, 13))
    assert told(events[-1].rows) == told(whole.rows)


@pytest.mark.parametrize("damage", ["torn", "locked", "asked"])
def test_what_a_killed_process_leaves_does_no_harm(tmp_path, monkeypatch, damage):
    whole = search(Known(), tmp_path / "whole", trials=8, prune=False)[-1]
    run = tmp_path / "run"

    def some(events):
        for event in events:
            if isinstance(event, TrialProgress) and event.number == 5 and event.part > 0.5:
                events.close()
                return

    search(Known(), run, trials=8, prune=False, events=some)
    log = run / "study.log"
    lines = log.read_bytes().splitlines(keepends=True)
    if damage == "torn":
        log.write_bytes(b"".join(lines) + b'{"op_code":6,"worker_id":"x')
    elif damage == "locked":
        (run / "study.log.lock").symlink_to(log)
    else:  # a trial that has one of its two values
        names = [json.loads(line).get("param_name") for line in lines]
        cut = [i for i, name in enumerate(names) if name == "x"][-1] + 1
        log.write_bytes(b"".join(lines[:cut]))
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("a lock is waited for"))
    assert rows_of(run)[4].state == "running"
    assert (run / "study.log.lock").is_symlink() == (damage == "locked")  # looking changes nothing
    done = search(Known(), run, trials=8, prune=False, resume=True)[-1]
    assert told(done.rows) == told(whole.rows)


def test_states_of_ended_trials_leave_the_disk(tmp_path):
    def at(trial, step):
        if trial == 2 and step == 5:
            raise RobustError("diverged")

    rows = search(Known(at), tmp_path / "run", axes=[X, MODE], trials=12, seed=1)[-1].rows
    for row in rows:
        left = {file.name for file in (tmp_path / f"run/trials/{row.number:05d}").iterdir()}
        assert left == ({"best.pt"} if row.state == "complete" else set()), row


def test_a_run_that_asks_something_else_is_not_gone_on_with(tmp_path):
    run = tmp_path / "run"
    search(Known(), run, trials=2)
    with pytest.raises(RobustError, match="holds a run already; add --resume"):
        search(Known(), run, trials=2)
    with pytest.raises(RobustError, match="cannot be resumed: search, seed differ"):
        search(Known(), run, axes=[X], trials=2, seed=5, resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    with pytest.raises(RobustError, match="exists and is no run folder"):
        search(Known(), tmp_path / "other", trials=2)
    with pytest.raises(RobustError, match="x=7 is not possible: too much"):
        search(Known(), tmp_path / "new", axes=[Axis(name="x", low=0.0, high=7.0)])
    assert not (tmp_path / "new").exists()


def test_a_damaged_study_is_told(tmp_path):
    run = tmp_path / "run"
    search(Known(), run, trials=2)
    log = run / "study.log"
    log.write_bytes(b"what?\n" + log.read_bytes())
    for look in (lambda: rows_of(run), lambda: search(Known(), run, trials=2, resume=True)):
        with pytest.raises(RobustError, match="study.log is damaged"):
            look()


def test_epochs_of_any_number_are_compared_at_tenths(tmp_path):
    """A trial of 2 steps and one of 10 are told apart by how far they are, not by steps."""

    class Short(Known):
        def run(self, values, folder):
            for look in super().run(values, folder):
                if look.final or math.isclose(look.part % 0.5, 0) or int(folder.name) % 2:
                    yield look

    rows = search(Short(), tmp_path / "run", axes=[X, MODE], trials=20, seed=1)[-1].rows
    assert any(row.state == "pruned" and row.number % 2 == 0 for row in rows)
    assert any(row.state == "pruned" and row.number % 2 for row in rows)
