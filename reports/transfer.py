"""The transfer matrix: on which models examples were crafted, and which of the others they fool."""

from typing import TYPE_CHECKING, Any

from .rates import ratio, wilson

if TYPE_CHECKING:
    from .summary import Report


def of(report: "Report") -> dict[str, Any] | None:
    """What the probe of that name found, as rates; None where the run had no other models.

    models      names, the model under attack last
    attack      what crafted the examples
    n           samples looked at; each model counts those that it classifies right unaltered
    rows        for each model that was crafted on: {"model", "cells"}, for each that was tested
                {"model", "given", "broken", "rate", "ci"}; cells are None where nothing could be
                crafted, and `why` says why
    """
    found = report.diagnosis.get("transfer") or {}
    if "broken" not in found:
        return None
    rows = []
    for model, broken in zip(found["models"], found["broken"], strict=True):
        cells = None
        if broken is not None:
            cells = [
                {
                    "model": name,
                    "given": given,
                    "broken": k,
                    "rate": ratio(k, given),
                    "ci": wilson(k, given),
                }
                for name, given, k in zip(found["models"], found["given"], broken, strict=True)
            ]
        rows.append({"model": model, "cells": cells})
    return {
        "models": found["models"],
        "attack": found["attack"],
        "n": found.get("n"),
        "why": found.get("why", ""),
        "rows": rows,
    }
