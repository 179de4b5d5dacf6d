# SPDX-License-Identifier: MIT
"""How jobs end, and go on: cancelled, out of time, with a task or a node lost, on a node that is drained."""

import os
import re
import signal
import time
from pathlib import Path

import cluster
from case import TRAIN, check_probe, check_report, expect, need


def long_training(c, *options, more=()):
    """train.sbatch, as the page has it, with more steps than it will make; under way."""
    job = c.submit("--nodes=2", "--ntasks-per-node=2", *options, c.script("train.sbatch"), *TRAIN, "--steps", 100000000, *more)
    c.until(lambda: job.steps() > 0, "the job trains", 30)
    return job


def survivors(c, job, lost, seconds):
    """All but `lost` say within this time that it is lost. What they say."""
    begin = time.monotonic()
    c.until(lambda: len([e for e in job.events("failed") if e["culprit"] == lost]) == 3, f"three name rank {lost}", seconds)
    expect(all(e["status"] == "RONDO_ERR_PEER" for e in job.events("failed") if e["culprit"] == lost), job.text())
    return time.monotonic() - begin


def at_work(c, *options):
    """Four ranks on four nodes that work until they are stopped, and their places."""
    job = c.start("srun", "-N", 4, "-n", 4, *options, c.probe, "--loop", 60)
    c.until(lambda: len(job.events("place")) == 4, "four ranks work", 20)
    return job, {e["rank"]: e for e in job.events("place")}


def job_number(c):
    return c.run("squeue", "-h", "-o", "%i").stdout.split()[0]


# ---- A rank or a node is lost --------------------------------------------------------------------


def lost_task(c):
    """a task is killed: the others name it within 2 s and end, without help from Slurm"""
    job, places = at_work(c, "--kill-on-bad-exit=0")
    os.kill(places[2]["pid"], signal.SIGKILL)
    survivors(c, job, 2, 2)
    c.until(job.over, "srun ends", 10)
    expect(job.process.returncode != 0, "srun says that all is well")


def lost_node(c):
    """a node is cut off from the network: the others name its rank, and it knows that it is alone"""
    job, places = at_work(c, "--kill-on-bad-exit=0")
    host = c.here.names.index(places[3]["host"])
    c.here.network.cut(host)
    try:
        survivors(c, job, 3, 6)
    finally:
        c.here.network.heal()
    c.until(job.over, "srun ends", 30)
    alone = [e for e in job.events("failed") if e["status"] == "RONDO_ERR_PARTITIONED"]
    expect(len(alone) == 1, "rank 3 does not say that it is alone")
    c.here.await_idle()


def lost_rank(c):
    """train.sbatch loses a rank: the others name it, the script queues the job again, and it goes on from the checkpoint"""
    job = long_training(c, more=("--save-every", 50))
    c.until(lambda: job.steps() >= 200, "200 steps are done, of which 150 are saved", 60)
    pids = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and
            (p / "comm").read_text(encoding="ascii") == "train_gpt\n"]
    expect(len(pids) == 4, f"processes {pids}")
    os.kill(pids[3], signal.SIGKILL)
    c.until(lambda: job.fields().get("Restarts") == "1" and job.state() == "RUNNING", "the job runs again", 30)
    named = re.findall(r"^train_gpt: .*?(rank \d+ \(host \w+, pid \d+\) ended)", job.text(), re.M)
    expect(len(named) == 3 and len(set(named)) == 1 and f"pid {pids[3]})" in named[0], f"survivors name {named}")
    again = lambda: re.findall(r"step +(\d+)", job.text().rsplit("train_gpt: ", 1)[1])
    c.until(again, "it shows a step", 30)
    expect(int(again()[0]) >= 200, f"it began anew, at {again()[0]}")


# ---- Cancelled -----------------------------------------------------------------------------------


def cancel(c):
    """scancel: train_gpt writes its checkpoint and ends before KillWait, and the job does not come again"""
    job = long_training(c)
    begin = time.monotonic()
    c.run("scancel", job.number)
    c.until(lambda: job.state() == "CANCELLED", "the job is cancelled", cluster.KILL_WAIT + 2)
    c.until(lambda: not c.here.busy(), "the nodes are free", cluster.KILL_WAIT + 2)
    expect(time.monotonic() - begin < cluster.KILL_WAIT, "it took until SIGKILL")
    expect((c.folder / f"checkpoint.{job.number}").exists(), "there is no checkpoint")
    expect(job.state() == "CANCELLED" and job.fields()["Restarts"] == "0", "the job was queued again")


