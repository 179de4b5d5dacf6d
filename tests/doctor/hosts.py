# SPDX-License-Identifier: MIT
"""Hosts that do not exist: each a tree of files, what is to be found there, and whether a job can run."""

import ctypes
import os
import platform
import struct
import tempfile

from tool import Programs, Skipped, Tree, expect, report


def test_host():
    with Tree() as t:
        t.report("--only", "host", code=0).find("host.container", "ok", "not a container")
        t.report("--only", "host").find("host.cpus", "ok", "8 of 8")
        result = report("--only", "job.variables,host.cpus", env={"RONDO_DOCTOR_ROOT": t.path})
        result.find("host.cpus", "ok", "8 of 8")
        expect(result.worst("job.variables") == -1, result.text)
        t.report("--only", "host").find("host.ptrace", "ok")
        t.report("--only", "host.cpus", "--ranks", 9, code=0).find("host.cpus", "warning", "fewer ranks")
        t.write("proc/self/status", "Cpus_allowed_list:\t2,4-5\n")
        t.report("--only", "host.cpus", "--ranks", 4).find("host.cpus", "warning", "3 of 8", "taskset")
        for name, kind in ((".dockerenv", "Docker"), ("run/.containerenv", "Podman"),
                           ("run/systemd/container", "systemd-nspawn")):
            with Tree() as c:
                c.write(name, "x")
                c.report("--only", "host").find("host.container", "info", kind)
        t.write("proc/self/cgroup", "0::/kubepods/pod1/abc\n")
        t.report("--only", "host").find("host.container", "info", "Kubernetes")
        t.write("proc/self/uid_map", "         0     100000      65536\n")
        t.report("--only", "host").find("host.container", "info", "user 100000 outside")
        for scope, words in ((1, "parent or root"), (2, "unless root"), (3, "next boot")):
            t.write("proc/sys/kernel/yama/ptrace_scope", "%d\n" % scope)
            t.report("--only", "host").find("host.ptrace", "info", words)
        t.write("sys/kernel/mm/transparent_hugepage/shmem_enabled",
                "always within_size advise [never] deny force\n")
        t.report("--only", "host").find("host.hugepages", "info", "never", "within_size")
        t.write("sys/kernel/mm/transparent_hugepage/shmem_enabled",
                "always [within_size] advise never deny force\n")
        t.report("--only", "host").find("host.hugepages", "ok", "within_size")
        t.write("sys/devices/system/node/node0/cpulist", "0-3\n")
        t.write("sys/devices/system/node/node1/cpulist", "4-7\n")
        t.write("proc/self/status", "Cpus_allowed_list:\t0-3\n")
        t.write("sys/class/net/eth7/device/numa_node", "1\n")
        t.write("sys/class/net/eth8/device/numa_node", "-1\n")
        t.write("sys/class/infiniband/mlx5_0/device/numa_node", "0\n")
        result = t.report("--only", "host.numa")
        result.find("host.numa", "info", "2 NUMA nodes; processors of 1")
        result.find("host.numa", "warning", "--cpunodebind=1", subject="eth7")
        result.find("host.numa", "ok", "node 0", subject="mlx5_0")
    cgroups()


