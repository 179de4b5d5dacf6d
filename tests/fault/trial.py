# SPDX-License-Identifier: MIT
"""What a trial is, how trials are drawn from a seed, and what the survivors of each have to say."""

import dataclasses
import random

# How often each is dealt: deaths are the rule, and partitions take the longest.
KINDS = {"kill": 3, "kill2": 2, "stop": 2, "hostkill": 1, "silent": 1, "partition": 1, "path": 1}
PHASES = ("all_reduce", "ddp", "elastic", "shrink", "connect", "bootstrap")
TRANSPORTS = ("tcp", "shm", "verbs")
MEETING = ("connect", "bootstrap")   # nobody has a communicator yet

STOP_GRACE = 1000      # ms
PEER_TIMEOUT = 3000
PATH_GRACE = 1000
OP_TIMEOUT = 20000
CONNECT_TIMEOUT = 4000   # where ranks are lost while they meet
LIMITS = {"kill": 2000, "kill2": 2000, "hostkill": 2000, "stop": STOP_GRACE + 1000, "silent": 4000,
          "partition": 4000, "path": 2 * PEER_TIMEOUT + PATH_GRACE + 1000}

SIZES = ((1, 1000), (1000, 70000), (70000, 1, 300000), (1 << 20, 1000))
VARIATIONS = {"tcp": ("", "tcp_sockets=2", "algorithm=ring", "order=strict"),
              "shm": ("", "zero_copy=no", "algorithm=ring", "order=strict"),
              "verbs": ("", "verbs_mode=split,verbs_qps=2", "verbs_mode=send", "algorithm=ring")}


@dataclasses.dataclass
class Trial:
    seed: int
    index: int
    kind: str
    phase: str
    transport: str
    size: int
    hosts: int
    victims: list          # ranks; none for a path
    first: int             # dies before, so that there is something to shrink; -1 none
    late: int              # comes when the fault has struck, or not at all; -1 none
    pair: tuple            # hosts whose path is cut
    delay_us: int          # from the phase's mark to the fault
    counts: tuple
    in_flight: int
    shared: bool
    progress: str
    variation: str

    def name(self):
        return f"{self.kind}/{self.phase}/{self.transport}"

    def host_of(self, rank):
        return rank * self.hosts // self.size

    def on_host(self, host):
        return [r for r in range(self.size) if self.host_of(r) == host]

    def connects(self):
        """Whether ranks may be waiting for connections that never come."""
        return self.phase in MEETING or (self.phase == "shrink" and self.kind == "path")

    def options(self):
        o = {"stop_grace": STOP_GRACE, "peer_timeout": PEER_TIMEOUT, "path_grace": PATH_GRACE,
             "connect_timeout": CONNECT_TIMEOUT if self.connects() else 20000, "op_timeout": OP_TIMEOUT,
             "progress": self.progress}
        # Ranks of a host that is cut off still hear each other, which the fake fabric's would not.
        within = "auto" if self.kind in ("silent", "partition") else "verbs"
        wire = {"tcp": "tcp", "verbs": within, "shm": "shm" if self.hosts == 1 else "auto"}[self.transport]
        words = [f"transport={wire}"] + [f"{k}={v}" for k, v in o.items()] + [self.variation]
        return ",".join(w for w in words if w)

    def text(self):
        who = {"path": f"hosts {self.pair[0]} and {self.pair[1]}"}.get(self.kind, f"ranks {self.victims}")
        before = f", rank {self.first} before" if self.first >= 0 else ""
        late = f", rank {self.late} late" if self.late >= 0 else ""
        return (f"{self.kind} of {who}{before}{late} at {self.phase}+{self.delay_us / 1000:.1f} ms over {self.transport}, "
                f"{self.size} ranks on {self.hosts} hosts, counts {self.counts} x{self.in_flight}"
                f"{' shared' if self.shared else ''}, {self.options()}")


# ---- Drawing -------------------------------------------------------------------------------------


def possible(kind, phase, transport, hosts):
    if kind in ("hostkill", "silent", "partition", "path") and not hosts:
        return False
    # The fake fabric cannot lose the path between two hosts only. An elastic step tries all paths until its deadline.
    return kind != "path" or (transport != "verbs" and phase != "elastic")


