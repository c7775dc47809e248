"""System metrics of a run, sampled once a second by a thread: processor, memory and the CUDA device."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import psutil
import torch

from recbench.tracking.environment import peak_rss_mb, reset_peak_rss

Sample = tuple[int, dict[str, float]]
"""Milliseconds since the epoch, and values by MLflow's name of the metric."""


class Summary(NamedTuple):
    """What the samples of a run add up to."""

    peak_rss_mb: float
    """Largest resident set of the process since ``start``, in mebibytes."""
    energy_j: float | None
    """Joules the whole CUDA device drew since ``start``; None without a device that counts them."""


class SystemSampler:
    """Samples the machine while a run goes on; the samples wait in memory until ``drain`` takes them."""

    def __init__(self, device: torch.device | str, interval_s: float = 1.0) -> None:
        self._interval_s = interval_s
        self._process = psutil.Process()
        self._gpu = _Gpu.find(torch.device(device))
        self._energy_at_start: float | None = None
        self._samples: list[Sample] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="recbench-system-metrics", daemon=True)

    def start(self) -> None:
        """Take the first sample and go on in the background."""
        reset_peak_rss()
        self._energy_at_start = self._gpu.energy_j() if self._gpu else None
        self._add(self._memory())
        self._thread.start()

    def stop(self) -> Summary:
        """End the thread; the samples it took remain to be drained."""
        self._stopping.set()
        self._thread.join()
        before, after = self._energy_at_start, self._gpu.energy_j() if self._gpu else None
        return Summary(peak_rss_mb(), None if before is None or after is None else after - before)

    def drain(self) -> list[Sample]:
        """Return the samples taken since the last call."""
        with self._lock:
            samples, self._samples = self._samples, []
        return samples

    def _loop(self) -> None:
        psutil.cpu_percent()  # percentages are over the time since this thread's last call: the first ones say nothing
        self._process.cpu_percent()
        while not self._stopping.wait(self._interval_s):
            cpu = {
                "system/cpu_utilization_percentage": psutil.cpu_percent(),
                "system/process_cpu_utilization_percentage": self._process.cpu_percent(),
            }
            self._add(cpu | self._memory())

    def _memory(self) -> dict[str, float]:
        return {
            "system/system_memory_usage_percentage": psutil.virtual_memory().percent,
            "system/process_memory_usage_megabytes": self._process.memory_info().rss / 1e6,
        }

    def _add(self, values: dict[str, float]) -> None:
        sample = (time.time_ns() // 1_000_000, values | (self._gpu.sample() if self._gpu else {}))
        with self._lock:
            self._samples.append(sample)


class _Gpu:
    """One device through NVML; a quantity this device does not offer is left out."""

    def __init__(self, nvml: Any, handle: Any, index: int) -> None:
        self._nvml = nvml
        self._handle = handle
        self._prefix = f"system/gpu_{index}"

    @classmethod
    def find(cls, device: torch.device) -> _Gpu | None:
        """Return the CUDA ``device``, or None for another device or without NVML."""
        if device.type != "cuda":
            return None
        import pynvml  # only useful beside a GPU

        index = torch.cuda.current_device() if device.index is None else device.index
        uuid = torch.cuda.get_device_properties(index).uuid  # CUDA and NVML may number the devices differently
        try:
            pynvml.nvmlInit()
            return cls(pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"), index)
        except pynvml.NVMLError:
            return None

    def sample(self) -> dict[str, float]:
        """Return memory (MB and %), utilisation (%) and power (W) under MLflow's names."""
        values = {}
        if (memory := self._read(self._nvml.nvmlDeviceGetMemoryInfo)) is not None:
            values[f"{self._prefix}_memory_usage_megabytes"] = memory.used / 1e6
            values[f"{self._prefix}_memory_usage_percentage"] = 100 * memory.used / memory.total
        if (rates := self._read(self._nvml.nvmlDeviceGetUtilizationRates)) is not None:
            values[f"{self._prefix}_utilization_percentage"] = float(rates.gpu)
        if (milliwatts := self._read(self._nvml.nvmlDeviceGetPowerUsage)) is not None:
            values[f"{self._prefix}_power_usage_watts"] = milliwatts / 1000
        return values

    def energy_j(self) -> float | None:
        """Return the device's own energy counter in joules (Volta and newer), counting since the driver was loaded."""
        millijoules = self._read(self._nvml.nvmlDeviceGetTotalEnergyConsumption)
        return None if millijoules is None else millijoules / 1000

    def _read(self, query: Callable[[Any], Any]) -> Any:
        try:
            return query(self._handle)
        except self._nvml.NVMLError:
            return None
