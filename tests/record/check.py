#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The recorder from outside: dumps, rondo-top, metrics and traces of real ranks.

    check.py --rondo-run FILE --rank FILE [--rondo-top FILE] [--train-gpt FILE] TEST...
"""

import sys

sys.dont_write_bytecode = True

import argparse
import json
import os
import random
import re
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import prometheus  # noqa: E402


class Programs:
    rondo_run = rank = rondo_top = train_gpt = None
    slow = 1


def expect(condition, *words):
    if not condition:
        raise AssertionError(" ".join(str(w) for w in words))


def skip(why):
    print(why)
    sys.exit(77)


def free_ports(n):
    """The first of so many in a row, below those that the system gives to others meanwhile."""
    while True:
        port = random.randrange(10240, 20000)
        try:
            for i in range(n):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", port + i))
            return port
        except OSError:
            continue


class Job:
    """Ranks under rondo-run; what they say is in a file."""

    def __init__(self, n, *arguments, options=(), program=None, **env):
        self.folder = tempfile.mkdtemp(prefix="rondo-record-")
        self.path = os.path.join(self.folder, "out")
        self.dir = os.path.join(self.folder, "d")
        os.mkdir(self.dir)
        self.n = n
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RONDO_")}
        environment.update({k: str(v) for k, v in env.items()})
        options = [o.replace("DIR", self.dir) for o in options]
        arguments = [str(a).replace("DIR", self.dir) for a in arguments]
        with open(self.path, "wb") as out:
            self.process = subprocess.Popen(
                [Programs.rondo_run, "-n", str(n), *options, program or Programs.rank, *arguments],
                env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    @property
    def text(self):
        with open(self.path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def until(self, condition, limit=20, what="the job"):
        end = time.monotonic() + limit * Programs.slow
        while not (result := condition()):
            expect(time.monotonic() < end, "waited too long for", what, "\n" + self.text)
            time.sleep(0.02)
        return result

    def ready(self):
        """pids by rank"""
        found = self.until(lambda: (m := re.findall(r"^(?:\[(\d+)\] )?ready (\d+)$", self.text, re.M))
                           and len(m) == self.n and m, what="ready")
        return {int(rank or 0): int(pid) for rank, pid in found}

    def wait(self, code=0, limit=60):
        try:
            got = self.process.wait(limit * Programs.slow)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("still running\n" + self.text) from None
        expect(code is None or got == code, "exit code", got, "and not", code, "\n" + self.text)
        return self.text

    def files(self, what):
        return sorted(os.path.join(self.dir, f) for f in os.listdir(self.dir) if f.startswith(f"rondo-{what}."))

    def dumps(self):
        """by rank; a file that is there is whole"""
        found = {}
        for path in self.files("dump"):
            expect(os.stat(path).st_mode & 0o777 == 0o600, path, oct(os.stat(path).st_mode))
            with open(path, encoding="utf-8") as f:
                dump = json.load(f)
            found[dump["rank"]] = dump
        return found


def top(*arguments, code=0):
    if Programs.rondo_top is None:
        skip("rondo-top was not built")
    p = subprocess.run([Programs.rondo_top, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       timeout=60, check=False, text=True)
    expect(p.returncode == code, "rondo-top", *arguments, "gives", p.returncode, p.stdout, p.stderr)
    return p.stdout if code == 0 else p.stderr


def view(*arguments):
    return json.loads(top("--json", *arguments))


# ---- Dumps ----------------------------------------------------------------------------------------


def test_timeout():
    """a rank that does not call: everybody writes its state, and the files name that rank"""
    for wire in ("shm", "tcp"):
        job = Job(4, "late", 2, 1500, 1000, options=("--dump", "DIR"), RONDO_TRANSPORT=wire)
        job.wait(code=3)
        dumps = job.dumps()
        expect(set(dumps) >= {0, 1, 3}, "dumps of", sorted(dumps), job.text)
        for rank in (0, 1, 3):
            d = dumps[rank]
            expect(d["format"] == "rondo-dump 1" and d["cause"] == "failure" and d["whole"], d)
            failure = d["failures"][-1]
            expect(failure["status"] == "RONDO_ERR_TIMEOUT" and "did not finish" in failure["error"], failure)
            active, = failure["active"]
            expect(active["op"] == "all_reduce" and active["count"] == 1000 and active["bytes"] == 4000
                   and active["type"] == "float" and active["redop"] == "sum" and active["state"] == "started", active)
            for_whom = {w["rank"] for w in active["waits"] if w["for_peer"]}
            expect(2 in for_whom, "rank", rank, "waits for", for_whom)
            expect({e["wire"] for e in failure["edges"]} <= {wire, "none"}, failure["edges"])
            # barrier, ten all_reduce, and the one that failed
            recent = d["communicators"][0]["recent"]
            expect([o["seq"] for o in recent] == list(range(12)), recent)
            expect([o["op"] for o in recent] == ["barrier"] + 11 * ["all_reduce"], recent)
            for o in recent[1:-1]:
                expect(o["state"] == "done" and o["sent"] > 0 and o["received"] > 0 and o["messages"] > 0, o)
                expect(o["submitted"] <= o["started"] <= o["first_message"] <= o["last_message"] <= o["finished"], o)
            expect(recent[-1]["state"] in ("failed", "started"), recent[-1])
        verdict = view(job.dir)["verdict"]
        expect(verdict["culprit"] == 2 and verdict["reason"] in ("not_called", "late", "not_seen"), verdict)
        expect("rank 2" in top(job.dir), top(job.dir))
        # The late rank's own dump is not needed.
        verdict = view(*[f for f in job.files("dump") if ".2." not in f])["verdict"]
        expect(verdict["culprit"] == 2 and verdict["reason"] == "not_seen", verdict)


def test_signal():
    """SIGUSR1 gives a dump, if it is asked for and the program does not use that signal itself"""
    job = Job(2, "work", 30, 1000, options=("--dump", "DIR"))
    pids = job.ready()
    for _ in range(2):
        os.kill(pids[1], signal.SIGUSR1)
        dump = job.until(lambda: job.dumps().get(1), what="the dump")
        expect(dump["cause"] == "signal" and dump["pid"] == pids[1] and set(job.dumps()) == {1}, dump)
        os.unlink(job.files("dump")[0])
    job.process.send_signal(signal.SIGUSR1)   # rondo-run passes it on
    job.until(lambda: len(job.dumps()) == 2, what="both dumps")
    job.process.send_signal(signal.SIGTERM)
    job.wait(code=None)

    job = Job(2, "work", 1.5, 1000, options=("--dump", "DIR"), OWN_HANDLER=1)
    os.kill(job.ready()[0], signal.SIGUSR1)
    expect("[0] signals 1\n" in job.wait() and not job.files("dump"), job.text)

    job = Job(2, "work", 1.5, 1000)
    os.kill(job.ready()[0], signal.SIGUSR1)   # as a program without the library: it dies
    job.wait(code=128 + signal.SIGUSR1)


def test_calls():
    """rondo_dump(), rondo_trace_start() and rondo_trace_stop()"""
    job = Job(2, "calls", "DIR")
    job.wait()
    for rank in range(2):
        with open(os.path.join(job.dir, f"dump.{rank}.json"), encoding="utf-8") as f:
            d = json.load(f)
        expect(d["rank"] == rank and d["cause"] == "call" and d["whole"], d)
        c, = d["communicators"]
        expect(c["size"] == 2 and c["status"] == "RONDO_OK" and c["error"] == "" and c["calls"] == 21, c)
        events = trace(os.path.join(job.dir, f"trace.{rank}.json"))
        begins = [e for e in events if e["ph"] == "b"]
        expect(len(begins) == 5 and all(e["name"] == "all_reduce" for e in begins), begins)
        expect(not [f for f in os.listdir(job.dir) if ".tmp" in f], os.listdir(job.dir))


def test_options():
    """what an option asks for and cannot be done is an error that says why"""
    port = free_ports(2)
    taken = socket.socket()
    taken.bind(("127.0.0.1", port))
    taken.listen()
    for name, value, words in (
            ("DUMP", "/nowhere/at/all/", ("/nowhere/at/all/", "make the folder")),
            ("TRACE", "/nowhere/at/all/", ("/nowhere/at/all/",)),
            ("METRICS", "9a", ("metrics=9a", "unix:/path")),
            ("METRICS", "0", ("1 to 65535",)),
            ("METRICS", "65535", ("65536",)),
            ("METRICS", port, (f"port {port}", "in use")),
            ("METRICS", "unix:relative", ("absolute",)),
            ("METRICS", "unix:/tmp/x", ("%r", "2 ranks")),
            ("METRICS", "unix:/" + 120 * "x", ("shorter",))):
        text = Job(2, "work", 0.1, 10, **{f"RONDO_{name}": value}).wait(code=3)
        said = [line for line in text.splitlines() if "rondo_init failed" in line]
        expect(any(all(w in line for w in words) for line in said), name, value, "says", text)
    taken.close()
    # Prefix and relative names; no recorder.
    job = Job(1, "work", 0.1, 10, RONDO_TRACE=os.path.join(tempfile.mkdtemp(), "mine-"))
    job.wait()
    job = Job(2, "work", 0.5, 10, RONDO_RECORD=0)
    pids = job.ready()
    expect("neither a job" in top("--once", pids[0], code=1), "record=0 is seen")
    job.wait()


# ---- rondo-top ------------------------------------------------------------------------------------


def test_late():
    """rondo-top names the rank that does not call, also through another communicator"""
    job = Job(4, "late", 1, 30000, 100000)
    pids = job.ready()
    time.sleep(2.0 * Programs.slow)
    for what in (pids[3], job.process.pid):
        v = view(what)
        expect(v["size"] == 4 and [r["rank"] for r in v["ranks"]] == [0, 1, 2, 3], v)
        expect(v["verdict"]["culprit"] == 1 and v["verdict"]["reason"] == "not_called", v["verdict"])
        expect(v["verdict"]["waiting"] == 3 and v["verdict"]["seconds"] > 1, v["verdict"])
        expect("has not called all_reduce no. 11" in v["verdict"]["text"] and f"pid {pids[1]}" in v["verdict"]["text"], v)
        expect(v["ranks"][1]["operation"] is None and v["ranks"][0]["operation"]["seq"] == 11, v)
    name = view(pids[0])["job"]
    expect(view(name)["verdict"]["culprit"] == 1, "by name")
    expect(name in top("--list"), "--list")
    text = top(name)
    expect(re.search(r"^ +1 +%d .* outside " % pids[1], text, re.M), text)
    expect(re.search(r"^ +0 +%d .* waiting .*all_reduce .* 11 .* for rank \d" % pids[0], text, re.M), text)
    # All of it in files, taken without a signal.
    expect("4 of the job's 4 ranks" in top("--dump", job.dir, name), "--dump")
    expect(view(job.dir)["verdict"]["culprit"] == 1 and len(job.dumps()) == 4, job.files("dump"))
    job.process.send_signal(signal.SIGTERM)
    job.wait(code=None)

    job = Job(4, "chain", 2, 30000)
    pids = job.ready()
    time.sleep(2.0 * Programs.slow)
    v = view(pids[0])["verdict"]
    expect(v["culprit"] == 2 and v["waiting"] == 3, v)
    job.process.send_signal(signal.SIGTERM)
    job.wait(code=None)
    expect("neither a job" in top(pids[0], code=1), "a job that is gone is seen")


def test_stopped():
    """a rank that is stopped does not answer; rondo-top says what it is"""
    job = Job(3, "work", 60, 1000, RONDO_STOP_GRACE="60s")
    pids = job.ready()
    v = view(pids[0])
    expect(v["verdict"]["reason"] == "nobody_waits" and v["verdict"]["culprit"] == -1, v)
    expect(all(r["answered"] and r["whole"] for r in v["ranks"]), v)
    expect(any(r["bytes"]["sent_per_s"] > 0 for r in v["ranks"]), v)
    os.kill(pids[1], signal.SIGSTOP)
    time.sleep(1.5 * Programs.slow)
    v = view(pids[0])
    expect(v["verdict"]["culprit"] == 1 and v["verdict"]["reason"] == "no_answer", v["verdict"])
    expect("stopped" in v["verdict"]["text"] and f"pid {pids[1]}" in v["verdict"]["text"], v)
    expect(re.search(r"^ +1 +%d .* stopped " % pids[1], top(pids[0]), re.M), top(pids[0]))
    os.kill(pids[1], signal.SIGCONT)
    job.until(lambda: view(pids[0])["verdict"]["culprit"] == -1, what="the job to go on")
    job.process.send_signal(signal.SIGTERM)
    job.wait(code=None)


def test_stuck():
    """with the engine stuck in its owner's hands the rings still tell the operation"""
    job = Job(2, "late", 1, 1500, 1000, STUCK=0)
    pids = job.ready()
    job.until(lambda: "stuck in" in job.text, what="the slow log")
    seen = job.until(lambda: [r for r in view(pids[0])["ranks"] if r["rank"] == 0 and r["answered"]],
                     what="an answer")[0]
    expect(not seen["whole"] and seen["operation"]["op"] == "all_reduce" and seen["operation"]["seq"] == 11, seen)
    job.wait(code=3)


