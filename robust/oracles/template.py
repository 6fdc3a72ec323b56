"""A small TOML file that says how to ask any JSON service: docs/oracles.md is its reference."""

import hashlib
import json
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from torch import Tensor

from robust.core.errors import RobustError

from .dialect import Facts, as_numbers, shown, take
from .pixels import LAYOUTS, Pixels, numbers, png, refuse_no_image

_METHODS = ("POST", "PUT")
_ENCODINGS = ("nested-list", "flat-list", "png-base64")
_VALUES = ("float", "uint8")
_BATCH, _SAMPLE = "$batch", "$sample"
_MARK = "\0"  # stands for the samples in a body that is otherwise finished

Steps = tuple[str | int, ...]


@dataclass(frozen=True)
class Template:
    """What the file says, checked.

    whole       the body has $batch: one request takes several samples; else it has $sample
    answer      where the scores or labels are in an answer
    """

    name: str
    digest: str
    method: str
    headers: dict[str, str]
    body: Any
    item: Any
    whole: bool
    encoding: str
    layout: str
    eight_bit: bool
    scale: tuple[float, float] | None
    answer: Steps
    labels: bool
    classes: tuple[str, ...] | None
    pair: tuple[str, str] | None


def read_template(path: Path) -> Template:
    """The template in this file. RobustError says what is wrong with it."""
    try:
        data = Path(path).read_bytes()
        given = tomllib.loads(data.decode("utf-8"))
    except OSError as error:
        raise RobustError(f"cannot read the template {path}: {error.strerror}") from error
    except ValueError as error:
        said = str(error).splitlines()[0]
        raise RobustError(f"the template {path} is no TOML: {said}") from error
    try:
        return _Reader(given).template(Path(path).name, hashlib.sha256(data).hexdigest())
    except _Wrong as wrong:
        raise RobustError(f"the template {path}: {wrong}") from None


class _Wrong(Exception):
    pass


