# SPDX-License-Identifier: MIT
"""Each launcher tells a rank in its own way who it is; the same program finds it out under all of them."""

import re
from pathlib import Path

import cluster
import page
from case import TRAIN, Skipped, check_probe, check_places, check_report, expect, need

try:
    import yaml
except ImportError:   # then YAML is not read
    yaml = None


def need_pmix(c):
    done = c.run("srun", "--mpi=list")
    if "pmix" not in done.stdout + done.stderr:
        raise Skipped("this Slurm has no PMIx")


# ---- srun ----------------------------------------------------------------------------------------


def srun_even(c):
    """srun -N 4 -n 4: a rank on each node, TCP between them"""
    check_probe(c.run("srun", "-N", 4, "-n", 4, c.probe), 4, cluster.NODES)


def srun_uneven(c):
    """srun -N 4 -n 8, nodes with different numbers of ranks: local ranks and sizes are each node's own"""
    places = check_probe(c.run("srun", "-N", 4, "-n", 8, c.probe), 8, cluster.NODES)
    expect(len({e["local_size"] for e in places}) > 1, "all nodes have as many ranks: nothing was shown")


def srun_cyclic(c):
    """srun --distribution=cyclic: neighbours are on different nodes, and local ranks still count through a node"""
    places = check_probe(c.run("srun", "-N", 2, "-n", 6, "--distribution=cyclic", c.probe), 6)
    expect(places[0]["host"] != places[1]["host"], "ranks were not dealt in turn: nothing was shown")


def srun_one_node(c):
    """srun -N 1 -n 4: all ranks share memory"""
    places = check_probe(c.run("srun", "-N", 1, "-n", 4, c.probe), 4)
    expect({e["wire"] for e in places} == {"shm"}, "no shared memory")


def srun_single(c):
    """srun -n 1: a job of one rank"""
    check_probe(c.run("srun", "-n", 1, c.probe), 1)


def srun_pmi2(c):
    """srun --mpi=pmi2 -N 4 -n 8: Slurm's variables count, whatever else there is"""
    check_probe(c.run("srun", "--mpi=pmi2", "-N", 4, "-n", 8, c.probe), 8, cluster.NODES)


def srun_pmix(c):
    """srun --mpi=pmix -N 4 -n 8: the same places"""
    need_pmix(c)
    check_probe(c.run("srun", "--mpi=pmix", "-N", 4, "-n", 8, c.probe), 8, cluster.NODES)


def srun_steps(c):
    """two steps of a job at the same time, both with rank 0 on the first node: each is a job of its own"""
    step = f"srun --overlap -N 2 -n 2 {c.probe} --loop 2"
    done = c.run("salloc", "-N", 2, "-n", 4, "sh", "-c", f"{step} >one & {step} >two & wait")
    expect(done.returncode == 0, f"exit code {done.returncode}")
    for name in ("one", "two"):
        check_places((c.folder / name).read_text(encoding="utf-8"), 2)


def srun_same_port(c):
    """three steps at the same time, all with the same MASTER_PORT: each waits its turn, none gets another's ranks"""
    step = f"srun --overlap -N 2 -n 2 {c.probe}"
    done = c.run("salloc", "-N", 2, "-n", 4, "sh", "-c", " ".join(f"{step} >{n} &" for n in range(3)) + " wait",
                 env={"MASTER_PORT": "29400"})
    expect(done.returncode == 0, f"exit code {done.returncode}")
    for n in range(3):
        check_places((c.folder / str(n)).read_text(encoding="utf-8"), 2)


def srun_train(c):
    """srun -N 4 -n 8 train_gpt: trains, and all ranks end with the same parameters"""
    done = c.run("srun", "-N", 4, "-n", 8, "./train_gpt", "--data", "corpus.txt", *TRAIN, "--steps", 30, "--quiet")
    check_report(done.stdout, 8)


def srun_conform(c):
    """srun -N 2 -n 2 rondo-conform: TCP between nodes keeps its contract"""
    done = c.run("srun", "-N", 2, "-n", 2, c.o.build / "rondo-conform", "--transport", "tcp", "--format", "tap",
                 "--only", "message.sizes,credit.*")
    expect(done.returncode == 0 and "ok 1" in done.stdout, "a check failed")


