# SPDX-License-Identifier: MIT
"""What a job leaves to be found: its key in memory, output, arguments and cores; files, when it is killed."""

import base64
import os
import random
import re
import resource
import signal
import subprocess
import time

from harness import Failed, Programs, Skipped, case, expect, name_of
from wire import job_key

CHUNK = 1 << 22


# ---- The key -----------------------------------------------------------------------------------------

def forms(text, secret=None):
    """How a key might be written, which is a file's text or these bytes: as it is, and as connections use it."""
    derived = job_key(text.encode() if secret is None else secret)
    raw = [derived]
    written = [text.encode()]
    if re.fullmatch("[0-9a-f]+", text):
        raw.append(bytes.fromhex(text))
    for b in raw:
        written += [b.hex().encode(), b.hex().upper().encode(), base64.b64encode(b)[:-4],
                    b.hex(" ").encode(), b.hex(":").encode(), b", ".join(b"0x%02x" % x for x in b)]
    # A part is enough to tell.
    return [r[:16] for r in raw] + [w[:24] for w in written]


def mappings(pid):
    """(from, to, whether a core would have it) of what can be read."""
    found, at = [], None
    with open(f"/proc/{pid}/smaps", encoding="ascii", errors="replace") as f:
        for line in f:
            m = re.match(r"([0-9a-f]+)-([0-9a-f]+) (r...)", line)
            if m:
                at = (int(m.group(1), 16), int(m.group(2), 16))
            elif re.match(r"[0-9a-f]+-", line):
                at = None
            elif at and line.startswith("VmFlags:"):
                found.append((*at, " dd" not in line))
    return found


def search(pid, needles, dumped):
    """Those of the needles that are in the process' memory: in what a core has, or in the rest."""
    found = set()
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as f:
        for begin, end, in_core in mappings(pid):
            if in_core != dumped or end - begin > 1 << 30:
                continue
            tail = b""
            for at in range(begin, end, CHUNK):
                try:
                    f.seek(at)
                    data = f.read(min(CHUNK, end - at))
                except OSError:   # a guard page, a device
                    break
                found |= {n for n in needles if n in tail + data}
                tail = data[-64:]
    return found


def inherited_key(pids):
    """What rondo-run hands to its ranks."""
    for pid in pids:
        with open(f"/proc/{pid}/environ", "rb") as f:
            m = re.search(rb"\0RONDO_KEY_FD=(\d+)\0", f.read())
        if m:
            with open(f"/proc/{pid}/fd/{int(m.group(1))}", "rb") as f:
                return f.read()
    raise Failed("no rank was given a key")


def kernel_dumps_core():
    with open("/proc/sys/kernel/core_pattern", encoding="ascii") as f:
        return f.read().strip() in ("core", "core.%p")


@case("traces")
def key_in_memory(new_job):
    """the key is in no memory that a core has, neither of ranks nor of rondo-run; nor in a core that the kernel writes"""
    job = new_job()
    needles = forms(job.keys[0])
    big = {resource.RLIMIT_CORE: resource.RLIM_INFINITY}
    env = {"RONDO_TRANSPORT": "tcp", "RONDO_INTERFACE": "lo"}
    job.ranks(2, "--seconds", 300, limits=big if kernel_dumps_core() else None, **env)
    run = job.run(2, Programs.rank, "--seconds", 300, **env)
    job.until("ready")
    ranks = [p.pid for p in job.processes[:2]]
    handed = [p for p in job.members() if p not in ranks]
    expect(len(handed) >= 3, f"rondo-run and its ranks are {len(handed)} processes")
    with open(f"/proc/{ranks[0]}/maps", encoding="ascii", errors="replace") as f:
        if "libasan" in f.read():
            raise Skipped("the sanitizer's build binds functions late, and what saves registers then leaves them on the stack")
    secret = inherited_key(handed)
    for pids, known in ((ranks, needles), (handed, forms(secret.hex(), secret))):
        for pid in pids:
            found = search(pid, known, dumped=True)
            expect(not found, f"{name_of(pid)} has a key where a core would have it: {[n[:4] for n in found]}")
        # The search would have found it.
        expect([p for p in pids if search(p, known, dumped=False)], "no process has the key at all")
    first = job.processes[0]
    if kernel_dumps_core():
        first.popen.send_signal(signal.SIGABRT)
        first.popen.wait(30)
        cores = [f for f in os.listdir(job.folder) if f.startswith("core")]
        expect(cores, "the kernel wrote no core")
        for name in cores:
            with open(os.path.join(job.folder, name), "rb") as f:
                data = f.read()
            expect(b"badinput_rank" in data, "the core is of another program")
            expect(not [n for n in needles if n in data], "the key is in the core")
    run.popen.send_signal(signal.SIGTERM)
    job.wait(30)


