# SPDX-License-Identifier: MIT
"""A Slurm cluster on this machine: a head and some nodes, each with a network and a host name of its own.

Everything lies in a process, a mount and a network namespace of this program, files too, so nothing of it is left, however
it ends; a Slurm or munge of the system is not touched.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "fault"))
import hosts  # noqa: E402

MARK = "RONDO_SLURM_CONTAINED"
CLONE_NEWNS, CLONE_NEWPID = 0x20000, 0x20000000
NODES = ["node1", "node2", "node3", "node4"]
HEAD = "head"
CPUS = 4
KILL_WAIT = 5   # seconds between SIGTERM and SIGKILL
# Of whoever started this program, what would tell a job's ranks who they are.
FOREIGN = ("RONDO_", "FAKE_VERBS_", "SLURM_", "SBATCH_", "PMI_", "PMIX_", "OMPI_", "HYDRA_", "MPI", "FLUX_", "PBS_")
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", MARK, hosts.MARK)
TOOLS = {"slurmctld": "slurmctld", "slurmd": "slurmd", "srun": "slurm-client", "munged": "munge",
         "unshare": "util-linux", "ip": "iproute2"}


class NotHere(Exception):
    """There can be no cluster on this machine."""


def missing():
    """Why there can be none, or ''."""
    for tool, package in TOOLS.items():
        if not shutil.which(tool, path=search_path()):
            return f"{tool} is not installed (Debian's package {package})"
    return "" if os.geteuid() == 0 else "slurmd and network namespaces need root"


def search_path():
    return os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"


# ---- What contains it ----------------------------------------------------------------------------


def contain():
    """Starts this program again as a process of a namespace that ends with it, and returns there."""
    if MARK in os.environ:
        hosts.isolate()
        if hosts.missing():
            raise NotHere(hosts.missing())
        folder = Path("/run/rondo")   # a tmpfs that only this program sees
        folder.mkdir()
        return folder
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWPID | CLONE_NEWNS) != 0:
        raise NotHere(f"process namespaces are not permitted: {os.strerror(ctypes.get_errno())}")
    pid = os.fork()
    if pid == 0:
        first_process()
    asked = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda n, _: (asked.append(n), os.kill(pid, signal.SIGKILL)))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])   # the kernel has ended all others by then
    os._exit(128 + asked[0] if asked else code if code >= 0 else 128 - code)


def first_process():
    """Process 1 of the namespace: takes leave of all that end there."""
    hosts.die_with_parent()
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)
    os.environ[MARK] = "yes"
    child = os.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, *sys.argv])
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


# ---- The cluster ---------------------------------------------------------------------------------

CONFIGURATION = """\
ClusterName=rondo
SlurmctldHost={head}({address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool/%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/log/slurmctld
SlurmdLogFile={folder}/log/slurmd.%n
# Each node its own: PMIx keeps files there whose names do not differ between nodes.
TmpFS={folder}/tmp/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,batch_sched_delay=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=30
KillWait={kill_wait}
InactiveLimit=0
SlurmdParameters=config_overrides
NodeName={nodes} NodeAddr={addresses} CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


class Cluster:
    def __init__(self, folder, build):
        self.folder, self.build = folder, build
        self.network = hosts.Network("slurm", 1 + len(NODES))
        self.names = [HEAD, *NODES]
        self.anchors, self.daemons = {}, []
        self.home = folder / "home"
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN) and k not in LAUNCHER}
        self.environment |= {"HOME": str(self.home), "PATH": f"{self.home}/bin:{search_path()}",
                             "SLURM_CONF": str(folder / "slurm.conf"), "TMPDIR": str(folder / "tmp"), "LC_ALL": "C",
                             # Open MPI asks whether root means it.
                             "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}

    def address(self, name):
        return self.network.address(self.names.index(name))

    def start(self):
        for name in ("home/bin", "home/rondo", "munge", "state", "log", *(f"{x}/{n}" for x in ("spool", "tmp") for n in NODES)):
            (self.folder / name).mkdir(parents=True)
        self.home.chmod(0o700)
        for i, name in enumerate(self.names):
            self.anchors[name] = subprocess.Popen(
                ["nsenter", f"--net={self.network.path(i)}", "unshare", "-u", "sh", "-c",
                 f"hostname {name} && echo up && exec sleep infinity"], stdout=subprocess.PIPE)
            self.anchors[name].stdout.readline()
        self.write_names(self.names)
        subprocess.run(["mount", "--bind", self.folder / "hosts", "/etc/hosts"], check=True)
        # Named, lest slurmd look for one; nothing here uses cgroups, so no hierarchy is needed.
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n", encoding="ascii")
        (self.folder / "slurm.conf").write_text(CONFIGURATION.format(
            head=HEAD, address=self.address(HEAD), folder=self.folder, kill_wait=KILL_WAIT, nodes="node[1-4]",
            addresses=",".join(self.address(n) for n in NODES), cpus=CPUS), encoding="ascii")
        (self.home / "rondo/bin").symlink_to(self.build)   # where an installation has its commands
        self.write_ssh()
        self.start_daemons()
        self.await_idle()

    def await_idle(self):
        self.await_(lambda: self.states() == {n: "idle" for n in NODES}, "all nodes are idle", 40)

    def write_names(self, names):
        """The names that resolve, on all hosts; they are bound over /etc/hosts, for this program only."""
        text = "127.0.0.1 localhost\n" + "".join(f"{self.address(n)} {n}\n" for n in names)
        (self.folder / "hosts").write_text(text, encoding="ascii")

    def write_ssh(self):
        """Stands in for ssh, with which other launchers reach a host."""
        lines = [f"{name}) pid={a.pid} ;;" for name, a in self.anchors.items()]
        text = "\n".join(["#!/bin/sh", "while :; do case $1 in -[a-zA-Z]*) shift ;; *) break ;; esac; done",
                          "case $1 in", *lines, '*) echo "ssh: there is no host $1" >&2; exit 255 ;;', "esac", "shift",
                          'exec nsenter -t "$pid" -n -u -- sh -c "$*"']) + "\n"
        ssh = self.home / "bin/ssh"
        ssh.write_text(text, encoding="ascii")
        ssh.chmod(0o755)

    def start_daemons(self):
        key = self.folder / "munge/key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        munge = self.folder / "munge"
        self.daemon(HEAD, ["munged", "--foreground", f"--key-file={key}", f"--socket={munge}/socket",
                           f"--pid-file={munge}/pid", f"--seed-file={munge}/seed", f"--log-file={munge}/log"])
        self.await_((munge / "socket").exists, "munged serves its socket", 10)
        self.daemon(HEAD, ["slurmctld", "-D", "-i", "-f", self.folder / "slurm.conf"])
        for name in NODES:
            self.daemon(name, ["slurmd", "-D", "-f", self.folder / "slurm.conf"])

    def on(self, name, command):
        """`command` as it runs on that host."""
        within = ["nsenter", "-t", str(self.anchors[name].pid), "-n", "-u", "--"]
        return [*within, *map(str, command)]

    def daemon(self, name, command):
        log = open(self.folder / f"log/{Path(command[0]).name}.{name}.said", "wb")
        self.daemons.append(subprocess.Popen(self.on(name, command), env=self.environment, cwd=self.folder,
                                             stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def popen(self, command, where=HEAD, env=None, **more):
        return subprocess.Popen(self.on(where, command), env=self.environment | (env or {}), text=True,
                                stdin=subprocess.DEVNULL, **{"cwd": self.home, **more})

    def run(self, command, where=HEAD, env=None, seconds=60, **more):
        """Its exit code and all that it said."""
        p = self.popen(command, where, env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
        try:
            out, err = p.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            p.terminate()
            try:
                out, err = p.communicate(timeout=KILL_WAIT + 5)
            except subprocess.TimeoutExpired:
                p.kill()
                out, err = p.communicate()
            err += f"\n(ended after {seconds} s)"
        return subprocess.CompletedProcess(command, p.returncode, out, err)

    def states(self):
        done = self.run(["sinfo", "-h", "-N", "-o", "%N %T"])
        return dict(line.split() for line in done.stdout.splitlines())

    def busy(self):
        return any(state not in ("idle", "drained", "down") for state in self.states().values())

    def await_(self, condition, what, seconds):
        until = time.monotonic() + seconds
        while not condition():
            for d in self.daemons:
                if d.poll() is not None:
                    raise RuntimeError(f"{d.args} ended with {d.returncode} before {what}:\n{self.logs()}")
            if time.monotonic() > until:
                raise RuntimeError(f"not within {seconds} s: {what}\n{self.logs()}")
            time.sleep(0.25)

    def logs(self):
        text = ""
        for path in sorted((self.folder / "log").iterdir()):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            text += f"--- {path.name}\n" + "\n".join(lines[-15:]) + "\n"
        return text
