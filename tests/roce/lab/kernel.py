# SPDX-License-Identifier: MIT
"""Debian's kernel, unpacked but not installed, as QEMU boots it fastest: an ELF image without its
decompressor, and an initial RAM disk with busybox and the few modules that are needed."""

import fcntl
import io
import lzma
import os
import re
import shutil
import stat
import subprocess
import zlib
from pathlib import Path

GUEST = Path(__file__).resolve().parent.parent / "guest"
# crc32 first: rxe asks the kernel for that algorithm, and nobody here would load a module on demand.
MODULES = (
    "virtio_pci virtio_console virtio_net 9pnet_virtio 9p overlay crc32_generic crc32c_generic "
    "ib_uverbs rdma_ucm rdma_rxe sch_netem veth bridge"
).split()
# Program that must be there, and the Debian package that has it.
PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "rdma": "iproute2",
    "cc": "gcc",
}
LIBRARIES = {"libibverbs.so.1": "libibverbs1", "libibverbs/librxe-rdmav*.so": "ibverbs-providers"}


class Missing(Exception):
    """What is not there; the laboratory is skipped."""


def missing_packages():
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    found = [p for name, p in PROGRAMS.items() if not shutil.which(name, path=path)]
    folders = [Path("/usr/lib/x86_64-linux-gnu"), Path("/usr/lib64"), Path("/usr/lib")]
    for pattern, package in LIBRARIES.items():
        if not any(list(f.glob(pattern)) for f in folders):
            found.append(package)
    return found


def unpacked(work):
    """Versions of the kernels that lie in the work folder, newest last."""
    images = (work / "kernels").glob("*/boot/vmlinuz-*")
    versions = [i.name[len("vmlinuz-") :] for i in images]
    return sorted(versions, key=lambda v: [int(n) for n in re.findall(r"\d+", v)])


def choose(work, wanted):
    found = unpacked(work)
    if wanted and wanted in found:
        return wanted
    if wanted or not found:
        raise Missing(f"the kernel {wanted or 'package'} is not in {work}/kernels")
    return found[-1]


# ---- Installing -----------------------------------------------------------------------------------


def apt(*words, **options):
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    if subprocess.run(["apt-get", *words], env=environment, check=False, **options).returncode != 0:
        raise SystemExit(f"roce: 'apt-get {' '.join(words)}' failed")


def newest_package():
    """The version that Debian's meta package for this architecture stands for."""
    text = subprocess.run(
        ["apt-cache", "depends", "linux-image-amd64"], capture_output=True, text=True, check=False
    ).stdout
    found = re.search(r"Depends: linux-image-(\S+-amd64)", text)
    if not found:
        raise Missing("apt knows no package linux-image-amd64: name the kernel with --kernel")
    return found.group(1)


def install(work, wanted, say):
    """Debian packages of programs are installed; the kernel's is only unpacked below `work`."""
    packages = missing_packages()
    # Only root may bring the lists up to date; the kernel's package can be fetched without.
    if (packages or not wanted) and os.geteuid() == 0:
        say("apt-get update")
        apt("update", "-qq")
    if packages:
        say("apt-get install " + " ".join(packages))
        words = "install -y -qq --no-install-recommends --no-remove".split()
        apt(*words, *packages, stdout=subprocess.DEVNULL)
    version = wanted or newest_package()
    if version in unpacked(work):
        return
    folder = work / "kernels" / "download"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    say(f"apt-get download linux-image-{version}")
    apt("download", "-qq", f"linux-image-{version}", cwd=folder)
    package = next(folder.glob("*.deb"))
    tree = folder / "tree"
    subprocess.run(["dpkg-deb", "-x", package, tree], check=True)
    tree.rename(work / "kernels" / version)
    shutil.rmtree(folder)


# ---- Image and RAM disk ---------------------------------------------------------------------------