def told_by_doctor(c, name, ranks, *launcher, **more):
    """What rondo-doctor says below a launcher: rank, size and the local rank, of which nothing else tells."""
    done = c.run(*launcher, c.o.build / "rondo-doctor", "--only", "job", "--ranks-per-node", 2, **more)
    found = re.findall(rf"{name}: rank (\d+) of {ranks}, local rank (\d+)", done.stdout)
    expect(sorted(int(rank) for rank, _ in found) == list(range(ranks)), f"it tells of ranks {found}")
    return {int(rank): int(local) for rank, local in found}


def srun_doctor(c):
    """srun rondo-doctor: tells rank and local rank on each node"""
    local = told_by_doctor(c, "Slurm", 4, "srun", "-N", 2, "--ntasks-per-node", 2)
    expect(local == {0: 0, 1: 1, 2: 0, 3: 1}, f"local ranks {local}")
    local = told_by_doctor(c, "Slurm", 4, "srun", "-N", 2, "--ntasks-per-node", 2, "--distribution=cyclic")
    expect(local == {0: 0, 1: 0, 2: 1, 3: 1}, f"local ranks, dealt in turn: {local}")


def srun_het(c):
    """srun -n 2 : -n 3, two parts of a heterogeneous job: one job of five ranks"""
    check_probe(c.run("srun", "-n", 2, c.probe, ":", "-n", 3, c.probe), 5)


def srun_bare(c):
    """srun --export without HOME, with an address, so no munge: the error says how to give ranks a key, and that helps"""
    done = c.run("srun", "--export=MASTER_ADDR=node1", "-w", "node1,node2", "-N", 2, "-n", 2, c.probe)
    expect("RONDO_ERR_AUTH" in done.stdout and "RONDO_KEY_FILE" in done.stdout, "no remedy is told")
    key = c.folder / "key"
    key.touch(mode=0o600)
    key.write_text("0123456789abcdef0123456789abcdef", encoding="ascii")
    check_probe(c.run("srun", f"--export=RONDO_KEY_FILE={key}", "-N", 2, "-n", 2, c.probe), 2)


def batch_script(c):
    """a program that a batch script starts without srun is a job of one rank"""
    done = c.run("sbatch", "--wait", "-N", 2, "-n", 4, "--output=out", "--wrap", c.probe)
    expect(done.returncode == 0, f"exit code {done.returncode}")
    check_places((c.folder / "out").read_text(encoding="utf-8"), 1)


def srun_names(c):
    """names of nodes that do not resolve are an error that says what to do, and that helps"""
    c.here.write_names([cluster.HEAD])
    try:
        done = c.run("srun", "-N", 2, "-n", 2, c.probe, env={"RONDO_CONNECT_TIMEOUT": "5s"})
        expect(done.returncode != 0 and "node1" in done.stdout and "MASTER_ADDR" in done.stdout, "no remedy is told")
        first = c.here.address("node1")
        check_probe(c.run("srun", "-N", 2, "-n", 2, "-w", "node1,node2", c.probe, env={"MASTER_ADDR": first}), 2)
    finally:
        c.here.write_names(c.here.names)


def srun_memlock(c):
    """srun --propagate=MEMLOCK: the limit of locked memory is that of the shell that started it"""
    done = c.run("sh", "-c", "ulimit -l 777 && srun --propagate=MEMLOCK -N 2 -n 2 sh -c 'ulimit -l'")
    expect(done.stdout.split() == ["777", "777"], "the limit did not come along")


def rondo_run_in_srun(c):
    """nodes.sbatch, as the page has it: rondo-run on each node, inside srun"""
    job = c.submit("--nodes=2", "--cpus-per-task=2", c.script("nodes.sbatch"), *TRAIN, "--steps", 30)
    expect(job.finish() == "COMPLETED", f"the job ended as {job.state()}")
    check_report(job.text(), 4)


# ---- Other launchers -----------------------------------------------------------------------------


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


CASES = (srun_even, srun_uneven, srun_cyclic, srun_one_node, srun_single, srun_pmi2, srun_pmix, srun_steps, srun_same_port, srun_train,
         srun_conform, srun_doctor, srun_het, srun_bare, batch_script, srun_names, srun_memlock,
         rondo_run_in_srun, by_hand, torchrun_variables,
         page_scripts, pbs_script, lsf_script, mpirun_one_host, mpirun_hosts, mpirun_in_slurm, mpiexec_one_host, mpiexec_hosts, mpiexec_in_slurm,
         told_by_pmix, told_by_pmi, told_by_munge, told_by_open_mpi, told_by_hydra)
