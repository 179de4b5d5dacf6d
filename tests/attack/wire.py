# SPDX-License-Identifier: MIT
"""What an attacker knows of the wire: handshake messages, frames, and a proxy that gets between two ranks.

The handshake as transport/auth.c has it, frames as transport/tcp/frame.h, payloads as transport/tcp/hello.c.
"""

import hashlib
import os
import re
import socket
import struct
import threading

HELLO, CHALLENGE, PROOF, WELCOME = 1, 2, 3, 4
STORE, TCP, SHM = 1, 2, 3
HEADER = 10


def message(kind_of_message, kind, body):
    return b"RNDO" + struct.pack(">HBBH", 2, kind_of_message, kind, len(body)) + body


def job_key(secret):
    """As ranks derive it from the text of their key file."""
    return hashlib.blake2b(secret, key=b"rondo job key, version 1", digest_size=32).digest()


def receive_exactly(s, n):
    data = b""
    while len(data) < n:
        more = s.recv(n - len(data))
        if not more:
            raise ConnectionError("closed")
        data += more
    return data


def receive_message(s):
    head = receive_exactly(s, HEADER)
    return head + receive_exactly(s, struct.unpack(">H", head[8:])[0])


class Keyed:
    """A peer that knows the key: the connector's side of the handshake. `reply` is the acceptor's answer."""

    def __init__(self, port, kind, key, hello, timeout=5):
        self.key, self.t = key, bytes(32)
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.say(message(HELLO, kind, os.urandom(32) + hello))
        self.extend(receive_message(self.socket))
        head = message(PROOF, kind, bytes(32))[:HEADER]
        self.say(head + self.mac(b"C", head))
        self.reply = receive_message(self.socket)[HEADER:-32]

    def extend(self, data):
        self.t = hashlib.blake2b(self.t + data, digest_size=32).digest()

    def mac(self, label, data):
        return hashlib.blake2b(label + self.t + data, key=self.key, digest_size=32).digest()

    def say(self, data):
        self.socket.sendall(data)
        self.extend(data)


def tcp_hello(to, sender=None, comm=None, channel=0, epoch=0, path=0, paths=1, slots=8, max_msg=1 << 18, flags=0):
    comm = int.from_bytes(os.urandom(8), "little") if comm is None else comm
    session = int.from_bytes(os.urandom(8), "little")
    return struct.pack("<BBQIIIQIIHHIIHB", 1, flags, comm, 1 - to if sender is None else sender, to, channel, session,
                       epoch, 1, path, paths, slots, max_msg, 0, 4) + b"evil"


def frame(kind, seq=0, length=0, aux=0, tag=0, epoch=0, flags=0):
    return struct.pack("<HBBIQIIQ", 0x6e52, kind, flags, epoch, seq, length, aux, tag)


# ---- In the middle -------------------------------------------------------------------------------

ADDRESS = re.compile(rb"\x04.\x08\x01(..)\0\0\0\0\x7f\0\0\x01", re.DOTALL)   # see rdi_tcp_blob_write()


class Connection:
    """One connection through a proxy, and all that was said on it: said[0] by the connector, said[1] by the other."""

    def __init__(self, port):
        self.port = port              # of the one that was connected to
        self.said = [b"", b""]
        self.sockets = []


class Proxy:
    """Forwards to a port. `alter(connection, direction, data)` may change what passes; None ends the connection."""

    def __init__(self, port, alter=None, on_connection=None):
        self.target, self.alter = port, alter
        self.connections = [] if on_connection is None else on_connection
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                a, _ = self.listener.accept()
            except OSError:
                return
            try:
                b = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                a.close()
                continue
            c = Connection(self.target)
            c.sockets = [a, b]
            for s in c.sockets:
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections.append(c)
            for direction in range(2):
                threading.Thread(target=self.forward, args=(c, direction), daemon=True).start()

    def forward(self, c, direction):
        source, to = c.sockets[direction], c.sockets[1 - direction]
        try:
            while True:
                data = source.recv(1 << 16)
                if not data:
                    break
                if len(c.said[direction]) < 1 << 20:
                    c.said[direction] += data
                if self.alter is not None:
                    data = self.alter(c, direction, data)
                    if data is None:
                        break
                to.sendall(data)
        except OSError:
            pass
        for s in (source, to):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        # shutdown() wakes the accepting thread, close() alone would not.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for c in self.connections:
            for s in c.sockets:
                s.close()


class Middle:
    """Gets between the ranks of a job: what rank 0's store says and hears of ports of loopback addresses is changed to
    ports of proxies. Ranks other than 0 are to meet at `port`. `alter` sees data and the watch's connections."""

    def __init__(self, store_port, alter=None):
        self.alter, self.lock = alter, threading.Lock()
        self.proxies, self.own = {}, set()
        self.data = []   # connections between ranks
        self.store = Proxy(store_port, self.rewrite)
        self.port = self.store.port

    def proxy_for(self, port):
        with self.lock:
            if port in self.own:
                return port
            if port not in self.proxies:
                self.proxies[port] = Proxy(port, self.alter, self.data)
                self.own.add(self.proxies[port].port)
            return self.proxies[port].port

    def rewrite(self, _connection, _direction, data):
        def replace(m):
            port = self.proxy_for(int.from_bytes(m.group(1), "little"))
            return m.group(0)[:4] + port.to_bytes(2, "little") + m.group(0)[6:]
        return ADDRESS.sub(replace, data)

    def close(self):
        for p in [self.store, *self.proxies.values()]:
            p.close()


def handshake_end(said):
    """Bytes of the connector's two messages; None: not all there."""
    at = 0
    for _ in range(2):
        if len(said) < at + HEADER:
            return None
        at += HEADER + struct.unpack(">H", said[at + 8:at + 10])[0]
    return at if len(said) >= at else None


MIDDLE_ENV = {"RONDO_TRANSPORT": "tcp", "RONDO_INTERFACE": "lo", "RONDO_FAMILY": "ipv4"}


def ranks_with_middle(job, middle, *args, **env):
    """Two ranks, by hand, of which rank 1 meets rank 0 through the middle."""
    job.rank(0, 2, *args, **{**MIDDLE_ENV, **env})
    job.rank(1, 2, *args, **{**MIDDLE_ENV, "MASTER_PORT": middle.port, **env})
