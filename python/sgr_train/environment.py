"""What the last digits of a run depend on beside its settings and data: versions, the device, threads."""

from __future__ import annotations

import functools
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import sgr_kernels as sk

COMMAND = "command"  # the only entry that may differ without a word


def describe(device: torch.device) -> dict[str, Any]:
    """Of this process, as JSON has it."""
    on_gpu = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sgr_kernels": sk.__version__,
        "revision": revision(),
        "cuda": torch.version.cuda if on_gpu else None,
        "device": torch.cuda.get_device_name(device)
        if on_gpu
        else f"{processor()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        COMMAND: shlex.join(["sgr-train", *sys.argv[1:]]),
    }


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What has changed, for people; "" if nothing has."""
    names = [name for name in {**before, **now} if name != COMMAND and before.get(name) != now.get(name)]
    return ", ".join(f"{name} is {now.get(name)}, was {before.get(name)}" for name in names)


def processor() -> str:
    """Its model name where Linux tells it, else the architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@functools.cache
def revision() -> str | None:
    """Commit of the checkout that runs, with "-dirty" where files have changed since; None outside of one."""
    root = Path(sk.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    words = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
