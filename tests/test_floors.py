"""Imports go downwards only, and what needs no torch loads none."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ablate

ROOT = Path(ablate.__file__).parent

FLOORS = {
    "errors": 0,
    "options": 0,
    "kinds": 0,
    "grammar": 0,
    "presets": 0,
    "papers": 0,
    "config": 0,
    "files": 0,
    "models": 1,
    "data": 1,
    "cost": 2,
    "training": 2,
    "study": 3,
    "report": 4,
    "cli": 5,
}


def rooms_imported(path: Path) -> set[str]:
    """First-level rooms of this package that a file imports, lazily or not."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "ablate":
                names = [f"ablate.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("ablate.")}
    return found - {"__version__"}


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_from_its_floor_or_below(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if room in ("__init__", "__main__"):
        return
    for other in rooms_imported(path):
        assert FLOORS[other] <= FLOORS[room], f"{room} (floor {FLOORS[room]}) imports {other}"


@pytest.mark.parametrize(
    "module", ["ablate", "ablate.presets", "ablate.config", "ablate.study", "ablate.report"]
)
def test_a_module_that_promises_no_torch_loads_none(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_driver_loads_no_lightning() -> None:
    """Its import takes seconds, and only those who train or time a step need it."""
    imports = "import sys, ablate.study.engine, ablate.study.plan"
    code = f"{imports}; sys.exit('pytorch_lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