def cancel_stubborn(c):
    """scancel of ranks that ignore SIGTERM: they are killed after KillWait"""
    job = c.start("srun", "-N", 4, "-n", 4, c.probe, "--loop", 60, "--ignore-term")
    c.until(lambda: len(job.events("place")) == 4, "four ranks work", 20)
    begin = time.monotonic()
    c.run("scancel", job_number(c))
    c.until(lambda: job.over() and not c.here.busy(), "the nodes are free", cluster.KILL_WAIT + 10)
    took = time.monotonic() - begin
    expect(took > cluster.KILL_WAIT - 1.5, f"they were killed after {took:.1f} s, before KillWait")


# ---- Out of time ---------------------------------------------------------------------------------


def time_limit(c):
    """train.sbatch gets SIGTERM before its time is over: it writes a checkpoint, is queued again and goes on from there"""
    job = long_training(c, "--time=1", "--signal=TERM@50")
    c.until(lambda: "stopped by SIGTERM" in job.text(), "train_gpt stops", 60)
    expect("saved to" in job.text() and "DUE TO TIME LIMIT" not in job.text(), "it ended by the limit itself")
    saved = int(job.text().split("stopped by SIGTERM after ")[1].split()[0])
    c.until(lambda: job.fields().get("Restarts") == "1" and job.state() == "RUNNING", "the job runs again", 30)
    again = lambda: re.findall(r"step +(\d+)", job.text().split("stopped by SIGTERM")[1])
    c.until(again, "it shows a step", 30)
    expect(saved < int(again()[0]) <= saved + 100, f"it went on at {again()[0]}, not after {saved}")


def stop_launcher(c, *launcher):
    """The launcher gets SIGTERM, as timeout(1) would send it; the ranks save and end."""
    job = c.start(*launcher, "./train_gpt", "--data", "corpus.txt", *TRAIN, "--steps", 100000000, "--checkpoint", "saved",
                  where="node1")
    c.until(lambda: "step " in job.text(), "the job trains", 30)
    job.process.terminate()
    c.until(job.over, "the launcher ends", 20)
    expect("stopped by SIGTERM" in job.text() and (c.folder / "saved").exists(), "there is no checkpoint")


def mpirun_stopped(c):
    """SIGTERM for mpirun, which is told to be patient: train_gpt writes its checkpoint before mpirun kills it"""
    need("mpirun.openmpi", "openmpi-bin")
    stop_launcher(c, "mpirun.openmpi", "--mca", "odls_base_sigkill_timeout", 4, "--oversubscribe", "-n", 4)


def mpiexec_stopped(c):
    """SIGTERM for mpiexec: train_gpt writes its checkpoint before mpiexec kills it"""
    need("mpiexec.hydra", "mpich")
    stop_launcher(c, "mpiexec.hydra", "-n", 4)


# ---- Drained -------------------------------------------------------------------------------------


def drain(c):
    """a node is drained while a job runs there: the job ends well, and the next one goes elsewhere"""
    job = c.start("srun", "-w", "node1,node2", "-n", 4, c.probe, "--loop", 3)
    c.until(lambda: len(job.events("place")) == 4, "four ranks work", 20)
    c.run("scontrol", "update", "nodename=node1", "state=drain", "reason=test")
    try:
        check_probe(c.run("srun", "-N", 3, "-n", 3, c.probe), 3, cluster.NODES[1:])
        c.until(job.over, "the job ends", 20)
        expect(job.process.returncode == 0 and len(job.events("end")) == 4, "the job did not end well")
    finally:
        c.run("scontrol", "update", "nodename=node1", "state=resume")
    c.here.await_idle()


def batch(c):
    """train.sbatch, as the page has it: trains to its end, and the job has ended well"""
    job = c.submit("--nodes=4", "--ntasks-per-node=2", c.script("train.sbatch"), *TRAIN, "--steps", 30)
    expect(job.finish() == "COMPLETED", f"the job ended as {job.state()}")
    check_report(job.text(), 8)


LONG = (lost_rank, mpirun_stopped, cancel_stubborn, lost_node, time_limit)
CASES = (batch, lost_task, lost_rank, lost_node, cancel, cancel_stubborn, drain, mpirun_stopped, mpiexec_stopped, time_limit)