def cgroups():
    only = ("--only", "cgroup", "--ranks", 4)
    with Tree() as t:
        t.report(*only, code=0).find("cgroup.memory", "ok", "no cgroup")
        # Version 2: the group above is the tighter one.
        base = "sys/fs/cgroup/"
        t.write(base + "cgroup.controllers", "cpu memory pids rdma\n")
        t.write(base + "job/memory.max", "max\n")
        t.write(base + "job/pids.max", "1000\n")
        t.write(base + "job/pids.current", "990\n")
        t.write(base + "job/cpu.max", "150000 100000\n")
        t.write(base + "job/rdma.max", "mlx5_0 hca_handle=2 hca_object=max\n")
        t.write(base + "memory.max", "536870912\n")
        t.write(base + "memory.current", "1048576\n")
        result = t.report(*only, code=1)
        result.find("cgroup.memory", "warning", "512 MiB", "1 MiB of it used", subject="/sys/fs/cgroup")
        result.find("cgroup.pids", "error", "990 of them in use", subject="/sys/fs/cgroup/job")
        result.find("cgroup.cpu", "warning", "1.5 processors")
        result.find("cgroup.rdma", "warning", "hca_handle=2", subject="mlx5_0")
        t.report(*only, "--transport", "verbs", code=1).find("cgroup.rdma", "error", "hca_handle=2")
        # Of two limits the smaller one counts, wherever it is.
        t.write(base + "job/memory.max", "268435456\n")
        t.report(*only).find("cgroup.memory", "warning", "256 MiB", subject="/sys/fs/cgroup/job")
        t.write(base + "job/pids.max", "max\n")
        t.write(base + "job/cpu.max", "max 100000\n")
        result = t.report(*only, code=0)
        result.find("cgroup.pids", "ok", "no cgroup")
        result.find("cgroup.cpu", "ok", "no cgroup")
    with Tree() as t:
        # Version 1, in a container that sees its own group as the topmost.
        t.write("proc/self/cgroup", "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n3:pids:/docker/x\n")
        t.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
        t.write("sys/fs/cgroup/pids/pids.max", "10\n")
        t.write("sys/fs/cgroup/pids/pids.current", "3\n")
        t.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n")
        t.write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
        result = t.report(*only, code=1)
        result.find("cgroup.memory", "ok", "no cgroup")
        result.find("cgroup.pids", "error", "10 threads", subject="/sys/fs/cgroup/pids")
        result.find("cgroup.cpu", "warning", "2 processors", subject="/sys/fs/cgroup/cpu")
        t.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
        t.write("proc/self/cgroup", "4:memory:/../..\n")
        t.report(*only).find("cgroup.cpu", "ok", "no cgroup")


