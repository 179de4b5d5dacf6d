# SPDX-License-Identifier: MIT
"""What goes wrong in a run: on the wire all the time, and at a time to one host."""

import argparse
import dataclasses
import re
import signal


@dataclasses.dataclass(frozen=True, order=True)
class Event:
    at: float  # seconds after the command's start
    what: str  # link-down, link-up, cut, heal, part, join, kill, stop, continue
    node: int
    rail: int = 0
    other: int = -1  # part, join: the path's other end

    def text(self):
        rail = f":{self.rail}" if self.what in ("link-down", "link-up", "cut", "heal") else ""
        rail += f":{self.other}" if self.other >= 0 else ""
        return f"{self.what} {self.node}{rail} at {self.at:g} s"


def number(text):
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None


def on_link(what):
    """For argparse: NODE[:RAIL]@SEC."""

    def parse(text):
        found = re.fullmatch(r"(\d+)(?::(\d+))?@(\d+(?:\.\d+)?)", text)
        if not found:
            raise argparse.ArgumentTypeError(f"'{text}': NODE[:RAIL]@SECONDS is wanted")
        return [Event(float(found[3]), what, int(found[1]), int(found[2] or 0))]

    return parse


def on_path(what):
    """For argparse: NODE:NODE@SEC."""

    def parse(text):
        found = re.fullmatch(r"(\d+):(\d+)@(\d+(?:\.\d+)?)", text)
        if not found or found[1] == found[2]:
            raise argparse.ArgumentTypeError(f"'{text}': NODE:NODE@SECONDS is wanted, of two nodes")
        return [Event(float(found[3]), what, int(found[1]), other=int(found[2]))]

    return parse


def kill(text):
    found = re.fullmatch(r"(\d+)@(\d+(?:\.\d+)?)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"'{text}': NODE@SECONDS is wanted")
    return [Event(float(found[2]), "kill", int(found[1]))]


def pause(text):
    found = re.fullmatch(r"(\d+)@(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"'{text}': NODE@SECONDS:SECONDS is wanted")
    node, at, length = int(found[1]), float(found[2]), float(found[3])
    return [Event(at, "stop", node), Event(at + length, "continue", node)]


def netem(options):
    """Words for 'tc qdisc … netem'; reordering is what overtakes a delay, so it needs one."""
    words = []
    delay = options.delay or (1.0 if options.reorder else 0)
    if delay:
        words += ["delay", f"{delay:g}ms"]
    if options.loss:
        words += ["loss", f"{options.loss:g}%"]
    if options.reorder:
        words += ["reorder", f"{options.reorder:g}%"]
    return " ".join(words)


SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "continue": signal.SIGCONT}


def apply_to_machines(event, machines, switches):
    """Each host is a machine: the cable is QEMU's, the silent cut the switch's."""
    target = machines[event.node]
    if event.what in SIGNALS:
        target.signal(SIGNALS[event.what])
    elif event.what in ("link-down", "link-up"):
        target.set_link(event.rail, event.what == "link-up")
    elif event.other >= 0:
        for switch in switches:
            switch.command(f"{event.what} {event.node} {event.other}")
    else:
        switches[event.rail].command(f"{event.what} {event.node}")


def apply_to_hosts(event, the_machine, rails):
    """All hosts are in one machine: its agent does it. A dead host no longer acknowledges either, so a
    killed one is first cut off; a stopped one's device still answers here."""
    say = the_machine.agent.send
    if event.what in SIGNALS:
        if event.what == "kill":
            for rail in range(rails):
                say(f"cut {event.node} {rail} on")
        say(f"signal {event.node} {SIGNALS[event.what].name[3:]}")
    elif event.what in ("link-down", "link-up"):
        say(f"link {event.node} {event.rail} {event.what[5:]}")
    else:
        say(f"cut {event.node} {event.rail} {'on' if event.what == 'cut' else 'off'}")
