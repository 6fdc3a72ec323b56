"""The frame that all pages share: templates and their filters, the script and its hash."""

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from . import charts, text, training
from .checks import GROUPS
from .terms import Terms

TEMPLATES = Path(__file__).parent / "templates"
SCRIPT = "\n" + (TEMPLATES / "script.js").read_text(encoding="utf-8")

pages = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
pages.globals |= {
    "charts": charts,
    "check_groups": GROUPS,
    "nbsp": text.NARROW,
    "script": Markup(SCRIPT),  # ours, and no template: nothing in it is escaped or filled in
    # The one script that a page may run; what a string of a user's might smuggle in does not match.
    "script_hash": base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode(),
}
pages.filters |= {
    "percent": text.percent,
    "interval": text.interval,
    "eps": text.eps,
    "seconds": text.seconds,
    "number": text.number,
    "count": text.count,
    "short": text.short,
    "plural": text.plural,
}
pages.tests["average"] = training.is_average


def fill(template: str, **parts: Any) -> str:
    """The page of that template. Templates find `term`, its terms.Terms, besides."""
    page: str = pages.get_template(template).render(**parts, term=Terms())
    return page
