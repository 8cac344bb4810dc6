"""RAPL: the energy counters of Intel and AMD processors, through the kernel's powercap tree.

Zones are matched by their `name` file (numbers move between machines and kernels) and found wherever the tree nests them;
a zone of the mmio tree that repeats one of the MSR tree is the same silicon and is left out.
"""

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from budjoule.energy.errors import MeterError
from budjoule.energy.meters.meter import LIMIT_W, Domain
from budjoule.energy.meters.sysfs import Attribute, Opener, read_number, read_text, sysfs_path

if TYPE_CHECKING:
    from pathlib import Path

_ZONE = re.compile(r"(?P<tree>[\w-]*rapl[\w-]*)(?P<number>(?::\d+)+)")
_PACKAGE = re.compile(r"package-\d+(?:-die-\d+)?")
_DEPTH = 4

# The counters are updated about every millisecond: Haehnel, Doebel, Voelp, Haertig, Measuring energy consumption for short
# code paths using RAPL, SIGMETRICS PER 2012, doi:10.1145/2425248.2425252.
_UPDATE_S = 0.001
# Energy units of the MSRs: 2^-14 J on Intel's clients, the widest in use (2^-16 J on AMD and for server DRAM).
_UNIT_J = 2.0**-14
# Since Haswell the package counter measures and follows a wall meter within some per cent: Khan, Hirki, Niemi, Nurminen, Ou,
# RAPL in action, ACM TOMPECS 2018, doi:10.1145/3177754. DRAM is up to 20 % off: Desrochers, Paradis, Weaver, A validation
# of DRAM RAPL power measurements, MEMSYS 2016, doi:10.1145/2989081.2989088. AMD's counters are partly modelled: Schoene et
# al., Energy efficiency aspects of the AMD Zen 2 architecture, IEEE CLUSTER 2021, doi:10.1109/Cluster48925.2021.00087.
_ERROR_FRAC = {"package": 0.05, "core": 0.1, "uncore": 0.1, "dram": 0.2, "psys": 0.1}
_AMD_ERROR_FRAC = 0.1


class Zone(NamedTuple):
    """One powercap zone as found in the tree.

    Args:
        identity: The folder's name, such as `intel-rapl:0:1`; unique on a machine.
        tree: The control type, `intel-rapl` or `intel-rapl-mmio`.
        name: The text of its `name` file.
        path: Its folder.
    """

    identity: str
    tree: str
    name: str
    path: str

    @property
    def parent(self) -> str:
        """Identity of the zone that contains it; that of no zone for a top one."""
        return self.identity.rpartition(":")[0]


def find_zones(root: "str | Path") -> list[Zone]:
    """All RAPL zones under `root`, whether the class folder lists them flat (as Linux does) or nested."""
    found: dict[str, Zone] = {}

    def walk(folder: str, depth: int) -> None:
        try:
            entries = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        except OSError:
            return
        for entry in entries:
            if "rapl" not in entry:  # `subsystem`, `device` and `power` would lead in circles
                continue
            match, path = _ZONE.fullmatch(entry), f"{folder}/{entry}"
            name = read_text(f"{path}/name") if match and entry not in found else None
            if match and name:
                found[entry] = Zone(identity=entry, tree=match["tree"], name=name, path=path)
            if depth < _DEPTH:
                walk(path, depth + 1)

    walk(f"{root}/class/powercap", 0)
    if not found:
        walk(f"{root}/devices/virtual/powercap", 0)
    return sorted(found.values(), key=lambda zone: (zone.tree, [int(part) for part in zone.identity.split(":")[1:]]))


def permission_fix(root: "str | Path") -> tuple[str, str]:
    """The command that makes the counters readable until the next boot, and the one that keeps them so.

    Only root may read them since Linux 5.10, because fine-grained power leaks secrets (CVE-2020-8694).
    """
    rule = 'ACTION=="add", SUBSYSTEM=="powercap", RUN+="/bin/chmod a+r /sys%p/energy_uj"'
    return (
        f"sudo chmod a+r {root}/class/powercap/*rapl*:*/energy_uj",
        f"echo '{rule}' | sudo tee /etc/udev/rules.d/70-powercap.rules && sudo udevadm trigger -c add -s powercap",
    )


def thermal_design_power_w(root: "str | Path | None" = None) -> float | None:
    """What all packages together may draw for long, which anyone may read where the counters are root's. [W]

    Of each the lower of what it is made for and what it is set to: a thin laptop's runs below its rating, and one that is
    set to no limit at all is still not made for it.
    """
    total_w = 0.0
    seen: set[str] = set()
    for zone in find_zones(root or sysfs_path()):
        if _PACKAGE.fullmatch(zone.name) and zone.name not in seen:
            told = (read_number(f"{zone.path}/constraint_0_{name}_uw") for name in ("max_power", "power_limit"))
            limits_w = [microwatts * 1e-6 for microwatts in told if microwatts and 1e6 <= microwatts <= LIMIT_W * 1e6]
            if not limits_w:
                return None
            seen.add(zone.name)
            total_w += min(limits_w)
    return total_w or None


