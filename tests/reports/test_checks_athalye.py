"""The signs of masked gradients, and what other attacks find that a run had left."""

import pytest
from probe_facts import N, check, made, outcome, reference

from robust.reports.checks import athalye, second_opinion
from robust.reports.checks.evidence import more_often, possible, proven, weight_of

PASSED = ("passed", "", True)
MASKED = ("failed", "", True)
KEYS = ["one-step", "black-box", "unbounded", "random-sampling", "larger-eps"]


def judged(key, run=None, **attacks):
    """A check of facts that are honest but for these."""
    return check(athalye, key, made({"reference": reference(**attacks)}, **(run or {})))


# What so few samples prove


def test_what_is_proven_is_the_exact_bound():
    # Of n samples, all: the bound b with b^n = 5 %. Of n, one: 1 − (1 − b)^n = 5 %.
    assert proven(16, 16) == pytest.approx(0.05 ** (1 / 16))
    assert proven(1, 16) == pytest.approx(1 - 0.95 ** (1 / 16))
    assert proven(0, 16) == 0 == proven(0, 0)
    assert possible(0, 16) == pytest.approx(1 - 0.05 ** (1 / 16))
    assert possible(15, 16) == pytest.approx(0.95 ** (1 / 16))
    assert possible(16, 16) == 1


def test_one_sample_of_few_is_no_evidence_and_some_are():
    assert [weight_of(k, 16) for k in range(4)] == ["", "", "doubtful", "broken"]
    assert [weight_of(k, 64) for k in (2, 3, 6, 7)] == ["", "doubtful", "doubtful", "broken"]
    assert weight_of(0, 0) == ""


def test_more_often_is_the_sign_test():
    assert not more_often(4, 0)  # one in 16
    assert more_often(5, 0)  # one in 32
    assert not more_often(0, 5)
    assert not more_often(7, 5)


# Nothing to look at


def test_honest_facts_pass():
    found = athalye.checks(made({"reference": reference()}))
    assert [one.key for one in found] == KEYS
    assert {outcome(one) for one in found} == {PASSED}
    assert all(one.figure and one.meaning.endswith(".") for one in found)


@pytest.mark.parametrize(
    ("report", "why"),
    [
        (made({}, access="scores"), "Attackers can only ask the model"),
        (made({"reference": {"n": N, "error": "they have no answers"}}), "They have no answers."),
        (made({}), "The run was not diagnosed for it."),
        (made({"reference": {"n": N, "version": 0}}), "Another version of robust"),
    ],
)
def test_without_facts_nothing_applies_and_each_says_why(report, why):
    found = athalye.checks(report) + second_opinion.checks(report)
    assert {one.status for one in found} == {"not applicable"}
    assert all(one.meaning.startswith(why) for one in found)


def test_attacks_that_do_not_answer_the_threat_are_not_applicable():
    found = judged("black-box", random_search="Square answers linf threats, not l0")
    assert found.status == "not applicable"
    assert found.meaning == "Square answers linf threats, not l0."
    for key in ("one-step", "unbounded", "random-sampling"):
        gone = dict.fromkeys(("plain", "plain_unbounded"), "no")
        assert judged(key, **gone).status == "not applicable"


# One step


def test_one_step_that_goes_further_than_many_is_a_sign_of_masking():
    found = judged("one-step", one_step=(N, range(10, N)))
    assert outcome(found) == ("failed", "broken", True)  # the run has missed six, too
    found = judged("one-step", one_step=(N, range(16, N)), plain=(N, range(21, N)))
    assert outcome(found) == MASKED
    assert found.value == pytest.approx(5 / N)
    assert found.figure == "one-step breaks 16 of 32 samples, plain 11"


def test_one_step_that_goes_a_little_further_may_be_chance():
    found = judged("one-step", one_step=(N, range(16, N)), plain=(N, range(20, N)))
    assert outcome(found) == PASSED
    assert "chance" in found.meaning


def test_one_step_that_breaks_what_the_run_left_tells_of_the_run_alone():
    found = judged("one-step", one_step=(N, range(4, N)), plain=(N, range(0, N)))
    assert outcome(found) == ("failed", "broken", False)
    assert found.figure == "one-step breaks 12 of 16 samples that the run left"
    assert "12 samples of 32" in found.meaning


def test_a_run_that_never_iterates_has_failed_without_a_comparison():
    found = judged("one-step", run={"steps": 1})
    assert outcome(found) == ("failed", "broken", False)
    assert found.figure == "1.0 gradient steps a sample"
    assert judged("one-step", run={"steps": 2}).status == "passed"
    others = {"steps": 1, "attacks": [{}, {"name": "square", "access": "scores"}]}
    assert judged("one-step", run=others).status == "passed"
    assert judged("one-step", run={"steps": 1, "left": 4}).status == "passed"  # of 100


def test_draws_are_no_steps():
    drawn = {"steps": 30, "attacks": [{"params": {"eot": 30}}]}
    assert judged("one-step", run=drawn).status == "failed"
    adaptive = {"steps": 30, "attacks": [{"adaptive": True}], "model": {"draws": 30}}
    assert judged("one-step", run=adaptive).status == "failed"


# What does without gradients


