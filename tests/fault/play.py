# SPDX-License-Identifier: MIT
"""Plays one trial: starts the ranks, lets the fault strike at its moment, sees the survivors through.

    start ranks --> mark of the phase --> delay --> strike --> all survivors work again, or have ended
                                                              --> sleepers wake up --> a while --> stop --> all end
"""

import dataclasses
import random
import signal
import time

import hosts
from job import Job, now, patience
from trial import CONNECT_TIMEOUT, MEETING, Trial, expect

START = 30        # seconds for the ranks to be there
THROUGH = 30      # for the survivors to be through
END = 15          # for all to end
AWAKE = 0.25      # with the sleepers awake
COMING = "store at"          # log line of a rank that begins to meet the others
MET = "ranks have met"       # and of one that begins to connect


@dataclasses.dataclass
class Outcome:
    trial: Trial
    job: Job = None
    strike: int = 0           # ns; before the fault
    struck: int = 0           # after it, where it takes a command
    wake: int = 0
    first_strike: int = 0
    hung: list = dataclasses.field(default_factory=list)     # (ranks, what they should have done)
    stacks: dict = dataclasses.field(default_factory=dict)
    left: list = dataclasses.field(default_factory=list)     # in the system
    seconds: float = 0.0
    networked: bool = False   # hosts have names of their own


