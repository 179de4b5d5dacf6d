#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tests of rondo-doctor as a program.

    check.py --doctor FILE [--fake-verbs FOLDER] TEST...
"""

import sys

sys.dont_write_bytecode = True

import argparse
import os
import pty
import re
import stat
import subprocess
import tempfile

import hosts  # noqa: E402
import peers  # noqa: E402
from tool import Programs, Report, expect, environment, main, report, run  # noqa: E402

SECTIONS = {"job", "host", "cgroup", "memory", "network", "rdma", "gpu", "peer"}


def test_options():
    for arguments, words in (
            (["--bogus"], "--help"),
            (["bogus"], "--help"),
            (["--ranks"], "needs a value"),
            (["--ranks", "0"], "1 to 1048576"),
            (["--ranks=two"], "1 to 1048576"),
            (["--ranks", "2", "--ranks-per-node", "3"], "above --ranks 2"),
            (["--list=1"], "takes no value"),
            (["--transport", "udp"], "auto|shm|tcp|verbs"),
            (["--options", "ordr=strict"], "order"),
            (["--only", "rdma,hots"], "hots"),
            (["--json", ""], "not empty"),
            (["--port", "70000"], "65535"),
            (["--timeout", "0"], "1 to 86400"),
            (["--listen", "--peer", "h"], "not both"),
            (["--peer", "host:port"], "HOST:PORT"),
            (["--peer", "[::1"], "[ADDRESS]:PORT"),
            (["--peer", ":29510"], "HOST:PORT")):
        output, errors = run(*arguments, code=2)
        expect(words in errors, arguments, "says", repr(errors), "without", repr(words))
        expect(errors.startswith("rondo-doctor: ") and errors.count("\n") == 1 and output == "",
               arguments, "says more than one line:", output, errors)
    output, _ = run("--help", code=0)
    expect("--ranks-per-node" in output and "--root" not in output, output)
    expect(re.match(r"rondo-doctor \d+\.\d+\.\d+$", run("--version", code=0)[0].strip()), "--version")
    _, errors = run("--only", "memory", "--json", "/nowhere/at/all", code=1)
    expect("No such file" in errors, errors)


def checks():
    return [line.split()[:2] for line in run("--list", code=0)[0].splitlines()]


def colours(env):
    """Whether a report on a terminal has colours."""
    master, slave = pty.openpty()
    done = subprocess.Popen([Programs.doctor, "--only", "memory"], stdout=slave, stdin=subprocess.DEVNULL,
                            env=environment(env))
    os.close(slave)
    text = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:
            break
        if not piece:
            break
        text += piece
    done.wait(60)
    os.close(master)
    expect(b"verdict" in text, text)
    return b"\033[" in text


def test_report():
    listed = checks()
    expect({section for _, section in listed} == SECTIONS, listed)
    expect(len({id for id, _ in listed}) == len(listed), "an id twice")
    everything = report()
    told = {f["id"] for f in everything.json["findings"]}
    ids = {id for id, section in listed if section != "peer"}
    # These are silent when there is nothing to say.
    expect(ids - told <= {"job.variables", "network.ports", "rdma.ports"}, ids - told)
    expect(told <= ids, told - ids)
    order = [[id for id, _ in listed].index(f["id"]) for f in everything.json["findings"]]
    expect(order == sorted(order), "findings are not in the table's order")

    part = report("--only", "host,memory.files")
    expect({f["section"] for f in part.json["findings"]} == {"host", "memory"}, part.text)
    expect({f["id"] for f in part.json["findings"] if f["section"] == "memory"} == {"memory.files"},
           part.text)

    output, errors = run("--only", "memory")
    expect("\033" not in output and errors == "", output, errors)
    expect(re.search(r"^verdict: a job can(not)? run \(\d+ errors?, \d+ warnings?\)$", output, re.M), output)
    expect(colours({"TERM": "xterm"}), "no colours on a terminal")
    expect(not colours({"TERM": "xterm", "NO_COLOR": "1"}), "NO_COLOR is not respected")
    expect(not colours({"TERM": "dumb"}), "colours on a dumb terminal")

    # Both reports at once; names that no text could have.
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "report.json")
        odd = "a\"b\\c\td\xe9"
        output, _ = run("--only", "job", "--json", path, env={"RONDO_KEY_FILE": odd})
        expect("verdict" in output, output)
        with open(path, encoding="utf-8") as f:
            result = Report(f.read())
        result.find("job.options", "ok", odd.replace("\t", " "), subject="RONDO_KEY_FILE")
    # Bytes that are no characters do not make the JSON unreadable.
    environ = {**environment(), b"RONDO_KEY_FILE": b"\xff\xc0\xaf\xed\xa0\x80x"}
    environ = {os.fsencode(k): os.fsencode(v) for k, v in environ.items()}
    done = subprocess.run([Programs.doctor, "--only", "job.options", "--json", "-"], env=environ,
                          stdout=subprocess.PIPE, timeout=60)
    Report(done.stdout.decode("utf-8")).find("job.options", "ok", "\ufffd", "x")


def test_job():
    clean = report("--only", "job")
    clean.find("job.options", "ok", "no option")
    clean.find("job.launcher", "info", "one rank", "rondo-run -n 2")
    clean.find("job.launcher", "info", "rondo-run or torchrun (RANK is not set); Open MPI",
               "Kubernetes (JOB_COMPLETION_INDEX is not set)")
    clean.find("job.key", "info", "auth=none", "key_file", "~/.config/rondo/key")

    report("--only", "job", code=1, env={"RONDO_TRANSPORT": "udp"}).find(
        "job.options", "error", "RONDO_TRANSPORT", "auto|shm|tcp|verbs")
    typo = report("--only", "job", code=0, env={"RONDO_TRANSPROT": "tcp"})
    typo.find("job.variables", "warning", "'transport'", subject="RONDO_TRANSPROT")
    report("--only", "job", env={"RONDO_SLOTS": "16"}).find("job.options", "ok", "16", "default: 8")

    ranks = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "10.9.8.7"}
    result = report("--only", "job", env=ranks)
    result.find("job.launcher", "ok", "rank 1 of 4", "10.9.8.7, port 29500", "rank 0")
    result.find("job.launcher", "info", "(RANK is set: counts)")
    expect(result.json["ranks"] == 4, result.text)
    report("--only", "job", code=1, env={"RANK": "1"}).find("job.launcher", "error", "WORLD_SIZE")
    report("--only", "job", "--ranks", 4, "--ranks-per-node", 2, code=1,
           env={**ranks, "MASTER_ADDR": "127.0.0.1"}).find("job.launcher", "error", "MASTER_ADDR")
    step = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "3", "SLURM_STEP_NUM_NODES": "2",
            "SLURM_STEP_NODELIST": "n[07-08]", "SLURM_NODEID": "0", "SLURM_STEP_TASKS_PER_NODE": "5,3",
            "RONDO_AUTH": "none"}
    result = report("--only", "job", env=step)
    result.find("job.launcher", "ok", "Slurm: rank 3 of 8, local rank 3 of 5", "n07")
    result.find("job.launcher", "info", "Slurm (SLURM_STEP_NUM_TASKS is set: counts)")
    inner = report("--only", "job", env={**step, "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2",
                                         "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "PBS_VNODENUM": "0", "PBS_TASKNUM": "1"})
    inner.find("job.launcher", "ok", "Open MPI: rank 1 of 2")
    inner.find("job.launcher", "info", "Slurm (SLURM_STEP_NUM_TASKS is set, but Open MPI is inside of it)",
               "pbsdsh (PBS_VNODENUM is set, but PBS_TASKNUM is 1)")
    report("--only", "job", code=1, env={"JOB_COMPLETION_INDEX": "2"}).find(
        "job.launcher", "error", "WORLD_SIZE is not set (Kubernetes: an indexed Job has to set", "JOB-0.SERVICE")
    keys()


def keys():
    several = ("--only", "job", "--ranks", 4, "--ranks-per-node", 2)
    with tempfile.TemporaryDirectory() as home:
        path = os.path.join(home, "key")
        with open(path, "w") as f:
            f.write("0123456789abcdef0123456789abcdef\n")
        os.chmod(path, 0o600)
        report(*several, code=0, env={"RONDO_KEY_FILE": path}).find("job.key", "ok", path, "owner only")
        os.chmod(path, 0o644)
        report(*several, code=1, env={"RONDO_KEY_FILE": path}).find("job.key", "error", "0644")
        report(*several, code=1, env={"RONDO_KEY_FILE": path + "x"}).find("job.key", "error",
                                                                          "does not exist")
        report(*several, code=1, env={"RONDO_KEY_FD": "99"}).find("job.key", "error", "RONDO_KEY_FD")
        report(*several, code=0, env={"RONDO_AUTH": "none"}).find("job.key", "warning", "can join")
        # It looks only: no key is made.
        report(*several, code=0, env={"HOME": home}).find("job.key", "warning", "first use")
        expect(not os.path.exists(os.path.join(home, ".config")), "a key was made")
        os.makedirs(os.path.join(home, ".config/rondo"))
        os.rename(path, os.path.join(home, ".config/rondo/key"))
        os.chmod(os.path.join(home, ".config/rondo/key"), stat.S_IRUSR)
        result = report(*several, code=0, env={"HOME": home})
        result.find("job.key", "ok", ".config/rondo/key")
        expect("0123456789abcdef" not in result.text, "the key is in the report")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--doctor", required=True)
    parser.add_argument("--fake-verbs")
    parser.add_argument("tests", nargs="+")
    args = parser.parse_args()
    Programs.doctor = os.path.abspath(args.doctor)
    Programs.fake_verbs = args.fake_verbs and os.path.abspath(args.fake_verbs)
    tests = {"options": test_options, "report": test_report, "job": test_job}
    for module in (hosts, peers):
        tests.update({k[5:]: v for k, v in vars(module).items() if k.startswith("test_")})
    main(tests, args.tests)
