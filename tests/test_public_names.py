"""Every public name is there, typed, and explains itself."""

import importlib
import inspect
from pathlib import Path

import pytest

import robust

PACKAGES = ("attacks", "defenses", "reports", "models", "data")
NAMES = [name for name in robust.__all__ if name not in PACKAGES]


@pytest.mark.parametrize("name", NAMES)
def test_public_names_have_a_docstring_of_their_own(name):
    thing = getattr(robust, name)
    assert (thing.__doc__ or "").strip()
    assert not thing.__doc__.startswith(f"{name}(")  # what a dataclass writes by itself
    if inspect.isfunction(thing):
        hints = inspect.signature(thing)
        assert hints.return_annotation is not inspect.Signature.empty
        assert all(p.annotation is not p.empty for p in hints.parameters.values())


@pytest.mark.parametrize("package", [*PACKAGES, "training"])
def test_public_names_of_the_packages_too(package):
    module = importlib.import_module(f"robust.{package}")
    assert module.__doc__
    for name in getattr(module, "__all__", []):
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert (thing.__doc__ or "").strip(), name


def test_the_package_is_marked_as_typed():
    assert (Path(robust.__file__).parent / "py.typed").exists()


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="has no attribute 'evalute'"):
        _ = robust.evalute
    with pytest.raises(AttributeError, match="has no attribute 'PDG'"):
        _ = robust.attacks.PDG


def test_every_package_goes_into_the_wheel():
    import tomllib
    from pathlib import Path

    root = Path(__file__).parents[1]
    setup = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {
        ".".join(path.parent.relative_to(root).parts) for path in root.glob("robust/**/__init__.py")
    }
    outside = {
        ".".join(("robust", *path.parent.relative_to(root).parts))
        for name in ("attacks", "defenses", "reports")
        for path in root.glob(f"{name}/**/__init__.py")
    }
    assert set(setup["packages"]) == {*folders, *outside}
