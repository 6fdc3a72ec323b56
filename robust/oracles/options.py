"""How a service is to be asked."""

import math
from dataclasses import dataclass
from pathlib import Path

from robust.core.errors import RobustError


@dataclass(frozen=True, kw_only=True)
class ServiceOptions:
    """How to ask a model behind HTTP. RobustError for a value that makes no sense.

    concurrency       requests on their way at the same time, > 0
    timeout           seconds that one answer may take, > 0
    retries           how often a request is sent again before giving up, ≥ 0
    rate_limit        most rows per second, over all requests, those sent again included; None: no
                      limit
    rows_per_request  most samples in one request; None: 32, or what the service says, and no more
                      than `rate_limit` allows in a second
    token_env         environment variable whose content is sent as bearer token; None: ROBUST_TOKEN
                      if it is set. Only the variable's name is ever kept or shown
    input_name        of a v2 service with several inputs
    output_name       of a v2 service with several outputs
    template          TOML file that says how to ask a service which does not speak v2
    ca_file           certificates to trust besides the usual ones. They are always checked
    """

    concurrency: int = 4
    timeout: float = 30.0
    retries: int = 5
    rate_limit: float | None = None
    rows_per_request: int | None = None
    token_env: str | None = None
    input_name: str | None = None
    output_name: str | None = None
    template: Path | None = None
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("retries", 0), ("rows_per_request", 1)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise RobustError(f"{name} must be a whole number ≥ {least}, not {value!r}")
        for name in ("timeout", "rate_limit"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise RobustError(f"{name} must be a number > 0, not {value!r}")
        if self.template is not None and (self.input_name or self.output_name):
            raise RobustError(
                "input and output are named for v2 services: leave them to --template"
            )
