# SPDX-License-Identifier: MIT
"""Strangers by the thousand on every port of a job that runs: a port scanner, other protocols, slow talkers. The job
goes on as if nobody came, counts them, and says so seldom."""

import os
import random
import re
import socket
import sys
import threading
import time

from harness import Programs, case, expect, expect_ok, listening_ports, patience, unix_listeners

TLS = bytes.fromhex("160301020001fc0303") + bytes(range(200))   # how a TLS 1.2 ClientHello begins
WORDS = [b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", TLS, b"SSH-2.0-OpenSSH_9.2p1\r\n", b"RNDO\0\2\1\2\0\x20", b"\0" * 64]
STALL = 3.0   # longest step that strangers may cause, in seconds


def dial_tcp(port):
    try:
        return socket.create_connection(("127.0.0.1", port), timeout=5)
    except ConnectionRefusedError:   # a rank has a port for each address
        return socket.create_connection(("::1", port), timeout=5)


def dial_unix(name, kind=socket.SOCK_SEQPACKET):
    s = socket.socket(socket.AF_UNIX, kind)
    s.settimeout(5)
    s.connect(name)
    return s


def dial_observer(name):
    return dial_unix(name, socket.SOCK_STREAM)


def visit(dial, where, rng):
    """One of a scanner's connections."""
    s = dial(where)
    words = rng.choice(WORDS + [rng.randbytes(rng.randrange(1, 300))])
    try:
        if words:
            s.sendall(words)
    except OSError:
        pass   # dropped before it had said all
    s.close()


def drip(places, stop):
    """Slow talkers: each says one byte of a real greeting at a time."""
    hello = b"RNDO\0\2\1\2\0\x20" + os.urandom(32)
    talkers = [dial(where) for dial, where in places for _ in range(5)]
    for byte in hello[:-1]:
        if stop.wait(0.1):
            break
        for s in talkers:
            try:
                s.send(bytes([byte]))
            except OSError:
                pass
    stop.wait(20)
    for s in talkers:
        s.close()


def figures(job):
    found = re.findall(r"rank \d+ ok after \d+ steps, longest ([\d.]+) s, (\d+) strangers", job.processes[0].text)
    return max(float(a) for a, _ in found), sum(int(b) for _, b in found)


def scan(job, transport, ranks, visits):
    seed = random.randrange(1 << 32)
    print(f"    seed {seed}")
    rng = random.Random(seed)
    enough = os.path.join(job.folder, "enough")
    began = time.monotonic()
    run = job.run(ranks, Programs.rank, "--seconds", 100, "--until", enough, "--count", 20000,
                  options=("--master-port", job.port), RONDO_TRANSPORT=transport, RONDO_INTERFACE="lo")
    job.until("(?s)" + "ready.*" * ranks)
    pids = job.members()
    ports = listening_ports(pids)
    places = [(dial_tcp, port) for port in ports]
    names = unix_listeners(pids)
    places += [(dial_unix, name) for name in names]
    views = unix_listeners(pids, socket.SOCK_STREAM)
    # Each rank listens for the watch, and for data over one of the wires; the launcher has the store.
    expect(len(places) >= 1 + 2 * ranks, f"only {len(places)} places to knock at: {ports} {names}")
    stop = threading.Event()
    slow = threading.Thread(target=drip, args=(places, stop), daemon=True)
    slow.start()
    counted = 0
    places += [(dial_observer, name) for name in views]
    for i in range(visits):
        dial, where = places[i % len(places)]
        visit(dial, where, rng)
        counted += where != job.port and where not in views   # neither of these counts strangers
    time.sleep(0.3)   # some steps more
    with open(enough, "w", encoding="ascii"):
        pass
    job.wait(60)
    stop.set()
    slow.join(10)
    expect_ok([run], ranks)
    longest, strangers = figures(job)
    lines = len(re.findall("did not prove this job's key", run.text))
    seconds = time.monotonic() - began
    print(f"    {visits} connections, longest step {longest} s, {strangers} strangers, {lines} lines, {seconds:.1f} s")
    expect(longest < STALL * patience(), f"a step took {longest} s")
    expect(strangers >= 0.9 * counted, f"{strangers} strangers were counted of {counted}")
    nets = len(places) - 1
    expect(1 <= lines <= nets * (seconds + 2), f"{lines} log lines in {seconds:.1f} s")


@case("strays")
def scan_tcp(new_job):
    """2000 connections of a port scanner, and slow talkers, on a job over TCP"""
    scan(new_job(), "tcp", 2, 2000)


@case("strays")
def scan_shm(new_job):
    """600 connections of a scanner, and slow talkers, on a job over shared memory, its sockets included"""
    scan(new_job(), "shm", 3, 600)


@case("strays")
def crowd_shm(new_job):
    """500 connections that stay and say nothing on a shared-memory socket: the oldest of them have to go"""
    job = new_job()
    enough = os.path.join(job.folder, "enough")
    run = job.run(2, Programs.rank, "--seconds", 100, "--until", enough, RONDO_TRANSPORT="shm",
                  RONDO_INTERFACE="lo")
    job.until("(?s)ready.*ready")
    name = unix_listeners(job.members())[0]
    crowd = [dial_unix(name) for _ in range(500)]
    time.sleep(0.3)
    with open(enough, "w", encoding="ascii"):
        pass
    job.wait(30)
    expect_ok([run], 2)
    _, strangers = figures(job)
    expect(strangers >= 500 - 256, f"only {strangers} of 500 had to go")
    for s in crowd:
        s.close()


@case("strays")
def other_user(new_job):
    """another user knocks at a shared-memory socket: the kernel says who it is, and it goes unheard"""
    if os.geteuid() != 0:
        print("    only root can be another user: not tried")
        return
    job = new_job()
    enough = os.path.join(job.folder, "enough")
    run = job.run(2, Programs.rank, "--seconds", 100, "--until", enough, RONDO_TRANSPORT="shm")
    job.until("(?s)ready.*ready")
    name = unix_listeners(job.members())[0]
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setresuid(65534, 65534, 65534)
            s = dial_unix(name)
            s.sendall(b"RNDO\0\2\1\3\0\x20" + os.urandom(32))
            code = 0 if s.recv(100) == b"" else 2   # not even a challenge
        except OSError:
            code = 0                                # refused, or reset
        finally:
            sys.stdout.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    with open(enough, "w", encoding="ascii"):
        pass
    job.wait(30)
    expect(status == 0, f"another user was answered: {status}")
    expect_ok([run], 2)
    expect("another user" in run.text, "no log line tells of another user")
    expect(figures(job)[1] == 1, "another user was not counted")
