"""Files ↔ classes: each file of attacks/ and defenses/ defines one public class."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterable
from functools import cache
from typing import Any


def files(path: Iterable[str]) -> list[str]:
    """The names of a package's files that stand for something: no underscore in front."""
    return [info.name for info in pkgutil.iter_modules(path) if not info.name.startswith("_")]


@cache
def class_in(module_name: str) -> type[Any]:
    """The one public class that this module defines."""
    module = importlib.import_module(module_name)
    (found,) = (
        value
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module_name and not name.startswith("_")
    )
    return found


def registered(cls: type[Any]) -> str:
    """The name that a class of attacks/ or defenses/ goes by, its file's; else its own."""
    if cls.__module__.startswith(("robust.attacks.", "robust.defenses.")):
        return cls.__module__.rpartition(".")[2].replace("_", "-")
    return cls.__name__


def class_named(name: str, package: str, path: Iterable[str]) -> type[Any]:
    """The class of that name in a file of the package; AttributeError if there is none."""
    if not name.startswith("_"):
        for file in files(path):
            cls = class_in(f"{package}.{file}")
            if cls.__name__ == name:
                return cls
    raise AttributeError(f"module {package!r} has no attribute {name!r}")


def class_names(package: str, path: Iterable[str]) -> list[str]:
    """The names of the classes in a package's files."""
    return [class_in(f"{package}.{file}").__name__ for file in files(path)]