class RaplMeter:
    """Reads every zone that can be opened. Open it with `open_rapl`."""

    name = "rapl"
    source = "measured"

    def __init__(self, domains: Sequence[Domain], files: Sequence[Attribute], notes: Sequence[str]) -> None:
        self.domains = tuple(domains)
        self.notes = tuple(notes)
        self.method = "RAPL counters of the processor (powercap), all processes of the machine"
        self._files = tuple(files)

    def read(self) -> list[float | None]:
        """Raw joules of each domain, as the counters stand. [J]"""
        return [file.read() for file in self._files]

    def close(self) -> None:
        """Give the descriptors back."""
        for file in self._files:
            file.close()


def open_rapl(root: "str | Path | None" = None, *, opener: Opener = os.open) -> RaplMeter:
    """Open the RAPL counters.

    Args:
        root: The sysfs tree; default `BUDJOULE_SYSFS_ROOT` or `/sys`.
        opener: Opens a counter's file.

    Raises:
        MeterError: There are no zones, or none of their counters may be read; the message gives the fix.
    """
    root = root or sysfs_path()
    zones = find_zones(root)
    if not any(_PACKAGE.fullmatch(zone.name) or zone.name == "psys" for zone in zones):
        raise MeterError(
            f"no RAPL package zone under {root}/class/powercap; on Intel or AMD try 'sudo modprobe intel_rapl_msr' "
            "(virtual machines and containers rarely have the counters)"
        )
    names = _names(zones)
    files: dict[str, tuple[Zone, Attribute]] = {}
    denied: list[Zone] = []
    broken: list[str] = []
    for zone in zones:
        path = f"{zone.path}/energy_uj"
        if names[zone.identity] in files:
            continue
        try:
            file = Attribute(path, scale=1e-6, opener=opener)
        except PermissionError:
            denied.append(zone)
            continue
        except OSError as error:
            broken.append(f"{names[zone.identity]} left out: cannot open {path} ({error.strerror or error})")
            continue
        if file.read() is None:
            broken.append(f"{names[zone.identity]} left out: {path} holds no number")
            file.close()
            continue
        files[names[zone.identity]] = (zone, file)
    domains = _domains([(name, zone) for name, (zone, _) in files.items()])
    if not any(domain.counts for domain in domains):
        for _, file in files.values():
            file.close()
        if denied:
            raise MeterError(
                f"cannot read {denied[0].path}/energy_uj: permission denied; run '{permission_fix(root)[0]}'"
            )
        raise MeterError(
            f"no RAPL counter under {root}/class/powercap can be read: {'; '.join(broken) or 'no package'}"
        )
    denied_names = sorted({names[zone.identity] for zone in denied} - set(files))
    if denied_names:
        broken.append(f"left out, permission denied: {', '.join(denied_names)}; run '{permission_fix(root)[0]}'")
    return RaplMeter(domains, [file for _, file in files.values()], broken)


def _names(zones: Sequence[Zone]) -> dict[str, str]:
    """Each zone's domain name: `package-0`, `core-0`, `dram-1-die-0`, `psys`. The mmio copy of a zone shares its name."""
    by_identity = {zone.identity: zone for zone in zones}
    names: dict[str, str] = {}
    taken: dict[tuple[str, str], str] = {}
    for zone in zones:
        parent = by_identity.get(zone.parent)
        name = zone.name
        if parent is not None and _PACKAGE.fullmatch(parent.name):
            name += names[parent.identity].removeprefix("package")
        if taken.setdefault((zone.tree, name), zone.identity) != zone.identity:
            name += f"@{zone.identity}"  # the same name twice in one tree is two pieces of silicon
        names[zone.identity] = name
    return names


def _domains(zones: Sequence[tuple[str, Zone]]) -> list[Domain]:
    """The domain tree: psys over package and dram, package over core and uncore."""
    packages = tuple(name for name, zone in zones if _PACKAGE.fullmatch(zone.name))
    systems = [name for name, zone in zones if zone.name == "psys"]
    # Where several zones claim to be the whole platform it is unknown what each holds: they are shown only.
    system = systems[0] if len(systems) == 1 else None
    amd = "AuthenticAMD" in (read_text("/proc/cpuinfo") or "")[:4096]
    by_identity = {zone.identity: name for name, zone in zones}
    domains = []
    for name, zone in zones:
        kind = "package" if name in packages else zone.name
        range_uj = read_number(f"{zone.path}/max_energy_range_uj")
        error_frac = _ERROR_FRAC.get(kind, 0.2)
        domains.append(
            Domain(
                name=name,
                parent=system if kind in ("package", "dram") else by_identity.get(zone.parent),
                # core and uncore are inside the package, and AMD's core may be one core of many: shown, never summed.
                counts=kind in ("package", "dram") or name == system,
                checked_by=packages if name == system else (),
                range_j=range_uj * 1e-6 if range_uj and range_uj > 0 else None,
                limit_w=LIMIT_W * max(1, len(packages)) if kind == "psys" else LIMIT_W,
                unit_j=_UNIT_J,
                update_s=_UPDATE_S,
                error_low_frac=max(error_frac, _AMD_ERROR_FRAC) if amd else error_frac,
                error_high_frac=max(error_frac, _AMD_ERROR_FRAC) if amd else error_frac,
            )
        )
    return domains
