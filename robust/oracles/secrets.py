"""Credentials: from environment variables into headers, and nowhere else."""

import ipaddress
import json
import os
import re
from collections.abc import Mapping

import httpx

from robust.core.errors import RobustError

DEFAULT_TOKEN = "ROBUST_TOKEN"
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_SECRET_NAME = re.compile(
    r"auth|key|token|secret|passw|pwd|cookie|credential|signature|^sig$|^code$", re.IGNORECASE
)
_HARMLESS = re.compile(r"[\w.-]{0,15}")
_HIDDEN = "[hidden]"


class Secrets:
    """The headers that hold credentials, and what must not be seen anywhere else.

    token_env   as in ServiceOptions
    headers     of a template, where $NAME or ${NAME} stands for an environment variable
    """

    def __init__(self, token_env: str | None, headers: Mapping[str, str] | None = None) -> None:
        self._values: set[str] = set()
        self.headers: dict[str, str] = {}
        token = os.environ.get(token_env or DEFAULT_TOKEN, "").strip()
        if token:
            self._keep(token, token_env or DEFAULT_TOKEN)
            self.headers["Authorization"] = f"Bearer {token}"
        elif token_env is not None:
            raise RobustError(f"the environment variable {token_env} is not set (--token-env)")
        for name, text in (headers or {}).items():
            if token and name.lower() == "authorization":
                self.headers.pop("Authorization", None)  # what the template says is more particular
            self.headers[name] = _VARIABLE.sub(self._variable, text)
            if not _printable(self.headers[name]):
                raise RobustError(f"the header {name} has characters that no header can have")
            if self.headers[name] == text and _SECRET_NAME.search(name):
                raise RobustError(
                    f"the template's header {name} looks like a credential: put it into an "
                    f"environment variable, and write $NAME instead"
                )

    def __repr__(self) -> str:
        return f"Secrets({_HIDDEN})"

    def __bool__(self) -> bool:
        return bool(self._values)

    def hide(self, text: str) -> str:
        """The text without any of the credentials in it."""
        for value in sorted(self._values, key=len, reverse=True):
            text = text.replace(value, _HIDDEN)
        return text

    def _variable(self, found: re.Match[str]) -> str:
        name = found[1] or found[2]
        value = os.environ.get(name, "").strip()
        if not value:
            raise RobustError(
                f"the environment variable {name} is not set, which the template sends as a header"
            )
        self._keep(value, name)
        return value

    def _keep(self, value: str, name: str) -> None:
        if not _printable(value):
            raise RobustError(
                f"the environment variable {name} has characters that no header can have"
            )
        self._values |= {value, json.dumps(value)[1:-1]}


def _printable(value: str) -> bool:
    return value.isascii() and value.isprintable()


def check_url(text: str) -> httpx.URL:
    """The URL, if it can be shown to anybody. RobustError where it cannot be used or has a
    credential in it.
    """
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        raise RobustError("the URL of the service cannot be read") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise RobustError("the URL of a service is http(s)://host[:port]/path")
    where = f"{url.scheme}://{url.host}"
    if url.userinfo:
        raise RobustError(
            f"the URL of {where} has a credential in it: put the token into an environment "
            f"variable ({DEFAULT_TOKEN}, or the one that --token-env names)"
        )
    for name, value in url.params.multi_items():
        if _SECRET_NAME.search(name) or not _HARMLESS.fullmatch(value):
            raise RobustError(
                f"{name} in the URL of {where} may be a credential: put it into an environment "
                "variable, and send it as a header (--token-env or --template)"
            )
    return url.copy_with(fragment=None)


def refuse_clear_text(url: httpx.URL, secrets: Secrets) -> None:
    """RobustError where a credential would travel readable over a network."""
    if secrets and url.scheme == "http" and not is_loopback(url.host):
        raise RobustError(
            f"a token would go to {url.host} in clear text: use https, or unset the variable"
        )


def is_loopback(host: str) -> bool:
    """Whether this host is the machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
