# SPDX-License-Identifier: MIT
"""What jobs leave that are killed while they write dumps, traces and metrics, and what the next start clears away."""

import os
import random
import signal
import socket
import stat
import struct
import time

from harness import Programs, case, expect, expect_error, patience

OURS = ("rondo-dump.", "rondo-trace.")


def kill_all(job):
    """SIGKILL for all that the job started, rondo-run too."""
    end = time.monotonic() + 10 * patience()
    while job.members() and time.monotonic() < end:
        for pid in job.members():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.01)
    expect(not job.members(), "killed processes are still there")
    for p in job.processes:
        p.popen.wait()
        p.poll()


def places(job):
    """Folders of the job's own that stand for those of a user, and one for what it is told to write."""
    folders = {n: os.path.join(job.folder, n) for n in ("home", "tmp", "run", "out")}
    for f in folders.values():
        os.makedirs(f, mode=0o700, exist_ok=True)
    env = {"HOME": folders["home"], "TMPDIR": folders["tmp"], "XDG_RUNTIME_DIR": folders["run"],
           "RONDO_DUMP": folders["out"], "RONDO_TRACE": folders["out"],
           "RONDO_METRICS": f"unix:{folders['out']}/m.%r", "RONDO_CONNECT_TIMEOUT": "10s"}
    return folders, env


def unix_names():
    with open("/proc/net/unix", encoding="ascii", errors="replace") as f:
        return {line.split()[7] for line in f if len(line.split()) == 8}


def look(job, folders, sockets_before):
    """Nothing lies anywhere but what the job was told to write, which nobody else can read."""
    for name in ("home", "tmp", "run"):
        found = [n for _, d, f in os.walk(folders[name]) for n in d + f]
        expect(not found, f"left in {name}: {found}")
    for name in os.listdir(folders["out"]):
        path = os.path.join(folders["out"], name)
        known = name.startswith(OURS) or (name.startswith("m.") and name[2:].isdigit())
        expect(known, f"left in the folder for dumps: {name}")
        mode = stat.S_IMODE(os.lstat(path).st_mode)
        expect(mode == 0o600, f"{name} has mode {mode:o}")
    # A process that is ending has no environment any more, but its sockets for a moment.
    end = time.monotonic() + 10 * patience()
    while (new := {n for n in unix_names() - sockets_before if job.folder in n}) and time.monotonic() < end:
        time.sleep(0.01)
    expect(not new, f"sockets that somebody still has: {new}")


