"""The README's commands run as printed, and what it prints of their output is what they print."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "tests" / "benchmarks"
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", README, re.S)
    for line in block.splitlines()
    if line.startswith("budjoule ")
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "XDG_DATA_HOME": str(folder / "data"), "COLUMNS": "100"}
    return subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_command_runs_as_printed(command: str, place: Path) -> None:
    done = run(command, place)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_readme_shows_what_its_first_command_prints(place: Path) -> None:
    (block,) = re.findall(r"```console\n\$ (.*?)\n(.*?)```", README, re.S)
    printed = run(block[0], place).stdout
    squeezed = [" ".join(line.split()) for line in printed.splitlines()]
    for line in block[1].splitlines():
        if line.strip() and line.strip() != "...":
            assert " ".join(line.split()) in squeezed, printed


def test_readme_lists_make_targets_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 140


def test_readme_python_names_exist() -> None:
    import budjoule

    for name in re.findall(r"\bbj\.(\w+)", README):
        assert name in dir(budjoule)


def fleet_benchmark(what: str) -> str:
    command = [sys.executable, str(BENCHMARKS / "fleet.py"), what]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_table_of_the_fleet_benchmark_is_what_its_rows_give() -> None:
    assert fleet_benchmark("table") == (BENCHMARKS / "results" / "fleet.md").read_text(encoding="utf-8")


def test_every_method_that_budjoule_is_compared_with_has_the_best_settings_of_its_grid() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in fleet_benchmark("grid").splitlines()]
    best = {name: row[6] for row in rows[2:] for name in row[7].split("; ")}
    for name in ("fedavg", "fedavg-deadline", "fedbuff", "ftte-style"):
        assert "soonest" in best[name], name
    assert "fewest joules" in best["fedavg, thrifty"]
    assert all(row[2] == "2" for row in rows[2:])
