"""AutoAttack's flags, and three indicators of attack failure."""

import pytest
from probe_facts import N, answers, check, gradients, made, outcome, reference

from robust.reports.checks import attack_failure, autoattack

NAIVE = {"ce": 20, "margin": 0}
RANDOM = {"checks": 20, "model": {"draws": 30}}


def flag(key, diagnosis, **run):
    module = autoattack if key in FLAGS else attack_failure
    return check(module, key, made(diagnosis, **run))


FLAGS = ["randomness", "softmax", "zero-gradients", "inference-optimisation", "square-gain"]
INDICATORS = ["unavailable-gradients", "unstable-predictions", "unconstrained-failure"]


@pytest.fixture
def honest():
    return {"reference": reference(), "gradients": gradients(), "answers": answers()}


def test_an_honest_model_passes(honest):
    report = made(honest)
    found = autoattack.checks(report) + attack_failure.checks(report)
    assert [one.key for one in found] == FLAGS + INDICATORS
    assert {(one.status, one.weight) for one in found} == {("passed", "")}
    masking = {one.key for one in found if one.masking}
    assert masking == {"softmax", "zero-gradients", "unavailable-gradients"}


def test_without_facts_nothing_applies():
    report = made({}, access="scores")
    found = autoattack.checks(report) + attack_failure.checks(report)
    assert {one.status for one in found} == {"not applicable"}
    old = made({name: {"n": N, "version": 0} for name in ("answers", "gradients", "reference")})
    found = autoattack.checks(old) + attack_failure.checks(old)
    assert {one.status for one in found} == {"not applicable"}
    assert all("Another version" in one.meaning for one in found)


# Chance


def chance(**facts):
    return {"answers": answers(different=N, largest=2.0, flipping=9, **facts)}


def test_answers_at_random_that_the_run_does_not_know_of():
    assert outcome(flag("randomness", chance())) == ("failed", "doubtful", False)
    found = flag("unstable-predictions", chance())
    assert outcome(found) == ("failed", "doubtful", False)
    assert found.figure == "9 of 32 samples in 8 answers"
    assert found.value == 9 / N


def test_answers_at_random_that_it_does_know_of():
    adaptive = {"attacks": [{"adaptive": True}], **RANDOM}
    assert flag("randomness", chance(), **adaptive).status == "passed"
    found = flag("unstable-predictions", chance(), **adaptive)
    assert found.status == "passed"
    assert "average over 30 draws" in found.meaning


def test_draws_that_no_attack_averages_over():
    found = flag("unstable-predictions", chance(), **RANDOM)
    assert outcome(found) == ("failed", "doubtful", False)
    assert flag("randomness", chance(), **RANDOM).status == "passed"


def test_rounding_is_no_chance():
    facts = {"answers": answers(different=N, largest=5e-4, scale=10.0)}
    assert flag("randomness", facts).status == "passed"
    facts = {"answers": answers(different=N, largest=1e-2, scale=10.0)}
    assert flag("randomness", facts).status == "failed"


def test_little_that_is_left_hides_nothing():
    assert outcome(flag("randomness", chance(), left=5)) == ("failed", "", False)
    assert outcome(flag("randomness", chance(), left=6)) == ("failed", "doubtful", False)


# What the model answers


def test_probabilities_and_their_logarithms():
    found = flag("softmax", {"answers": answers(probabilities=True)})
    assert outcome(found) == ("failed", "doubtful", True)
    for rounded, status in ((0, "passed"), (3, "passed"), (10, "failed")):
        facts = answers(logarithms=True, rounded=rounded)
        assert flag("softmax", {"answers": facts}).status == status


def test_a_model_that_optimises():
    found = flag("inference-optimisation", {"answers": answers(recording=37, backwards=3)})
    assert outcome(found) == ("failed", "doubtful", False)
    assert found.figure == "37 operations of a forward record gradients"
    found = flag("inference-optimisation", {"answers": answers(backwards=1)})
    assert found.status == "failed"
    found = flag("inference-optimisation", {"answers": answers(recording=None, backwards=None)})
    assert found.status == "not applicable"


# Gradients


def test_zero_gradients_are_those_of_a_naive_attacker():
    found = flag("zero-gradients", {"gradients": gradients(zero=NAIVE)})
    assert outcome(found) == ("failed", "", True)
    assert found.figure == "20 of 32 samples"
    one = {"ce": 1, "margin": 0}
    assert flag("zero-gradients", {"gradients": gradients(zero=one)}).status == "passed"
    facts = gradients(exposed={"zero": {"ce": N, "margin": N}})
    assert flag("zero-gradients", {"gradients": facts}).status == "passed"
    found = flag("zero-gradients", {"gradients": gradients(zero=NAIVE, missing=True)})
    assert "do not depend on its input" in found.meaning


def unavailable(facts, *attacks, **run):
    asked = attacks or ({"params": {"loss": "ce"}},)
    return flag("unavailable-gradients", {"gradients": facts}, attacks=asked, **run)