def test_straggler():
    """the rank that comes last most of the time"""
    job = Job(3, "slow", 2, 40)
    pids = job.ready()
    time.sleep(1.2 * Programs.slow)
    s = view(pids[0])["straggler"]
    expect(s["rank"] == 2 and s["last"] * 2 > s["of"] >= 8 and s["late_s"] > 0.005, s)
    job.process.send_signal(signal.SIGTERM)
    job.wait(code=None)


def test_bad_input():
    """files that are no dumps, and other arguments that cannot be"""
    folder = tempfile.mkdtemp()

    def file(name, text):
        path = os.path.join(folder, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path
    job = Job(2, "calls", "DIR")
    job.wait()
    with open(os.path.join(job.dir, "dump.0.json"), encoding="utf-8") as f:
        good = f.read()
    for text, words in (
            ("", "empty"), ("{", "line 1"), ("[]", "no dump"), ("{\"format\": \"rondo-dump 2\"}", "rondo-dump 1"),
            (good[:-200], "line"), (good.replace("\"rank\": 0", "\"rank\": -5", 1), "no rank"),
            (good.replace("\"rank\": 0", "\"rank\": 99999999", 1), "no rank"),
            ("{\"a\":" * 5000, "line"), (good.replace("rondo-dump 1", "x" * 3000), "no dump")):
        error = top(file("x.json", text), code=1)
        expect(error.count("\n") == 1 and words in error, repr(text[:40]), "says", error)
    # What a terminal would take for a command is not printed.
    odd = good.replace("\"host\": \"", "\"host\": \"\\u001b[2J", 1).replace("\"error\": \"\"", "\"error\": \"a\\u0007\"", 1)
    expect("\033" not in top(file("odd.json", odd)) and "\a" not in top(file("odd.json", odd)), "control characters")
    expect("another job" in top(file("a.json", good), file("b.json", good.replace("\"job\": \"", "\"job\": \"z", 1)),
                                code=1), "two jobs")
    random.seed(7)
    for i in range(200):   # nothing but an error or a screen, whatever the bytes
        at = random.randrange(len(good))
        bad = good[:at] + random.choice(["", "x", "-1", "\"", "}", "9" * 20, "null"]) + good[at + random.randrange(20):]
        p = subprocess.run([Programs.rondo_top, file("bad.json", bad)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           check=False)
        expect(p.returncode in (0, 1), "exit code", p.returncode, "of", bad, p.stderr)
    for arguments, code, words in (
            (["--bogus"], 2, "bogus"), (["-d", "0"], 2, "0.1"), (["nosuchjob"], 1, "nosuchjob"), (["1"], 1, "neither"),
            (["--merge", "-"], 2, "traces"), ([folder], 1, "no file rondo-dump"), ([os.path.join(folder, "missing")], 1, "No such"),
            (["--dump", folder, "nosuchjob"], 1, "nosuchjob")):
        expect(words in top(*arguments, code=code), arguments)
    expect("usage:" in top("--help") and re.match(r"rondo-top \d", top("--version")), "--help")


def test_strangers():
    """the view is for its user alone, read-only, and patient with nobody"""
    job = Job(1, "work", 8, 100)
    pid = job.ready()[0]
    with open("/proc/net/unix", encoding="utf-8") as f:
        name = re.search(r"@(rondo-top\.\S*\.%d\.\S*)$" % pid, f.read(), re.M).group(1)

    def dial():
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(5 * Programs.slow)
        s.connect("\0" + name)
        return s

    def ask(letter):
        with dial() as s:
            s.sendall(letter)
            text = b""
            while (piece := s.recv(65536)):
                text += piece
            return text
    expect(json.loads(ask(b"t"))["pid"] == pid and json.loads(ask(b"d"))["pid"] == pid, "an answer")
    expect(ask(b"x") == b"" and ask(b"GET / HTTP/1.0\r\n\r\n") == b"", "others get none")
    held = [dial() for _ in range(40)]   # say nothing: they are dropped, and meanwhile room is found again
    time.sleep(2.5 * Programs.slow)
    expect(json.loads(ask(b"t"))["pid"] == pid, "after silent ones")
    for s in held:
        s.close()
    with dial() as s:   # does not read
        s.sendall(b"d")
        expect(json.loads(ask(b"t"))["pid"] == pid, "beside a slow one")
    if os.geteuid() == 0:   # as another user
        child = os.fork()
        if child == 0:
            os.setuid(65534)
            try:
                os._exit(1 if ask(b"t") else 0)
            except OSError:
                os._exit(0)
        expect(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "another user was answered")
    os.kill(pid, signal.SIGKILL)
    job.wait(code=128 + 9)
    with open("/proc/net/unix", encoding="utf-8") as f:
        expect(name not in f.read(), "the name is left behind")


# ---- Metrics --------------------------------------------------------------------------------------


def get(port, path="/metrics"):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as r:
        expect(r.headers["Content-Type"].startswith("text/plain; version=0.0.4"), r.headers)
        return r.read().decode()


def test_metrics():
    """counters for Prometheus, at a port and at a path"""
    port = free_ports(3)
    job = Job(3, "work", 30, 50000, RONDO_METRICS=port, RONDO_TRANSPORT="tcp")
    job.ready()
    time.sleep(0.5)
    before = {}
    for turn in range(2):
        for rank in range(3):
            samples = prometheus.check(get(port + rank))
            mine = {"rank": str(rank)}
            for name in ("operations_total", "received_bytes_total", "messages_sent_total"):
                value = samples[prometheus.key(f"rondo_{name}", mine)]
                expect(value > before.get((name, rank), 0), name, value, before)
                before[name, rank] = value
            expect(samples[prometheus.key("rondo_sent_bytes_total", {**mine, "wire": "tcp"})] > 0, samples)
            expect(samples[prometheus.key("rondo_sent_bytes_total", {**mine, "wire": "shm"})] == 0, samples)
            count = samples[prometheus.key("rondo_operation_seconds_count", {**mine, "op": "all_reduce"})]
            expect(count > 0, samples)
        time.sleep(0.3)
    for path, code in (("/other", 404), ("/metricsx", 404)):
        try:
            get(port, path)
            raise AssertionError(path)
        except urllib.error.HTTPError as e:
            expect(e.code == code, e.code)
    for text, words in ((b"POST /metrics HTTP/1.0\r\n\r\n", b"405"), (b"\r\n\r\n", b"405"), (5000 * b"x", b"405")):
        with socket.create_connection(("127.0.0.1", port), 5) as s:
            s.sendall(text)
            expect(words in s.recv(4096), text[:20])
    job.process.send_signal(signal.SIGTERM)
    job.wait(code=None)

    job = Job(2, "work", 2.5, 100, RONDO_METRICS="unix:" + tempfile.mkdtemp() + "/m.%r")
    job.ready()
    with open(f"/proc/{job.ready()[1]}/environ", "rb") as f:
        path = re.search(rb"RONDO_METRICS=unix:([^\0]*)", f.read()).group(1).decode().replace("%r", "1")
    expect(os.stat(path).st_mode & 0o777 == 0o600, oct(os.stat(path).st_mode))
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(5 * Programs.slow)
        s.connect(path)
        s.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        text = b""
        while (piece := s.recv(65536)):
            text += piece
    head, _, body = text.decode().partition("\r\n\r\n")
    expect("200 OK" in head and int(re.search(r"Content-Length: (\d+)", head)[1]) == len(body), head)
    samples = prometheus.check(body)
    expect(samples[prometheus.key("rondo_sent_bytes_total", {"rank": "1", "wire": "shm"})] > 0, samples)
    job.wait()
    expect(not os.path.exists(path), "the socket is left behind")


def test_checker():
    """the checker of the format finds what is wrong"""
    good = ("# HELP a_total Text.\n# TYPE a_total counter\na_total{x=\"1\"} 3\n"
            "# HELP h Text.\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3.5\nh_count 2\n")
    prometheus.check(good)
    for old, new in (("a_total{x=\"1\"} 3", "a_total{x=\"1\"} three"), ("counter", "count"), ("} 2", "} 0"),
                     ("h_count 2", "h_count 3"), ("{x=\"1\"}", "{x=1}"), ("{x=\"1\"}", "{1x=\"1\"}"),
                     ("# TYPE h histogram\n", ""), ("h_sum 3.5\n", ""), ("le=\"+Inf\"", "le=\"2\""),
                     ("# HELP h Text.", "# HELP a_total Text."), ("h_count 2\n", "h_count 2"),
                     ("a_total{x=\"1\"} 3\n", "a_total{x=\"1\"} 3\na_total{x=\"1\"} 4\n"), ("a_total{x=\"1\"} 3", "a_total -1")):
        expect(old in good, old)
        try:
            prometheus.check(good.replace(old, new, 1))
        except prometheus.Wrong:
            continue
        raise AssertionError(f"{old!r} -> {new!r} was not found")


# ---- Traces ---------------------------------------------------------------------------------------


def trace(path):
    """Events, after checks that hold for all of them."""
    expect(os.stat(path).st_mode & 0o777 == 0o600, path, oct(os.stat(path).st_mode))
    with open(path, encoding="utf-8") as f:
        events = json.load(f)
    open_slices, stacks = {}, {}
    for e in events:
        expect(isinstance(e["pid"], int) and isinstance(e["tid"], int) and e["name"], e)
        if e["ph"] in "be":
            key = (e["pid"], e["cat"], e["id"])
            open_slices[key] = open_slices.get(key, 0) + (1 if e["ph"] == "b" else -1)
            expect(open_slices[key] in (0, 1), "asynchronous slices do not pair", e)
        elif e["ph"] == "X":
            stacks.setdefault((e["pid"], e["tid"]), []).append((e["ts"], e["ts"] + e["dur"]))
            expect(e["dur"] >= 0, e)
    for track, slices in stacks.items():
        slices.sort()
        for (_, end), (begin, _) in zip(slices, slices[1:]):
            expect(begin >= end - 0.0015, "slices overlap on track", track, begin, end)
    names = {(e["pid"], e["tid"]) for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    expect({(e["pid"], e["tid"]) for e in events if e["ph"] != "M"} <= names, "a track has no name")
    return events


def arrows(events):
    sent = {e["id"]: e["ts"] for e in events if e["ph"] == "s"}
    got = {e["id"]: e["ts"] for e in events if e["ph"] == "f"}
    return sent, got


def test_trace():
    """training: steps, buckets, operations, messages; every arrow has two ends, the later one later"""
    if Programs.train_gpt is None:
        skip("train_gpt was not built")
    job = Job(3, "--steps", 5, "--quiet", "--layers", 1, "--dim", 32, "--eval-every", 0, program=Programs.train_gpt,
              options=("--trace", "DIR"))
    job.wait()
    files = job.files("trace")
    expect(len(files) == 3, files)
    for path in files:
        events = trace(path)
        count = {}
        for e in events:
            count[e["ph"], e["name"]] = count.get((e["ph"], e["name"]), 0) + 1
        expect(count["X", "backward"] == 5 and count["X", "wait for gradients"] == 5, count)
        expect(count["X", "optimizer, forward"] == 4 and count["b", "bucket"] >= 5, count)
        expect(count["b", "all_reduce"] == count["e", "all_reduce"] >= 5 and count["X", "send"] > 0, count)
        end = events[-1]
        expect(end["name"] == "rondo_end" and end["args"]["dropped"] == 0, end)
    out = os.path.join(job.folder, "all.json")
    top("--merge", out, *files)
    with open(out, encoding="utf-8") as f:
        events = json.load(f)
    expect({e["pid"] for e in events} == {0, 1, 2}, "ranks")
    sent, got = arrows(events)
    expect(len(sent) > 20 and set(sent) == set(got), len(sent), len(got), set(sent) ^ set(got))
    expect(all(got[i] >= sent[i] for i in sent), "arrows go back in time")

    # Another machine's clocks: shifted by the difference of their wall clocks.
    with open(files[1], encoding="utf-8") as f:
        text = f.read()
    clock = re.search(r'"boot": "([^"]*)", "unix_minus_monotonic_ns": (\d+)', text)
    other = text.replace(clock[0], f'"boot": "other", "unix_minus_monotonic_ns": {int(clock[2]) + 5000000000}')
    with open(os.path.join(job.folder, "other.json"), "w", encoding="utf-8") as f:
        f.write(other[:-40])   # and its end is missing
    top("--merge", out, files[0], os.path.join(job.folder, "other.json"))
    with open(out, encoding="utf-8") as f:
        events = json.load(f)
    sent, got = arrows(events)
    there = [got[i] - sent[i] for i in sent if i in got]
    expect(there and all(4e6 < abs(d) < 6e6 for d in there), there[:5])
    with open(os.path.join(job.folder, "bad.json"), "w", encoding="utf-8") as f:
        f.write("[\n{\"ph\": \"M\"},\nnonsense\n{}\n]\n")
    expect("line 3" in top("--merge", out, os.path.join(job.folder, "bad.json"), code=1), "nonsense")
    expect("No such" in top("--merge", out, "/nowhere/trace.json", code=1), "a missing file")


TESTS = {name[5:]: function for name, function in list(globals().items()) if name.startswith("test_")}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for option in ("rondo-run", "rank", "rondo-top", "train-gpt"):
        parser.add_argument(f"--{option}")
    parser.add_argument("--slow", type=float, default=1)
    parser.add_argument("tests", nargs="*", choices=[*TESTS, []])
    given = parser.parse_args()
    Programs.rondo_run, Programs.rank = given.rondo_run, given.rank
    Programs.rondo_top, Programs.train_gpt, Programs.slow = given.rondo_top, given.train_gpt, given.slow
    for test in given.tests or TESTS:
        began = time.monotonic()
        TESTS[test]()
        print(f"{test}: {TESTS[test].__doc__}: ok ({time.monotonic() - began:.1f} s)")
