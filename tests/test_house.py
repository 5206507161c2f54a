"""The rules of the house that no linter knows."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("features/**/*.py"), *ROOT.glob("gbr/**/*.py")])
TEXTS = sorted(
    [*SOURCES, *ROOT.glob("tests/*.py"), *ROOT.glob("benchmarks/**/*.py"), *ROOT.glob("docs/*.py"), *ROOT.glob("*.md")]
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

#: Top-level module of a package -> the only places that may import it.  Who of gbr may import whom, and the features,
#: is for the import contracts of pyproject.toml.
ALLOWED = {
    "numpy": ("features/", "gbr/"),
    "numba": ("features/", "gbr/collect/"),
    "isal": ("gbr/npz.py",),
    "polars": ("gbr/",),
    "pyarrow": ("gbr/_parquet.py",),
    "scipy": ("gbr/",),
    "sklearn": ("gbr/",),
    "rich": ("gbr/_cli.py",),
    "jinja2": ("gbr/report.py",),
    "lightgbm": ("gbr/_models/lightgbm.py",),
    "xgboost": ("gbr/_models/xgboost.py", "gbr/_cluster_fit.py"),
    "distributed": ("gbr/cluster.py",),
    "networkx": ("gbr/_graphnx.py",),
    "optuna": ("gbr/search.py",),
    "jax": ("gbr/collect/",),
    "jaxlib": ("gbr/collect/",),
    "gbr": ("gbr/",),
    "features": ("features/", "gbr/"),
}

#: What takes long to import, or may be missing: no command needs it to explain itself.
HEAVY = (
    "numba",
    "lightgbm",
    "xgboost",
    "polars",
    "pyarrow",
    "jax",
    "scipy",
    "sklearn",
    "rich",
    "jinja2",
    "distributed",
    "networkx",
)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_who_imports_what(path: Path) -> None:
    tops = {module.partition(".")[0] for module in imported(ast.parse(path.read_text()))}
    for top in tops - set(sys.stdlib_module_names):
        assert name_of(path).startswith(ALLOWED.get(top, ())), f"{name_of(path)} imports {top}"


def test_what_is_required_is_used() -> None:
    def unused(requirements: list[str], paths: Iterable[Path]) -> set[str]:
        used = {module.partition(".")[0] for path in paths for module in imported(ast.parse(path.read_text()))}
        modules = {"scikit-learn": "sklearn", "xgboost-cpu": "xgboost"}
        return {modules.get(name, name) for name in (Requirement(line).name for line in requirements)} - used

    extras = PROJECT["optional-dependencies"]
    assert unused(PROJECT["dependencies"] + extras["collect"], SOURCES) == set()
    assert unused(extras["dev"], ROOT.glob("tests/*.py")) == {"import-linter", "mypy", "ruff"}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_modules_stay_readable(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 500


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_nothing_is_left_for_later(path: Path) -> None:
    unfinished = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK|[Ff]or n" r"ow|[Pp]lace" r"holder)\b")
    assert [line for line in path.read_text().splitlines() if unfinished.search(line)] == []


def test_kernels_call_only_helpers_of_their_own_file() -> None:
    """Numba's cache on disk does not see an edit in a helper of another file."""
    found = 0
    for path in ROOT.glob("features/*.py"):
        tree = ast.parse(path.read_text())
        foreign = {
            alias.asname or alias.name
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("features")
            for alias in node.names
        }
        for function in [node for node in tree.body if isinstance(node, ast.FunctionDef)]:
            if any(ast.unparse(decorator).startswith("kernel") for decorator in function.decorator_list):
                found += 1
                body = ast.Module(function.body, [])
                called = {ast.unparse(node.func) for node in ast.walk(body) if isinstance(node, ast.Call)}
                assert called & foreign == set(), f"{path.name}: {function.name}"
        if path.name != "_jit.py":
            assert "fastmath" not in path.read_text(), f"{path.name}: NaN is data here"
            assert "njit" not in path.read_text(), f"{path.name}: options of Numba live in _jit.py"
    assert found > 3


