# SPDX-License-Identifier: MIT
"""What is measured: sizes, the configurations of every peer, and the goals.

A configuration's class says how it enters the table: "rondo", "shipped" (as the Debian package
comes, with what its documentation tells everybody to choose: an algorithm by name, a wire), "tuned"
(settings that help it here and that few would find) or "limit" (no peer, but a bound)."""

import re
from dataclasses import dataclass, field

KIB, MIB = 1 << 10, 1 << 20

SIZES = (8, KIB, 16 * KIB, 64 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB, 256 * MIB)
QUICK_SIZES = (8, 64 * KIB, MIB, 16 * MIB)
SMALL = (
    64 * KIB
)  # sizes up to here share a job: they last milliseconds, starting ranks lasts longer

# glibc hands a large block that is freed back to the system, and gets it anew, page by page, with
# the next malloc. A peer that allocates its scratch in every call pays for that each time. This
# keeps the memory.
KEEP_HEAP = {
    "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=8589934592:"
    "glibc.malloc.trim_threshold=17179869184"
}

PEERS = ("rondo", "openmpi", "mpich", "gloo")
TITLES = {
    "rondo": "Rondo",
    "openmpi": "Open MPI",
    "mpich": "MPICH",
    "gloo": "Gloo",
    "limit": "Limit",
}
PACKAGES = {
    "openmpi": ("openmpi-bin", "libopenmpi-dev"),
    "mpich": ("mpich", "libmpich-dev"),
    "gloo": ("libgloo-dev", "g++"),
}
WIRES = {"shm": "shared memory", "tcp": "TCP on loopback"}


@dataclass(frozen=True)
class Config:
    """One way to run one peer. In `argv`, {port} and {folder} are filled in for every job."""

    peer: str
    name: str
    cls: str
    argv: tuple
    env: dict = field(default_factory=dict)
    min_bytes: int = 0
    max_bytes: int = 1 << 62


@dataclass(frozen=True)
class Goal:
    """Rondo's time against a bound, for one wire and number of ranks from min_bytes up."""

    wire: str
    ranks: int
    min_bytes: int
    peers: tuple  # the fastest of these, as shipped, is the bound ...
    factor: float  # ... times this
    limit_factor: float = 0  # met as well within this much of the limit; 0: no such way out

    def text(self):
        words = (
            f"{WIRES[self.wire]}, {self.ranks} ranks, from {size_text(self.min_bytes)}: at most "
            f"{self.factor:.2f} x the faster of "
            f"{' and '.join(TITLES[p] for p in self.peers)} as shipped"
        )
        if self.limit_factor:
            words += f", or at most {self.limit_factor:.2f} x the limit"
        return words


GOALS = (
    Goal("shm", 2, MIB, ("openmpi", "mpich"), 0.5),
    Goal("tcp", 2, MIB, ("openmpi", "mpich"), 1.0, 1.15),
)