def deck(rng, hosts, only):
    """Every combination, some more than once, shuffled."""
    cards = [(k, p, t) for k, n in KINDS.items() for p in PHASES for t in TRANSPORTS for _ in range(n)
             if possible(k, p, t, hosts) and all(word in f"{k}/{p}/{t}".split("/") for word in only)]
    rng.shuffle(cards)
    return cards


def short_deck(rng, hosts):
    """A few that wait little, for every build: each kind, each phase, each transport."""
    quick = [("kill", p, t) for p in PHASES for t in TRANSPORTS]
    quick += [("kill2", p, rng.choice(TRANSPORTS)) for p in PHASES[:3]]
    quick += [("stop", p, rng.choice(TRANSPORTS)) for p in PHASES[1:4]]
    quick += [("hostkill", p, rng.choice(TRANSPORTS)) for p in PHASES[2:5]]
    quick += [("silent", "all_reduce", "tcp"), ("silent", "ddp", "verbs"), ("partition", "elastic", "shm"), ("path", "all_reduce", "tcp")]
    rng.shuffle(quick)
    return [c for c in quick if possible(*c, hosts)]


DELAYS_MS = {"all_reduce": 150, "ddp": 150, "elastic": 150, "shrink": 40, "connect": 25, "bootstrap": 120}


def draw(seed, index, card):
    """The trial `index` of that seed; the same on every machine."""
    kind, phase, transport = card
    rng = random.Random(f"{seed}/{index}/{kind}/{phase}/{transport}")
    least = 2 + (kind == "kill2") + (phase == "shrink")
    hosts = {"path": 3, "hostkill": rng.choice((2, 3)), "silent": rng.choice((2, 3)),
             "partition": rng.choice((2, 3))}.get(kind, rng.choice((1, 1, 1, 2)))
    least = max(least, hosts + (phase == "shrink"))
    size = rng.randint(least, 8)
    t = Trial(seed, index, kind, phase, transport, size, hosts, [], -1, -1, (0, 1), 0, rng.choice(SIZES),
              rng.choice((1, 1, 2, 3)), rng.random() < 0.5, rng.choice(("auto", "auto", "thread")),
              rng.choice(VARIATIONS[transport]))
    if kind == "path":
        t.pair = tuple(rng.sample(range(3), 2))
    elif kind in ("hostkill", "silent", "partition"):
        t.victims = t.on_host(rng.randrange(hosts))
    else:
        t.victims = sorted(rng.sample(range(size), 2 if kind == "kill2" else 1))
    spare = [r for r in range(size) if r not in t.victims]
    if phase == "shrink" and len(spare) == 1:
        t.victims, spare = spare, t.victims   # the one that dies before is not all of a side
    if phase == "shrink":
        # Both ends of a path that is to be missed have somebody afterwards.
        ends = [t.on_host(h) for h in (t.pair if kind == "path" else ())]
        t.first = rng.choice([r for r in spare if [r] not in ends])
    if phase == "bootstrap" and kind in ("kill", "kill2", "stop") and len(spare) > 1 and rng.random() < 0.5:
        others = [r for r in spare if r != 0]
        t.late = rng.choice(others) if others else -1
    t.delay_us = rng.randrange(DELAYS_MS[phase] * 1000)
    if t.late >= 0:
        t.delay_us += 1300000   # rank 0 has looked for those that are there
    if t.size > 4 and max(t.counts) > 300000:
        t.counts = SIZES[2]
    return t


# ---- Expecting -----------------------------------------------------------------------------------


@dataclasses.dataclass
class Group:
    """Ranks of which the same is expected."""

    ranks: list
    status: str        # of the first operation that fails
    culprits: list     # may be named; all of them if they are lost together
    members: list      # of the communicator that they work on in the end; [] none


def majority(here, there):
    return len(here) > len(there) or (len(here) == len(there) and min(here) < min(there))


def expect(t):
    """What becomes of whom, once there is a communicator."""
    rest = [r for r in range(t.size) if r not in t.victims and r != t.first]
    if t.kind == "path":
        return [Group(rest, "RONDO_ERR_PATH", [], rest)]
    if t.kind not in ("silent", "partition"):
        return [Group(rest, "RONDO_ERR_PEER", t.victims, rest)]
    # Those that died before do not count.
    cut = [Group(side, "RONDO_ERR_PEER", other, side) if majority(side, other) else
           Group(side, "RONDO_ERR_PARTITIONED", other, []) for side, other in ((rest, t.victims), (t.victims, rest))]
    return cut if t.kind == "partition" else cut[:1]
