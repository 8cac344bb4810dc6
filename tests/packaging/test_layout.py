"""Laws of the layout: imports point one way, the packages are listed, light names stay light, the public names exist."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import budjoule

ROOT = Path(__file__).parents[2]
OF_A_MACHINE = re.compile(r"/(work|root)/|\.\./shared")  # paths that only one has
RANK = {"energy": 0, "calibration": 1, "training": 1, "cli": 2}


def test_imports_point_one_way() -> None:
    wrong = []
    for folder, rank in RANK.items():
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = (
                    [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else [a.name for a in node.names]
                    if isinstance(node, ast.Import)
                    else []
                )
                for name in names:
                    parts = name.split(".")
                    if (
                        parts[0] == "budjoule"
                        and len(parts) > 1
                        and parts[1] != folder
                        and RANK.get(parts[1], -1) >= rank
                    ):
                        wrong.append(f"{path.relative_to(ROOT)}: {name}")
    assert not wrong


def test_packages_are_all_listed() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {"budjoule"} | {
        "budjoule." + ".".join(p.parent.relative_to(ROOT).parts)
        for folder in RANK
        for p in (ROOT / folder).rglob("__init__.py")
    }
    assert listed == found


def test_source_links_lead_to_the_folders() -> None:
    for folder in RANK:
        link = ROOT / "src" / "budjoule" / folder
        assert link.is_symlink()
        assert link.resolve() == ROOT / folder


@pytest.mark.parametrize("name", budjoule.__all__)
def test_public_name_is_importable_and_documented(name: str) -> None:
    assert getattr(budjoule, name).__doc__


@pytest.mark.parametrize(
    "code",
    [
        "import budjoule; budjoule.Ledger; budjoule.joules",
        "import budjoule.training.compression.frame",
        "from budjoule.cli import main",
        "import budjoule; budjoule.measure",
    ],
)
def test_light_parts_import_nothing_heavy(code: str) -> None:
    check = f"{code}\nimport sys\nheavy = {{'torch', 'scipy', 'sklearn', 'transformers'}} & set(sys.modules)\nassert not heavy, heavy"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_name_without_its_extra_is_passed_over_and_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "budjoule.energy.callbacks.hugging_face", raising=False)
    monkeypatch.delitem(vars(budjoule), "TrainerEnergy", raising=False)
    assert not hasattr(budjoule, "TrainerEnergy")
    remedy = r"pip install 'budjoule\[transformers\]'"
    with pytest.raises(budjoule.BudjouleError, match=remedy):
        budjoule.TrainerEnergy  # noqa: B018
    with pytest.raises(budjoule.BudjouleError, match=remedy):
        from budjoule import TrainerEnergy  # noqa: F401


def test_project_speaks_of_itself_alone() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    files = (
        tracked.stdout.split("\n")
        if tracked.returncode == 0
        else [str(p.relative_to(ROOT)) for p in ROOT.rglob("*.py") if ".venv" not in p.parts]
    )
    wrong = []
    for name in files:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".txt", ".sh", ".j2"} and path.is_file():
            wrong += [name] if OF_A_MACHINE.search(path.read_text(encoding="utf-8")) else []
    assert not wrong