class _Reader:
    """Takes values out of a table of the file, and complains about what is left."""

    def __init__(self, table: Any, name: str = "") -> None:
        if not isinstance(table, dict):
            raise _Wrong(f"{name} is a table: write [{name}]")
        self.table, self.name = dict(table), name

    def template(self, name: str, digest: str) -> Template:
        headers = _Reader(self.take("headers", {}), "headers").table
        for header, text in headers.items():
            if not isinstance(text, str):
                raise _Wrong(f"the header {header} is no string")
        request = _Reader(self.take("request"), "request")
        response = _Reader(self.take("response"), "response")
        method = self.choice("method", _METHODS)
        body, item = request.take("body"), request.take("item", _SAMPLE)
        whole = _uses(body, _BATCH)
        if whole + _uses(body, _SAMPLE) != 1:
            raise _Wrong(f'request.body needs "{_BATCH}" or "{_SAMPLE}", one of them, once')
        if _uses(item, _SAMPLE) != 1 or _uses(item, _BATCH):
            raise _Wrong(f'request.item needs "{_SAMPLE}", once')
        encoding = request.choice("encoding", _ENCODINGS)
        if not whole and item != _SAMPLE:
            raise _Wrong(f'request.item is for bodies with "{_BATCH}"')
        _refuse_no_json(body)
        _refuse_no_json(item)
        if encoding != "png-base64" and (_inside(body) or _inside(item)):
            raise _Wrong(f"{_BATCH} and {_SAMPLE} stand alone, but in png-base64")
        image = encoding == "png-base64"
        layout = LAYOUTS[0] if image else request.choice("layout", LAYOUTS)
        values = "uint8" if image else request.choice("values", _VALUES)
        scale = None if values == "uint8" else request.take("range", None)
        labels = "labels" in response.table
        if labels == ("scores" in response.table):
            raise _Wrong("response needs scores or labels, one of them")
        made = Template(
            name=name,
            digest=digest,
            method=method,
            headers=headers,
            body=body,
            item=item,
            whole=bool(whole),
            encoding=encoding,
            layout=layout,
            eight_bit=values == "uint8",
            scale=_scale(scale),
            answer=_path(response.take("labels" if labels else "scores")),
            labels=labels,
            classes=_classes(response.take("classes", None)),
            pair=_pair(response.take("pair", None)),
        )
        if made.pair and (labels or not made.classes):
            raise _Wrong("response.pair is for scores, and needs response.classes")
        for reader in (self, request, response):
            reader.finish()
        return made

    def take(self, key: str, *default: Any) -> Any:
        if key not in self.table and not default:
            raise _Wrong(f"{self._full(key)} is missing")
        return self.table.pop(key, *default)

    def choice(self, key: str, names: tuple[str, ...]) -> str:
        value = self.take(key, names[0])
        if value not in names:
            raise _Wrong(f"{self._full(key)} is one of {', '.join(names)}, not {shown(value)}")
        return str(value)

    def finish(self) -> None:
        if self.table:
            raise _Wrong(f"{self._full(next(iter(self.table)))} means nothing here")

    def _full(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name else key


@dataclass
class JsonService:
    """Asks a service as a template says."""

    url: httpx.URL
    template: Template
    pixels: Pixels
    method: str
    labels: bool
    most: int | None

    def body(self, x: Tensor) -> bytes:
        template = self.template
        values = self.pixels.prepare(x)
        if template.encoding == "flat-list":
            values = values.reshape(len(values), -1)
        # A sample is the text inside quotes, or a list instead of them.
        image = template.encoding == "png-base64"
        encode: Callable[[np.ndarray], str] = png if image else numbers
        if not template.whole:
            return _fill(template.body, _SAMPLE, encode(values[0]), image).encode()
        if template.item == _SAMPLE and not image:
            every = numbers(values)
        else:
            rows = (_fill(template.item, _SAMPLE, encode(row), image) for row in values)
            every = f"[{','.join(rows)}]"
        return _fill(template.body, _BATCH, every, False).encode()

    def read(self, reply: Any, n: int) -> np.ndarray:
        found = _follow(reply, self.template.answer)
        rows = found if self.template.whole else [found]
        if not isinstance(rows, list) or len(rows) != n:
            what = f"{len(rows)} answers" if isinstance(rows, list) else shown(rows)
            raise RobustError(f"{self.url} answered with {what} for {n} samples")
        if self.labels:
            return np.array([self._label(row) for row in rows], dtype=np.float64)
        scores = [self._scores(row) for row in rows]
        if len({len(row) for row in scores}) != 1:
            raise RobustError(f"{self.url} answered with different numbers of scores")
        return np.stack(scores)

    def _label(self, value: Any) -> float:
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        classes = self.template.classes
        if classes is not None and isinstance(value, str):
            if value in classes:
                return float(classes.index(value))
            raise RobustError(
                f"{self.url} answered with the class {shown(value)}, which response.classes of "
                f"the template lacks: {', '.join(classes)[:200]}"
            )
        if isinstance(value, str):
            raise RobustError(
                f"{self.url} answered with the class {shown(value)}: write the names of all "
                "classes, in order, into response.classes of the template"
            )
        found = as_numbers(value, "the class")
        if found.ndim:
            raise RobustError(f"{self.url} answered with {shown(value)} for one class")
        return float(found)

    def _scores(self, value: Any) -> np.ndarray:
        classes = self.template.classes
        if self.template.pair is not None:
            key, score = self.template.pair
            if not isinstance(value, list):
                raise RobustError(f"{self.url} answered with {shown(value)}, not a list of scores")
            value = {
                str(take(one, key, "in a score")): take(one, score, "in a score") for one in value
            }
        if isinstance(value, dict):
            if classes is None:
                raise RobustError(
                    f"{self.url} answered with scores by name: write the names of all classes, in "
                    "order, into response.classes of the template"
                )
            lacking = [name for name in classes if name not in value]
            if lacking:
                raise RobustError(f"{self.url} gave no score for the class {lacking[0]!r}")
            value = [value[name] for name in classes]
        found = as_numbers(value, "a score").reshape(-1)
        if classes is not None and len(found) != len(classes):
            raise RobustError(
                f"{self.url} answered with {len(found)} scores for {len(classes)} classes"
            )
        return found


def describe(
    url: httpx.URL, template: Template, shape: tuple[int, ...] | None, pixels: dict[str, Any]
) -> tuple[JsonService, Facts]:
    """How to ask the service at this URL, as the template says."""
    image = template.encoding == "png-base64"
    if image and shape is not None:
        refuse_no_image(shape)
    dialect = JsonService(
        url,
        template,
        Pixels(
            **pixels,
            eight_bit=template.eight_bit,
            scale=template.scale,
            last=image or template.layout == "channels-last",
        ),
        template.method,
        template.labels,
        None if template.whole else 1,
    )
    classes = template.classes
    extra = {
        "template": template.name,
        "encoding": template.encoding,
        "layout": "image" if image else template.layout,
    }
    count = None if classes is None else len(classes)
    facts = Facts("json-service", template.digest, shape, count, classes, template.eight_bit, extra)
    return dialect, facts


def _uses(value: Any, mark: str) -> int:
    """How often a mark is in the strings of a value."""
    if isinstance(value, dict):
        return sum(_uses(inner, mark) for inner in value.values())
    if isinstance(value, list):
        return sum(_uses(inner, mark) for inner in value)
    return value.count(mark) if isinstance(value, str) else 0


def _refuse_no_json(value: Any) -> None:
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError):
        raise _Wrong("the request holds a date, or a number that is not finite") from None
    if "\\u0000" in text:
        raise _Wrong("the request holds a NUL")


