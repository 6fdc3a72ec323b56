"""The stage after the attacks: which samples it takes, what it keeps, and how it goes on."""

import json

import numpy as np
import pytest
import torch

import robust
from robust import planning
from robust.attacks.pgd import PGD
from robust.attacks.square import Square
from robust.core.errors import RobustError
from robust.core.threat import Threat
from robust.data import DataSpec, from_arrays, open_data
from robust.diagnosis import Diagnosing, Subject, engine
from robust.evaluation import Evaluation
from robust.models import in_memory
from robust.planning import as_oracle
from robust.reports.summary import Report
from robust.store import MemoryStore

EPS = 0.1


def made(net, attacks=None, n=200, *, access="gradient", targeted=None, batch_size=32):
    """An evaluation of that network on n digits that has come to its end, and its store."""
    source = open_data(DataSpec("digits", "test"))
    batch = source.batch(source.ids[:n])
    source, threat = from_arrays(batch.x, batch.y), Threat("linf", EPS)
    attacks = attacks or [PGD(steps=5)]
    loaded = as_oracle(in_memory(net), access)
    spec = planning.plan(
        loaded, source, {"source": "digits"}, threat, attacks, device=torch.device("cpu"),
        batch_size=batch_size, access=access, curve=False, targeted=targeted,
    )  # fmt: skip
    run, store = Evaluation(spec, loaded.module, source, attacks), MemoryStore()
    for _ in run.run(store):
        pass
    return run, store


@pytest.fixture
def probes(monkeypatch):
    """Two probes that count how often they ran, in place of the real ones."""
    ran = []

    def draws(subject):
        ran.append("draws")
        return {"drawn": torch.rand(3).tolist(), "ids": subject.ids.tolist()}

    def refused(subject):
        ran.append("refused")
        raise RobustError("no such question")

    monkeypatch.setattr(engine, "PROBES", {"draws": draws, "refused": refused})
    return ran


def diagnosed(run, store, amount="subset"):
    events = list(Diagnosing(run, amount).run(store))
    return events, store.diagnosis()


def test_every_probe_is_kept_with_its_samples_and_seconds(digits_net, probes):
    run, store = made(digits_net)
    events, facts = diagnosed(run, store)
    assert probes == ["draws", "refused"]
    assert facts["refused"]["error"] == "no such question"
    assert facts["draws"]["n"] == len(facts["draws"]["ids"]) == facts["refused"]["n"]
    assert all(one["seconds"] >= 0 and one["amount"] == "subset" for one in facts.values())
    kinds = [type(event).__name__ for event in events]
    assert kinds == ["ProbeStarted", "ProbeDone"] * 2
    assert [event.number for event in events[::2]] == [1, 2]


def test_what_is_there_is_not_measured_again(digits_net, probes):
    run, store = made(digits_net)
    _, facts = diagnosed(run, store)
    kept = json.loads(json.dumps(facts))
    assert diagnosed(run, store) == ([], kept)
    diagnosed(run, store, "full")  # more samples are another question
    assert probes == ["draws", "refused"] * 2


def test_a_seed_gives_the_same_facts_whatever_ran_before(digits_net, probes):
    run, store = made(digits_net)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    _, facts = diagnosed(run, store)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(2)
    again, store = made(digits_net)
    store.write_diagnosis("refused", facts["refused"])
    assert diagnosed(again, store)[1]["draws"]["drawn"] == facts["draws"]["drawn"]


def test_off_does_nothing_and_another_word_is_refused(digits_net, probes):
    run, store = made(digits_net)
    assert diagnosed(run, store, "off") == ([], {})
    with pytest.raises(RobustError, match="--diagnose must be one of subset, full, off, not some"):
        Diagnosing(run, "some")


def test_a_model_that_can_only_be_asked_is_asked_nothing_more(digits_net, probes):
    run, store = made(digits_net, [Square(queries=20)], n=16, access="scores")
    asked = run.model.asked
    assert diagnosed(run, store) == ([], {})
    assert run.model.asked == asked


def test_the_subset_is_an_eighth_within_its_bounds(digits_net):
    sizes = {}
    for n in (10, 100, 300):
        run, store = made(digits_net, [PGD(steps=1)], n=n)
        there = sum(int(shard.attackable.sum()) for shard in store.shards())
        sizes[n] = there, len(Subject(run, store, "subset")), len(Subject(run, store, "full"))
    assert sizes[10][1] == sizes[10][2] == sizes[10][0]
    assert sizes[100][1] == 32
    assert sizes[300][1] == sizes[300][0] // 8 > 32
    assert sizes[300][2] == sizes[300][0]