@pytest.mark.parametrize(
    ("key", "name"), [("black-box", "random_search"), ("random-sampling", "noise")]
)
def test_more_than_gradients_find_is_masking_and_what_the_run_left_evidence(key, name):
    # Naive PGD leaves 24, of which the run's attacks break eight.
    plain = (N, range(24, N))
    found = judged(key, plain=plain, **{name: (24, range(16, 24))})
    assert outcome(found) == MASKED
    assert found.value == pytest.approx(8 / 24)
    found = judged(key, plain=plain, **{name: (24, range(10, 24))})
    assert outcome(found) == ("failed", "broken", True)
    found = judged(key, **{name: (16, range(2))})  # of 32 samples
    assert (found.status, found.weight) == ("failed", "doubtful")
    assert judged(key, **{name: (16, [3])}).status == "passed"


def test_what_gradients_find_too_is_no_gain():
    # Naive PGD breaks four samples that the run left, and random search those.
    facts = {"plain": (N, range(12, N)), "random_search": (16, range(12, 16))}
    found = judged("black-box", **facts)
    assert found.value == 0
    assert outcome(found) == ("failed", "doubtful", False)


def test_random_search_may_find_a_little_more():
    plain = (N, range(20, N))  # of the 20 it leaves
    for gained, status in ((0, "passed"), (4, "passed"), (5, "failed")):
        facts = {"robust": 12, "plain": plain, "random_search": (20, range(12, 12 + gained))}
        found = judged("black-box", **facts)
        assert found.status == status, gained
    assert proven(4, 20) < 0.1 < proven(5, 20)


def test_noise_may_find_one_or_two():
    plain = (N, range(20, N))
    for gained, status in ((2, "failed"), (1, "passed")):
        facts = {"robust": 12, "plain": plain, "noise": (20, range(12, 12 + gained))}
        assert judged("random-sampling", **facts).status == status


def test_nothing_left_leaves_nothing_to_find():
    facts = {"robust": 0, "plain": (N, range(N)), "random_search": (0, ()), "noise": (0, ())}
    for key in ("black-box", "random-sampling"):
        found = judged(key, **facts)
        assert outcome(found) == PASSED
        assert found.figure == "plain leaves none of 32 samples"


# Without a bound, and with a larger one


def test_naive_gradients_must_reach_everything_without_a_bound():
    assert judged("unbounded").figure == "plain-unbounded breaks 32 of 32 samples"
    found = judged("unbounded", plain_unbounded=(12, range(4, 15)))
    assert outcome(found) == PASSED  # one of 32 proves nothing
    found = judged("unbounded", plain_unbounded=(12, range(4, 14)))
    assert outcome(found) == MASKED
    assert found.value == 2 / N


def test_twice_the_eps_breaks_more():
    found = judged("larger-eps")
    assert outcome(found) == PASSED
    assert found.figure == "4 of 16 samples left break at eps 0.2"
    assert found.value == 0.25


def test_samples_beyond_twice_the_eps_must_fall_in_the_end():
    nothing = {"larger": (16, ()), "plain_larger": (16, ())}
    ends = {"unbounded": (16, range(16)), "plain_unbounded": (16, range(16))}
    assert outcome(judged("larger-eps", **nothing, **ends)) == PASSED
    stuck = ends | {"unbounded": (16, range(2, 16))}
    assert outcome(judged("larger-eps", **nothing, **stuck)) == ("failed", "broken", False)
    stuck = ends | {"unbounded": (16, range(1, 16))}
    assert outcome(judged("larger-eps", **nothing, **stuck)) == ("failed", "doubtful", False)
    stuck = ends | {"plain_unbounded": (16, range(2, 16))}
    assert outcome(judged("larger-eps", **nothing, **stuck)) == MASKED


def test_more_at_twice_the_eps_is_enough():
    stand = {"unbounded": (12, range(4, 13)), "plain_unbounded": (12, range(4, 13))}
    assert outcome(judged("larger-eps", **stand)) == PASSED


def test_a_larger_eps_than_the_range_is_no_question():
    report = made({"reference": reference()}, eps=1.0)
    assert check(athalye, "larger-eps", report).status == "not applicable"
    facts = {"robust": 0, "larger": (0, ()), "plain_larger": (0, ()), "unbounded": (0, ())}
    assert judged("larger-eps", **facts).figure == "no sample is left"


# A second opinion


def second(**attacks):
    return check(second_opinion, "second-opinion", made({"reference": reference(**attacks)}))


def test_a_second_opinion_by_what_it_breaks():
    assert outcome(second()) == ("passed", "", False)
    found = second(second=(16, [3]))
    assert outcome(found) == ("passed", "", False)
    assert found.figure == "second breaks 1 of 16 samples that the run left, of 32"
    assert found.value == 1 / N
    most = 100 * possible(1, N)
    assert "breaks 1 more, too few to prove" in found.meaning
    assert f"up to {most:.0f} points more cannot be excluded" in found.meaning
    assert outcome(second(second=(16, range(2)))) == ("failed", "doubtful", False)
    assert outcome(second(second=(16, range(5)))) == ("failed", "broken", False)
    assert second(robust=0, second=(0, ())).figure == "none of 32 samples is left"
    assert second(second="It needs images").status == "not applicable"


def test_the_other_attacks_count_with_it():
    found = second(second=(16, [3]), plain=(N, [3, *range(16, N)]), margin=(16, [5]))
    assert outcome(found) == ("failed", "doubtful", False)
    assert found.figure == "second, then margin break 2 of 16 samples that the run left, of 32"
    assert found.value == 2 / N