def test_gradients_that_are_missing_where_the_attacks_look():
    found = unavailable(gradients(zero=NAIVE))
    assert outcome(found) == ("failed", "broken", False)  # of the margin there is one
    assert found.value == 20 / N
    found = unavailable(gradients(zero={"ce": 20, "margin": 20}))
    assert outcome(found) == ("failed", "broken", True)
    assert unavailable(gradients(zero=NAIVE), {"params": {"loss": "margin"}}).status == "passed"
    found = unavailable(gradients(not_finite=20), {"params": {"loss": "margin"}})
    assert outcome(found) == ("failed", "broken", True)


def test_an_attack_that_can_do_without_gradients_makes_it_a_doubt():
    nothing = gradients(zero={"ce": N, "margin": N})
    asked = [{"name": "auto", "params": {}}]
    assert outcome(unavailable(nothing, *asked)) == ("failed", "doubtful", True)
    asked = [{"params": {"loss": "ce"}}, {"name": "square", "access": "scores", "params": {}}]
    assert outcome(unavailable(nothing, *asked)) == ("failed", "doubtful", True)
    assert outcome(unavailable(nothing, *asked, left=5)) == ("failed", "", True)


def test_attacks_that_see_through_the_defenses_have_the_gradients_that_these_expose():
    facts = gradients(zero={"ce": N, "margin": N}, exposed={})
    found = unavailable(facts, {"adaptive": False, "params": {}}, {"adaptive": True, "params": {}})
    assert outcome(found) == ("failed", "", True)
    assert found.figure == "32 of 32 samples, naively"
    assert outcome(unavailable(facts, {"adaptive": False, "params": {}})) == (
        "failed",
        "broken",
        True,
    )


def test_gradients_that_mislead_are_masked_where_they_are_deployed():
    found = unavailable(gradients(misleading=12))
    assert outcome(found) == ("failed", "", True)
    assert found.value == 12 / N
    assert "off for 12 of 32" in found.figure
    assert unavailable(gradients(misleading=4)).status == "passed"  # as kinks may do
    assert unavailable(gradients(exposed={"misleading": N})).status == "passed"


def test_gradients_that_nobody_asks_for():
    asked = {"name": "square", "access": "scores", "params": {}}
    found = unavailable(gradients(zero=NAIVE), asked)
    assert found.status == "not applicable"


# Without a bound


def unconstrained(**attacks):
    return flag("unconstrained-failure", {"reference": reference(**attacks)})


def test_the_runs_attacks_must_break_everything_without_a_bound():
    found = unconstrained()
    assert outcome(found) == ("passed", "", False)
    assert found.figure == "unbounded breaks 16 of 16 samples left"
    found = unconstrained(unbounded=(12, range(4, 14)))
    assert outcome(found) == ("failed", "doubtful", False)
    assert found.value == 2 / 16
    assert outcome(unconstrained(unbounded=(12, ()))) == ("failed", "broken", False)
    found = unconstrained(robust=0, larger=(0, ()), unbounded=(0, ()))
    assert outcome(found) == ("passed", "", False)
    assert unconstrained(unbounded="no eps").meaning == "No eps."


def test_runs_without_an_attack_to_repeat():
    facts = reference()
    del facts["attacks"]["unbounded"]
    found = flag("unconstrained-failure", {"reference": facts})
    assert found.status == "not applicable"
    assert found.meaning == "No attack with gradients to repeat."


# What random search gains


SQUARE = {"name": "square", "access": "scores", "params": {}}


def gain(*attacks, hits=None, stages=None, facts=None, **spec):
    """square-gain of a run whose second attack broke `hits` of the 40 that the first left."""
    report = made({"reference": facts or reference()}, attacks=attacks or ({"params": {}},), **spec)
    for tally in report.tallies[1:]:
        tally.successes = hits or 0
    for tally in report.tallies:
        tally.stages = stages or {}
    return check(autoattack, "square-gain", report)


def test_the_gain_of_a_run_that_holds_random_search():
    first = {"params": {}}
    for hits, status in ((0, "passed"), (1, "passed"), (2, "failed")):
        found = gain(first, SQUARE, hits=hits)
        assert found.status == status
        assert found.value == hits / 100
    assert found.weight == "doubtful"
    assert not found.masking
    assert found.figure == "2 of 100 samples by square"
    assert "2.0 points" in found.meaning


def test_the_gain_of_autos_late_stages():
    from robust.reports.rows import Stage

    stages = {
        "descent": Stage(100, 50),
        "probe for masked gradients": Stage(50, 2),
        "escalation": Stage(48, 3),
    }
    found = gain({"name": "auto", "params": {}}, stages=stages)
    assert (found.status, found.value) == ("failed", 0.05)
    assert found.figure == "5 of 100 samples by late stages of auto"


def test_else_the_probe_tells():
    for given in (((SQUARE, {"params": {}}), {}), (({"params": {}}, SQUARE), {"every": True})):
        asked, spec = given
        facts = reference(random_search=(16, range(3)))
        found = gain(*asked, hits=9, facts=facts, **spec)
        assert found.figure == "3 of 32 samples beyond the run"
        assert found.status == "failed"


def test_without_gradients_there_is_nothing_to_gain_over():
    assert gain(SQUARE).status == "not applicable"
    found = gain(facts=reference(random_search="Square answers no l0 threats"))
    assert found.meaning == "Square answers no l0 threats."
