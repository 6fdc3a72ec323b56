"""What somebody else's code would leave behind: prints, warnings, a drawn-from generator."""

import contextlib
import io
import logging
import random
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

import numpy as np
import torch

from robust.core.rng import seeded


class _Muted(io.TextIOBase):
    """A stream that loses what one thread writes: a live display draws from another one."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._thread = stream, threading.get_ident()

    @property
    def rich_proxied_file(self) -> Any:
        """Where rich writes instead of here: it looks for this name."""
        return getattr(self._stream, "rich_proxied_file", self._stream)

    def write(self, text: str) -> int:
        if threading.get_ident() == self._thread:
            return len(text)
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No prints, progress bars, log lines or warnings, and no log handler left installed."""
    root, levels = logging.getLogger(), {}
    handlers = list(root.handlers)
    for name in ("art", "foolbox"):
        logger = logging.getLogger(name)
        levels[logger] = logger.level
        logger.setLevel(logging.CRITICAL + 1)
    root.addHandler(silent := logging.NullHandler())  # or logging.info() would install a real one
    try:
        with (
            contextlib.redirect_stdout(_Muted(sys.stdout)),
            contextlib.redirect_stderr(_Muted(sys.stderr)),
            warnings.catch_warnings(),
            np.errstate(all="ignore"),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(silent)
        for handler in set(root.handlers) - set(handlers):
            root.removeHandler(handler)
        for logger, level in levels.items():
            logger.setLevel(level)


@contextlib.contextmanager
def own_randomness(rng: torch.Generator) -> Iterator[None]:
    """Every global generator seeded from `rng`, and as it was afterwards.

    A generator that is made without a seed inside draws one from NumPy's global generator, instead
    of from the operating system.
    """
    seed = int(torch.randint(2**31, (1,), generator=rng))
    before, before_numpy = random.getstate(), np.random.get_state()
    state, default = np.random.RandomState, np.random.default_rng

    class Seeded(state):  # type: ignore[misc, valid-type]
        def __init__(self, seed: Any = None) -> None:
            super().__init__(np.random.randint(2**31) if seed is None else seed)

    def seeded_default(seed: Any = None) -> np.random.Generator:
        return default(np.random.randint(2**31) if seed is None else seed)

    try:
        with seeded(seed, "peer"):
            random.seed(seed)
            np.random.seed(seed)
            np.random.RandomState = Seeded  # type: ignore[misc]
            np.random.default_rng = seeded_default
            yield
    finally:
        np.random.RandomState, np.random.default_rng = state, default  # type: ignore[misc]
        np.random.set_state(before_numpy)
        random.setstate(before)
