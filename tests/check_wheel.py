"""Builds the wheel and checks that it holds every module of the four packages and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("spaces", "latency", "models", "search")


def expected() -> set[str]:
    """Paths inside the wheel, from what stands in the checkout."""
    names = {f"sparsefront/{name}" for name in ("__init__.py", "__main__.py", "py.typed")}
    for package in PACKAGES:
        names |= {f"sparsefront/{path.relative_to(REPOSITORY)}" for path in (REPOSITORY / package).rglob("*.py")}
    return names


def main() -> None:
    """Exit with a line that names what is missing or too much."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, str(REPOSITORY)]
        subprocess.run(command, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        names = set(zipfile.ZipFile(wheel).namelist())
    held = {name for name in names if ".dist-info/" not in name}
    if held != expected():
        sys.exit(f"wheel: missing {sorted(expected() - held)}, unexpected {sorted(held - expected())}")
    if not any(name.endswith("licenses/LICENSE") for name in names):
        sys.exit("wheel: no licence file")
    print(f"wheel: {len(held)} files, as in the checkout")


if __name__ == "__main__":
    main()