def _inside(value: Any) -> bool:
    """Whether a mark is a part of a longer string."""
    if isinstance(value, dict):
        return any(map(_inside, value.values()))
    if isinstance(value, list):
        return any(map(_inside, value))
    marked = isinstance(value, str) and (_BATCH in value or _SAMPLE in value)
    return marked and value not in (_BATCH, _SAMPLE)


def _fill(value: Any, mark: str, text: str, inside: bool) -> str:
    """JSON of a value with this text in the place of the mark: inside its string, or instead."""

    def marked(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: marked(inner) for key, inner in part.items()}
        if isinstance(part, list):
            return [marked(inner) for inner in part]
        return part.replace(mark, _MARK) if isinstance(part, str) else part

    before, after = json.dumps(marked(value), ensure_ascii=False).split("\\u0000")
    return before + text + after if inside else before[:-1] + text + after[1:]


def _follow(value: Any, path: Steps) -> Any:
    """What is at a path; "*" takes every element of a list."""
    for place, key in enumerate(path):
        if key == "*":
            if not isinstance(value, list):
                raise RobustError(f"the answer has {shown(value)} where the template has a *")
            return [_follow(inner, path[place + 1 :]) for inner in value]
        where = f"(at {'.'.join(map(str, path[: place + 1]))})"
        value = take(value, str(key) if isinstance(value, dict) else key, where)
    return value


def _path(given: Any) -> Steps:
    """The steps of "a.0.*.b"; a list of steps where a key has a dot in it."""
    if isinstance(given, str):
        given = given.split(".") if given else []
    if not isinstance(given, list) or not all(isinstance(step, str | int) for step in given):
        raise _Wrong("the path to the answer is a string, or a list of keys")
    return tuple(int(step) if str(step).isdigit() else step for step in given)


def _scale(given: Any) -> tuple[float, float] | None:
    if given is None:
        return None
    two = isinstance(given, list) and len(given) == 2
    if not two or not all(type(v) in (int, float) for v in given) or given[0] >= given[1]:
        raise _Wrong("request.range is two numbers, the lower first")
    return float(given[0]), float(given[1])


def _classes(given: Any) -> tuple[str, ...] | None:
    if given is None:
        return None
    if not isinstance(given, list) or len(given) < 2 or len(set(map(str, given))) != len(given):
        raise _Wrong("response.classes is a list of two or more different names")
    return tuple(map(str, given))


def _pair(given: Any) -> tuple[str, str] | None:
    if given is None:
        return None
    if not isinstance(given, list) or len(given) != 2 or not all(isinstance(k, str) for k in given):
        raise _Wrong('response.pair is two keys: ["label", "score"]')
    return given[0], given[1]