def deny_memfd():
    """A preexec_fn after which memfd_create() is refused, as some containers do it."""
    number = {"x86_64": 319, "aarch64": 279}.get(platform.machine())
    if number is None:
        raise Skipped("the number of memfd_create is not known for this processor")
    libc = ctypes.CDLL(None, use_errno=True)
    code = b"".join(struct.pack("HBBI", *row) for row in (
        (0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7fff0000)))
    buffer = ctypes.create_string_buffer(code)

    class Program(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    program = Program(4, ctypes.cast(buffer, ctypes.c_void_p))

    def prepare():
        if libc.prctl(38, 1, 0, 0, 0) != 0 or libc.prctl(22, 2, ctypes.byref(program)) != 0:
            os._exit(99)
        program._keep = buffer
    return prepare


def test_memory():
    small = ("65536", "65536")
    with Tree() as t:
        t.report("--only", "memory", code=0).find("memory.memlock", "ok", "without limit")
        t.limits(locked=small)
        # Without an RDMA device the limit hurts nobody; with one a job fails.
        t.report("--only", "memory", code=0).find("memory.memlock", "info", "64 KiB", "nothing is lost")
        t.report("--only", "memory", "--transport", "verbs", code=1).find("memory.memlock", "error",
                                                                         "memlock unlimited")
        t.write("sys/class/infiniband/mlx5_0/node_type", "1: CA\n")
        t.report("--only", "memory", code=1).find("memory.memlock", "error", "64 KiB", "limits.d")
        t.report("--only", "memory", "--transport", "tcp", code=0).find("memory.memlock", "info")
        t.limits(locked=("65536", "unlimited"))
        t.report("--only", "memory", code=1).find("memory.memlock", "error", "ulimit -l unlimited")
        t.limits(locked=("1073741824", "1073741824"))
        t.report("--only", "memory", code=0).find("memory.memlock", "warning", "1 GiB")
        t.limits(locked=small)
        t.write("proc/self/status", "CapEff:\t0000000000004000\n")
        t.report("--only", "memory", code=0).find("memory.memlock", "ok", "CAP_IPC_LOCK")
        # Root of a user namespace has the capability by name only.
        t.write("proc/self/uid_map", "         0     100000      65536\n")
        t.report("--only", "memory", code=1).find("memory.memlock", "error")

        t.limits(files=("1024", "524288"))
        t.report("--only", "memory", "--ranks", 8, code=0).find("memory.files", "ok", "1024")
        t.report("--only", "memory", "--ranks", 512, "--ranks-per-node", 8, "--transport", "tcp",
                 code=1).find("memory.files", "error", "ulimit -n")
        t.limits(files=("1024", "1024"))
        t.report("--only", "memory", "--ranks", 512, "--ranks-per-node", 8, "--transport", "tcp",
                 code=1).find("memory.files", "error", "limits.d")
        os.remove(os.path.join(t.path, "proc/self/limits"))
        t.report("--only", "memory", code=0).find("memory.files", "info", "unknown")
    with Tree() as t:
        result = t.report("--only", "memory", code=0)
        result.find("memory.memfd", "ok")
        result.find("memory.shm", "ok", "8 GiB")
        t.write("proc/self/mounts", "shm /dev/shm tmpfs rw,size=65536k,inode64 0 0\n")
        t.report("--only", "memory", "--ranks", 8, code=0).find("memory.shm", "ok", "64 MiB", "nothing")
        refused = t.report("--only", "memory", "--ranks", 8, code=0, prepare=deny_memfd())
        refused.find("memory.memfd", "warning", "memfd_create is refused", "/dev/shm")
        refused.find("memory.shm", "warning", "64 MiB", "--shm-size=128M")


def test_network():
    with Tree() as t:
        t.write("sys/class/net/lo/mtu", "65536\n")
        only = ("--only", "network", "--options", "interface=lo")
        result = t.report(*only, code=0)
        result.find("network.interfaces", "ok", "127.0.0.1/8", "MTU 65536", subject="lo")
        result.find("network.interfaces", "info", "only the loopback")
        t.report(*only, "--ranks", 4, "--ranks-per-node", 2, code=1).find("network.interfaces", "error",
                                                                         "no other host")
        t.write("sys/class/net/lo/mtu", "1500\n")
        t.write("sys/class/net/lo/speed", "100000\n")
        t.report(*only).find("network.interfaces", "ok", "100 Gb/s", "mtu 9000")
        nowhere = ("--only", "network", "--options", "interface=nosuch0")
        t.report(*nowhere, code=0).find("network.interfaces", "warning", "nosuch0")
        t.report(*nowhere, "--transport", "tcp", code=1).find("network.interfaces", "error", "nosuch0")
        t.write("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n")
        t.write("proc/sys/net/ipv4/tcp_wmem", "4096\t16384\t4194304\n")
        t.report(*only).find("network.buffers", "ok", "6 MiB", "4 MiB")
        t.write("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t212992\n")
        t.report(*only).find("network.buffers", "info", "208 KiB", "0.11 GB/s", "sysctl")
        t.write("proc/sys/net/ipv4/ip_local_port_range", "40000\t40099\n")
        t.write("proc/sys/net/core/somaxconn", "128\n")
        result = t.report(*only, "--ranks", 512, "--ranks-per-node", 4, code=1)
        result.find("network.ports", "warning", "40000 to 40099", "ip_local_port_range")
        result.find("network.ports", "warning", "128 connections", "somaxconn")


def test_gpu():
    with Tree() as t:
        result = t.report("--only", "gpu", code=0)
        result.find("gpu.peer_memory", "info", "no NVIDIA driver")
        result.find("gpu.pci", "ok", "no IOMMU")
        t.write("proc/modules", "nvidia 1 0 - Live 0x0\nnvidia_drm 1 0 - Live 0x0\n")
        t.report("--only", "gpu").find("gpu.peer_memory", "info", "modprobe nvidia_peermem")
        t.write("proc/modules", "nvidia_peermem 1 0 - Live 0x0\nnvidia 1 0 - Live 0x0\n")
        t.report("--only", "gpu").find("gpu.peer_memory", "ok", subject="nvidia_peermem")
        t.write("boot/config-" + platform.release(), "CONFIG_X=y\nCONFIG_DMABUF_MOVE_NOTIFY=y\n")
        t.report("--only", "gpu").find("gpu.peer_memory", "info", "built with DMA-BUF")
        t.write("sys/class/iommu/dmar0", "")
        t.report("--only", "gpu").find("gpu.pci", "info", "iommu=pt")
        t.write("proc/cmdline", "quiet iommu=pt\n")
        t.report("--only", "gpu").find("gpu.pci", "ok", "pass-through")
        # A bridge: AER at 0x100, behind it access control at 0x148 with redirection on.
        config = bytearray(4096)
        config[0x100:0x104] = struct.pack("<I", 0x0001 | 1 << 16 | 0x148 << 20)
        config[0x148:0x150] = struct.pack("<IHH", 0x000d | 1 << 16, 0x7f, 0x1d)
        bridge = "sys/bus/pci/devices/0000:00:01.0/"
        t.write(bridge + "class", "0x060400\n")
        t.write(bridge + "config", bytes(config))
        t.write("sys/bus/pci/devices/0000:00:02.0/class", "0x020000\n")
        t.report("--only", "gpu", code=0).find("gpu.pci", "warning", "1 of 1", "setpci",
                                               subject="0000:00:01.0")
        config[0x14e:0x150] = b"\0\0"
        t.write(bridge + "config", bytes(config))
        t.report("--only", "gpu").find("gpu.pci", "ok", "(1 looked at)")
        config[0x100:0x104] = struct.pack("<I", 0x0001 | 1 << 16 | 0x100 << 20)  # points at itself
        t.write(bridge + "config", bytes(config))
        t.report("--only", "gpu").find("gpu.pci", "ok", "(1 looked at)")
        t.write(bridge + "config", bytes(config[:64]))
        t.report("--only", "gpu").find("gpu.pci", "info", "root only")


def fake(folder, **more):
    return {"LD_LIBRARY_PATH": Programs.fake_verbs, "FAKE_VERBS_DIR": folder,
            **{"FAKE_VERBS_" + k.upper(): str(v) for k, v in more.items()}}


def test_rdma():
    with Tree() as t:
        # The kernel has a device that the container was not given.
        t.write("sys/class/infiniband/mlx5_0/node_type", "1: CA\n")
        t.report("--only", "rdma.files", code=0).find("rdma.files", "warning", "mlx5_0",
                                                      "--device=/dev/infiniband")
        t.report("--only", "rdma.files", "--transport", "verbs", code=1).find("rdma.files", "error", "mlx5_0")
        t.write("dev/infiniband/uverbs0")
        t.report("--only", "rdma.files", code=0).find("rdma.files", "ok", "uverbs0")
        t.report("--only", "rdma", "--transport", "tcp", code=0).find("rdma.ports", "info", "not used")
    with Tree() as t:
        t.write("dev/infiniband/uverbs0")
        t.report("--only", "rdma.files", code=0).find("rdma.files", "warning", "uverbs0", "netns shared")
    if not Programs.fake_verbs or not os.path.exists(os.path.join(Programs.fake_verbs, "libibverbs.so.1")):
        raise Skipped("tests/fake_verbs is not built: the ports are not looked at")
    with tempfile.TemporaryDirectory() as folder:
        none = {"LD_LIBRARY_PATH": Programs.fake_verbs}
        result = report("--only", "rdma", code=0, env=none)
        result.find("rdma.library", "ok")
        expect(result.worst("rdma.ports") == 1, result.text)
        report("--only", "rdma", "--transport", "verbs", code=1, env=none).find("rdma.ports", "error")
        ports(folder)


def ports(folder):
    only = ("--only", "rdma", "--transport", "verbs")
    result = report(*only, code=0, env=fake(folder, devices=2))
    result.find("rdma.ports", "ok", "RoCE, active", subject="fake0:1")
    result.find("rdma.ports", "ok", "a job uses fake0:1, fake1:1", "decided NICs first, then the fastest")
    # Index 3 is the IPv4 address in version 2; lower ones are older or link-local.
    result.find("rdma.ports", "ok", "GID 3, 10.77.", "RoCE v2", subject="fake0:1")
    result.find("rdma.ports", "ok", "opens", subject="fake1:1")
    one = report(*only, code=0, env={**fake(folder, devices=2), "RONDO_DEVICE": "fake1"})
    one.find("rdma.ports", "ok", "a job uses fake1:1 (option device")
    report(*only, code=1, env={**fake(folder), "RONDO_DEVICE": "mlx5_9"}).find("rdma.ports", "error", "mlx5_9",
                                                                             "fake0")
    old = report(*only, code=0, env={**fake(folder), "RONDO_VERBS_GID": "2"})
    old.find("rdma.ports", "warning", "RoCE v1", subject="fake0:1")
    local = report(*only, code=0, env={**fake(folder), "RONDO_VERBS_GID": "1"})
    local.find("rdma.ports", "warning", "link-local", subject="fake0:1")
    report(*only, code=0, env=fake(folder, link="ib")).find("rdma.ports", "ok", "InfiniBand, active")
    report(*only, code=0, env=fake(folder, link="iwarp")).find("rdma.ports", "ok", "iWARP, active")
