# SPDX-License-Identifier: MIT
"""Slurm tells a rank who it is; the same program finds it out however srun is called."""

import cluster
from case import TRAIN, check_places, check_probe, check_report, expect, need_pmix, told_by_doctor


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
        done = c.run("srun", "-N", 2, "-n", 2, c.probe, env={"RONDO_CONNECT_TIMEOUT": "2s"})
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


CASES = (srun_even, srun_uneven, srun_cyclic, srun_one_node, srun_single, srun_pmi2, srun_pmix, srun_steps,
         srun_same_port, srun_train, srun_conform, srun_doctor, srun_het, srun_bare, batch_script, srun_names,
         srun_memlock, rondo_run_in_srun)