def serves(path):
    """Whether a rank answers there."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(10 * patience())
        try:
            s.connect(path)
            s.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            return b"200" in s.recv(100)
        except OSError:
            return False


@case("leftovers")
def killed_anywhere(new_job):
    """jobs with dumps, traces and metrics, killed at random moments: the next one clears away what they left"""
    rng = random.Random()
    for transport in ("shm", "tcp"):
        job = new_job()
        folders, env = places(job)
        env["RONDO_TRANSPORT"] = transport
        before = unix_names()
        for _ in range(4):
            run = job.run(3, Programs.rank, "--seconds", 100, **env)
            time.sleep(rng.uniform(0.05, 0.7))
            for pid in job.members():
                if pid != run.pid and rng.random() < 0.5:
                    with open(f"/proc/{pid}/comm", encoding="ascii", errors="replace") as f:
                        ready = f.read().startswith("badinput_rank")
                    if ready and os.path.exists(os.path.join(folders["out"], "m.0")):
                        os.kill(pid, signal.SIGUSR1)   # a dump is being written
            kill_all(job)
            look(job, folders, before)
        run = job.run(3, Programs.rank, "--seconds", 1, **env)
        job.wait(30, [run])
        expect(run.code == 0, f"the next job: exit code {run.code}")
        left = [n for n in os.listdir(folders["out"]) if n.endswith(".tmp") or n.startswith("m.")]
        expect(not left, f"the next job did not clear away {left}")


# ---- What a sweep must not touch ---------------------------------------------------------------------


def siphash(data):
    """SipHash-2-4 with a key of zeros."""
    mask = (1 << 64) - 1
    v = [0x736f6d6570736575, 0x646f72616e646f6d, 0x6c7967656e657261, 0x7465646279746573]

    def turn(x, n):
        return (x << n | x >> (64 - n)) & mask

    def rounds(n):
        for _ in range(n):
            v[0] = (v[0] + v[1]) & mask
            v[1] = turn(v[1], 13) ^ v[0]
            v[0] = turn(v[0], 32)
            v[2] = (v[2] + v[3]) & mask
            v[3] = turn(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & mask
            v[3] = turn(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & mask
            v[1] = turn(v[1], 17) ^ v[2]
            v[2] = turn(v[2], 32)
    data += b"\0" * (7 - len(data) % 8) + bytes([len(data) & 255])
    for (m,) in struct.iter_unpack("<Q", data):
        v[3] ^= m
        rounds(2)
        v[0] ^= m
    v[2] ^= 0xff
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def this_host():
    """As transport/temp.c has it: the boot and the space of pids."""
    with open("/proc/sys/kernel/random/boot_id", "rb") as f:
        boot = f.read()[:64].ljust(64, b"\0")
    return siphash(boot + struct.pack("<Q", os.stat("/proc/self/ns/pid").st_ino))


def start_of(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
        return int(f.read().rsplit(")", 1)[1].split()[19])


@case("leftovers")
def swept(new_job):
    """the next start removes halves of dead processes' dumps, and neither living ones', nor another host's, nor others'"""
    job = new_job()
    folders, env = places(job)
    me, host = os.getpid(), this_host()

    def plant(who, h, pid, start, kind="file"):
        path = os.path.join(folders["out"], f"rondo-dump.vm.0.7.json.{h:x}-{pid}-{start:x}-{who}.tmp")
        if kind == "link":
            os.symlink("/nowhere", path)
        elif kind == "folder":
            os.mkdir(path)
        else:
            with open(path, "w", encoding="ascii") as f:
                f.write("{")
        return path
    # A pid of this process that began at another time belonged to another one, which is dead.
    dead = plant("a0", host, me, start_of(me) + 1)
    stay = [plant("a1", host, me, start_of(me)), plant("a2", host ^ 1, me, start_of(me) + 1),
            plant("a3", host, me, start_of(me) + 1, "link"), plant("a4", host, me, start_of(me) + 1, "folder")]
    if os.geteuid() == 0:
        others = plant("a5", host, me, start_of(me) + 1)
        os.chown(others, 65534, 65534)
        stay.append(others)
    run = job.run(2, Programs.rank, "--seconds", 0.3, **env)
    job.wait(30)
    expect(run.code == 0, f"exit code {run.code}")
    expect(not os.path.lexists(dead), "the half of a dump of a dead process is still there")
    gone = [p for p in stay if not os.path.lexists(p)]
    expect(not gone, f"the sweep removed {gone}")


@case("leftovers")
def metrics_of_the_living(new_job):
    """the socket of a living rank, one that does not listen yet, and files that are none stay where they are"""
    job = new_job()
    folders, env = places(job)
    path = os.path.join(folders["out"], "m.0")
    job.run(2, Programs.rank, "--seconds", 100, **env)
    end = time.monotonic() + 15 * patience()
    while not serves(path) and time.monotonic() < end:
        time.sleep(0.05)
    expect(serves(path), "no metrics")

    def refused():
        other = new_job()
        run = other.run(2, Programs.rank, "--seconds", 1, **{**env, "RONDO_KEY_FILE": None})
        other.wait(30)
        expect_error(run, "option metrics: cannot listen on", r"m\.[01]", code=run.code)
        expect(run.code != 0, "two jobs share a socket")
    refused()
    expect(serves(path), "the socket of a living rank was removed")
    kill_all(job)
    expect(os.path.exists(path) and not serves(path), "the killed rank's socket is not there")
    os.unlink(path)
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(path)   # as a rank that starts has it for a moment
        refused()
        expect(os.path.exists(path), "the socket of a process that is about to listen was removed")
    os.unlink(path)
    with open(path, "w", encoding="ascii") as f:
        f.write("mine")
    refused()
    with open(path, encoding="ascii") as f:
        expect(f.read() == "mine", "a file was removed")
