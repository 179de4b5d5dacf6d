# SPDX-License-Identifier: MIT
"""The store's port: taken by others, not reachable, not permitted."""

import os
import socket
import threading

from harness import Programs, Skipped, case, expect, expect_error, expect_ok


class Stranger:
    """Something on a port that is no Rondo: answers every connection with `answer`, or with nothing."""

    def __init__(self, port, answer=b""):
        self.answer = answer
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(("127.0.0.1", port))
        self.socket.listen(16)
        self.connections = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                c, _ = self.socket.accept()
                self.connections.append(c)
                c.sendall(self.answer)
            except OSError:
                return

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for c in self.connections:
            c.close()


@case("store")
def foreign_port(new_job):
    """the port is in use by a program that speaks first: rank 0 and the others"""
    job = new_job()
    with Stranger(job.port, b"220 mail.example ESMTP\r\n"):
        job.ranks(3, RONDO_CONNECT_TIMEOUT="3s")
        job.wait(15)
    expect_error(job.processes[0], f"port {job.port}", "in use", "MASTER_PORT", "ss -ltnp", within=3)
    for p in job.processes[1:]:
        expect_error(p, "rank [12]", f"port {job.port}", "does not speak Rondo's protocol", within=3)


@case("store")
def silent_port(new_job):
    """the port is in use by a program that says nothing"""
    job = new_job()
    with Stranger(job.port):
        job.ranks(2, RONDO_CONNECT_TIMEOUT="3s")
        job.wait(15)
    expect_error(job.processes[0], f"port {job.port}", "in use", "MASTER_PORT", within=3)
    expect_error(job.processes[1], "rank 1", f"port {job.port}", "no answer came", "MASTER_PORT", within=6)


@case("store")
def launcher_port(new_job):
    """rondo-run --master-port with a port in use"""
    job = new_job()
    with Stranger(job.port):
        p = job.run(2, Programs.rank, options=("--master-port", job.port))
        job.wait(10)
    expect_error(p, "rondo-run: ", f"port {job.port}", "in use", "--master-port", code=1, within=3)


@case("store")
def other_job(new_job):
    """the port is that of another job that runs: the strangers are told, the job goes on"""
    first, second = new_job(), new_job()
    second.port = first.port
    job = first.run(2, Programs.rank, "--seconds", 3, options=("--master-port", first.port))
    first.until("(?s)ready.*ready")
    second.ranks(2, RONDO_CONNECT_TIMEOUT="3s")
    second.wait(15)
    expect_error(second.processes[0], f"port {first.port}", "in use", "MASTER_PORT", within=3)
    expect_error(second.processes[1], "rank 1", f"port {first.port}", "does not have this job's key", within=3)
    first.wait(15)
    expect_ok([job], 2)


@case("store")
def nobody(new_job):
    """nobody serves the port, and a name that cannot be resolved"""
    job = new_job()
    job.rank(1, 2, RONDO_CONNECT_TIMEOUT="2s")
    job.rank(2, 3, RONDO_CONNECT_TIMEOUT="2s", MASTER_ADDR="no-such-host.invalid")
    job.wait(15)
    expect_error(job.processes[0], "rank 1", f"127.0.0.1, port {job.port}", "within 2 s", "Connection refused",
                 "MASTER_ADDR", within=5)
    expect_error(job.processes[1], "rank 2", "no-such-host.invalid", "cannot be resolved", "MASTER_ADDR", within=14)


@case("store")
def missing_rank(new_job):
    """a rank never comes: every other one names it"""
    job = new_job()
    for rank in (0, 1, 3):
        job.rank(rank, 4, RONDO_CONNECT_TIMEOUT="2s")
    job.wait(15)
    for p in job.processes:
        expect_error(p, r"waiting for ranks 2 \(1 of 4\)", "connect_timeout", within=8)


@case("store")
def same_rank_twice(new_job):
    """two processes say they are rank 1"""
    job = new_job()
    job.rank(0, 3, RONDO_CONNECT_TIMEOUT="3s")
    job.rank(1, 3, RONDO_CONNECT_TIMEOUT="3s")
    job.rank(1, 3, RONDO_CONNECT_TIMEOUT="3s")
    job.wait(20)
    for p in job.processes:
        expect(p.code == 3, f"{p.name}: exit code {p.code}")
    expect_error(job.processes[0], "waiting for ranks 2", within=8)


@case("store")
def low_port(new_job):
    """a port that this user may not serve"""
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as f:
        if int(f.read()) <= 7:
            raise Skipped("every user may serve every port here")
    wrap = ()
    if os.geteuid() == 0:
        wrap = ("setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service")
    job = new_job()
    job.port = 7
    job.rank(0, 2, wrap=wrap)
    job.wait(10)
    expect_error(job.processes[0], "may not listen on port 7", "1024", "MASTER_PORT", within=3)
