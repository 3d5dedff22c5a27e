"""What machine the figures belong to."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path


def cpu_model(cpuinfo: str) -> str:
    """Return the processor's name from the text of ``/proc/cpuinfo``."""
    match = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return match.group(1).strip() if match else platform.machine() or "unknown"


def memory_gb(meminfo: str) -> float:
    """Return the memory in GB (10**9 bytes) from the text of ``/proc/meminfo``."""
    match = re.search(r"^MemTotal:\s+(\d+) kB", meminfo, re.MULTILINE)
    return round(int(match.group(1)) * 1024 / 1e9, 1) if match else 0.0


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def describe() -> dict[str, object]:
    """Return processor, cores, memory, kernel and load of this machine; no host name."""
    return {
        "cpu": cpu_model(_read("/proc/cpuinfo")),
        "cores": os.cpu_count() or 0,
        "memory_gb": memory_gb(_read("/proc/meminfo")),
        "kernel": f"{platform.system()} {platform.release()}",
        "load": round(os.getloadavg()[0], 2),
    }
