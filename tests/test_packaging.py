"""What an installed recbench has, away from the checkout it was built from."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # Built apart, with hatchling in an environment of its own; pip fetches that from the user's index.
    command = [sys.executable, "-m", "pip", "wheel", str(CHECKOUT), "--no-deps", "-w", str(folder)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No matching distribution found for hatchling" in built.stderr:
        pytest.skip("pip reaches no index that has hatchling, which builds the wheel")
    assert built.returncode == 0, built.stderr
    (file,) = folder.glob("recbench-*.whl")
    return file


def test_carries_cards_and_configs(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder in ("configs", "datasets"):
        files = [path for path in (CHECKOUT / folder).rglob("*") if path.is_file() and not path.name.startswith(".")]
        assert files
        assert {f"recbench/_data/{path.relative_to(CHECKOUT).as_posix()}" for path in files} <= names
    assert {"recbench/py.typed", "recbench/metrics/METRICS.md"} <= names
    assert not [name for name in names if name.startswith("tests/")]


def test_finds_them_outside_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from recbench import resources
for part in ("configs", "datasets"):
    assert resources.shipped(part).is_dir(), part
    print(resources.shipped(part))
"""
    # -P: the folder it is called from is not searched, nor is an editable install found first
    command = [sys.executable, "-P", "-c", code, str(site)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert all(Path(line).is_relative_to(site) for line in found.stdout.splitlines())
    assert len(found.stdout.splitlines()) == 2
