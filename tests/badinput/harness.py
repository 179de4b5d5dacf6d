# SPDX-License-Identifier: MIT
"""Jobs to be spoiled: starts ranks, collects what they say and when, and sees that nothing is left."""

import os
import random
import re
import resource
import signal
import socket
import subprocess
import tempfile
import time
import uuid

SANITIZERS = re.compile(r"ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error:")


class Programs:
    rank = rondo_run = train_gpt = None   # absolute paths
    verbose = False


class Failed(Exception):
    """A case's finding."""


class Skipped(Exception):
    """Not possible on this machine."""


CASES = {}   # group -> [(name, function)]


def case(group):
    def add(function):
        CASES.setdefault(group, []).append((function.__doc__.strip(), function))
        return function
    return add


def free_port():
    """Below those that the system gives to others meanwhile."""
    while True:
        port = random.randrange(10240, 20000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


class Process:
    """A rank, or a launcher with its ranks, in a session of its own."""

    def __init__(self, job, name, command, env, limits):
        self.name, self.path = name, os.path.join(job.folder, f"out.{name}")

        def limit():
            for which, value in limits.items():
                resource.setrlimit(which, (value, value))
        self.began = time.monotonic()
        with open(self.path, "wb") as out:
            self.popen = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                          start_new_session=True, preexec_fn=limit, cwd=job.folder)
        self.pid = self.popen.pid
        self.ended = None

    @property
    def code(self):
        return self.popen.returncode

    @property
    def text(self):
        with open(self.path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def poll(self):
        if self.ended is None and self.popen.poll() is not None:
            self.ended = time.monotonic()
        return self.ended is not None

    @property
    def seconds(self):
        return self.ended - self.began


class Job:
    """Several processes that are to meet at one port with one key."""

    def __init__(self, folder):
        self.folder = tempfile.mkdtemp(prefix="job", dir=folder)
        self.port = free_port()
        self.mark = f"BADINPUT_JOB={uuid.uuid4()}"   # inherited by whatever the job starts
        self.processes = []
        self.keys = []
        self.key_file = self.make_key("key")
        self.shm_before = set(os.listdir("/dev/shm"))

    def make_key(self, name, text=None, mode=0o600):
        path = os.path.join(self.folder, name)
        text = os.urandom(24).hex() if text is None else text
        with open(path, "w", encoding="ascii") as f:
            f.write(text + "\n")
        os.chmod(path, mode)
        self.keys.append(text)
        return path

    def environment(self, **more):
        env = {k: v for k, v in os.environ.items()
               if not k.startswith("RONDO_") and k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")}
        env.update(HOME=self.folder, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(self.port), OMP_NUM_THREADS="1",
                   OPENBLAS_NUM_THREADS="1", RONDO_CONNECT_TIMEOUT="20s", RONDO_KEY_FILE=self.key_file)
        name, _, value = self.mark.partition("=")
        env[name] = value
        for name, value in more.items():
            if value is None:
                env.pop(name, None)
            else:
                env[name] = str(value)
        return env

    def start(self, name, command, limits=None, **env):
        p = Process(self, name, [str(c) for c in command], self.environment(**env), limits or {})
        self.processes.append(p)
        return p

    def rank(self, rank, size, *args, limits=None, wrap=(), **env):
        """One rank by hand, as any launcher would start it."""
        return self.start(str(rank), [*wrap, Programs.rank, *args], limits, RANK=rank, WORLD_SIZE=size,
                          LOCAL_RANK=rank, **env)

    def ranks(self, size, *args, **kw):
        return [self.rank(r, size, *args, **kw) for r in range(size)]

    def run(self, size, *command, options=(), **env):
        """The ranks by rondo-run, which makes a key of its own."""
        env.setdefault("RONDO_KEY_FILE", None)
        return self.start(f"run{len(self.processes)}", [Programs.rondo_run, "-n", size, *options, *command], **env)

    def wait(self, limit, processes=None):
        """Until all have ended. A process that has not by then is a hang."""
        end = time.monotonic() + limit * patience()
        waiting = list(self.processes if processes is None else processes)
        while [p for p in waiting if not p.poll()] and time.monotonic() < end:
            time.sleep(0.01)
        late = [p for p in waiting if not p.poll()]
        if late:
            raise Failed(f"still running after {limit} s: " + ", ".join(p.name for p in late))

    def until(self, pattern, limit=15, processes=None):
        """Until every process has said it."""
        end = time.monotonic() + limit * patience()
        for p in self.processes if processes is None else processes:
            while not re.search(pattern, p.text):
                if p.poll() or time.monotonic() > end:
                    raise Failed(f"{p.name} does not say \"{pattern}\"")
                time.sleep(0.01)

    def show(self):
        for p in self.processes:
            state = f"exit code {p.code} after {p.seconds:.1f} s" if p.poll() else "running"
            print(f"    --- {p.name}: {state}")
            print("".join(f"    {line}\n" for line in p.text.splitlines()[-20:]), end="")

    def close(self):
        """Ends what still runs; its names."""
        left = {pid: name_of(pid) for pid in self.members()}
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for p in self.processes:
            p.popen.wait()
            p.poll()
        return left

    def members(self):
        """Living processes that the job started, and those that they started, whatever their session."""
        found = []
        for name in os.listdir("/proc"):
            try:
                if name.isdigit():
                    with open(f"/proc/{name}/environ", "rb") as f:
                        if self.mark.encode() in f.read().split(b"\0"):
                            found.append(int(name))
            except OSError:   # gone, or not ours
                continue
        return found

    def check(self):
        """What must hold after every case."""
        for p in self.processes:
            if SANITIZERS.search(p.text):
                raise Failed(f"{p.name}: a sanitizer's finding")
            for key in self.keys:
                if len(key) >= 16 and (key in p.text or key[:12] in p.text):
                    raise Failed(f"{p.name} printed a key")
        # tests/peers, which may run meanwhile, keeps files of its own there.
        files = {f for f in set(os.listdir("/dev/shm")) - self.shm_before
                 if "rondo" in f and not f.startswith("rondo-peers")}
        if files:
            raise Failed(f"left in /dev/shm: {files}")


def patience():
    """Instrumented programs are slower by this much."""
    return float(os.environ.get("RONDO_TEST_PATIENCE", "1"))


# ---- What the system knows ---------------------------------------------------------------------------

LISTEN = "0A"


def tcp_sockets():
    """(state, local port, inode) of this network namespace's sockets."""
    for name in ("tcp", "tcp6"):
        try:
            with open(f"/proc/net/{name}", encoding="ascii") as f:
                rows = [line.split() for line in f.readlines()[1:]]
        except FileNotFoundError:
            continue
        for row in rows:
            yield row[3], int(row[1].rsplit(":", 1)[1], 16), row[9]


def name_of(pid):
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as f:
            return f.read().strip()
    except OSError:
        return "?"


def socket_inodes(pids):
    """The sockets that these processes have open."""
    inodes = set()
    for pid in pids:
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                link = os.readlink(f"/proc/{pid}/fd/{fd}")
                if link.startswith("socket:["):
                    inodes.add(link[8:-1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return inodes


def listening_ports(pids):
    """TCP ports that these processes listen on."""
    inodes = socket_inodes(pids)
    return sorted({port for state, port, inode in tcp_sockets() if state == LISTEN and inode in inodes})


def unix_listeners(pids, kind=socket.SOCK_SEQPACKET):
    """Addresses of Unix sockets that these processes listen on, as connect() takes them. SOCK_SEQPACKET: those of
    shared memory; SOCK_STREAM: the observer's."""
    inodes = socket_inodes(pids)
    found = []
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as f:
        for line in f.readlines()[1:]:
            fields = line.split()
            listens = int(fields[3], 16) & 0x10000
            if len(fields) == 8 and listens and int(fields[4], 16) == kind and fields[6] in inodes:
                found.append("\0" + fields[7][1:] if fields[7][0] == "@" else fields[7])
    return found


# ---- Findings ----------------------------------------------------------------------------------------

def expect(truth, text):
    if not truth:
        raise Failed(text)


def expect_error(p, *patterns, code=3, within=None):
    """The process ended with that code and says all patterns (of one line, so that it is one error)."""
    expect(p.code == code, f"{p.name}: exit code {p.code} instead of {code}")
    lines = p.text.splitlines()
    fit = [line for line in lines if all(re.search(x, line) for x in patterns)]
    expect(fit, f"{p.name}: no line says all of {patterns}")
    if code == 3 and p.name.isdigit():
        errors = [line for line in lines if re.match(r"rank -?\d+ failed at", line)]
        expect(len(errors) == 1, f"{p.name}: {len(errors)} errors instead of one")
    if within is not None:
        expect(p.seconds <= within * patience(), f"{p.name}: it took {p.seconds:.1f} s, more than {within} s")
    return fit[0]


def expect_ok(processes, ranks=None):
    for p in processes:
        expect(p.code == 0, f"{p.name}: exit code {p.code}")
        n = len(re.findall(r"rank \d+ ok after", p.text))
        expect(n == (ranks or 1), f"{p.name}: {n} ranks are all right instead of {ranks or 1}")
