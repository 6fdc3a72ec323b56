"""The published JSON Schema of report.json."""

import json
from functools import cache
from importlib import resources
from typing import Any


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the report.json of an attack run, as a dict.

    It lies beside this file as report.schema.json and is installed with the package. Every key is
    described, with its unit; what it does not know it refuses. Its version is the schema_version
    of report.json.
    """
    text = resources.files(__package__ or "").joinpath("report.schema.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found
