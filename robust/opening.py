"""Whatever `--model` may be: a file, a function, or a service."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .core.errors import RobustError
from .core.threat import Threat
from .data import DataSpec, EightBit, Source, open_data
from .models import Loaded, NoArchitecture, load_model
from .registry import number

_FUNCTION = re.compile(r"(?:[^:]+\.py|[A-Za-z_][\w.]*):[A-Za-z_]\w*")
_SERVICE = (
    *("concurrency", "timeout", "retries", "rate_limit", "rows_per_request", "token_env"),
    *("input_name", "output_name", "template", "ca_file"),
)


def is_service(text: str) -> bool:
    """Whether `--model` is a URL."""
    return re.match(r"https?://", text, re.IGNORECASE) is not None


def is_function(text: str) -> bool:
    """Whether `--model` is file.py:function or module:function."""
    return not is_service(text) and not Path(text).exists() and bool(_FUNCTION.fullmatch(text))


def open_asked(options: Mapping[str, Any], source: Source) -> Loaded:
    """The function or service that `--model` names, for samples of this source."""
    from .oracles import ServiceOptions, open_function, open_service

    text: str = options["path"]
    for name, flag in (("arch", "arch"), ("trust_pickle", "trust-pickle"), ("defenses", "with")):
        if options[name]:
            raise RobustError(f"--{flag} is for model files, not for {text}")
    classes = options["num_classes"] or _classes(source)
    if is_function(text):
        if options["mean"] or options["std"]:
            raise RobustError(f"--mean and --std are not for functions: let {text} normalise")
        return open_function(
            text,
            shape=source.shape,
            num_classes=classes,
            probabilities=options["probabilities"],
            access="labels" if options["access"] == "labels" else None,
        )
    given = {name: options[name] for name in _SERVICE if options[name] is not None}
    return open_service(
        text,
        ServiceOptions(**given),
        shape=source.shape,
        low=source.low,
        high=source.high,
        mean=options["mean"],
        std=options["std"],
        probabilities=options["probabilities"],
        num_classes=classes,
    )


def open_model_and_data(options: Mapping[str, Any]) -> tuple[Loaded, DataSpec, Source]:
    """What `--model`, `--data` and the options for them name."""
    text: str = options["path"]
    if is_service(text) or is_function(text):
        data = _given_data(options)
        source = open_data(data)
        loaded = open_asked(options, source)
        return loaded, data, EightBit(source) if loaded.info.eight_bit else source
    if "://" in text:
        raise RobustError(f"{text}: services are asked over http:// and https:// only")
    _refuse_service_options(options)
    return open_file_and_data(options)


def open_file_and_data(options: Mapping[str, Any]) -> tuple[Loaded, DataSpec, Source]:
    """The same for a model file."""
    loaded = open_file(options)
    data = data_spec(loaded, options["data"], options["split"], options["box"])
    return loaded, data, _open_data(loaded, data, options["data"])


def open_file(options: Mapping[str, Any]) -> Loaded:
    """The model file that `--model` names, with the defenses that `--with` names around it."""
    text: str = options["path"]
    shape, classes = None, options.get("num_classes")
    onnx = text.lower().endswith(".onnx")
    named = options["arch"] and (options["data"] or ":" not in options["arch"])
    if named or onnx or (options["defenses"] and options["data"]):
        source = open_data(_given_data(options))  # a named architecture is built for some shape
        shape = source.shape
        classes = classes or (_classes(source) if onnx or options["defenses"] else None)
    low, high = options["box"] or (None, None)
    loaded = load_model(
        text,
        arch=options["arch"],
        shape=shape,
        mean=options["mean"],
        std=options["std"],
        num_classes=classes,
        trust_pickle=options["trust_pickle"],
        probabilities=options["probabilities"],
        defenses=options["defenses"],
        low=low,
        high=high,
    )
    return _of_classes(loaded)


def _of_classes(loaded: Loaded) -> Loaded:
    """The model itself. RobustError for one that gives sets of labels."""
    if loaded.info.extra.get("multi_label"):
        raise RobustError(
            f"{loaded.info.path} was trained on sets of labels (--multi-label): only training "
            "measures those; attacks, certificates and defenses around finished models want one "
            "class per sample"
        )
    return loaded


def _given_data(options: Mapping[str, Any]) -> DataSpec:
    low, high = options["box"] or (0.0, 1.0)
    return DataSpec(options["data"] or "digits", options["split"], low=low, high=high)


def _refuse_service_options(options: Mapping[str, Any]) -> None:
    usual = {"concurrency": 4, "timeout": 30.0, "retries": 5}
    for name in _SERVICE:
        if options[name] != usual.get(name):
            raise RobustError(
                f"--{name.removesuffix('_name').replace('_', '-')} is for services, and "
                f"{options['path']} is none"
            )


def load_surrogate(text: str, shape: tuple[int, ...], options: Mapping[str, Any]) -> Loaded:
    """`FILE,arch=NAME,mean=…,std=…`: what a state dict lacks is taken from the model's options."""
    path, *pairs = [text] if Path(text).exists() else text.split(",")
    own: dict[str, Any] = {"trust_pickle": options["trust_pickle"]}
    for pair in pairs:
        key, _, value = pair.partition("=")
        try:
            if key in ("mean", "std"):
                own[key] = tuple(number(part) for part in value.split(":"))
            elif key == "arch":
                own[key] = value
            else:
                own[key] = {("probabilities", "true"): True}[key, value]
        except (KeyError, ValueError) as error:
            raise RobustError(
                f"--surrogate {text}: {pair!r} is none of arch=NAME, mean=0.49:0.48:0.45, std=…, "
                "probabilities=true"
            ) from error
    try:
        return _of_classes(load_model(path, shape=shape, **own))
    except NoArchitecture as error:
        if options["arch"] is None:
            raise RobustError(
                f"{path} is a state dict, which does not say its architecture: "
                f"--surrogate {path},arch=NAME"
            ) from error
    lacking = {key: options[key] for key in ("arch", "mean", "std")}
    return _of_classes(load_model(path, shape=shape, **{**lacking, **own}))


