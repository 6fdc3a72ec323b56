"""Imports point one way (docs/architecture.md), and only by the installed names."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"robust": "robust", "attacks": "robust.attacks", "defenses": "robust.defenses",
           "reports": "robust.reports"}  # fmt: skip

# Layer → the layers that it may import from. Whatever is not listed is a layer of its own name.
ALLOWED = {
    "core": {"core"},
    "attacks": {"attacks", "core"},
    "defenses": {"defenses", "core"},
    "reports": {"reports", "core"},
    "models": {"models", "core", "registry"},
    "data": {"data", "core"},
    "peers": {"peers", "core"},
    "oracles": {"oracles", "core", "models"},
    "registry": {"core"},
    "journal": {"core"},
    "shards": {"core"},
    "store": {"core", "journal", "shards"},
    "targets": {"core"},
    "preflight": {"core", "data", "targets"},
    "asking": {"core", "data"},
    "probing": {"core", "preflight"},
    "crafting": {"core", "data"},
    "chance": {"core", "preflight"},
    "verification": {"chance", "core", "preflight"},
    "searching": {"core", "data", "models"},
    "views": {"core", "registry"},
    "evaluation": {
        *(
            *("asking", "chance", "core", "crafting", "data", "preflight", "registry"),
            *("searching", "store", "targets", "verification"),
        ),
    },
    "diagnosis": {
        *("chance", "core", "data", "diagnosis", "evaluation", "models", "preflight", "registry"),
        *("store", "verification"),
    },
    "training": {"training", "core", "data", "models", "preflight", "registry", "store"},
    "tuning": {
        *("core", "data", "models", "preflight", "registry", "reports", "store"),
        *("training", "tuning"),
    },
    "certification": {
        *("certification", "core", "data", "evaluation", "models", "preflight", "reports"),
        "store",
    },
    "console": {"core", "diagnosis", "evaluation", "training"},
    "opening": {"core", "data", "models", "oracles", "registry"},
    "planning": {
        *("asking", "core", "data", "evaluation", "models", "preflight", "probing", "registry"),
        "searching",
    },
    "flops": {"core", "evaluation", "preflight"},
    "energy": set(),
    "api": {
        *("core", "data", "diagnosis", "energy", "evaluation", "flops", "models", "planning"),
        *("registry", "reports", "store", "views"),
    },
    "leaderboards": {"api", "core", "reports", "store"},
    "commands": {
        *(
            "commands",
            "api",
            "certification",
            "console",
            "core",
            "data",
            "diagnosis",
            "evaluation",
            "leaderboards",
            "models",
            "opening",
            "planning",
            "preflight",
            "reports",
        ),
        *("registry", "store", "training", "tuning", "views"),
    },
    "cli": {"cli", "commands", "core", "registry"},
    "__main__": {"cli"},
    "": set(),
}


def modules():
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = [*package.split("."), *path.relative_to(ROOT / folder).with_suffix("").parts]
            yield path, [part for part in parts if part != "__init__"], path.name == "__init__.py"


def layer(name):
    """robust.models.loading → models; robust → ''."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def imported(path, name, is_package):
    """Every module that a file imports, at the top or inside a function, but for type checkers."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = name[: len(name) - node.level + is_package] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield stem
            if (node.level and not node.module) or stem == "robust":
                yield from (f"{stem}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(("path", "name", "is_package"), [pytest.param(*m, id=".".join(m[1]))
                                                          for m in modules()])  # fmt: skip
def test_imports_point_down(path, name, is_package):
    own = layer(".".join(name))
    for target in imported(path, name, is_package):
        assert target.split(".")[0] not in ("attacks", "defenses", "reports"), (
            f"{path} imports {target} by the folder's bare name"
        )
        if target.split(".")[0] == "robust" and target != "robust":
            there = layer(target)
            assert there in ALLOWED[own], f"{path}: {own} imports {there} ({target})"


def test_every_layer_is_known():
    assert {layer(".".join(name)) for _, name, _ in modules()} <= set(ALLOWED)


def test_the_command_line_starts_without_the_heavy_parts():
    import subprocess
    import sys

    code = (
        "import sys; from click.testing import CliRunner; from robust.cli import main;"
        "assert CliRunner().invoke(main, ['attack', '--help']).exit_code == 0;"
        "heavy = {'torch', 'numpy', 'scipy', 'sklearn', 'datasets', 'jinja2'} & set(sys.modules);"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
