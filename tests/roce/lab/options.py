# SPDX-License-Identifier: MIT
"""What the user may say to the laboratory."""

import argparse
from pathlib import Path

from . import faults

WORK = Path(__file__).resolve().parent.parent.parent.parent / "build" / "roce"


def whole(low, high):
    def parse(text):
        if not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"'{text}': {low} to {high} is possible")
        return int(text)

    return parse


def percent(text):
    value = faults.number(text.rstrip("%"))
    if value is None or value > 100:
        raise argparse.ArgumentTypeError(f"'{text}': 0 to 100 is possible")
    return value


def amount(text):
    value = faults.number(text)
    if value is None:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number")
    return value


def add_hosts(a):
    a("-N", "--nodes", type=whole(1, 16), default=2, help="hosts, default 2")
    a("-r", "--ranks-per-node", type=whole(1, 64), default=1, metavar="K", help="default 1")
    a("--one-vm", action="store_true", help="all hosts as devices of one machine: cheaper")
    a("--rails", type=whole(1, 4), default=1, help="network devices of each host, default 1")
    a("--ipv6", action="store_true", help="addresses of both families; MASTER_ADDR is IPv6")
    a("--siw", action="store_true", help="soft-iWARP in place of soft-RoCE; see README.md")
    a("--mtu", type=whole(1280, 9000), default=9000, help="of the Ethernet, default 9000")
    a("--memory", type=whole(256, 65536), default=1024, metavar="MB", help="of each, default 1024")
    a("--cpus", type=whole(1, 16), default=1, help="of each machine, default 1")
    a("--accel", choices=("auto", "kvm", "tcg"), default="auto", help="default: KVM if it boots")


def add_faults(a):
    a("--loss", type=percent, default=0, metavar="PCT", help="of the frames that a host sends")
    a("--delay", type=amount, default=0, metavar="MS", help="of the frames that a host sends")
    a("--reorder", type=percent, default=0, metavar="PCT", help="frames that overtake others")
    link = {"action": "extend", "dest": "events", "metavar": "NODE[:RAIL]@SEC"}
    a("--link-down", type=faults.on_link("link-down"), help="the cable is out", **link)
    a("--link-up", type=faults.on_link("link-up"), help="and in again", **link)
    a("--cut", type=faults.on_link("cut"), help="frames are lost, the link stays up", **link)
    a("--heal", type=faults.on_link("heal"), help="frames pass again", **link)
    path = {"action": "extend", "dest": "events", "metavar": "NODE:NODE@SEC"}
    a("--part", type=faults.on_path("part"), help="nothing goes between these two", **path)
    a("--join", type=faults.on_path("join"), help="and again", **path)
    host = {"action": "extend", "dest": "events"}
    a("--kill", type=faults.kill, metavar="NODE@SEC", help="the host is gone at once", **host)
    a("--pause", type=faults.pause, metavar="NODE@SEC:SEC", help="when, and how long", **host)


def add_run(a):
    a("--timeout", type=amount, default=300, metavar="SEC", help="for COMMAND, default 300")
    a("--env", action="append", default=[], metavar="NAME[=VALUE]", help="for COMMAND")
    a("--keep", type=Path, metavar="DIR", help="for logs, outputs and what is left in $ROCE_SHARE")
    a("--json", type=Path, metavar="FILE", help="writes the summary")
    a("--install", action="store_true", help="installs what is missing, with apt-get")
    a("--check", action="store_true", help="only says whether everything is there, by 0 or 77")
    a("--kernel", metavar="VERSION", help="as in 6.1.0-56-amd64; default: the newest that is here")
    a("--work", type=Path, default=WORK, help="for kernels; default build/roce")
    a("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="runs once for each rank")


def parse(argv, what):
    p = argparse.ArgumentParser(
        description=" ".join(what.split()),
        usage="%(prog)s [options] -- COMMAND [ARG…]\n       %(prog)s --install",
        epilog="exit code: COMMAND's greatest; 77 something is missing, 124 --timeout, 125 a "
        "machine died unasked",
    )
    for add in (add_hosts, add_faults, add_run):
        add(p.add_argument)
    o = p.parse_args(argv)
    if o.command[:1] == ["--"]:
        del o.command[0]
    if not o.command and not o.install and not o.check:
        p.error("there is no COMMAND")
    o.events = sorted(o.events or [])
    for event in o.events:
        if max(event.node, event.other) >= o.nodes or event.rail >= o.rails:
            p.error(f"{event.text()}: there are {o.nodes} nodes and {o.rails} rails")
        if event.other >= 0 and o.one_vm:
            p.error(f"{event.text()}: needs a machine for each host: leave out --one-vm")
    if o.siw and o.one_vm:
        p.error("soft-iWARP needs a machine for each host: leave out --one-vm")
    o.driver = "siw" if o.siw else "rxe"
    return o
