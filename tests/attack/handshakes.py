# SPDX-License-Identifier: MIT
"""Handshakes: recorded and played back, reflected, redirected, and those of a peer that has the key and lies."""

import os
import random
import re
import socket
import struct
import threading
import time

from harness import Programs, case, expect, expect_error, expect_ok, listening_ports
from strangers import wait_for_port
from wire import (CHALLENGE, HEADER, HELLO, MIDDLE_ENV, PROOF, STORE, TCP, Keyed, Middle, Proxy, frame, handshake_end,
                  job_key, message, ranks_with_middle, receive_message, tcp_hello)


def finish(job, enough):
    with open(enough, "w", encoding="ascii"):
        pass
    job.wait(30)


def strangers(job):
    return sum(int(n) for p in job.processes for n in re.findall(r"(\d+) strangers", p.text))


def play_back(port, said):
    """Says what another said before. True: it came through to a welcome."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as s:
        end = handshake_end(said)
        s.sendall(said[:end])
        try:
            if receive_message(s)[6] != CHALLENGE:
                return False
            s.sendall(said[end:end + 1000])
            return s.recv(1000) != b""
        except OSError:
            return False


@case("handshakes")
def replayed(new_job):
    """handshakes with the store, the data path and the watch, recorded on their way and played back"""
    job = new_job()
    middle = Middle(job.port)
    enough = os.path.join(job.folder, "enough")
    # The launcher serves the store as long as the job lives.
    run = job.run(2, "sh", "-c", f'MASTER_PORT={middle.port} exec "$0" "$@"', Programs.rank, "--seconds", 100, "--until",
                  enough, options=("--master-port", job.port), **MIDDLE_ENV)
    job.until("(?s)ready.*ready")
    time.sleep(0.3)
    recorded = [c for c in middle.data if handshake_end(c.said[0])]
    kinds = {c.said[0][7] for c in recorded}
    # A link each way, and the watch's.
    expect(len(recorded) >= 3 and kinds == {TCP}, f"{len(recorded)} handshakes were recorded, of kinds {kinds}")
    stores = [c for c in middle.store.connections if handshake_end(c.said[0])]
    expect(stores, "no handshake with the store was recorded")
    for c in recorded + stores:
        expect(not play_back(c.port, c.said[0]), f"a replay to port {c.port} was welcomed")
    finish(job, enough)
    middle.close()
    expect_ok([run], 2)
    expect(strangers(job) == len(recorded), f"{strangers(job)} strangers were counted of {len(recorded)}")


@case("handshakes")
def reflected(new_job):
    """a listener's own challenge, and its own answers on a second connection, sent back to it"""
    job = new_job()
    enough = os.path.join(job.folder, "enough")
    job.ranks(2, "--seconds", 100, "--until", enough, **MIDDLE_ENV)
    job.until("ready")
    ports = listening_ports(job.members())
    for port in ports:
        kind = STORE if port == job.port else TCP
        with socket.create_connection(("127.0.0.1", port), timeout=5) as a, \
                socket.create_connection(("127.0.0.1", port), timeout=5) as b:
            hello = message(HELLO, kind, os.urandom(32) + tcp_hello(0))
            a.sendall(hello)
            challenge = receive_message(a)
            # Its nonce as ours; its MAC as our proof.
            b.sendall(message(HELLO, kind, challenge[HEADER:HEADER + 32] + tcp_hello(0)))
            second = receive_message(b)
            a.sendall(message(PROOF, kind, second[HEADER + 32:]))
            b.sendall(challenge)
            for s in (a, b):
                try:
                    expect(s.recv(1000) == b"", f"port {port} goes on after a reflected message")
                except ConnectionResetError:
                    pass
    finish(job, enough)
    expect_ok(job.processes)
    expect(strangers(job) == 2 * len([p for p in ports if p != job.port]), f"{strangers(job)} strangers were counted")


@case("handshakes")
def echo(new_job):
    """a store that says to a rank what the rank says: a clear error at once"""
    job = new_job()
    with socket.create_server(("127.0.0.1", job.port)) as server:
        def answer():
            s, _ = server.accept()
            with s:
                s.sendall(s.recv(1000))
                s.recv(1000)
        threading.Thread(target=answer, daemon=True).start()
        job.rank(1, 2)
        job.wait(10)
    expect_error(job.processes[0], "rank 1", f"port {job.port}", "broke the protocol|not .*speak", within=3)