@case("traces")
def key_in_words(new_job):
    """the key is in no log line, error text, argument or environment, whatever goes wrong"""
    job = new_job()
    other = job.make_key("other")
    known = [n for text in job.keys for n in forms(text)]
    job.rank(0, 3, RONDO_CONNECT_TIMEOUT="3s")
    job.rank(1, 3, RONDO_CONNECT_TIMEOUT="3s", RONDO_KEY_FILE=other)
    job.rank(2, 3, RONDO_CONNECT_TIMEOUT="3s", RONDO_AUTH="none")
    short = job.make_key("short", text="tooshort")
    job.rank(1, 2, RONDO_KEY_FILE=short)
    open_to_all = job.make_key("open", mode=0o644)
    job.rank(1, 2, RONDO_KEY_FILE=open_to_all)
    run = job.run(2, Programs.rank, "--seconds", 2, options=("--verbose",), RONDO_KEY_FILE=job.key_file)
    time.sleep(0.5)
    seen = b""
    for pid in job.members():
        for what in ("cmdline", "environ"):
            try:
                with open(f"/proc/{pid}/{what}", "rb") as f:
                    seen += f.read()
            except OSError:
                continue
    expect(b"badinput_rank" in seen, "no command line was read")
    job.wait(30)
    expect(run.code == 0, f"rondo-run: exit code {run.code}")
    expect([p for p in job.processes if p.code == 3], "nothing went wrong")
    said = seen + "".join(p.text for p in job.processes).encode()
    expect(b"log 3" in said, "the ranks logged nothing")
    found = [n for n in known if n in said]
    expect(not found, f"a key was told: {[n[:4] for n in found]}")


# ---- Files -------------------------------------------------------------------------------------------

def files_of(job):
    """What there is besides what the case itself made."""
    found = []
    for folder, _, names in os.walk(job.folder):
        found += [os.path.join(folder, n) for n in names]
    return found


@case("traces")
def killed_anywhere(new_job):
    """whole jobs killed with SIGKILL at random moments: no file, socket, process or shared memory is left"""
    rng = random.Random()
    for transport in ("shm", "tcp"):
        for _ in range(4):
            job = new_job()
            before = set(os.listdir("/dev/shm"))
            known = set(files_of(job))
            env = {"RONDO_TRANSPORT": transport, "RONDO_INTERFACE": "lo", "TMPDIR": job.folder,
                   "XDG_RUNTIME_DIR": job.folder, "RONDO_CONNECT_TIMEOUT": "10s"}
            job.run(3, Programs.rank, "--seconds", 100, "--mem", **env)
            time.sleep(rng.uniform(0.0, 0.5))
            for pid in job.members():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            end = time.monotonic() + 10
            while job.members() and time.monotonic() < end:
                time.sleep(0.02)
            expect(not job.members(), f"still there: {[name_of(p) for p in job.members()]}")
            for p in job.processes:
                p.popen.wait()
                p.poll()
            left = [f for f in files_of(job) if f not in known and not os.path.basename(f).startswith("out.")]
            expect(not left, f"left behind: {left}")
            new = {f for f in set(os.listdir("/dev/shm")) - before if "rondo" in f and not f.startswith("rondo-peers")}
            expect(not new, f"left in /dev/shm: {new}")
            with open("/proc/net/unix", encoding="ascii", errors="replace") as f:
                sockets = [line for line in f if str(job.folder) in line]
            expect(not sockets, f"sockets are left: {sockets}")


@case("traces")
def killed_at_key(new_job):
    """processes killed while they make the key in the home directory leave the key or nothing, which a later one can use"""
    job = new_job()
    home = os.path.join(job.folder, "home")
    os.mkdir(home)
    folder = os.path.join(home, ".config", "rondo")
    env = job.environment(HOME=home, RONDO_KEY_FILE=None, RANK="1", WORLD_SIZE="2", LOCAL_RANK="1",
                          RONDO_CONNECT_TIMEOUT="10s")
    rng = random.Random()
    made = 0
    for _ in range(40):
        with subprocess.Popen([Programs.rank], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, cwd=job.folder) as p:
            # The folder is made just before the key.
            end = time.monotonic() + 10
            while not os.path.isdir(folder) and time.monotonic() < end:
                pass
            time.sleep(rng.uniform(0.0, 0.0005))
            p.kill()
        names = os.listdir(folder)
        expect(set(names) <= {"key"}, f"left behind: {names}")
        if names:
            made += 1
            path = os.path.join(folder, "key")
            expect(os.stat(path).st_size == 65, "half a key")
            expect(os.stat(path).st_mode & 0o777 == 0o600, "a key that others can read")
            os.unlink(path)
        os.rmdir(folder)
    print(f"    {made} of 40 came as far as making a key")
