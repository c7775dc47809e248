"""What a run ran on: versions, processor, device, driver, commit and lock file; and its peak memory."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from recbench.resources import file_sha256, shipped

PACKAGES = ("numpy", "scipy", "pandas", "polars", "torch", "torch-geometric", "optuna", "mlflow", "recbench")
_GIT_TIMEOUT_SECONDS = 5


def capture(device: torch.device | str, threads: int) -> dict[str, Any]:
    """Return the fields of a result's ``environment``; what cannot be read here is ``None``.

    Args:
        device: where the model is trained.
        threads: number of CPU threads the run may use.
    """
    device = torch.device(device)
    lock = shipped("scripts", "constraints.txt")  # in a checkout only; a wheel does not carry it
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cpu": _cpu_model(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "driver": _cuda_driver() if device.type == "cuda" else None,
        "threads": threads,
        "git_commit": _git_commit(shipped()),
        "lock_sha256": file_sha256(lock) if lock.is_file() else None,
        "packages": _versions(),
    }


def peak_rss_mb() -> float:
    """Return the largest resident set of this process in mebibytes, since its start or ``reset_peak_rss``."""
    if sys.platform == "linux":
        # getrusage would do, but its figure survives exec: the child of a large process reports its parent's peak.
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource  # does not exist on every platform

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def reset_peak_rss() -> None:
    """Start the peak anew from the current resident set, where the kernel can (Linux); several runs share a process."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cuda_driver() -> str | None:
    import pynvml  # only useful beside a GPU

    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None


def _git_commit(checkout: Path) -> str | None:
    """Return the commit of ``checkout``, with ``-dirty`` when a file differs from it or is not in it."""
    if not (checkout / ".git").exists():
        return None
    try:
        status = subprocess.run(
            ["git", "-C", str(checkout), "status", "--porcelain=v2", "--branch"],
            capture_output=True,
            check=True,
            text=True,
            timeout=_GIT_TIMEOUT_SECONDS,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # reading must not disturb git commands running beside it
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    commit, dirty = None, False
    for line in status.splitlines():
        if line.startswith("# branch.oid "):
            commit = line.removeprefix("# branch.oid ")
        elif not line.startswith("#"):
            dirty = True
    if commit in (None, "(initial)"):
        return None
    return f"{commit}-dirty" if dirty else commit


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
