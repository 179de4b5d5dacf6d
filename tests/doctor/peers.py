# SPDX-License-Identifier: MIT
"""Both ends of the test with another host: on one host, and between network namespaces."""

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import threading
import time

from tool import Programs, Report, Skipped, environment, expect, run


@contextlib.contextmanager
def key_file():
    with tempfile.NamedTemporaryFile("w") as f:     # mode 0600
        f.write(os.urandom(32).hex())
        f.flush()
        yield f.name


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


class Listener:
    """rondo-doctor --listen in the background."""

    def __init__(self, *arguments, env, tool=(), port=None):
        self.port = port or free_port()
        self.process = subprocess.Popen(
            [*tool, Programs.doctor, "--listen", "--port", str(self.port), "--json", "-", *arguments],
            env=environment(env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            encoding="utf-8")
        line = self.process.stderr.readline()
        expect("waits on port %d" % self.port in line, line)

    def end(self, code):
        output, errors = self.process.communicate(timeout=100)
        expect(self.process.returncode == code, "--listen ended with", self.process.returncode, output, errors)
        return Report(output)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def ask(host, code, env, *arguments, tool=()):
    output, _ = run("--only", "peer", "--peer", host, "--json", "-", *arguments, code=code, env=env, tool=tool)
    return Report(output)


# ---- One host -------------------------------------------------------------------------------------


def talk():
    with key_file() as key:
        env = {"RONDO_KEY_FILE": key, "RONDO_INTERFACE": "lo", "RONDO_FAMILY": "ipv4"}
        for host in ("127.0.0.1:%d", "[::1]:%d", "localhost:%d"):
            with Listener(env=env) as there:
                # Somebody else comes first: nothing happens to the test.
                with socket.create_connection(("127.0.0.1", there.port)) as s:
                    s.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    result = ask(host % there.port, 0, env, "--transport", "tcp")
                waited = there.end(0)
            waited.find("peer.connect", "ok", "all ways work")
            waited.find("peer.connect", "info", "connected and was dropped", "does not speak Rondo's protocol")
            result.find("peer.clock", "ok", "round trip")
            result.find("peer.path", "ok", "a job uses this pair", subject="127.0.0.1 -> 127.0.0.1")
            result.find("peer.mtu", "ok", "256 KiB")
            result.find("peer.speed", "ok", "GB/s")
            result.find("peer.link", "ok", "256 messages")
            paths = [f for f in result.json["findings"] if f["id"] == "peer.path"]
            expect(len(paths) == 2, "one way there and one back:", result.text)


def disagree():
    with key_file() as one, key_file() as two:
        with Listener(env={"RONDO_KEY_FILE": one}) as there:
            host = "127.0.0.1:%d" % there.port
            ask(host, 1, {"RONDO_KEY_FILE": two}).find("peer.connect", "error", "does not have this job's key",
                                                       "sha256sum")
            ask(host, 1, {"RONDO_AUTH": "none"}).find("peer.connect", "error", "different keys")
        with Listener("--timeout", "1", env={"RONDO_KEY_FILE": one}) as there:
            there.end(1).find("peer.connect", "error", "nobody with the key came within 1 s")
        # No key anywhere: neither end starts.
        ask("127.0.0.1", 1, {}).find("peer.connect", "error", "RONDO_KEY_FILE")
        output, _ = run("--listen", "--json", "-", code=1)
        Report(output).find("peer.connect", "error", "RONDO_KEY_FILE")


def fail():
    none = {"RONDO_AUTH": "none"}
    port = free_port()
    ask("127.0.0.1:%d" % port, 1, none).find("peer.connect", "error", "refused", "--listen")
    ask("no-such-host.invalid", 1, none).find("peer.connect", "error", "cannot be resolved", "MASTER_ADDR")
    # It accepts and says nothing; it speaks, but something else.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begin = time.monotonic()
        ask("127.0.0.1:%d" % silent.getsockname()[1], 1, none, "--timeout", 1).find(
            "peer.connect", "error", "no answer in time", "proxy")
        expect(time.monotonic() - begin > 0.9, "it did not wait")
    with socket.create_server(("127.0.0.1", 0)) as other:
        def answer():
            with other.accept()[0] as s:
                s.sendall(b"SSH-2.0-nothing\r\n")
                s.recv(4096)
        thread = threading.Thread(target=answer)
        thread.start()
        ask("127.0.0.1:%d" % other.getsockname()[1], 1, none, "--timeout", 5).find(
            "peer.connect", "error", "does not speak Rondo's protocol", "another program")
        thread.join()
    # The port is taken.
    with socket.create_server(("0.0.0.0", 0)) as taken:
        output, _ = run("--listen", "--port", taken.getsockname()[1], "--json", "-", code=1, env=none)
        Report(output).find("peer.connect", "error", "in use", "--port")
    # The other end dies in the middle of the test.
    env = {**none, "RONDO_INTERFACE": "lo", "RONDO_FAMILY": "ipv4"}
    with Listener(env=env) as there:
        asking = subprocess.Popen([Programs.doctor, "--only", "peer", "--peer", "127.0.0.1:%d" % there.port,
                                   "--json", "-", "--timeout", "5"], env=environment(env), encoding="utf-8",
                                  stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        time.sleep(0.5)     # a stream of one second flows now, or is about to
        there.process.kill()
        output, _ = asking.communicate(timeout=100)
        expect(asking.returncode == 1, output)
        expect(Report(output).worst("peer.connect") == 3 or Report(output).worst("peer.path") == 3, output)
    with Listener(env=env) as there:
        for seconds in (0.5, 2, 8, 30):     # on a busy machine it may not have got that far
            command = [Programs.doctor, "--only", "peer", "--peer", "127.0.0.1:%d" % there.port]
            asking = subprocess.Popen(command, env=environment(env), stdin=subprocess.DEVNULL,
                                      stdout=subprocess.DEVNULL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                asking.wait(seconds)
            asking.kill()
            asking.wait()
            with contextlib.suppress(subprocess.TimeoutExpired):
                there.process.wait(5)
                break
        expect("has ended" in there.end(1).text, "the end of the other one is not told")


def test_link():
    if not Programs.fake_verbs or not os.path.exists(os.path.join(Programs.fake_verbs, "libibverbs.so.1")):
        raise Skipped("tests/fake_verbs is not built: there is no RDMA device to test with")
    with tempfile.TemporaryDirectory() as folder:
        env = {"RONDO_AUTH": "none", "RONDO_INTERFACE": "lo", "LD_LIBRARY_PATH": Programs.fake_verbs}
        a = {**env, "FAKE_VERBS_DIR": folder, "FAKE_VERBS_HOST": "1"}
        b = {**env, "FAKE_VERBS_DIR": folder, "FAKE_VERBS_HOST": "2"}
        with Listener(env=a) as there:
            result = ask("127.0.0.1:%d" % there.port, 0, b, "--transport", "verbs")
            there.end(0)
        result.find("peer.link", "ok", "256 messages each way")
        # One of the two has no device.
        with Listener(env=env) as there:
            ask("127.0.0.1:%d" % there.port, 0, b).find("peer.link", "info", "not there", "another transport")
            there.end(0)
        with Listener(env=a) as there:
            ask("127.0.0.1:%d" % there.port, 1, env, "--transport", "verbs").find(
                "peer.link", "error", "at this end", "over verbs")
            there.end(0).find("peer.connect", "warning", "1 way failed")


def test_peer():
    talk()
    disagree()
    fail()


# ---- Several hosts --------------------------------------------------------------------------------


class Hosts:
    """Two network namespaces, joined by a bridge in a third."""

    def __init__(self, mtu=1500, middle=1500):
        self.name = "doctor%d" % os.getpid()
        if os.geteuid() != 0 or subprocess.call(["ip", "netns", "add", self.name + "-sw"],
                                                stderr=subprocess.DEVNULL) != 0:
            raise Skipped("network namespaces need root (and the kernel's permission)")
        self.ip("sw", "link", "add", "br0", "mtu", middle, "type", "bridge")
        self.ip("sw", "link", "set", "br0", "up")
        for h in "ab":
            subprocess.check_call(["ip", "netns", "add", self.name + "-" + h])
            self.ip(h, "link", "set", "lo", "up")
            self.ip(h, "link", "add", "eth0", "mtu", mtu, "type", "veth", "peer", "name", "p" + h,
                    "mtu", middle, "netns", self.name + "-sw")
            self.ip("sw", "link", "set", "p" + h, "master", "br0", "up")
            self.ip(h, "addr", "add", self.address(h) + "/24", "dev", "eth0")
            self.ip(h, "link", "set", "eth0", "up")

    @staticmethod
    def address(h):
        return "10.202.0.%d" % ("ab".index(h) + 1)

    def ip(self, h, *words):
        subprocess.check_call(["ip", "-n", self.name + "-" + h, *map(str, words)])

    def tool(self, h):
        return ("ip", "netns", "exec", self.name + "-" + h)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for h in ("a", "b", "sw"):
            subprocess.call(["ip", "netns", "del", self.name + "-" + h], stderr=subprocess.DEVNULL)

    def test(self, code, *arguments, between=None, listen_code=0):
        """b asks a."""
        none = {"RONDO_AUTH": "none"}
        with Listener(env=none, tool=self.tool("a"), port=29510) as there:
            if between:
                between()
            result = ask(self.address("a"), code, none, "--transport", "tcp", *arguments, tool=self.tool("b"))
            if listen_code is not None:
                there.end(listen_code)
        return result


    def firewall(self):
        """Host a lets in what is for the port of --listen, and drops what is for the ports of ranks."""
        self.ip("a", "rule", "add", "pref", 100, "lookup", "local")
        self.ip("a", "rule", "add", "pref", 10, "iif", "eth0", "ipproto", "tcp", "dport", "30000-60999",
                "blackhole")
        self.ip("a", "rule", "del", "pref", 0, "lookup", "local")


def test_paths():
    with Hosts() as hosts:
        result = hosts.test(0)
        there, back = "10.202.0.2 -> 10.202.0.1", "10.202.0.1 -> 10.202.0.2"
        for subject in (there, back):
            result.find("peer.path", "ok", "a job uses this pair", subject=subject)
            result.find("peer.mtu", "ok", "MTU 1500, 1448 bytes", subject=subject)
            result.find("peer.speed", "ok", subject=subject)
        result.find("peer.link", "ok", "256 messages")

        # MTUs that differ.
        hosts.ip("b", "link", "set", "eth0", "mtu", 1400)
        hosts.test(0).find("peer.mtu", "warning", "differ: 1400 and 1500", subject=there)
        hosts.ip("b", "link", "set", "eth0", "mtu", 1500)

        # Nobody has the address; the host forbids it; no answer comes, since the other host has no way back.
        ask("10.202.0.77", 1, {"RONDO_AUTH": "none"}, "--timeout", 5, tool=hosts.tool("b")).find(
            "peer.connect", "error", "No route to host", "ip route get")
        hosts.ip("b", "route", "add", "prohibit", "10.203.0.0/24")
        ask("10.203.0.1", 1, {"RONDO_AUTH": "none"}, tool=hosts.tool("b")).find(
            "peer.connect", "error", "Permission denied", "nft list ruleset")
        hosts.ip("a", "route", "add", "blackhole", "10.202.0.2/32")
        ask(hosts.address("a"), 1, {"RONDO_AUTH": "none"}, "--timeout", 1, tool=hosts.tool("b")).find(
            "peer.connect", "error", "no answer in time", "security group")
        hosts.ip("a", "route", "del", "blackhole", "10.202.0.2/32")

    # Only the port of --listen is open.
    with Hosts() as hosts:
        hosts.firewall()
        result = hosts.test(1, "--timeout", 1)
        result.find("peer.connect", "ok", "has the key")
        for subject in (there, back):
            result.find("peer.path", "warning", "no answer in time", "open TCP ports", subject=subject)
        result.find("peer.path", "error", "from here to there")

    # A switch that loses what is larger than its MTU, and tells nobody.
    with Hosts(mtu=9000, middle=1500) as hosts:
        for h in "ab":
            # Packets leave as they will be on the wire; a large one cut later would pass.
            hosts.ip(h, "link", "set", "eth0", "gso_max_segs", 1)
        result = hosts.test(1, "--timeout", 1, listen_code=None)
        result.find("peer.path", "warning", "small packets pass, large ones do not", "ping -M do",
                    subject="10.202.0.2 -> 10.202.0.1")
        result.find("peer.path", "error", "from here to there")
