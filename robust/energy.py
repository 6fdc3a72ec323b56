"""The energy that a run takes, where the machine tells: RAPL for processors, NVML for a GPU."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import torch

POWERCAP = Path("/sys/class/powercap")
T = TypeVar("T")


class Meter:
    """Joules since it was made, as of the last `read`.

    Counters of processors wrap round after some minutes under load, so that it must be read more
    often than that. They count the whole machine, whoever uses it; that of a GPU the whole card.

    device      whose GPU to ask, if it is one
    powercap    where Linux tells of its processors, if not at the usual place
    """

    def __init__(self, device: torch.device, powercap: Path | None = None) -> None:
        self.joules = 0.0
        counters = {**_processors(powercap or POWERCAP), **_gpu(device)}
        self._counters = {name: c for name, c in counters.items() if c[0]() is not None}
        self._last = {name: read() for name, (read, _) in self._counters.items()}

    @property
    def sources(self) -> list[str]:
        """What is counted; [] where nothing is."""
        return sorted(self._counters)

    def read(self) -> None:
        """Add what has been drawn since."""
        for name, (read, wraps) in self._counters.items():
            now, last = read(), self._last[name]
            if now is None or last is None:  # no longer to be had: what is there is a lower bound
                continue
            self.joules += now - last if now >= last else max(0.0, now + wraps - last)
            self._last[name] = now


# A reading in joules, None where it cannot be had; and where the counter begins anew.
_Counter = tuple[Callable[[], float | None], float]


def metered(events: Iterator[T], record: dict[str, Any], device: torch.device) -> Iterator[T]:
    """The same events; with each, `record["energy"]` is brought up to date: {"joules", "sources"},
    on top of what an earlier session has entered there. Nothing is entered where no counter is.
    """
    meter = Meter(device)
    before = float((record.get("energy") or {}).get("joules") or 0.0)
    for event in events:
        yield event
        meter.read()
        if meter.sources:
            record["energy"] = {"joules": before + meter.joules, "sources": meter.sources}


def _processors(powercap: Path) -> dict[str, _Counter]:
    """The packages of the machine, intel-rapl:0 and so on; their parts are contained in them."""
    found = dict[str, _Counter]()
    for zone in sorted(powercap.glob("*-rapl:*")):
        if zone.name.count(":") > 1:
            continue
        name = f"processor {zone.name.partition(':')[2]} (RAPL)"
        wraps = _number(zone / "max_energy_range_uj") or 0.0
        found[name] = partial(_number, zone / "energy_uj"), wraps
    return found


def _number(file: Path) -> float | None:
    """Microjoules in a file as joules; None where it cannot be read, which takes root on many."""
    try:
        return int(file.read_text()) / 1e6
    except (OSError, ValueError):
        return None


def _gpu(device: torch.device) -> dict[str, _Counter]:
    """The card of that device, by NVIDIA's pynvml if it is installed."""
    if device.type != "cuda":
        return {}
    with contextlib.suppress(Exception):  # no driver, no package, a card that does not count
        nvml: Any = import_module("pynvml")
        nvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)

        def read() -> float | None:
            with contextlib.suppress(Exception):
                return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
            return None

        return {"GPU (NVML)": (read, 0.0)}
    return {}
