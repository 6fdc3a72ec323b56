"""A Python function as a model that can only be asked."""

import hashlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robust.core.errors import RobustError
from robust.core.goal import as_logits
from robust.core.oracle import Remote
from robust.models.building import (
    folder_importable,
    import_function,
    importable,
    is_file_arch,
    one_line,
    user_code,
)
from robust.models.info import Loaded, ModelInfo
from robust.models.wrappers import checked_log_probabilities

_ROWS = 256  # in one call: what an interrupted run loses at most
_LEVELS = ("scores", "labels")


class Function(Remote):
    """Pixels to what a function of NumPy arrays says of them: logits, or one-hot labels.

    text           how the user named it
    inside         the context in which it is called: its folder can be imported from
    labels         it answers with labels, of which there are `num_classes`
    probabilities  it answers with probabilities: their logarithm becomes the logits
    """

    def __init__(
        self,
        text: str,
        function: Callable[..., Any],
        inside: Callable[[], AbstractContextManager[None]],
        *,
        labels: bool,
        num_classes: int | None,
        probabilities: bool,
    ) -> None:
        super().__init__()
        self.text, self.labels, self.num_classes = text, labels, num_classes
        self.probabilities = probabilities
        self._function, self._inside = function, inside
        self._width: int | None = None  # scores per row, as first answered

    def ask(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.split(torch.arange(len(x)), _ROWS):
            # A copy: the function may write into it.
            array = np.array(x[rows].detach().cpu().numpy(), dtype=np.float32, order="C")
            with self._inside(), user_code(f"{self.text} failed"):
                answer = self._function(array)
            yield rows, self._logits(_as_array(answer, self.text), len(rows)).to(x.device)

    def _logits(self, answer: np.ndarray, n: int) -> Tensor:
        if answer.ndim not in (1, 2) or len(answer) != n or answer.size == 0:
            raise RobustError(
                f"{self.text} returned shape {answer.shape} for {n} samples; scores ({n}, classes),"
                f" one score each ({n},) or labels ({n},) are needed"
            )
        flat = answer.size == n
        if flat and self._are_labels(answer):
            if not self.labels:
                raise RobustError(f"{self.text} returned labels: say --access labels")
            return self._one_hot(answer.reshape(n))
        if flat and self.num_classes not in (None, 2):
            raise RobustError(
                f"{self.text} returned one score per sample, but there are {self.num_classes} "
                "classes"
            )
        scores = torch.from_numpy(answer.astype(np.float64))
        if self.probabilities:  # in double precision, where those next to 1 still differ
            scores = checked_log_probabilities(scores, self.text)
        logits = as_logits(scores, n)
        if self._width not in (None, logits.shape[1]):
            raise RobustError(
                f"{self.text} returned {logits.shape[1]} scores per sample, and {self._width} "
                "before"
            )
        self._width = logits.shape[1]
        if self.labels:
            best = torch.nn.functional.one_hot(logits.argmax(1), self._width).double()
            logits = best.masked_fill(logits.isnan().any(1, keepdim=True), float("nan"))
        return logits.float()

    def _are_labels(self, answer: np.ndarray) -> bool:
        """Integers; where labels are expected, floats without a fraction too."""
        if answer.dtype.kind in "iub":
            return True
        return self.labels and bool(np.all(answer == np.floor(answer)))

    def _one_hot(self, labels: np.ndarray) -> Tensor:
        classes = self.num_classes or 0
        wrong = labels[(labels < 0) | (labels >= classes)]
        if len(wrong):
            raise RobustError(
                f"{self.text} returned the label {wrong[0]:g}, but there are {classes} classes "
                f"(0 to {classes - 1})"
            )
        if self._width not in (None, classes):
            raise RobustError(f"{self.text} returned labels, and {self._width} scores before")
        self._width = classes
        return torch.nn.functional.one_hot(
            torch.from_numpy(labels.astype(np.int64)), classes
        ).float()


def open_function(
    text: str,
    *,
    shape: Sequence[int] | None = None,
    num_classes: int | None = None,
    probabilities: bool = False,
    access: str | None = None,
) -> Loaded:
    """A function of the user's as a model: "path/to/file.py:function" or "module:function".

    It gets float32 samples (n, *shape) in the data's own range, C-contiguous, and returns scores
    (n, K), one score (n,) of a binary model, or labels (n,). The file or module is run.

    access  "labels": it returns labels, of which num_classes says how many there are. None: what
            the function's own attribute `access` says, else "scores"

    Raises RobustError for whatever cannot be used.
    """
    function, inside, digest = _import(text)
    access = access or getattr(function, "access", None) or "scores"
    if access not in _LEVELS:
        raise RobustError(f"{text} gives scores or labels; its access cannot be {access!r}")
    labels = access == "labels"
    if labels and num_classes is None:
        raise RobustError(f"{text} returns labels: say how many classes there are (--classes)")
    module = Function(
        text,
        function,
        inside,
        labels=labels,
        num_classes=num_classes,
        probabilities=probabilities,
    )
    info = ModelInfo(
        path=text,
        kind="function",
        sha256=digest,
        arch=None,
        shape=None if shape is None else tuple(int(s) for s in shape),
        num_classes=num_classes,
        classes=None,
        mean=None,
        std=None,
        data=None,
        threat=None,
        parameters=0,
        access=access,
    )
    return Loaded(module.eval(), info)


def _import(
    text: str,
) -> tuple[Callable[..., Any], Callable[[], AbstractContextManager[None]], str]:
    """The function, the context to call it in, and SHA-256 of its file's bytes and its name."""
    where, _, name = text.rpartition(":")
    if not where or not name:
        raise RobustError(f"{text} is neither file.py:function nor module:function")
    if is_file_arch(text):
        path = Path(where).expanduser()
        if not path.is_file():
            raise RobustError(f"no file {where} (of the function {text})")
        folder, siblings = path.resolve().parent, dict[str, ModuleType]()
        with folder_importable(folder, siblings):
            function = import_function(path, name)
        return function, lambda: folder_importable(folder, siblings), _digest(path, text, name)
    folder = Path.cwd()
    with importable(folder), user_code(f"{where} cannot be imported"):
        module = importlib.import_module(where)
    found = getattr(module, name, None)
    if not callable(found):
        raise RobustError(f"{where} has no function {name!r}")
    file = getattr(module, "__file__", None)
    return found, lambda: importable(folder), _digest(file and Path(file), text, name)


def _digest(path: Path | None, text: str, name: str) -> str:
    # What has no file is compiled in, and known by its name alone.
    source = path.read_bytes() if path is not None and path.is_file() else text.encode()
    return hashlib.sha256(source + b"\0" + name.encode()).hexdigest()


def _as_array(answer: Any, text: str) -> np.ndarray:
    """Numbers as NumPy has them. Raises RobustError for anything else."""
    if isinstance(answer, Tensor):
        answer = answer.detach().cpu()
        answer = (answer.float() if answer.dtype == torch.bfloat16 else answer).numpy()
    if not (isinstance(answer, list | tuple) or hasattr(answer, "__array__")):
        raise RobustError(
            f"{text} returned {type(answer).__name__}, not an array of scores or labels"
        )
    try:
        array = np.asarray(answer)
    except Exception as error:
        raise RobustError(
            f"{text} returned {type(answer).__name__} that is no array ({one_line(error)})"
        ) from error
    if array.dtype.kind not in "fiub":
        raise RobustError(f"{text} returned values of type {array.dtype}, not numbers")
    return array