def extract(image):
    """The ELF image inside a bzImage, or None when its compression is not known here."""
    sectors = image[0x1F1] or 4
    offset = int.from_bytes(image[0x248:0x24C], "little") + (sectors + 1) * 512
    packed = image[offset : offset + int.from_bytes(image[0x24C:0x250], "little")]
    if packed[:6] == b"\xfd7zXZ\0":
        return lzma.LZMADecompressor().decompress(packed)
    if packed[:2] == b"\x1f\x8b":
        return zlib.decompressobj(31).decompress(packed)
    return None


def read_module(path):
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def load_order(tree, wanted, extra=()):
    """[(file name, content)] with what each module needs before it, from the modules themselves."""
    files = {}
    for path in sorted((tree / "lib/modules").rglob("*.ko*")):
        files[path.name.split(".ko")[0].replace("-", "_")] = path
    for path in extra:
        files[path.stem] = path
    builtin = "".join(p.read_text() for p in (tree / "lib/modules").glob("*/modules.builtin"))
    built_in = {Path(line).stem.replace("-", "_") for line in builtin.split()}
    order = {}

    def add(name):
        name = name.replace("-", "_")
        if name in order or name in built_in:
            return
        if name not in files:
            raise Missing(f"the kernel {tree.name} has no module {name}")
        content = read_module(files[name])
        needs = re.search(rb"\0depends=([^\0]*)\0", content)
        for need in needs.group(1).decode().split(",") if needs else ():
            if need:
                add(need)
        order[name] = content

    for name in wanted:
        add(name)
    return [(f"{name}.ko", content) for name, content in order.items()]


class Archive:
    """A cpio archive in the format that the kernel unpacks."""

    def __init__(self):
        self.out, self.count = io.BytesIO(), 0

    def add(self, name, mode, content=b""):
        self.count += 1
        encoded = name.encode() + b"\0"
        fields = [self.count, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0]
        self.out.write(b"070701" + b"".join(b"%08X" % f for f in fields) + encoded)
        self.pad()
        self.out.write(content)
        self.pad()

    def pad(self):
        self.out.write(b"\0" * (-self.out.tell() % 4))

    def finish(self):
        self.add("TRAILER!!!", 0)
        return self.out.getvalue()


def ram_disk(modules):
    archive = Archive()
    for name in ("bin", "dev", "lower", "modules", "proc", "root", "sys", "upper"):
        archive.add(name, stat.S_IFDIR | 0o755)
    archive.add("bin/busybox", stat.S_IFREG | 0o755, Path(shutil.which("busybox")).read_bytes())
    archive.add("init", stat.S_IFREG | 0o755, (GUEST / "init").read_bytes())
    for name, content in modules:
        archive.add(f"modules/{name}", stat.S_IFREG | 0o644, content)
    order = "".join(f"{name}\n" for name, _ in modules)
    archive.add("modules/order", stat.S_IFREG | 0o644, order.encode())
    return archive.finish()


def replace(path, content):
    temporary = path.with_suffix(".new")
    temporary.write_bytes(content)
    temporary.rename(path)


def prepare(work, version, extra=()):
    """(kernel image, RAM disk), made anew only when something that they are made of is younger."""
    tree = work / "kernels" / version
    folder = work / "boot" / (version + "".join(f"+{p.stem}" for p in extra))
    folder.mkdir(parents=True, exist_ok=True)
    image, disk = folder / "kernel", folder / "initrd"
    sources = [Path(__file__), GUEST / "init", Path(shutil.which("busybox")), *extra]
    with open(folder / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be at it
        if not image.exists():
            packed = (tree / "boot" / f"vmlinuz-{version}").read_bytes()
            replace(image, extract(packed) or packed)
        if not disk.exists() or disk.stat().st_mtime < max(s.stat().st_mtime for s in sources):
            modules = load_order(tree, [*MODULES, *(p.stem for p in extra)], extra)
            replace(disk, ram_disk(modules))
    return image, disk