@case("handshakes")
def redirected(new_job):
    """connections to rank 0 are led to rank 1 itself, which has the key: it is told that this is another rank"""
    job = new_job()
    ports = {}

    class Twisted(Middle):
        def proxy_for(self, port):
            with self.lock:
                if port not in self.own and port not in self.proxies:
                    # Where somebody else listens, if we know: rank 0's record comes last.
                    self.proxies[port] = Proxy(ports.get("first", port), None, self.data)
                    self.own.add(self.proxies[port].port)
                    ports.setdefault("first", port)
            return port if port in self.own else self.proxies[port].port

    middle = Twisted(job.port)
    ranks_with_middle(job, middle, RONDO_CONNECT_TIMEOUT="3s")
    job.wait(20)
    middle.close()
    said = " ".join(p.text for p in job.processes)
    expect(all(p.code == 3 for p in job.processes), f"exit codes {[p.code for p in job.processes]}")
    expect(re.search(r"this is rank \d of 2 .*not rank \d", said), "nobody says that another rank answered")


def lies(rng, to, many):
    """What a peer with the key may open, and then say."""
    hello = tcp_hello(to)
    far = (1 << 64) - 1
    frames = [frame(1, length=0xffffffff), frame(1, length=(1 << 18) + 1), frame(1, epoch=7), frame(1, seq=5),
              frame(1, seq=far), frame(2, seq=1), frame(2, tag=far), frame(3, length=897), frame(3, length=100),
              frame(4, seq=far), frame(9), frame(1, flags=255), frame(3, aux=0xffffffff, length=3) + b"abc",
              frame(1, length=1000, tag=rng.getrandbits(64)) + bytes(1000), frame(1, length=1000) + bytes(10),
              rng.randbytes(500)]
    for f in frames:
        yield hello, f
    for spoil in (b"", hello[:-1], hello + b"x", rng.randbytes(60), tcp_hello(to, sender=to), tcp_hello(to, sender=99),
                  tcp_hello(9, sender=0), tcp_hello(to, channel=99), tcp_hello(to, channel=0xffffffff), tcp_hello(to, paths=0),
                  tcp_hello(to, path=65535, paths=65535), tcp_hello(to, slots=0), tcp_hello(to, slots=0xffffffff),
                  tcp_hello(to, max_msg=0xffffffc0), tcp_hello(to, max_msg=65), tcp_hello(to, flags=255),
                  tcp_hello(to, flags=1), tcp_hello(to, flags=2), tcp_hello(to, epoch=0xffffffff),
                  many, tcp_hello(to, slots=1024, max_msg=16 << 20)):
        yield spoil, b""


@case("handshakes")
def liar(new_job):
    """a peer with the job's key opens links nobody wants, with hellos and frames that lie: the job goes on"""
    job = new_job()
    seed = random.randrange(1 << 32)
    print(f"    seed {seed}")
    enough = os.path.join(job.folder, "enough")
    job.ranks(2, "--seconds", 100, "--until", enough, **MIDDLE_ENV)
    job.until("ready")
    key = job_key(job.keys[0].encode())
    said = 0
    for rank in range(2):
        ports = [p for p in listening_ports([job.processes[rank].pid]) if p != job.port]
        expect(len(ports) == 2, f"rank {rank} listens on {ports}")
        for port in ports:
            many = tcp_hello(rank, paths=64)
            for hello, data in lies(random.Random(seed), rank, many):
                said += 1
                try:
                    # One path of many is not answered before the others are there.
                    k = Keyed(port, TCP, key, hello, 0.3 if hello == many else 5)
                    k.socket.sendall(data)
                    k.socket.close()
                except OSError:
                    pass
    finish(job, enough)
    print(f"    {said} lies")
    expect_ok(job.processes)


@case("handshakes")
def lying_client(new_job):
    """a client of the store that has the key and sends requests that lie, while the ranks meet"""
    job = new_job()
    job.rank(0, 2)
    key = job_key(job.keys[0].encode())
    wait_for_port(job.port)
    for request in (struct.pack(">IBBHI", 0xffffffff, 1, 1, 0, 0), struct.pack(">IBBHI", 0, 1, 1, 0, 0),
                    struct.pack(">IBBHI", 8, 1, 0, 0, 0), struct.pack(">IBBHI", 8, 77, 1, 0, 0),
                    struct.pack(">IBBHI", 9, 2, 1, 9, 0xffffffff) + b"k", struct.pack(">IBBHI", 9, 1, 255, 0, 0),
                    random.Random(1).randbytes(100), struct.pack(">IBBHI", 1 << 20, 3, 1, 0, 0) + bytes(5000)):
        k = Keyed(job.port, STORE, key, b"")
        try:
            k.socket.sendall(request)
        except OSError:
            pass   # ended already
        k.socket.close()
    job.rank(1, 2)
    job.wait(20)
    expect_ok(job.processes)
