# SPDX-License-Identifier: MIT
"""Peers of another version, and garbage on every port of a job that runs.

The first messages, as transport/auth.c has them: "RNDO", version, type, kind, length, body, in network byte order.
"""

import os
import random
import socket
import struct
import threading
import time

from harness import (LISTEN, Programs, case, expect, expect_error, expect_ok, listening_ports, tcp_sockets,
                     unix_listeners)

HELLO, CHALLENGE, PROOF = 1, 2, 3
STORE, TCP, SHM = 1, 2, 3
OURS, OTHER = 2, 7


def message(kind_of_message, kind, body, version=OURS):
    return b"RNDO" + struct.pack(">HBBH", version, kind_of_message, kind, len(body)) + body


def connect(port, timeout=5):
    try:
        return socket.create_connection(("127.0.0.1", port), timeout=timeout)
    except ConnectionRefusedError:   # a rank has a port for each address
        return socket.create_connection(("::1", port), timeout=timeout)


def wait_for_port(port, limit=10):
    end = time.monotonic() + limit
    while not any(state == LISTEN and p == port for state, p, _ in tcp_sockets()):
        expect(time.monotonic() < end, f"nobody serves port {port}")
        time.sleep(0.01)


# ---- Another version ---------------------------------------------------------------------------------

@case("strangers")
def old_peer(new_job):
    """a rank of another version comes: it is told ours, rank 0 names both"""
    job = new_job()
    job.rank(0, 2, RONDO_CONNECT_TIMEOUT="2s")
    wait_for_port(job.port)
    with connect(job.port) as c:
        c.sendall(message(HELLO, STORE, os.urandom(32), OTHER))
        answer = c.recv(100)
    expect(answer[:4] == b"RNDO" and struct.unpack(">H", answer[4:6])[0] == OURS,
           f"the peer is not told the version: {answer!r}")
    job.wait(10)
    expect_error(job.processes[0], "waiting for ranks 1", "1 connection was refused", "127.0.0.1",
                 f"version {OTHER}", f"version {OURS}", "install", within=6)


@case("strangers")
def old_store(new_job):
    """rank 0 is of another version: the rank names both versions and the place, at once"""
    job = new_job()
    with socket.socket() as s:
        s.bind(("127.0.0.1", job.port))
        s.listen(4)

        def answer():
            c, _ = s.accept()
            with c:
                c.recv(1000)
                c.sendall(message(CHALLENGE, STORE, b"", OTHER))
                c.recv(1000)
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        job.rank(1, 2)
        job.wait(10)
        thread.join(5)
    expect_error(job.processes[0], "RONDO_ERR_VERSION", "rank 1", f"port {job.port}", f"version {OTHER}",
                 f"version {OURS}", "install", within=3)


# ---- Garbage -----------------------------------------------------------------------------------------

def garbage(rng, kind):
    """What strangers send, from nothing to a proof that is wrong."""
    hello = message(HELLO, kind, rng.randbytes(32 + 100))
    return [
        b"", b"R", b"RNDO", hello[:9], hello[:10], hello[:40], hello,
        hello + message(PROOF, kind, rng.randbytes(32)),
        hello + hello, hello + rng.randbytes(3000),
        message(PROOF, kind, rng.randbytes(32)),
        message(CHALLENGE, kind, rng.randbytes(64)),
        message(HELLO, 9, rng.randbytes(32)), message(HELLO, kind, b""),
        message(HELLO, kind, rng.randbytes(32 + 513)),
        message(HELLO, kind, rng.randbytes(32), OTHER), message(HELLO, kind, b"", 65535),
        b"RNDO" + b"\xff" * 6, b"\0" * 1000, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        rng.randbytes(1), rng.randbytes(100), rng.randbytes(100000),
    ]


def pour(dial, rng, kind):
    """One connection for each kind of garbage. Some stay open; returns those."""
    open_ones = []
    for i, data in enumerate(garbage(rng, kind)):
        s = dial()
        try:
            s.settimeout(2)
            s.sendall(data)
            if i % 3 == 0:   # reset rather than close
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass             # refused before it had said everything
        if i % 3 == 2:
            open_ones.append(s)
        else:
            s.close()
    return open_ones


def spoil(job, transport, ranks, many):
    """A job under rondo-run, which serves the store all the time, with garbage on all that listens."""
    seed = random.randrange(1 << 32)
    print(f"    seed {seed}")
    rng = random.Random(seed)
    enough = os.path.join(job.folder, "enough")
    run = job.run(ranks, Programs.rank, "--seconds", 100, "--until", enough, "--count", 100000,
                  options=("--master-port", job.port), RONDO_TRANSPORT=transport, RONDO_INTERFACE="lo")
    job.until("(?s)" + "ready.*" * ranks)
    pids = job.members()
    ports = listening_ports(pids)
    expect(job.port in ports, f"the store's port {job.port} is not among {ports}")
    expect(len(ports) > 1 or transport == "shm", f"the ranks listen on no port: {ports}")
    held = []
    for port in ports:
        kind = STORE if port == job.port else TCP
        held += pour(lambda port=port: connect(port), rng, kind)
        held += [connect(port) for _ in range(many)]
    for name in unix_listeners(pids):
        view = "rondo-top." in name
        def dial(name=name, view=view):
            s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if view else socket.SOCK_SEQPACKET)
            s.settimeout(2)
            s.connect(name)
            return s
        held += pour(dial, rng, SHM)
        held += [dial() for _ in range(20)]
    time.sleep(0.5)  # some steps more
    with open(enough, "w", encoding="ascii"):
        pass
    job.wait(60)
    expect_ok([run], ranks)
    for s in held:
        s.close()


@case("strangers")
def garbage_tcp(new_job):
    """garbage and 300 connections on the store's and every rank's port, over TCP: results stay right"""
    spoil(new_job(), "tcp", 3, 300)


@case("strangers")
def garbage_shm(new_job):
    """garbage on the store's port and the Unix sockets of shared memory: results stay right"""
    spoil(new_job(), "shm", 3, 300)


@case("strangers")
def garbage_while_meeting(new_job):
    """garbage on the store's port while the ranks meet: they meet all the same"""
    job = new_job()
    job.rank(0, 3)
    job.rank(1, 3)
    wait_for_port(job.port)
    held = pour(lambda: connect(job.port), random.Random(1), STORE)
    held += [connect(job.port) for _ in range(300)]
    job.rank(2, 3)
    job.wait(20)
    for s in held:
        s.close()
    expect_ok(job.processes)