def commands() -> list[str]:
    mains = [path for path in ROOT.glob("gbr/**/*.py") if '\nif __name__ == "__main__":\n' in path.read_text()]
    return sorted(name_of(path).removesuffix(".py").removesuffix("/__main__").replace("/", ".") for path in mains)


@pytest.mark.parametrize("command", commands())
def test_help_is_quick_and_imports_nothing_heavy(command: str) -> None:
    spy = (
        "import runpy, sys\n"
        "sys.argv = ['x', '--help']\n"
        "try:\n"
        f"    runpy.run_module({command!r}, run_name='__main__', alter_sys=True)\n"
        "except SystemExit as leave:\n"
        "    assert not leave.code, leave.code\n"
        f"print('HEAVY', sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", spy], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("HEAVY []\n")
    assert done.stdout.startswith(f"usage: python -m {command}")
    assert done.stderr == ""


def pinned(name: str) -> dict[str, Version]:
    pins = [Requirement(line) for line in (ROOT / name).read_text().splitlines() if line[0] != "#"]
    assert all(re.fullmatch(r"==[^,*]+", str(pin.specifier)) and not pin.url for pin in pins)
    return {canonicalize_name(pin.name): Version(str(pin.specifier)[2:]) for pin in pins}


def required(*, without: tuple[str, ...] = ()) -> list[Requirement]:
    extras = [lines for extra, lines in PROJECT["optional-dependencies"].items() if extra not in without]
    return [Requirement(line) for lines in (PROJECT["dependencies"], *extras) for line in lines]


def test_constraints_pin_what_the_project_requires() -> None:
    pins = pinned("constraints.txt")
    for requirement in required():
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_the_oldest_versions_tested_are_the_floors() -> None:
    pins = pinned("constraints-oldest.txt")
    for requirement in required(without=("soak",)):
        floors = [Version(each.version) for each in requirement.specifier if each.operator == ">="]
        assert [pins[canonicalize_name(requirement.name)]] == floors, requirement


def make(folder: Path, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).touch()
    environment = {**os.environ, "PATH": path or os.environ["PATH"]}
    environment.pop("PYTHON", None)
    return subprocess.run(["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def interpreter(folder: Path, version: str, *, with_venv: bool) -> Path:
    """Something that answers the Makefile's questions as a Python of this version would."""
    path = folder / f"python-{version}"
    path.write_text(
        "#!/bin/sh\ncase $2 in\n"
        f"  *split*) echo {version};;\n"
        f"  *sys.exit*) [ {int(Version(version) >= Version('3.11'))} = 1 ];;\n"
        f"  *ensurepip*) [ {int(with_venv)} = 1 ];;\n"
        "esac\n"
    )
    path.chmod(0o755)
    return path


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
class TestMakefile:
    def test_help_lists_every_target(self, tmp_path: Path) -> None:
        told = re.findall(r"^make (\w+)", make(tmp_path).stdout, re.MULTILINE)
        phony = re.search(r"^\.PHONY: (help .*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert phony
        assert told == phony[1].split()

    def test_an_old_python_is_refused_in_one_line(self, tmp_path: Path) -> None:
        old = interpreter(tmp_path, "3.9.2", with_venv=True)
        done = make(tmp_path, "demo", f"PYTHON={old} {tmp_path / 'absent'}")
        assert done.returncode == 2
        assert f"gbr: Python 3.11 or newer is needed and none of [{old} " in done.stderr
        assert f"{old} is 3.9.2" in done.stderr
        assert not (tmp_path / ".venv").exists()

    def test_a_python_without_venv_is_refused_in_one_line(self, tmp_path: Path) -> None:
        bare = interpreter(tmp_path, "3.12.1", with_venv=False)
        done = make(tmp_path, "test", f"PYTHON={bare}")
        assert done.returncode == 2
        assert "python-3.12.1 comes without its venv module" in done.stderr
        assert "apt-get install python-3.12.1-venv" in done.stderr
        assert not (tmp_path / ".venv").exists()


def test_the_gate_is_executable() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
