"""What defenses gave: naive and robust accuracy, their difference, and what is known of each."""

from typing import TYPE_CHECKING, Any

from . import text

if TYPE_CHECKING:
    from .summary import Report


def viewed(spec: dict[str, Any], *, adaptive: bool) -> bool:
    """Whether attacks with gradients ran on a model with defenses that see through them, or not."""
    asked = spec["attacks"]
    return any(one.get("adaptive") is adaptive and one["access"] == "gradient" for one in asked)


def words(report: "Report") -> str:
    """False security as a sentence; "" where it was not measured."""
    gap, naive = report.false_security, report.naive_accuracy
    if gap is None or naive is None:
        return ""
    left = text.percent(report.robust_accuracy)
    before = text.percent(naive)
    whose = "what is random in it" if not report.defenses else "its defenses"
    if gap < 0.5 / max(1, report.n):
        return (
            f"No false security: attacks that know {whose} leave no less than naive ones, {left}."
        )
    return (
        f"False security: {text.points(gap)}. Naive attacks, which take the model as it is "
        f"deployed, leave {before}; those that know {whose} leave {left}."
    )


def notes(report: "Report") -> list[str]:
    """Remarks on defenses, on attacks that were or were not adaptive, and on chance."""
    model = report.spec["model"]
    said = [words(report)] if report.false_security is not None else []
    views = {attack.get("adaptive") for attack in report.spec["attacks"]}
    if report.defenses and report.attacks and report.false_security is None:
        said.append(_one_view(report, views))
    said += [_told(defense) for defense in report.defenses]
    if model.get("guessed"):
        said.append(_guessed(report))
    if report.random:
        said.append(_chance(report))
        seen = [attack for attack in report.spec["attacks"] if attack.get("adaptive")]
        if seen and all(attack.get("minimal") for attack in seen):
            said.append(
                "The adaptive attacks look for the smallest perturbation, and stop where half of "
                "the draws are fooled: whoever spends all of ε fools more, so that this robust "
                "accuracy is an upper bound."
            )
    return said


def _one_view(report: "Report", views: set[bool | None]) -> str:
    if viewed(report.spec, adaptive=True):
        return "Adaptive attacks alone: how much false security the defenses give was not measured."
    why = "attacks that only ask the model" if views == {None} else "naive attacks"
    if report.spec.get("surrogates"):
        why = "attacks on other models"
    return (
        f"Only {why} ran: what attackers who know the defenses leave was not measured, and can be "
        "far less."
    )


def _told(defense: dict[str, Any]) -> str:
    """What is known of a defense: family, paper, what it claims, and what breaks it."""
    name = str(defense.get("label") or defense["name"])
    about = [defense.get("family") or "a defense of your own"]
    if defense.get("paper"):
        about.append(f"arXiv {defense['paper']}")
    told = f"{name} ({', '.join(about)})"
    if defense.get("claims"):
        told += f" claims: {defense['claims']}"
    if defense.get("broken_by"):
        told += f"; known to break it: {defense['broken_by']}"
    return f"{told}."


def _guessed(report: "Report") -> str:
    draws = int(report.spec["model"].get("draws", 1))
    if not report.defenses:
        return (
            "Nobody declared that the model answers at random: a few repeated questions found it "
            f"out. Adaptive attacks take the mean of {draws} draws, which is a guess; attacks that "
            "know where the chance comes from may do better."
        )
    how = "gradients pass as if the defense did nothing (BPDA), wherever it keeps the shape"
    if draws > 1:
        how += f", averaged over {draws} draws (EOT), for repeated questions got different answers"
    return (
        f"How to attack it was guessed, for the defense does not say (it has no expose): {how}. "
        "Attacks made for it may do better, so that this robust accuracy is an upper bound."
    )


def _chance(report: "Report") -> str:
    checks = int(report.spec["checks"])
    return (
        f"The model answers at random. Accuracies are means over {checks} draws of each answer, "
        "robust accuracy over as many at each sample's worst adversarial example, which others "
        "have chosen; the intervals hold for samples and draws together. A success of an attack "
        "fools in half of the draws, and a sample is attacked until one fools in all of them."
    )
