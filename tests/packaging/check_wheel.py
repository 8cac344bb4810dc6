"""Build the wheel and hold what is in it: one import root, every data file, and a command that starts outside the checkout."""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Exit with a message where the wheel is not what it should be."""
    shutil.rmtree(ROOT / "build", ignore_errors=True)  # setuptools would ship what an older build left there
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, str(ROOT)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (wheel,) = Path(folder).glob("budjoule-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            names = set(archive.namelist())
            archive.extractall(Path(folder) / "site")
        tops = {name.split("/")[0] for name in names}
        stray = {top for top in tops if top != "budjoule" and not top.endswith(".dist-info")}
        if stray:
            sys.exit(f"the wheel installs {', '.join(sorted(stray))} beside budjoule")
        for pattern in (
            "energy/**/*.py",
            "calibration/**/*.py",
            "training/**/*.py",
            "cli/*.py",
            "calibration/profiles/*.toml",
            "energy/reports/*.j2",
            "energy/reports/*.css",
            "training/**/*.toml",
        ):
            for path in ROOT.glob(pattern):
                if "__pycache__" not in path.parts and f"budjoule/{path.relative_to(ROOT)}" not in names:
                    sys.exit(f"the wheel lacks {path.relative_to(ROOT)}; name its folder in pyproject.toml")
        environment = {**os.environ, "PYTHONPATH": str(Path(folder) / "site"), "PYTHONSAFEPATH": "1"}
        devices = subprocess.run(
            [
                sys.executable,
                "-c",
                "import budjoule, sys; from budjoule.cli.main import main; assert 'site/budjoule' in budjoule.__file__; sys.argv[1:] = ['devices', '--json']; main()",
            ],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
        )
        if devices.returncode:
            sys.exit(f"'budjoule devices' fails from the wheel: {devices.stderr.strip()}")
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    print(f"wheel: {len(names)} files under budjoule/, 'budjoule devices' runs from it")


if __name__ == "__main__":
    main()
