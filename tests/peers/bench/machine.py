# SPDX-License-Identifier: MIT
"""Describes the machine and the software of a measurement, without its name or any path, and how
much of it others used meanwhile."""

import os
import platform
import resource
import subprocess
from pathlib import Path

PACKAGES = ("openmpi-bin", "mpich", "libucx0", "libgloo0", "libc6", "gcc")


def _read(path, otherwise=""):
    try:
        return Path(path).read_text().strip()
    except OSError:
        return otherwise


def _output(*argv):
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _field(path, name):
    for line in _read(path).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _caches():
    found = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if _read(index / "type") != "Instruction":
            found.append(f"L{_read(index / 'level')} {_read(index / 'size')}")
    return ", ".join(found)


def cores():
    return len(os.sched_getaffinity(0))


def describe(root, rondo_version, build_type):
    """[(what, value)] for the report."""
    flags = _field("/proc/cpuinfo", "flags").split()
    memory = int((_field("/proc/meminfo", "MemTotal") or "0").split()[0]) / 2**20
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    facts = [
        ("processor", _field("/proc/cpuinfo", "model name") or platform.machine()),
        ("processors used", f"{cores()}{' (virtual machine)' if 'hypervisor' in flags else ''}"),
        ("caches", _caches()),
        ("vectors", ", ".join(f for f in ("avx2", "avx512f") if f in flags)),
        ("memory", f"{memory:.0f} GiB"),
        ("system", f"{system}, Linux {platform.release()}"),
        ("huge pages", _read("/sys/kernel/mm/transparent_hugepage/enabled")),
        ("TCP congestion control", _read("/proc/sys/net/ipv4/tcp_congestion_control")),
        ("loopback MTU", _read("/sys/class/net/lo/mtu")),
    ]
    for package in PACKAGES:
        facts.append((package, _output("dpkg-query", "-W", "-f", "${Version}", package)))
    commit = _output("git", "-C", str(root), "rev-parse", "--short=12", "HEAD")
    if commit and _output("git", "-C", str(root), "status", "--porcelain", "-uno"):
        commit += " with changes"
    rondo = " ".join(
        filter(None, (rondo_version, f"commit {commit}" if commit else "", build_type))
    )
    facts.append(("Rondo", rondo))
    return [(k, v) for k, v in facts if v]


class Usage:
    """How much processor time others took between start and end, in percent of all of it. A
    measurement beside other work says little: this shows whether there was any."""

    def __init__(self):
        self.begin = self._now()

    @staticmethod
    def _now():
        fields = [int(x) for x in _read("/proc/stat").splitlines()[0].split()[1:9]]
        user, nice, system, idle, iowait, irq, softirq, steal = fields
        tick = os.sysconf("SC_CLK_TCK")
        ours = sum(
            u.ru_utime + u.ru_stime
            for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        )
        busy = (user + nice + system + irq + softirq) / tick
        return {
            "busy": busy,
            "steal": steal / tick,
            "ours": ours,
            "all": busy + (idle + iowait + steal) / tick,
        }

    def text(self):
        end = self._now()
        d = {k: end[k] - v for k, v in self.begin.items()}
        total = max(d["all"], 1e-9)
        others = max(0.0, d["busy"] - d["ours"]) / total * 100
        return (
            f"other programs used {others:.0f} % of the processors' time during the run, "
            f"the host took {d['steal'] / total * 100:.0f} %"
        )
