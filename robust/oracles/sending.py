"""Requests over HTTP that are sent again when that may help, and never faster than allowed."""

import json
import random
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import numpy as np

from robust.core.errors import RobustError

from .options import ServiceOptions
from .secrets import Secrets

MOST_BYTES = 64 * 2**20  # of one answer
LONGEST_WAIT = 120.0  # seconds, whatever Retry-After says
_FIRST_WAIT, _LONGEST_BACKOFF = 0.5, 30.0
_QUOTED = 64 * 2**10  # bytes of an error's body that are read

Read = Callable[[Any], np.ndarray]


class Again(Exception):
    """An answer that may be a better one when the request is sent again."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait  # seconds that the service asks for


class Limiter:
    """Lets rows go at no more than `rate` per second, whichever threads they come from."""

    def __init__(self, rate: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.clock = rate, clock
        self._free = -float("inf")  # when the next row may go
        self._held_until = -float("inf")  # nothing may go before, whoever has a turn
        self._lock = threading.Lock()

    def waits(self, rows: int) -> Iterator[float]:
        """Take the turn of so many rows. The seconds until it comes, if any; and so again where
        the service asked to hold meanwhile, for a turn in that time is lost.
        """
        while True:
            with self._lock:
                now = self.clock()
                start = max(now, self._free)
                self._free = start + (rows / self.rate if self.rate else 0.0)
            if start > now:
                yield start - now
            if start >= self._held_until:
                return

    def hold(self, seconds: float) -> None:
        """Let nothing go for so long: the service asked for it."""
        with self._lock:
            self._held_until = max(self._held_until, self.clock() + seconds)
            self._free = max(self._free, self._held_until)


class Sender:
    """Sends requests to one service from any number of threads, over connections that stay open.

    requests    sent with rows in them, those sent again included
    resent      those of them that were sent again
    pause       waits for so many seconds, or until the event is set

    local       the service is on this machine: no proxy is asked, whatever the environment says
    """

    def __init__(self, options: ServiceOptions, secrets: Secrets, *, local: bool = False) -> None:
        self.options, self._secrets = options, secrets
        self.requests = self.resent = 0
        self.limiter = Limiter(options.rate_limit)
        self.pause: Callable[[float, threading.Event], object] = lambda s, stop: stop.wait(s)
        self._jitter = random.Random()
        self._lock = threading.Lock()
        count = options.concurrency
        self._client = httpx.Client(
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            verify=_trust(options),
            timeout=options.timeout,
            limits=httpx.Limits(
                max_connections=count, max_keepalive_connections=count, keepalive_expiry=60
            ),
            trust_env=not local,
        )

    def __repr__(self) -> str:
        return "Sender()"

    def get(self, url: httpx.URL, *, optional: bool = False) -> Any:
        """The JSON at this address; None where it is `optional` and not to be had."""
        found: list[Any] = []

        def read(reply: Any) -> np.ndarray:
            found[:] = [reply]
            return np.zeros(0)

        try:
            self.send("GET", url, None, read, 0, threading.Event(), 0 if optional else None)
        except RobustError:
            if not optional:
                raise
            return None
        return found[0]

    def send(
        self,
        method: str,
        url: httpx.URL,
        body: bytes | None,
        read: Read,
        rows: int,
        stop: threading.Event,
        retries: int | None = None,
    ) -> np.ndarray:
        """What `read` makes of the answer. It raises Again for an answer that is none.

        Sent again: after 408, 429, 5xx, a broken connection, no answer in time, no JSON. Any other
        failure, and the last of these, is a RobustError. Once `stop` is set nothing more is sent.
        """
        tries = 1 + (self.options.retries if retries is None else retries)
        for number in range(1, tries + 1):
            self._wait(rows, stop)
            if stop.is_set():
                raise RobustError(f"{method} {url}: given up, for another request failed")
            with self._lock:
                self.requests += rows > 0
                self.resent += rows > 0 and number > 1
            try:
                return read(self._once(method, url, body))
            except RobustError as error:
                raise self.presentable(error) from None
            except Again as again:
                if number == tries or stop.is_set():
                    after = "1 try" if number == 1 else f"{number} tries"
                    last = RobustError(f"{method} {url}: {again} ({after})")
                    raise self.presentable(last) from None
                if again.wait:
                    self.limiter.hold(again.wait)
                    continue
            backoff = min(_LONGEST_BACKOFF, _FIRST_WAIT * 2 ** (number - 1))
            self.pause(backoff * self._jitter.uniform(0.5, 1.0), stop)
        raise AssertionError  # the last try has returned or raised

    def presentable(self, error: RobustError) -> RobustError:
        """The error without credentials, and on one line of printable characters: what a server
        says must not steer a terminal.
        """
        return RobustError(_one_line(self._secrets.hide(str(error))))

    def _wait(self, rows: int, stop: threading.Event) -> None:
        for wait in self.limiter.waits(rows):
            self.pause(wait, stop)
            if stop.is_set():
                return

    def _once(self, method: str, url: httpx.URL, body: bytes | None) -> Any:
        headers = httpx.Headers(self._secrets.headers)
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
        start = time.monotonic()
        try:
            with self._client.stream(method, url, content=body, headers=headers) as response:
                data = self._read(response, method, url, start)
        except (httpx.TimeoutException, TimeoutError):
            raise Again(f"no answer within {self.options.timeout:g} seconds") from None
        except httpx.TransportError as error:
            raise self._transport(method, url, error) from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise RobustError(f"{method} {url}: {error}") from None
        if not response.is_success:
            raise self._refusal(response, data, method, url)
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            kind = response.headers.get("content-type", "no content type")
            raise Again(f"the answer is no JSON ({kind[:60]})") from None

    def _read(self, response: httpx.Response, method: str, url: httpx.URL, start: float) -> bytes:
        most = MOST_BYTES if response.is_success else _QUOTED
        data = bytearray()
        for part in response.iter_bytes():
            data += part
            if len(data) > most:
                if not response.is_success:
                    break
                raise RobustError(
                    f"{method} {url}: the answer is longer than {most // 2**20} MiB: ask for fewer "
                    "samples at a time (--rows-per-request)"
                )
            if time.monotonic() - start > self.options.timeout:
                raise TimeoutError
        return bytes(data)

    def _transport(
        self, method: str, url: httpx.URL, error: httpx.TransportError
    ) -> Again | RobustError:
        said = str(error) or type(error).__name__
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return RobustError(
                    f"{method} {url}: its certificate is not trusted ({cause.verify_message}): "
                    "if a private authority has signed it, name that by --ca-file"
                )
            if isinstance(cause, ssl.SSLError) and cause.reason == "WRONG_VERSION_NUMBER":
                return RobustError(f"{method} {url}: the server does not speak TLS: http://?")
            cause = cause.__cause__ or cause.__context__
        if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
            return RobustError(f"{method} {url}: {said}")
        what = "no connection" if isinstance(error, httpx.ConnectError) else "connection lost"
        return Again(f"{what} ({said})")

    def _refusal(
        self, response: httpx.Response, data: bytes, method: str, url: httpx.URL
    ) -> Again | RobustError:
        """What an answer means whose status is not 2xx."""
        status = response.status_code
        said = f"{status} {response.reason_phrase}".strip()
        if response.is_redirect:
            where = response.headers.get("location", "?").split("?")[0]
            where = self._secrets.hide(re.sub("//[^/]*@", "//", where))
            return RobustError(
                f"{method} {url}: {said} to {where[:300]}; redirects are not followed: give the "
                "URL itself"
            )
        if first := self._secrets.hide(_complaint(data))[:300]:
            said += f": {first}"
        if status in (408, 429) or status >= 500:
            return Again(said, _retry_after(response.headers.get("retry-after")))
        if status in (401, 403) and not self._secrets:
            said += "; a token is sent if ROBUST_TOKEN, or what --token-env names, is set"
        return RobustError(f"{method} {url}: {said}")


def _trust(options: ServiceOptions) -> ssl.SSLContext:
    context = httpx.create_ssl_context()
    if options.ca_file is not None:
        try:
            context.load_verify_locations(options.ca_file)
        except (OSError, ssl.SSLError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise RobustError(f"{options.ca_file} holds no certificates: {reason}") from error
    return context


def _complaint(data: bytes) -> str:
    """The first line of what an error's body says."""
    text = data.decode("utf-8", "replace")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        for name in ("error", "message", "detail", "msg"):
            if name in found:
                inner = found[name]
                text = inner if isinstance(inner, str) else json.dumps(inner)
                break
    return next((_one_line(line) for line in text.splitlines() if line.strip()), "")


def _one_line(text: str) -> str:
    """The text on one line, of printable characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _retry_after(text: str | None) -> float | None:
    """Seconds to wait: Retry-After is a number of them, or a date."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            when = parsedate_to_datetime(text)
        except ValueError:
            return None
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        seconds = (when - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), LONGEST_WAIT) if seconds == seconds else None