def data_spec(
    loaded: Loaded, source: str | None, split: str | None, box: tuple[float, float] | None
) -> DataSpec:
    """What --data, --split and --range say, completed by what the checkpoint knows."""
    known = loaded.info.data
    threat = loaded.info.threat or {}
    usual = loaded.info.box or (0.0, 1.0)
    low, high = box or (threat.get("low", usual[0]), threat.get("high", usual[1]))
    if threat and (low, high) != (threat.get("low"), threat.get("high")):
        raise RobustError(
            f"--range {low:g},{high:g} is not the checkpoint's: it was trained on "
            f"[{threat['low']:g}, {threat['high']:g}], and its eps is in those units"
        )
    if source is None and known is not None:
        spec = DataSpec.from_dict(known)
        return replace(spec, split=split or spec.split, low=low, high=high)
    return DataSpec(source=source or "digits", split=split, low=low, high=high)


def _open_data(loaded: Loaded, data: DataSpec, given: str | None) -> Source:
    """Open the data; an error about data that nobody typed says where their name came from."""
    try:
        source = open_data(data)
    except RobustError as error:
        if given is None and loaded.info.data is not None:
            raise RobustError(
                f"{error} (the checkpoint names these data; give others by --data)"
            ) from error
        raise
    shape = loaded.info.shape
    if given is None and loaded.info.data is None and shape not in (None, source.shape):
        raise RobustError(f"the model takes samples of shape {shape}: say which data by --data")
    return source


def threat_of(loaded: Loaded, data: DataSpec, norm: str | None, eps: float | None) -> Threat:
    known = loaded.info.threat or {}
    if eps is None and norm in (None, known.get("norm")):
        eps = known.get("eps")
    if eps is None:
        raise RobustError(
            "say how far an attacker may go: --eps 8/255, say, and --norm if not linf"
        )
    chosen: Any = norm or known.get("norm", "linf")
    return Threat(chosen, eps, data.low, data.high)


def _classes(source: Source) -> int:
    if source.classes is not None:
        return len(source.classes)
    return int(np.max(source.labels(), initial=1)) + 1
