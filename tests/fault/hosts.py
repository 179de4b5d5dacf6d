# SPDX-License-Identifier: MIT
"""Several hosts on one machine: network namespaces that meet at a bridge in a namespace of its own.

Everything lies in a mount and a network namespace of this program, so nothing of it is left, however it ends.
"""

import ctypes
import os
import subprocess
import sys

MARK = "RONDO_FAULT_ISOLATED"   # "yes", or why not
MOUNTS = "mount -t tmpfs none /dev/shm && mount -t tmpfs none /run && ip link set lo up"


def isolate():
    """Starts this program again where it may make hosts; without the permission it goes on with one host."""
    if MARK in os.environ:
        return
    for how in (["-mn"], ["-rmn"]):
        command = ["unshare", *how, "--propagation", "private", "sh", "-c"]
        probe = MOUNTS + " && ip netns add probe && ip netns del probe"
        try:
            done = subprocess.run([*command, probe], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            os.environ[MARK] = "there is no unshare (util-linux)"
            return
        if done.returncode == 0:
            os.environ[MARK] = "yes"
            os.execvp("unshare", [*command, MOUNTS + ' && exec "$0" "$@"', sys.executable, *sys.argv])
    os.environ[MARK] = "network namespaces are not permitted: " + done.stderr.strip()


def missing():
    """Why there is but one host, or ''."""
    return "" if os.environ.get(MARK) == "yes" else os.environ.get(MARK, "not isolated")


def ip(*lines):
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True,
                   stdout=subprocess.DEVNULL)


class Network:
    """`count` hosts. One network serves many trials, one after the other."""

    def __init__(self, name, count):
        self.name, self.count = name, count
        switch = f"{name}-sw"
        ip(f"netns add {switch}", *(f"netns add {name}-{h}" for h in range(count)))
        self.in_switch("link add br0 type bridge", "link set br0 up")
        for h in range(count):
            self.in_host(h, "link set lo up", f"link add eth0 type veth peer name p{h} netns {switch}",
                         f"addr add {self.address(h)}/24 dev eth0", "link set eth0 up")
            self.in_switch(f"link set p{h} master br0", f"link set p{h} up")

    def in_switch(self, *lines):
        self.inside(f"{self.name}-sw", *lines)

    def in_host(self, h, *lines):
        self.inside(f"{self.name}-{h}", *lines)

    @staticmethod
    def inside(namespace, *lines):
        subprocess.run(["ip", "-n", namespace, "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True,
                       stdout=subprocess.DEVNULL)

    def address(self, h):
        return f"10.201.0.{h + 1}"

    def path(self, h):
        return f"/run/netns/{self.name}-{h}"

    def cut(self, h):
        """Nothing reaches this host any more, nor does anything leave it; its own interface stays up."""
        self.in_switch(f"link set p{h} nomaster")

    def part(self, a, b):
        """These two do not hear each other; all others hear both."""
        self.in_switch(f"link set p{a} type bridge_slave isolated on", f"link set p{b} type bridge_slave isolated on")

    def heal(self):
        self.in_switch(*(f"link set p{h} master br0" for h in range(self.count)),
                       *(f"link set p{h} type bridge_slave isolated off" for h in range(self.count)))


def sockets_left(path):
    """Listening or connected sockets in a network namespace that may be Rondo's, after all processes have ended."""
    found = []
    done = subprocess.run(["nsenter", f"--net={path}", "cat", "/proc/net/tcp", "/proc/net/unix"] if path else
                          ["cat", "/proc/net/unix"], capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        words = line.split()
        if len(words) > 9 and words[3] == "0A":
            found.append(f"a TCP listener at {words[1]}")
        elif len(words) == 8 and "rondo" in words[7].lower():
            found.append(f"a Unix socket {words[7]}")
    return found


def die_with_parent():
    ctypes.CDLL(None).prctl(1, 9)   # PR_SET_PDEATHSIG, SIGKILL