class Player:
    def __init__(self, program, fake, network, trial, port):
        self.program, self.fake, self.network, self.trial, self.port = program, fake, network, trial, port
        self.outcome = Outcome(trial, networked=network is not None)
        self.job = None

    # ---- The ranks ----

    def place(self, rank):
        host = self.trial.host_of(rank)
        return (self.network.path(host) if self.network else None, host, rank - self.trial.on_host(host)[0])

    def environment(self):
        if self.trial.transport != "verbs":
            return {}
        (self.job.folder / "fabric").mkdir(mode=0o700)   # where a fault may be set before there is a device
        return {"LD_LIBRARY_PATH": self.fake, "FAKE_VERBS_DIR": str(self.job.folder / "fabric"),
                "FAKE_VERBS_SOURCE_STRICT": "0", "FAKE_VERBS_DEVICES": "1"}

    def start(self, rank):
        t = self.trial
        words = ["--options", t.options(), "--async", t.in_flight]
        for count in t.counts:
            words += ["--count", count]
        words += ["--shared"] * t.shared + ["--ddp"] * (t.phase in ("ddp", "elastic")) + ["--elastic"] * (t.phase == "elastic") + ["--hold"] * (t.kind == "path")
        self.job.start(rank, words, {"FAKE_VERBS_HOST": str(t.host_of(rank) + 1)})

    def ranks(self, which):
        return [self.job.ranks[r] for r in which]

    def all_of(self, which, done, seconds, what):
        """Pumps until done(rank) for all; who is late is noted as hung."""
        which = list(which)
        if not self.job.until(lambda: all(done(r) for r in self.ranks(which)), seconds * patience()):
            late = [r.rank for r in self.ranks(which) if not done(r)]
            self.outcome.hung.append((late, what))
            self.outcome.stacks |= {r: self.job.stacks(r) for r in late}
            return False
        return True

    # ---- The fault ----

    def mark(self):
        """Waits for the moment from which the delay counts."""
        t, job = self.trial, self.job
        everybody = [r for r in range(t.size) if r != t.late]
        if t.phase in MEETING:
            chief = self.ranks(t.victims or everybody)
            words = COMING if t.phase == "bootstrap" else MET

            def is_there():
                return all(r.logged(words) or job.over(r) for r in chief)
            if not job.until(is_there, START * patience()):
                self.outcome.hung.append(([r.rank for r in chief if not r.logged(words)], f"come to \"{words}\""))
                return False
            return True
        if not self.all_of(everybody, lambda r: r.find("works"), START, "begin to work"):
            return False
        if t.first < 0:
            return True
        time.sleep(random.Random(t.delay_us).random() * 0.05)
        self.outcome.first_strike = now()
        job.signal(t.first, signal.SIGKILL)
        rest = self.ranks(r for r in everybody if r != t.first)
        for r in rest:
            r.tell(b"g" if t.kind == "path" else b"")
        if not job.until(lambda: any(r.find("shrink") for r in rest), THROUGH * patience()):
            self.outcome.hung.append(([r.rank for r in rest], "shrink after the first death"))
            return False
        return True

    def cut(self):
        t = self.trial
        host = t.host_of(t.victims[0])
        if t.transport == "verbs":
            fault = self.job.folder / "fabric" / f"faults.{host + 1}.fake0"
            fault.write_text("cut=0:3600000\n", encoding="ascii")
        self.network.cut(host)

    def strike(self):
        t, o = self.trial, self.outcome
        end = now() + t.delay_us * 1000
        while now() < end:
            self.job.pump(min(0.01, max(0.0, (end - now()) / 1e9)))
        o.strike = now()
        if t.kind == "path":
            self.network.part(*t.pair)
        elif t.kind in ("silent", "partition"):
            self.cut()
        if t.kind in ("kill", "kill2", "hostkill", "silent"):
            for r in t.victims:
                self.job.signal(r, signal.SIGKILL)
        elif t.kind == "stop":
            for r in t.victims:
                self.job.signal(r, signal.SIGSTOP)
        o.struck = now()
        if t.late >= 0 and t.kind == "stop":
            self.start(t.late)

    # ---- After it ----

    def see_through(self):
        """Until every survivor works on the right communicator, or has ended."""
        t, job = self.trial, self.job
        for group in expect(t):
            group.ranks = [r for r in group.ranks if r in job.ranks]

            def through(r, group=group):
                works = r.last("works", "failed", "retry")
                fine = works and works["event"] == "works" and works["t"] > self.outcome.strike
                # While ranks meet some may have a communicator already, and those that have none leave.
                left = [x for x in group.members if x not in job.ranks or t.phase in MEETING and job.over(job.ranks[x])]
                on = [x for x in group.members if x not in left]
                # Whose shrink came to nothing for want of a path have left, and those that are on go on.
                alone = t.kind == "path" and t.phase == "shrink"
                return job.over(r) or (fine and on and (works["members"] == on or alone))
            if t.kind == "path":
                news = ("failed", "shrunk", "unshrunk")
                self.all_of(group.ranks, lambda r: any(r.find(e, self.outcome.strike) for e in news) or job.over(r),
                            THROUGH, "notice that a path is lost")
                self.network.heal()
                for r in self.ranks(group.ranks):
                    r.tell(b"g")
            if not self.all_of(group.ranks, through, THROUGH, "get over the fault"):
                return False
        return True

    def wake(self):
        """Whoever slept must notice that the others went on, and write nowhere."""
        t = self.trial
        self.outcome.wake = now()
        for r in t.victims:
            self.job.signal(r, signal.SIGCONT)
            self.job.ranks[r].tell(b"s")
        limit = CONNECT_TIMEOUT / 1000 + 3 if t.phase in MEETING else END
        self.all_of(t.victims, self.job.over, limit, "notice, once awake, that the others went on")

    def go(self):
        """The outcome; always call close()."""
        t, o, begin = self.trial, self.outcome, time.monotonic()
        master = self.network.address(0) if self.network else "127.0.0.1"
        o.job = self.job = Job(self.program, t.size, self.place, master, self.port, {})
        self.job.environment |= self.environment()
        for rank in range(t.size):
            if rank != t.late:
                self.start(rank)
        if self.mark():
            self.strike()
            on = self.see_through()
            if t.kind == "stop" and on:
                self.wake()
                self.job.until(lambda: False, AWAKE)
            for r in self.job.ranks.values():
                r.tell(b"s")
            dead = [t.first] + (t.victims if t.kind not in ("stop", "partition") else [])
            self.all_of([r for r in self.job.ranks if r not in dead and on], self.job.over, END, "end")
        o.seconds = time.monotonic() - begin
        return o

    def close(self):
        self.job.end()
        if self.network:
            self.network.heal()
        used = [self.network.path(h) for h in range(self.trial.hosts)] if self.network else [None]
        for path in used if self.network else []:
            self.outcome.left += hosts.sockets_left(path)
        known = {"key", "fabric"} | {f"errors.{r}" for r in self.job.ranks}
        self.outcome.left += [str(p) for p in self.job.folder.iterdir() if p.name not in known]