def test_the_samples_are_those_that_the_run_attacked_and_left(digits_net):
    run, store = made(digits_net)
    subject = Subject(run, store, "subset")
    rows = {}
    for shard in store.shards():
        left = shard.withstood(shard.attacks)
        rows |= dict(zip(shard.ids.tolist(), zip(shard.attackable, left, shard.labels, strict=True),
                         strict=True))  # fmt: skip
    for place, sample in enumerate(subject.ids.tolist()):
        attackable, left, label = rows[sample]
        assert attackable
        assert float(subject.left[place]) == left
        assert int(subject.goal.labels[place]) == label
        assert torch.equal(subject.x[place], run.source.batch(np.array([sample])).x[0])
    assert len(set(subject.ids.tolist())) == len(subject)
    assert 0 < len(subject.robust) < len(subject)


def test_a_targeted_goal_keeps_its_targets(digits_net):
    run, store = made(digits_net, targeted="next")
    subject = Subject(run, store, "subset")
    assert subject.goal.targeted
    assert torch.equal(subject.goal.labels, (subject.y + 1) % 10)


def test_the_attack_of_the_run_finds_on_the_subset_what_the_run_found(digits_net):
    run, store = made(digits_net, [PGD(steps=5, random_start=False)], batch_size=8)
    subject = Subject(run, store, "subset")
    trials = list(subject.search(run.attacks[0]))
    assert [len(trial.rows) for trial in trials] == [8] * (len(subject) // 8)
    success = torch.cat([trial.success for trial in trials])
    assert torch.equal(success, subject.left == 0)
    assert trials[0].recorder.margins.shape == (8, 6)
    far = subject.search(run.attacks[0], threat=Threat("linf", 4 * EPS))
    assert sum(int(trial.success.sum()) for trial in far) > int(success.sum())


def test_an_attack_that_does_not_answer_the_question_is_refused(digits_net):
    run, store = made(digits_net)
    with pytest.raises(RobustError, match="PGD answers"):
        Subject(run, store, "subset").search(PGD(), threat=Threat("l0", 3))


def test_in_a_folder_it_goes_on_where_it_was_killed(digits_net, probes, tmp_path):
    batch = open_data(DataSpec("digits", "test"))
    x, y = (getattr(batch.batch(batch.ids[:64]), name) for name in "xy")

    def run(**options):
        return robust.evaluate(digits_net, x, y, threat=robust.Linf(EPS), attacks="pgd,steps=2",
                               curve=False, out=tmp_path / "run", **options)  # fmt: skip

    report = run()
    assert set(report.diagnosis) == {"draws", "refused"}
    file = tmp_path / "run/diagnosis/draws.json"
    whole = json.loads(json.dumps(report.diagnosis["draws"]))
    file.unlink()
    assert json.loads(json.dumps(run(resume=True).diagnosis["draws"] | {"seconds": 0})) == {
        **whole, "seconds": 0
    }  # fmt: skip
    assert probes == ["draws", "refused", "draws"]
    assert run(resume=True, diagnose="off").diagnosis["draws"]["drawn"] == whole["drawn"]


def test_facts_of_another_version_are_not_judged_and_measured_again(digits_net, probes, tmp_path):
    run, store = made(digits_net)
    _, facts = diagnosed(run, store)
    old = {name: {**one, "version": 0} for name, one in facts.items()}
    for name, one in old.items():
        store.write_diagnosis(name, one)
    record = {"spec": run.spec.to_dict(), "diagnose": "subset", "diagnosis": dict(old)}
    assert Report(record, store.shards()).diagnosis == {}
    diagnosed(run, store)
    assert probes == ["draws", "refused"] * 2
    record["diagnosis"] = store.diagnosis()
    assert set(Report(record, store.shards()).diagnosis) == {"draws", "refused"}


def test_what_nobody_foresaw_costs_no_report_and_is_tried_again(digits_net, probes, monkeypatch):
    run, store = made(digits_net)

    def exhausted(subject):
        probes.append("exhausted")
        raise RuntimeError("out of memory\nsomewhere")

    monkeypatch.setitem(engine.PROBES, "draws", exhausted)
    _, facts = diagnosed(run, store)
    assert facts["draws"]["error"] == "RuntimeError: out of memory"
    assert facts["draws"]["failed"]
    assert "failed" not in facts["refused"]
    diagnosed(run, store)
    assert probes == ["exhausted", "refused", "exhausted"]


def test_samples_are_held_as_far_as_memory_allows(digits_net, monkeypatch):
    run, store = made(digits_net)
    whole = Subject(run, store, "full")
    assert len(whole) == whole.total
    monkeypatch.setattr("robust.diagnosis.subject._BYTES", 4 * 64 * 50 + 3)
    part = Subject(run, store, "full")
    assert (len(part), part.total) == (50, whole.total)
    assert len(Subject(run, store, "subset")) == 32
