"""A model behind HTTP as a module that can be asked."""

import hashlib
import json
import math
import threading
import time
from collections.abc import Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robust.core.errors import RobustError
from robust.core.oracle import Remote
from robust.models.info import Loaded, ModelInfo
from robust.models.wrappers import checked_log_probabilities

from . import template, v2
from .dialect import Dialect
from .options import ServiceOptions
from .secrets import Secrets, check_url, is_loopback, refuse_clear_text
from .sending import Sender

_ROWS = 32  # most in one request, where nothing says otherwise
_FEW = 8  # a round of questions is not spread over more requests than have so many
_GRACE = 5.0  # seconds that an interrupted question waits for answers that are on their way


class Service(Remote):
    """Pixels to logits, or to one-hot rows where the service answers with classes.

    requests        sent so far, those sent again included
    resent          those of them that were sent again
    rows_answered   rows for which an answer came
    """

    def __init__(
        self,
        dialect: Dialect,
        sender: Sender,
        *,
        num_classes: int | None,
        probabilities: bool,
    ) -> None:
        super().__init__()
        self.dialect, self.sender = dialect, sender
        self.probabilities, self.num_classes = probabilities, num_classes
        self.rows_answered = 0
        self._width: int | None = None  # scores per row, as first answered
        self._lock = threading.Lock()
        options = sender.options
        size = options.rows_per_request or _automatic(dialect.most, options.rate_limit)
        self.rows_per_request = size if dialect.most is None else min(size, dialect.most)

    @property
    def requests(self) -> int:
        return self.sender.requests

    @property
    def resent(self) -> int:
        return self.sender.resent

    def ask(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """See Remote. Interrupted by Ctrl-C, it hands over what is already on its way, for a few
        seconds at most, and sends nothing more.
        """
        if not len(x):
            return
        x = x.detach().cpu()
        waiting = iter(torch.split(torch.arange(len(x)), self._size(len(x))))
        done: SimpleQueue[tuple[Tensor, Tensor | None, BaseException | None]] = SimpleQueue()
        stop, flying = threading.Event(), 0
        failure: BaseException | None = None
        deadline: float | None = None

        def fly(rows: Tensor) -> None:
            try:
                done.put((rows, self._answers(x[rows], stop), None))
            except BaseException as error:
                done.put((rows, None, error))

        try:
            while True:
                while failure is None and flying < self.sender.options.concurrency:
                    rows = next(waiting, None)
                    if rows is None:
                        break
                    # No pool of threads: those would hold up the end of the process.
                    threading.Thread(target=fly, args=(rows,), daemon=True).start()
                    flying += 1
                if not flying:
                    break
                try:
                    left = None if deadline is None else max(0.0, deadline - time.monotonic())
                    rows, answers, error = done.get(timeout=left)
                except Empty:
                    break
                except KeyboardInterrupt as interrupt:
                    if isinstance(failure, KeyboardInterrupt):
                        break
                    failure, deadline = interrupt, time.monotonic() + _GRACE
                    stop.set()
                    continue
                flying -= 1
                if answers is not None:
                    yield rows, answers
                else:
                    failure = failure or error
                    stop.set()
            if failure is not None:
                raise failure
        finally:
            stop.set()

    def _size(self, n: int) -> int:
        """Rows in a request, when there are n to ask about: all connections get a part, where
        neither the user nor the service says how many rows it shall be.
        """
        if self.sender.options.rows_per_request is not None or self.dialect.most is not None:
            return self.rows_per_request
        part = math.ceil(n / self.sender.options.concurrency)
        return min(self.rows_per_request, max(part, _FEW))

    def _answers(self, x: Tensor, stop: threading.Event) -> Tensor:
        """Logits (n, K) at one request's rows."""
        n = len(x)
        found = self.sender.send(
            self.dialect.method,
            self.dialect.url,
            self.dialect.body(x),
            lambda reply: self.dialect.read(reply, n),
            n,
            stop,
        )
        with self._lock:
            logits = self._one_hot(found) if self.dialect.labels else self._scores(found)
            self.rows_answered += n
        return logits

    def _scores(self, found: np.ndarray) -> Tensor:
        if self._width is None:
            self._width = found.shape[1]
        if found.shape[1] != self._width or not self._width:
            raise RobustError(
                f"{self.dialect.url} answered with {found.shape[1]} scores a sample, "
                f"and with {self._width} before"
            )
        scores = torch.from_numpy(found).float()
        scores[~scores.isfinite().all(1)] = float("nan")
        if self.probabilities:
            return checked_log_probabilities(scores, self.dialect.url)
        return scores

    def _one_hot(self, found: np.ndarray) -> Tensor:
        classes = self.num_classes or 0
        finite = np.isfinite(found)
        off = finite & ((found < 0) | (found >= classes) | (found != np.floor(found)))
        if off.any():
            raise RobustError(
                f"{self.dialect.url} answered with the class {found[off][0]:g}, but there are "
                f"{classes} (0 to {classes - 1}): say how many by --classes"
            )
        labels = torch.from_numpy(np.where(finite, found, 0)).long()
        rows = torch.nn.functional.one_hot(labels, classes).float()
        rows[torch.from_numpy(~finite)] = float("nan")
        return rows


def _automatic(most: int | None, rate: float | None) -> int:
    size = most or _ROWS
    return size if rate is None else max(1, min(size, int(rate)))


def open_service(
    url: str,
    options: ServiceOptions | None = None,
    *,
    shape: Sequence[int] | None = None,
    low: float = 0.0,
    high: float = 1.0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    probabilities: bool = False,
    num_classes: int | None = None,
) -> Loaded:
    """The model behind a URL. What it says about itself is asked for, and no sample is.

    url             http(s)://host[:port][/…]/v2/models/NAME[/versions/V], or any with a template
    shape           of one sample, where the service does not say it
    low, high       the range of the samples' values
    mean, std       normalisation to do before sending, as in load_model
    probabilities   the service answers with probabilities: their logarithm becomes the logits
    num_classes     of a service that answers with classes, where nothing else says it

    Raises RobustError for what cannot be used. No message, and nothing in the result that can be
    seen, holds a credential.
    """
    options = options or ServiceOptions()
    address = check_url(url)
    written = None if options.template is None else template.read_template(options.template)
    if written is None and not v2.is_v2(address):
        raise RobustError(
            f"{address} is not …/v2/models/NAME: for a service that does not speak the v2 protocol "
            "say how to ask it by --template FILE (docs/oracles.md)"
        )
    secrets = Secrets(options.token_env, None if written is None else written.headers)
    refuse_clear_text(address, secrets)
    sender = Sender(options, secrets, local=is_loopback(address.host))
    given = None if shape is None else tuple(int(size) for size in shape)
    pixels: dict[str, Any] = {
        "low": float(low),
        "high": float(high),
        "mean": None if mean is None else tuple(map(float, mean)),
        "std": None if std is None else tuple(map(float, std)),
    }
    dialect: Dialect
    if written is None:
        try:
            dialect, facts = v2.describe(address, sender, options, given, pixels)
        except RobustError as error:  # which may repeat what the service said of itself
            raise sender.presentable(error) from None
    else:
        dialect, facts = template.describe(address, written, given, pixels)
    classes = facts.num_classes or (num_classes if dialect.labels else None)
    if dialect.labels and classes is None:
        raise RobustError(f"{address} answers with classes: say how many there are by --classes")
    module = Service(dialect, sender, num_classes=classes, probabilities=probabilities)
    identity = json.dumps([str(address), facts.identity], sort_keys=True)
    info = ModelInfo(
        path=str(address),
        kind=facts.kind,
        sha256=hashlib.sha256(identity.encode()).hexdigest(),
        arch=None,
        shape=facts.shape,
        num_classes=classes,
        classes=facts.classes,
        mean=pixels["mean"],
        std=pixels["std"],
        data=None,
        threat=None,
        parameters=0,
        extra=facts.extra,
        access="labels" if dialect.labels else "scores",
        eight_bit=facts.eight_bit,
    )
    return Loaded(module.eval(), info)
