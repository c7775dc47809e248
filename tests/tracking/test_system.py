import sys
import time
from itertools import count
from types import SimpleNamespace

import pytest
import torch

from recbench.tracking.system import SystemSampler


class NVMLError(Exception):
    pass


def unsupported(handle):
    raise NVMLError("Not Supported")


@pytest.fixture
def nvml(monkeypatch):
    """A device that draws 250 J between two readings of its energy counter and does not tell its power."""
    readings = count(1_000_000, 250_000)  # millijoules
    module = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID={"GPU-1234": "handle"}.__getitem__,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=2e9, total=8e9),
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=70),
        nvmlDeviceGetPowerUsage=unsupported,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(readings),
    )
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="1234"))
    return module


def test_samples_at_once_and_then_every_interval():
    sampler = SystemSampler("cpu", interval_s=0.02)
    before = time.time_ns() // 1_000_000
    sampler.start()
    ((first_time, first),) = sampler.drain()[:1]
    time.sleep(0.3)
    summary = sampler.stop()
    later = sampler.drain()

    assert before <= first_time <= before + 1000
    assert set(first) == {"system/system_memory_usage_percentage", "system/process_memory_usage_megabytes"}
    assert len(later) >= 3
    times = [timestamp for timestamp, _ in later]
    assert times == sorted(times)
    assert {"system/cpu_utilization_percentage", "system/process_cpu_utilization_percentage"} < set(later[-1][1])
    assert sampler.drain() == []
    assert summary.energy_j is None
    # MB are powers of ten in MLflow's name, the record's are powers of two
    assert summary.peak_rss_mb >= 0.9 * first["system/process_memory_usage_megabytes"] * 1e6 / 2**20


def test_the_process_is_seen_to_work():
    sampler = SystemSampler("cpu", interval_s=0.2)
    sampler.start()
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        pass
    sampler.stop()
    assert sampler.drain()[-1][1]["system/process_cpu_utilization_percentage"] > 20


def test_reads_the_device_and_leaves_out_what_it_does_not_offer(nvml):
    sampler = SystemSampler("cuda:0", interval_s=10)
    sampler.start()
    summary = sampler.stop()
    ((_, values),) = sampler.drain()
    assert {name: value for name, value in values.items() if "gpu" in name} == {
        "system/gpu_0_memory_usage_megabytes": 2000.0,
        "system/gpu_0_memory_usage_percentage": 25.0,
        "system/gpu_0_utilization_percentage": 70.0,
    }
    assert summary.energy_j == 250.0


def test_a_device_without_an_energy_counter_has_no_energy(nvml):
    nvml.nvmlDeviceGetTotalEnergyConsumption = unsupported
    sampler = SystemSampler("cuda:0", interval_s=10)
    sampler.start()
    assert sampler.stop().energy_j is None


def test_goes_on_without_a_driver(nvml):
    def no_driver():
        raise NVMLError("NVML Shared Library Not Found")

    nvml.nvmlInit = no_driver
    sampler = SystemSampler("cuda:0", interval_s=10)
    sampler.start()
    assert sampler.stop().energy_j is None
    ((_, values),) = sampler.drain()
    assert not [name for name in values if "gpu" in name]
