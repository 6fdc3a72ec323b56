"""Networks by name, or from a factory in a file of the user's."""

import contextlib
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from robust.core.errors import RobustError

from .architectures import architectures, he_init


def build(arch: str, shape: Sequence[int], num_classes: int) -> nn.Module:
    """A new network with He initialisation, drawn from torch's global generator.

    arch   a name of `architectures()`, or "path/to/file.py:factory", which runs that file
    shape  of one sample, without the batch dimension
    Raises RobustError for an unknown name, or where the file or the factory fails.
    """
    net = construct(arch, shape, num_classes)
    he_init(net)
    return net


def is_file_arch(arch: str) -> bool:
    """Whether `arch` names a factory in a file: "path/to/file.py:factory"."""
    return arch.rpartition(":")[0].endswith(".py")


def construct(arch: str, shape: Sequence[int] | None, num_classes: int | None) -> nn.Module:
    """The network as its factory makes it; what a factory does not ask for may be None."""
    if is_file_arch(arch):
        return _from_file(arch, shape, num_classes)
    factory = architectures().get(arch)
    if factory is None:
        raise RobustError(
            f"no architecture {arch!r}; there are {', '.join(architectures())}, "
            "and path/to/file.py:factory"
        )
    if shape is None or num_classes is None:
        what = "the shape of one sample" if shape is None else "the number of classes"
        raise RobustError(f"{what} is needed to build {arch}, and the model file does not say it")
    return factory(tuple(shape), num_classes)


def _from_file(arch: str, shape: Sequence[int] | None, num_classes: int | None) -> nn.Module:
    file, _, name = arch.rpartition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise RobustError(f"no file {file} (of the architecture {arch})")
    with folder_importable(path.resolve().parent):
        factory = import_function(path, name)
        arguments = _arguments(factory, arch, shape, num_classes)
        with user_code(f"{arch} failed"):
            net = factory(**arguments)
    if not isinstance(net, nn.Module):
        raise RobustError(f"{arch} returned {type(net).__name__}, not a torch.nn.Module")
    return net


def import_function(path: Path, name: str) -> Callable[..., Any]:
    """The function of that name in a Python file, which is run. Raises RobustError."""
    # A private name, so that a file called random.py replaces nothing.
    private = "_robust_arch_" + hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    spec = importlib.util.spec_from_file_location(private, path)
    if spec is None or spec.loader is None:
        raise RobustError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[private] = module
    with user_code(f"{path} cannot be imported"):
        spec.loader.exec_module(module)
    factory = getattr(module, name, None)
    if not callable(factory):
        raise RobustError(f"{path} has no function {name!r}")
    return factory  # type: ignore[no-any-return]


def _arguments(
    factory: Callable[..., Any],
    arch: str,
    shape: Sequence[int] | None,
    num_classes: int | None,
) -> dict[str, Any]:
    known = {
        "shape": None if shape is None else tuple(shape),
        "num_classes": num_classes,
        "classes": num_classes,
    }
    arguments = {}
    for name, parameter in inspect.signature(factory).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if known.get(name) is not None and parameter.kind is not parameter.POSITIONAL_ONLY:
            arguments[name] = known[name]
        elif parameter.default is parameter.empty:
            reason = (
                "the model file does not say it"
                if name in known
                else "a factory gets shape and num_classes, and no more"
            )
            raise RobustError(f"{arch} needs a value for {name!r}, but {reason}")
    return arguments


@contextlib.contextmanager
def user_code(what: str) -> Iterator[None]:
    """An error in somebody's code becomes one line: what, and the error."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise RobustError(f"{what}: {one_line(error)}") from error


@contextlib.contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let imports find what lies in a folder."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


@contextlib.contextmanager
def folder_importable(folder: Path, kept: dict[str, ModuleType] | None = None) -> Iterator[None]:
    """Let a file import its siblings; forget those after, for another folder may have its own.

    kept  holds the siblings from one time to the next
    """
    before = set(sys.modules)
    sys.modules.update(kept or {})
    try:
        with importable(folder):
            yield
    finally:
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            # Not what is installed in a virtual environment inside the folder.
            if file and Path(file).is_relative_to(folder) and "site-packages" not in file:
                module = sys.modules.pop(name)
                if kept is not None:
                    kept[name] = module


def one_line(error: BaseException) -> str:
    """An exception in one line: its type and the first line of its text."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
