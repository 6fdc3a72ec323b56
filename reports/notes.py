"""Honest remarks on a run: what its figures leave out, or rest on."""

from typing import TYPE_CHECKING

from . import oracle, protocol, text
from .rates import ratio

if TYPE_CHECKING:
    from .summary import Report


_SHOWN = 4  # damaged files that are named


def coverage(report: "Report") -> list[str]:
    """What was not measured, and figures too good or too bad to be true."""
    c, notes = report.columns, list[str]()
    if report.damaged:
        shown = [f"{one['file']} ({one['why']})" for one in report.damaged[:_SHOWN]]
        rest = len(report.damaged) - len(shown)
        more = f" and {text.plural(rest, 'other')}" if rest else ""
        notes.append(
            f"Damaged: {', '.join(shown)}{more}. What was in there is missing from every figure "
            "here; the same command with --resume makes it again."
        )
    if not report.complete:
        notes.append(
            f"Incomplete: {report.n:,} of {report.n_expected:,} samples were measured. Resume the "
            "run for the rest; every figure here covers the measured samples only."
        )
    if not report.tallies:
        notes.append("No attack ran: robustness was not measured.")
    elif report.n and not c.correct.any():
        notes.append(
            "Not one sample was classified correctly, so there was nothing to attack: are the "
            "classes in the order of the data, and the range and normalisation the model's own?"
        )
    elif report.n and not report.counts["broken"]:
        why = "too few queries" if report.oracle else "gradients that mislead them"
        notes.append(
            "No attack broke a single sample. That is rare, and more often a sign of attacks "
            f"that were too weak or {why} than of a robust model."
        )
    return notes


def of(report: "Report") -> list[str]:
    """What the figures rest on."""
    c, notes = report.columns, list[str]()
    notes += protocol.notes(report.spec, complete=report.complete)
    low, high = report.robust_accuracy_ci
    if high - low > 0.1:
        notes.append(
            f"Only {text.plural(report.n, 'sample')}: the 95{text.NARROW}% interval is "
            f"{100 * (high - low):.0f} points wide. More samples would narrow it."
        )
    surrogates = report.spec.get("surrogates") or []
    if surrogates:
        names = ", ".join(str(s.get("path") or s.get("arch")) for s in surrogates)
        notes.append(
            f"Transfer: the attacks searched on {names} and asked nothing of the model, which "
            "only verified one candidate per sample and attack. Forwards and backwards are the "
            "surrogates'. Attackers who can query the model do better."
        )
    fooled = ratio(sum(t.fooled for t in report.tallies), sum(t.checked for t in report.tallies))
    model, transfer = report.spec["model"], bool(surrogates)
    notes += oracle.notes(report.oracle, model, fooled, transfer=transfer)
    for attack in report.attacks:
        if attack["crafting"]:
            once, name = attack["crafting"], attack["label"]
            whose = "held out for that" if once["held_out"] else "that it was then measured on"
            notes.append(
                f"{name} crafted one perturbation for all, on "
                f"{text.plural(once['samples'], 'sample')} {whose}: "
                f"{once['forwards']:,} forwards and {once['backwards']:,} backwards, which "
                "figures per sample leave out."
            )
        notes += [
            f"{attack['label']}: {text.plural(said['samples'], 'sample')} {said['text']}."
            for said in attack["remarks"]
        ]
        if attack["refused"]:
            reasons = ", ".join(f"{k:,} {why}" for why, k in attack["refused"].items())
            notes.append(
                f"Candidates of {attack['label']} were refused and count as no success: {reasons}."
            )
    if report.survives_8bit is not None and report.survives_8bit < 1:
        fraction = text.percent(1 - report.survives_8bit, report.counts["broken"])
        notes.append(
            f"{fraction} of the adversarial examples no longer work once rounded to 8 bits "
            "per channel; stored as ordinary image files they would be harmless. They count "
            "as successes here."
        )
    smaller = int((c.correct & (c.first < 0) & (report.radius <= report.eps)).sum())
    if smaller and report.tallies:
        notes.append(
            f"{text.plural(smaller, 'sample')} withstood the attacks at the full ε but broke "
            "at a smaller one, and so count as broken."
        )
    there = int((c.correct & (c.targets == c.labels)).sum())
    if report.targeted and there:
        notes.append(
            f"{text.plural(there, 'sample')} already had the target class and could not be "
            "attacked towards it; they count as robust."
        )
    if report.targeted and report.tallies:
        notes.append(
            "Targeted: only reaching the chosen class counts as a success, so the robust "
            "accuracy is higher than it would be if any wrong class counted."
        )
    return notes
