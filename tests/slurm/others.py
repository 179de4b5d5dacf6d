# SPDX-License-Identifier: MIT
"""Other launchers, in and out of Slurm, and what they offer to ranks for finding each other."""

from pathlib import Path

import cluster
import page
from case import TRAIN, check_places, check_probe, check_report, expect, need, need_pmix, told_by_doctor

try:
    import yaml
except ImportError:   # then YAML is not read
    yaml = None


def page_scripts(c):
    """the shell reads all scripts of the page, also those for what is not here"""
    for name, (language, text) in page.scripts().items():
        if language == "bash":
            expect(c.run("bash", "-n", c.script(name)).returncode == 0, f"{name}: the shell does not read it")
        elif language == "yaml" and yaml:
            kinds = [document["kind"] for document in yaml.safe_load_all(text)]
            expect(kinds == ["Service", "Job"], f"{name} has {kinds}")


def by_hand(c):
    """by-hand.sh, as the page has it: torchrun's variables, set by a shell"""
    done = c.run("./" + c.script("by-hand.sh").name, *TRAIN, "--steps", 30, "--quiet", where="node1")
    check_report(done.stdout, 4)


def torchrun_variables(c):
    """torchrun's variables on two nodes: ranks find each other through MASTER_ADDR"""
    jobs = []
    for rank in range(4):
        node = cluster.NODES[rank // 2]
        env = {"RANK": rank, "WORLD_SIZE": 4, "LOCAL_RANK": rank % 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": 29400,
               "MASTER_ADDR": "node1", "TORCHELASTIC_USE_AGENT_STORE": "True"}
        jobs.append(c.start(c.probe, where=node, env={k: str(v) for k, v in env.items()}))
    c.until(lambda: all(j.over() for j in jobs), "all ranks end", 30)
    check_places("".join(j.text() for j in jobs), 4, cluster.NODES[:2])


def mpirun_one_host(c):
    """Open MPI's mpirun -n 4 on one host: all ranks share memory"""
    need("mpirun.openmpi", "openmpi-bin")
    check_probe(c.run("mpirun.openmpi", "--oversubscribe", "-n", 4, c.probe, where="node1"), 4, ["node1"])
    local = told_by_doctor(c, "Open MPI", 4, "mpirun.openmpi", "--oversubscribe", "-n", 4, where="node1")
    expect(local == {0: 0, 1: 1, 2: 2, 3: 3}, f"local ranks {local}")


def mpirun_hosts(c):
    """Open MPI's mpirun over two hosts through ssh, with MASTER_ADDR"""
    need("mpirun.openmpi", "openmpi-bin")
    done = c.run("mpirun.openmpi", "--host", "node1:2,node2:2", "-x", "MASTER_ADDR", c.probe,
                 env={"MASTER_ADDR": "node1"}, where="node1")
    check_probe(done, 4, cluster.NODES[:2])


def at_once(c, *launcher):
    """Three jobs on one host at the same time, which nothing tells from each other but their launchers."""
    jobs = [c.start(*launcher, c.probe, where="node1", env={"PROBE_JOB": str(n)}) for n in (1, 2, 3)]
    c.until(lambda: all(j.over() for j in jobs), "all end", 30)
    for j in jobs:
        expect(j.process.returncode == 0, f"exit code {j.process.returncode}")
        check_places(j.text(), 2, ["node1"])


def mpirun_at_once(c):
    """three jobs of Open MPI's mpirun on one host at the same time: each meets its own ranks"""
    need("mpirun.openmpi", "openmpi-bin")
    at_once(c, "mpirun.openmpi", "--oversubscribe", "-n", 2)


def mpiexec_at_once(c):
    """three jobs of MPICH's mpiexec on one host at the same time: each meets its own ranks"""
    need("mpiexec.hydra", "mpich")
    at_once(c, "mpiexec.hydra", "-n", 2)


def mpirun_in_slurm(c):
    """openmpi.sbatch, as the page has it: mpirun inside an allocation of two nodes"""
    need("mpirun.openmpi", "openmpi-bin")
    job = c.submit("--nodes=2", "--ntasks-per-node=2", c.script("openmpi.sbatch"), *TRAIN, "--steps", 30)
    expect(job.finish() == "COMPLETED", f"the job ended as {job.state()}")
    check_report(job.text(), 4)


def mpiexec_one_host(c):
    """MPICH's mpiexec -n 4 on one host: all ranks share memory"""
    need("mpiexec.hydra", "mpich")
    check_probe(c.run("mpiexec.hydra", "-n", 4, c.probe, where="node1"), 4, ["node1"])
    local = told_by_doctor(c, "Hydra", 4, "mpiexec.hydra", "-n", 4, where="node1")
    expect(local == {0: 0, 1: 1, 2: 2, 3: 3}, f"local ranks {local}")


def mpiexec_hosts(c):
    """MPICH's mpiexec over two hosts through ssh, with MASTER_ADDR"""
    need("mpiexec.hydra", "mpich")
    done = c.run("mpiexec.hydra", "-launcher", "ssh", "-hosts", "node1:2,node2:2", "-n", 4, c.probe,
                 env={"MASTER_ADDR": "node1"}, where="node1")
    check_probe(done, 4, cluster.NODES[:2])


def mpiexec_in_slurm(c):
    """mpich.sbatch, as the page has it: mpiexec inside an allocation of two nodes"""
    need("mpiexec.hydra", "mpich")
    job = c.submit("--nodes=2", "--ntasks-per-node=2", c.script("mpich.sbatch"), *TRAIN, "--steps", 30)
    expect(job.finish() == "COMPLETED", f"the job ended as {job.state()}")
    check_report(job.text(), 4)


# ---- Where rank 0 tells the others where it is -----------------------------------------------------


def check_told(c, *command, **how):
    """Two ranks on each of two nodes whose names mean nothing, and which have no home: neither address nor key are known."""
    c.here.write_names([cluster.HEAD])
    try:
        check_probe(c.run("env", "-u", "HOME", *command, **how), 4)
    finally:
        c.here.write_names(c.here.names)


def told_by_pmix(c):
    """srun --mpi=pmix, without names and keys: rank 0 tells both through PMIx"""
    need_pmix(c)
    check_told(c, "srun", "--mpi=pmix", "-N", 2, "-n", 4, c.probe)


def told_by_pmi(c):
    """srun --mpi=pmi2, without names and keys: rank 0 tells both through PMI"""
    check_told(c, "srun", "--mpi=pmi2", "-N", 2, "-n", 4, c.probe)


def told_by_munge(c):
    """srun --mpi=none, without keys: rank 0 hands the others one by munge"""
    folder = Path("/run/munge")   # where libmunge looks, as munge.socket.2; the mount is this cluster's own
    made = not folder.exists()
    folder.mkdir(exist_ok=True)
    run = ["env", "-u", "HOME", "srun", "--mpi=none", "-N", 2, "-n", 4]
    expect(c.run("mount", "--bind", c.here.folder / "munge", folder).returncode == 0, "no mount")
    (folder / "munge.socket.2").symlink_to("socket")
    try:
        check_probe(c.run(*run, c.probe), 4)
        done = c.run(*run, c.o.build / "rondo-doctor", "--only", "job", "--ranks-per-node", 2)
        expect("from rank 0, through munge" in done.stdout, "rondo-doctor does not say it")
    finally:
        (folder / "munge.socket.2").unlink()
        c.run("umount", folder)
        if made:
            folder.rmdir()


def told_by_open_mpi(c):
    """Open MPI's mpirun over two hosts, no address and no key: rank 0 tells both through PMIx"""
    need("mpirun.openmpi", "openmpi-bin")
    done = c.run("mpirun.openmpi", "--host", "node1:2,node2:2", "env", "-u", "HOME", c.probe, where="node1")
    check_probe(done, 4, cluster.NODES[:2])


def told_by_hydra(c):
    """MPICH's mpiexec over two hosts, no address and no key: rank 0 tells both through PMI"""
    need("mpiexec.hydra", "mpich")
    done = c.run("mpiexec.hydra", "-launcher", "ssh", "-hosts", "node1:2,node2:2", "-n", 4, "env", "-u", "HOME", c.probe,
                 where="node1")
    check_probe(done, 4, cluster.NODES[:2])


# ---- Scripts for schedulers that are not here, with what these would set ---------------------------


def as_mpirun(c, name, env):
    """The script on the first of two hosts, with the scheduler's variables; mpirun knows the hosts from a file."""
    need("mpirun.openmpi", "openmpi-bin")
    (c.folder / "nodes").write_text("node1\nnode1\nnode2\nnode2\n", encoding="ascii")
    done = c.run("bash", c.script(name), *TRAIN, "--steps", 30, where="node1",
                 env={"OMPI_MCA_orte_default_hostfile": str(c.folder / "nodes")} | env)
    check_report(done.stdout, 4)
    expect(done.returncode == 0, f"exit code {done.returncode}")


def pbs_script(c):
    """train.pbs, as the page has it, with PBS' variables: mpirun's ranks meet over two hosts"""
    as_mpirun(c, "train.pbs", {"PBS_O_WORKDIR": str(c.folder), "PBS_NODEFILE": str(c.folder / "nodes")})


def lsf_script(c):
    """train.lsf, as the page has it, with LSF's variables: mpirun's ranks meet over two hosts"""
    as_mpirun(c, "train.lsf", {"LSB_JOBID": "7", "LSB_MCPU_HOSTS": "node1 2 node2 2"})


CASES = (page_scripts, by_hand, torchrun_variables, mpirun_one_host, mpirun_hosts, mpirun_at_once, mpirun_in_slurm,
         mpiexec_one_host, mpiexec_hosts, mpiexec_at_once, mpiexec_in_slurm, told_by_pmix, told_by_pmi, told_by_munge,
         told_by_open_mpi, told_by_hydra, pbs_script, lsf_script)
