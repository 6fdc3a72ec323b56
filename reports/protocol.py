"""What a reader must know of a published protocol that a run followed."""

from typing import Any

from robust.core.protocols import recognise

from . import text


def notes(spec: dict[str, Any], *, complete: bool) -> list[str]:
    """Remarks on AutoAttack, where its stages are among the attacks of this run; else none.

    complete    every sample was measured
    """
    asked = spec["attacks"]
    labels = [attack.get("label") or attack["name"] for attack in asked]
    found = recognise(labels, spec["threat"]["norm"])
    if found is None:
        return []
    name, stages = f"AutoAttack {found.version}", len(found.stages)
    other = "aimed at chosen classes" if spec.get("targeted") else ""
    other = "searching on surrogates" if spec.get("surrogates") else other
    if other:
        return [
            f"The attacks are those of {name}, but {other}: this is not the published protocol, "
            "and the robust accuracy is not AutoAttack's."
        ]
    progress = "complete" if complete else "complete on the samples measured so far"
    first = f"{name}: all {stages} stages {progress}, with the published steps, targets and order."
    if len(labels) > stages:
        more = text.plural(len(labels) - stages, "further attack")
        first += f" {more} ran beside them, so that the figure can be lower than AutoAttack's own."
    return [first, *_few_classes(found.stages, asked, spec["model"].get("num_classes"))]


def _few_classes(
    stages: tuple[str, ...], asked: list[dict[str, Any]], classes: int | None
) -> list[str]:
    """Where the model has fewer classes than the protocol aims at, or its loss needs."""
    used = [attack for attack in asked if attack.get("label") in stages]
    wanted = [attack["params"].get("targets", 0) for attack in used]
    parts = []
    if classes is None:
        return []
    if max(wanted) > classes - 1:
        names = " and ".join(
            attack["name"]
            for attack, targets in zip(used, wanted, strict=True)
            if targets > classes - 1
        )
        there = "the one other class" if classes == 2 else f"all {classes - 1} other classes"
        parts.append(f"{names} aim at {there} instead of {max(wanted)}")
    losses = {attack["name"] for attack in used if attack["params"].get("loss") == "dlr"}
    if losses and classes < 3:
        parts.append("the plain margin stands in for the DLR loss, which needs three logits")
    elif "apgd-t" in losses and classes < 4:
        parts.append(
            "the targeted DLR loss, which needs four logits, divides by the first less the third"
        )
    return [f"AutoAttack on a model with {classes} classes: {'; '.join(parts)}."] if parts else []
