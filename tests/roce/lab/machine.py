# SPDX-License-Identifier: MIT
"""One virtual machine: QEMU's command line, the agent inside, and QEMU's own control socket."""

import ctypes
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

GUEST = Path(__file__).resolve().parent.parent / "guest"
# QEMU without KVM runs 'rep movsb' a byte at a time and carry-less multiplication by a helper: a
# processor that has neither copies more than twice as fast.
EMULATED = ["-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max,-pclmulqdq,-erms,-fsrm"]
HARDWARE = ["-accel", "kvm", "-cpu", "host"]
BOOT_SECONDS = 120


class Died(Exception):
    """A machine ended, or did not come up."""


def end_with_parent():
    """In the child: no machine outlives the laboratory, however that ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def start(command, log):
    with open(log, "wb") as out:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is ours to answer
            preexec_fn=end_with_parent,
        )


def stop(process):
    if process.poll() is None:
        process.kill()
    process.wait()


def listener(path):
    s = socket.socket(socket.AF_UNIX)
    s.bind(str(path))
    s.listen(1)
    s.setblocking(False)
    return s


class Line:
    """A listening unix socket that one peer connects to, with whole lines in and out."""

    def __init__(self, path):
        self.listener, self.peer, self.buffer = listener(path), None, b""

    def lines(self):
        if self.peer is None:
            try:
                self.peer, _ = self.listener.accept()
                self.peer.setblocking(False)
            except BlockingIOError:
                return []
        try:
            self.buffer += self.peer.recv(65536)
        except (BlockingIOError, ConnectionError):
            pass
        *whole, self.buffer = self.buffer.split(b"\n")
        return [line.decode(errors="replace").strip() for line in whole]

    def send(self, text):
        self.peer.setblocking(True)
        try:
            self.peer.sendall(text.encode() + b"\n")
        except ConnectionError:
            pass  # the machine is gone, which its process tells
        self.peer.setblocking(False)

    def close(self):
        for s in (self.peer, self.listener):
            if s is not None:
                s.close()


def command_line(kernel_files, accel, append, memory, cpus):
    image, disk = kernel_files
    return [
        *("qemu-system-x86_64", "-M", "pc", *(HARDWARE if accel == "kvm" else EMULATED)),
        *("-smp", str(cpus), "-m", str(memory), "-nodefaults", "-no-user-config"),
        *("-display", "none", "-no-reboot", "-kernel", str(image), "-initrd", str(disk)),
        *("-append", append),
    ]


def kernel_words(accel, khz):
    words = "quiet nokaslr console=ttyS0 panic=-1 mitigations=off audit=0 rcupdate.rcu_expedited=1"
    if accel != "kvm":
        # Told the frequency, because a guest that measures it on a busy host can be wrong by far.
        words += f" tsc=reliable tsc_early_khz={khz} no_timer_check preempt=none"
    return words


class Machine:
    def __init__(self, node, folder):
        self.node, self.folder = node, folder
        self.process = None
        self.up_seconds, self.ended_on_purpose = None, False
        self.agent = Line(folder / f"a{node}")
        self.monitor = Line(folder / f"q{node}")
        self.problems = []

    def boot(self, kernel_files, accel, khz, memory, cpus, rails):
        f, node = self.folder, self.node
        words = f"{kernel_words(accel, khz)} roce.guest={GUEST} roce.node={node}"
        command = command_line(kernel_files, accel, words, memory, cpus)
        command += ["-name", f"roce-node{node}", "-serial", f"file:{f}/console{node}"]
        command += ["-qmp", f"unix:{f}/q{node},server=off"]
        shares = (("host", "/", ",readonly=on"), ("ctl", f"{f}/ctl", ""))
        for name, path, options in shares:
            command += ["-device", f"virtio-9p-pci,fsdev={name},mount_tag={name}"]
            command += ["-fsdev", f"local,id={name},path={path},security_model=none"
                        f",multidevs=remap{options}"]  # fmt: skip
        command += ["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=a,name=agent"]
        command += ["-chardev", f"socket,id=a,path={f}/a{node},server=off"]
        for rail in range(rails):
            command += ["-netdev", f"stream,id=n{rail},server=off,addr.type=unix,addr.path="
                        f"{f}/s{rail}/{node}"]  # fmt: skip
            command += ["-device", f"virtio-net-pci,id=nic{rail},netdev=n{rail},romfile=,"
                        f"mac=52:54:00:00:{rail:02x}:{node:02x},rx_queue_size=1024"]  # fmt: skip
        self.process = start(command, f / f"qemu{node}")

    def listen(self):
        """Lines of the agent that concern the job. Raises Died when the machine has ended unasked."""
        lines = []
        for line in self.agent.lines():
            verb, _, rest = line.partition(" ")
            if verb == "up":
                self.up_seconds = float(rest)
            elif verb == "bad":
                self.problems.append(rest)
            else:
                lines.append(line)
        self.monitor.lines()  # answers and events of QEMU: nothing that we wait for
        if self.process.poll() is not None and not self.ended_on_purpose:
            raise Died(f"the machine of node {self.node} ended unexpectedly ({self.last_words()})")
        return lines

    def last_words(self):
        """What the machine said last, for a message."""
        for name in ("qemu", "console"):
            path = self.folder / f"{name}{self.node}"
            text = path.read_text(errors="replace") if path.exists() else ""
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            if lines:
                return f"{name}: " + " | ".join(lines[-3:])
        return f"exit code {self.process.returncode}, and it said nothing"

    def set_link(self, rail, up):
        self.monitor.lines()
        what = {"execute": "set_link", "arguments": {"name": f"nic{rail}", "up": up}}
        for command in ({"execute": "qmp_capabilities"}, what):
            self.monitor.send(json.dumps(command))

    def signal(self, number):
        if number == signal.SIGKILL:
            self.ended_on_purpose = True
        os.kill(self.process.pid, number)

    def power_off(self):
        """Asks; stop() makes sure."""
        if self.process.poll() is None and self.agent.peer is not None:
            self.ended_on_purpose = True
            self.agent.send("off")

    def wait_off(self, seconds):
        until = time.monotonic() + seconds
        while self.process is not None and self.process.poll() is None:
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        return True

    def close(self):
        if self.process is not None:
            self.ended_on_purpose = True
            stop(self.process)
        self.agent.close()
        self.monitor.close()


# ---- KVM ------------------------------------------------------------------------------------------


def boot_id():
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def kvm_boots(kernel_files, folder, seconds=6):
    """Whether a machine comes up with KVM: that it can be opened is not enough."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    command = command_line(kernel_files, "kvm", kernel_words("kvm", 0) + " roce.probe", 256, 1)
    console = folder / "probe"
    process = start([*command, "-serial", f"file:{console}"], folder / "qemu-probe")
    until = time.monotonic() + seconds
    found = False
    while not found and time.monotonic() < until and process.poll() is None:
        time.sleep(0.05)
        found = console.exists() and b"roce: probe ok" in console.read_bytes()
    stop(process)
    return found


def choose_accel(wanted, kernel_files, work, folder):
    """'kvm' or 'tcg'; what a probe says is kept until this host boots again."""
    if wanted != "auto":
        return wanted
    memory = work / "accel"
    known = memory.read_text(encoding="ascii").split() if memory.exists() else []
    if len(known) == 2 and known[0] == boot_id():
        return known[1]
    found = "kvm" if kvm_boots(kernel_files, folder) else "tcg"
    memory.write_text(f"{boot_id()} {found}\n", encoding="ascii")
    return found
