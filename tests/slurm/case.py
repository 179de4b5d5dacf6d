# SPDX-License-Identifier: MIT
"""What is tried, by name; the text of each is what is expected."""

import json
import re
import shutil
import time

import cluster
import page


class Failed(Exception):
    pass


class Skipped(Exception):
    pass


def expect(truth, text):
    if not truth:
        raise Failed(str(text))


def need(tool, package):
    if not shutil.which(tool):
        raise Skipped(f"{tool} is not installed (Debian's package {package})")


def need_pmix(c):
    done = c.run("srun", "--mpi=list")
    if "pmix" not in done.stdout + done.stderr:
        raise Skipped("this Slurm has no PMIx")


# ---- What a case works with ----------------------------------------------------------------------

# A model so small that some hundred steps take a second.
TRAIN = ["--layers", 1, "--heads", 2, "--dim", 32, "--context", 16, "--batch", 16, "--bucket", 16]
ENDED = ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


class Case:
    """A folder to work in, as a user has it, and what is said there."""

    def __init__(self, here, o, name):
        self.here, self.o, self.log, self.left = here, o, "", []
        self.probe = o.build / "tests/bin/slurm_probe"
        self.folder = here.home / name
        self.folder.mkdir()
        (self.folder / "train_gpt").symlink_to(o.build / "train_gpt")
        (self.folder / "corpus.txt").symlink_to(page.ROOT / "ring/ring.h")

    def say(self, text):
        self.log += text
        if self.o.verbose:
            print(text, end="", flush=True)

    def run(self, *command, **more):
        """Runs it on the head, or `where`, to its end; what it said is shown when the case fails."""
        done = self.here.run(command, cwd=self.folder, **more)
        self.say(f"$ {' '.join(map(str, command))}\n{done.stdout}{done.stderr}(exit code {done.returncode})\n")
        return done

    def start(self, *command, **more):
        job = Job(self, command, more)
        self.left.append(job)
        return job

    def script(self, name):
        path = self.folder / name
        path.write_text(page.script(name), encoding="utf-8")
        path.chmod(0o755)
        return path

    def submit(self, *words):
        done = self.run("sbatch", "--parsable", "--output=%j.out", *words)
        expect(done.returncode == 0, "sbatch refused the script")
        return Batch(self, done.stdout.strip())

    def until(self, condition, what, seconds):
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise Failed(f"not within {seconds} s: {what}")
            time.sleep(0.1)

    def close(self, failed):
        for job in self.left:
            job.end()
            if failed or self.o.verbose:
                self.say(job.told())

    def told(self):
        return "\n    " + "\n    ".join(self.log.splitlines()[-60:])


class Job:
    """A command that goes on while the case does something."""

    def __init__(self, case, command, more):
        self.command, self.path = command, case.folder / f"{len(case.left)}.said"
        with open(self.path, "wb") as out:
            self.process = case.here.popen(command, stdout=out, stderr=out, cwd=case.folder, **more)

    def text(self):
        return self.path.read_text(encoding="utf-8", errors="replace")

    def events(self, name):
        return events(self.text(), name)

    def over(self):
        return self.process.poll() is not None

    def end(self):
        if not self.over():
            self.process.terminate()
            try:
                self.process.wait(cluster.KILL_WAIT + 5)
            except Exception:
                self.process.kill()
                self.process.wait()

    def told(self):
        return f"$ {' '.join(map(str, self.command))}\n{self.text()}(exit code {self.process.returncode})\n"


class Batch:
    def __init__(self, case, number):
        self.case, self.number, self.path = case, number, case.folder / f"{number}.out"
        case.left.append(self)

    def fields(self):
        done = self.case.here.run(["scontrol", "show", "job", "-o", self.number])
        return dict(word.split("=", 1) for word in done.stdout.split() if "=" in word)

    def state(self):
        return self.fields().get("JobState", "")

    def text(self):
        return self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""

    def finish(self, seconds=60):
        self.case.until(lambda: self.state() in ENDED, f"job {self.number} ends", seconds)
        return self.state()

    def steps(self):
        """The number of the last step that it has shown."""
        found = re.findall(r"step +(\d+)", self.text())
        return int(found[-1]) if found else 0

    def end(self):
        if self.state() not in ENDED:
            self.case.here.run(["scancel", self.number])
            self.case.here.run(["scancel", "-s", "KILL", self.number])

    def told(self):
        return f"--- output of job {self.number}, {self.state()}\n{self.text()}"


def events(text, name):
    found = []
    for line in text.splitlines():
        if line.startswith("{"):
            e = json.loads(line)
            found += [e] if e["event"] == name else []
    return found


# ---- Where ranks are -----------------------------------------------------------------------------


def check_places(text, size, hosts=None):
    """Each rank is what it says, in a job of `size`: local ranks count through a host, memory is shared there only."""
    places = sorted(events(text, "place"), key=lambda e: e["rank"])
    expect([e["rank"] for e in places] == list(range(size)), f"ranks {[e['rank'] for e in places]}, not 0..{size - 1}")
    seen = sorted({e["host"] for e in places})
    expect(hosts is None or seen == sorted(hosts), f"ranks ran on {seen}, not on {hosts}")
    for e in places:
        peers = [p["rank"] for p in places if p["host"] == e["host"]]
        right = places[(e["rank"] + 1) % size]
        want = {"size": size, "sum": size * (size - 1) // 2, "one_step": 1, "local_size": len(peers),
                "local_rank": peers.index(e["rank"]), "wire": "none" if size == 1 else "shm" if right["host"] == e["host"] else "tcp"}
        have = {k: e[k] for k in want}
        expect(have == want, f"rank {e['rank']} on {e['host']}: {have}, expected {want}")
        if "SLURM_LOCALID" in e:
            expect(int(e["SLURM_LOCALID"]) == e["local_rank"], f"Slurm says otherwise: {e}")
    nodes = {(e["host"], e["SLURM_NODEID"]) for e in places if "SLURM_NODEID" in e}
    expect(len(nodes) in (0, len(seen)), f"nodes and hosts differ: {nodes}")
    return places


def check_probe(done, size, hosts=None):
    expect(done.returncode == 0, f"exit code {done.returncode}")
    return check_places(done.stdout, size, hosts)


def check_report(text, ranks):
    expect(re.search(rf"report: \d+ steps on {ranks} ranks", text), f"no report of {ranks} ranks:\n{text}")
    expect("the same on all ranks" in text, "parameters differ")


def told_by_doctor(c, name, ranks, *launcher, **more):
    """What rondo-doctor says below a launcher: rank, size and the local rank, of which nothing else tells."""
    done = c.run(*launcher, c.o.build / "rondo-doctor", "--only", "job", "--ranks-per-node", 2, **more)
    found = re.findall(rf"{name}: rank (\d+) of {ranks}, local rank (\d+)", done.stdout)
    expect(sorted(int(rank) for rank, _ in found) == list(range(ranks)), f"it tells of ranks {found}")
    return {int(rank): int(local) for rank, local in found}
