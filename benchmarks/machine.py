"""What a result was measured on."""

import datetime
import os
import platform
from importlib import metadata

import jax


def machine():
    """{date, device, versions}; the device with the cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": datetime.date.today().isoformat(),
        "device": f"{jax.default_backend()}, {cores} cores, {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("jax", "jaxlib", "numpy")},
        },
    }
