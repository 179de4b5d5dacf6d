# SPDX-License-Identifier: MIT
"""The ranks of one job: what each is started with, what it says, how it ends."""

import base64
import fnmatch
import os
import secrets
import shlex
import sys

MASTER_PORT = 29400
# Of the caller's environment; the rest is the guest's own.
PASSED_ON = (
    "PATH LANG LC_* TERM_PROGRAM NO_COLOR RONDO_* *SAN_OPTIONS OMP_* OPENBLAS_* LD_LIBRARY_PATH "
    "LD_PRELOAD IBV_* RDMAV_* MALLOC_* GLIBC_TUNABLES"
).split()
NOT_PASSED_ON = {"RONDO_KEY_FD", "RONDO_KEY_FILE", "RONDO_STORE"}


class Rank:
    def __init__(self, number, node, local, folder):
        self.number, self.node, self.local = number, node, local
        self.path = folder / f"out.{number}"
        self.code, self.expected_dead = None, False
        self.offset, self.rest = 0, b""

    def read(self):
        """Whole lines that have come since; the incomplete last one when the rank has ended."""
        try:
            with open(self.path, "rb") as f:
                f.seek(self.offset)
                data = f.read()
        except FileNotFoundError:
            return []
        self.offset += len(data)
        *lines, self.rest = (self.rest + data).split(b"\n")
        return lines

    def read_rest(self):
        rest, self.rest = self.rest, b""
        return [rest] if rest else []

    def ended(self):
        return self.code is not None or self.expected_dead


def base_environment(extra):
    found = {
        name: value
        for name, value in os.environ.items()
        if name not in NOT_PASSED_ON and any(fnmatch.fnmatch(name, p) for p in PASSED_ON)
    }
    for item in extra:
        name, sign, value = item.partition("=")
        if sign:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


class Job:
    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        per_node = options.ranks_per_node
        self.ranks = [
            Rank(r, r // per_node, r % per_node, folder) for r in range(options.nodes * per_node)
        ]

    def environment(self, rank):
        """What a launcher would set, and in one machine which of its devices is this host's."""
        o = self.options
        names = base_environment(o.env)
        names.setdefault("RONDO_CONNECT_TIMEOUT", f"{max(60, 30 * o.nodes)}s")
        names |= {
            "RANK": rank.number,
            "WORLD_SIZE": len(self.ranks),
            "LOCAL_RANK": rank.local,
            "LOCAL_WORLD_SIZE": o.ranks_per_node,
            "MASTER_ADDR": "fd99::1" if o.ipv6 else "10.99.0.1",
            "MASTER_PORT": MASTER_PORT,
            "RONDO_KEY_FILE": "/run/rondo-key",
            "ROCE_NODE": rank.node,
            "ROCE_NODES": o.nodes,
            "ROCE_RAILS": o.rails,
            "ROCE_SHARE": "/ctl/share",
        }
        if o.one_vm:
            devices = [f"rxe{rank.node}r{rail}" for rail in range(o.rails)]
            names.setdefault("RONDO_DEVICE", "+".join(devices))
            names["ROCE_DEVICE"] = devices[0]
        else:
            names["ROCE_DEVICE"] = f"{o.driver}0"
        return names

    def prepare(self):
        key = self.folder / "key"
        key.touch(mode=0o600)
        key.write_bytes(base64.b64encode(secrets.token_bytes(32)) + b"\n")
        (self.folder / "share").mkdir()
        for rank in self.ranks:
            lines = [
                f"export {name}={shlex.quote(str(value))}"
                for name, value in self.environment(rank).items()
            ]
            lines.append(f"cd {shlex.quote(os.getcwd())} || exit 126")
            lines.append("exec " + " ".join(shlex.quote(w) for w in self.options.command))
            script = self.folder / f"rank.{rank.number}"
            script.touch(mode=0o600)
            script.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def start(self, machines):
        for rank in self.ranks:
            at = machines[0 if self.options.one_vm else rank.node]
            at.agent.send(f"run {rank.number} {rank.node}")

    def note(self, line):
        """A line of an agent."""
        words = line.split()
        if words and words[0] == "exit":
            self.ranks[int(words[1])].code = int(words[2])

    def expect_death(self, node):
        for rank in self.ranks:
            if rank.node == node:
                rank.expected_dead = True

    def show_output(self, last=False):
        for rank in self.ranks:
            ended = rank.code is not None
            lines = rank.read()
            if ended or last:
                lines += rank.read_rest()
            for line in lines:
                prefix = f"[{rank.node}.{rank.number}] ".encode()
                sys.stdout.buffer.write(prefix + line + b"\n")
        sys.stdout.buffer.flush()

    def ended(self):
        return all(rank.ended() for rank in self.ranks)

    def codes(self):
        """By rank; 'killed' for those of a host that was to die."""
        return {r.number: "killed" if r.expected_dead else r.code for r in self.ranks}

    def worst(self):
        return max((r.code for r in self.ranks if not r.expected_dead), default=0)