def size_text(n):
    for unit, word in ((1 << 30, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if n >= unit and n % unit == 0:
            return f"{n // unit} {word}"
    return f"{n} B"


def parse_size(text):
    match = re.fullmatch(r"(\d+)\s*([kmg]?)(?:i?b)?", text.strip().lower())
    if not match:
        raise ValueError(f"'{text}' is no size; 8, 64K or 1M are")
    n = int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[match[2]]
    if n < 4 or n % 4 or n > 4 << 30:
        raise ValueError(f"'{text}': a multiple of 4 bytes up to 4G is possible")
    return n


def blocks(sizes):
    """Sizes that run in one job: the small ones together, each larger one by itself."""
    small = [s for s in sizes if s <= SMALL]
    return ([small] if small else []) + [[s] for s in sizes if s > SMALL]


def _rondo(program, ranks, wire):
    variants = {"any": "any buffer"}
    if wire == "shm":
        variants["rondo"] = "rondo_mem_alloc"
    base = (program, *f"--ranks {ranks} --port {{port}} --transport {wire} --buffer".split())
    return [Config("rondo", name, "rondo", (*base, key)) for key, name in variants.items()]


def _openmpi(program, ranks, wire, cores):
    base = ["mpirun.openmpi", "-np", str(ranks)]
    if ranks > cores:
        base += "--oversubscribe --bind-to none --mca mpi_yield_when_idle 1".split()
    else:
        base += ["--bind-to", "core"]
    if wire == "tcp":
        base += "--mca pml ob1 --mca btl tcp,self --mca btl_tcp_if_include lo".split()
    by_name = {"recursive doubling": 3, "ring": 4, "Rabenseifner": 6}
    choose = "--mca coll_tuned_use_dynamic_rules 1 --mca coll_tuned_allreduce_algorithm"
    algorithm = {name: [*choose.split(), str(number)] for name, number in by_name.items()}
    no_cma = "--mca btl_vader_single_copy_mechanism none".split()

    def config(name, cls, more=(), env=None, min_bytes=0):
        return Config("openmpi", name, cls, (*base, *more, program), env or {}, min_bytes)

    found = [config("default", "shipped"), config("heap kept", "tuned", (), KEEP_HEAP, SMALL + 1)]
    found += [
        config(name + ", heap kept", "tuned", more, KEEP_HEAP) for name, more in algorithm.items()
    ]
    if wire == "shm":
        both = algorithm["Rabenseifner"] + no_cma
        found.append(config("no CMA, heap kept", "tuned", no_cma, KEEP_HEAP))
        found.append(config("Rabenseifner, no CMA, heap kept", "tuned", both, KEEP_HEAP, SMALL + 1))
    return found


def _mpich(program, ranks, wire, cores):
    base = ("mpiexec.mpich", "-n", str(ranks))
    bound = base + (("-bind-to", "core") if ranks <= cores else ())
    if wire == "tcp":
        env = {"MPIR_CVAR_NOLOCAL": "1", "UCX_TLS": "tcp,self", "UCX_NET_DEVICES": "lo"}
    else:
        env = {}
    kept, name = {**env, **KEEP_HEAP}, "heap kept" + (", bound" if bound != base else "")
    found = [
        Config("mpich", "default", "shipped", (*base, program), env),
        Config("mpich", name, "tuned", (*bound, program), kept, SMALL + 1),
    ]
    if wire == "shm":
        env = {"MPIR_CVAR_NOLOCAL": "1", "UCX_TLS": "posix,self", **KEEP_HEAP}
        found.append(Config("mpich", "UCX, no CMA, heap kept", "tuned", (*bound, program), env))
    return found


def _gloo(program, ranks, wire, cores):
    if wire != "tcp":
        return []  # it has no shared memory transport
    base = (program, *f"--ranks {ranks} --store {{folder}} --algorithm".split())
    names = {
        "default": "allreduce",
        "ring_chunked": "ring chunked",
        "halving_doubling": "halving doubling",
    }
    found = [Config("gloo", name, "shipped", (*base, key)) for key, name in names.items()]
    argv = (*base, "default")
    found.append(Config("gloo", "allreduce, heap kept", "tuned", argv, KEEP_HEAP, SMALL + 1))
    for key in ("ring_chunked", "halving_doubling"):
        # Busy polling makes no progress worth the name with more ranks than processors, and its
        # sends time out from 64 MiB on.
        if ranks <= cores:
            argv, name = (*base, key, "--busy-poll", "yes"), names[key] + ", busy polling"
            found.append(Config("gloo", name, "tuned", argv, {}, 0, 16 * MIB))
    return found


def _limit(program, ranks, wire, cores):
    if wire != "tcp":
        return []
    variants = {"256 KiB a call": f"--chunk {256 * KIB}", "1 MiB a call": f"--chunk {MIB}"}
    if ranks > cores:
        variants["256 KiB a call, sleeping"] = f"--chunk {256 * KIB} --sleep yes"
    base = (program, "--ranks", str(ranks))
    return [
        Config("limit", f"exchange, {name}", "limit", (*base, *words.split()))
        for name, words in variants.items()
    ]


def configurations(programs, ranks, wire, cores):
    """All configurations of the peers in `programs` (peer -> path of the driver)."""
    makers = {"openmpi": _openmpi, "mpich": _mpich, "gloo": _gloo, "limit": _limit}
    found = []
    for peer, program in programs.items():
        if peer == "rondo":
            found += _rondo(program, ranks, wire)
        elif peer in makers:
            found += makers[peer](program, ranks, wire, cores)
    return found
