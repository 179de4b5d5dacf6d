# SPDX-License-Identifier: MIT
"""Soft-iWARP: Debian's kernel comes without the module, so it is compiled from Debian's kernel source."""

import re
import shutil
import subprocess
import tarfile

from . import kernel

FOLDER = "drivers/infiniband/sw/siw"


def module(work, version):
    return work / "siw" / version / "siw.ko"


def find(work, version):
    found = module(work, version)
    if not found.exists():
        raise kernel.Missing(f"the module siw is not built for {version}: add --siw to --install")
    return found


def package_names(version):
    """Headers of the kernel with what they need, and its source."""
    short = ".".join(version.split(".")[:2])
    common = re.sub(r"-[^-]+$", "-common", version)
    headers = [f"linux-headers-{version}", f"linux-headers-{common}", f"linux-kbuild-{short}"]
    return headers, f"linux-source-{short}"


def relocate(tree, version):
    """The headers name their other half by where they would be installed."""
    headers = tree / "usr/src" / f"linux-headers-{version}"
    for path in [headers / "Makefile", *(tree / "usr/src").glob("*-common/Makefile")]:
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("/usr/src/", f"{tree}/usr/src/"), encoding="utf-8")
    for folder in (tree / "usr/src").iterdir():
        for name in ("scripts", "tools"):
            link = folder / name
            if link.is_symlink():
                target = next(tree.glob("usr/lib/linux-kbuild-*")) / name
                link.unlink()
                link.symlink_to(target)
    return headers


def install(work, version, say):
    """About 150 MB of packages, unpacked below `work` and removed again."""
    if module(work, version).exists():
        return
    download = (work / "siw" / "download").resolve()
    tree = download / "tree"
    shutil.rmtree(download, ignore_errors=True)
    tree.mkdir(parents=True)
    headers, source = package_names(version)
    say("apt-get download " + " ".join([*headers, source]))
    kernel.apt("download", "-qq", *headers, source, cwd=download)
    for package in download.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, tree], check=True)
    say("compiling the module siw")
    with tarfile.open(next((tree / "usr/src").glob("linux-source-*.tar.xz"))) as archive:
        for member in archive:
            if f"/{FOLDER}/" in member.name and member.isfile():
                archive.extract(member, download)
    code = next(download.glob(f"linux-source-*/{FOLDER}"))
    log = work / "siw" / "build.log"
    make = ["make", "-C", relocate(tree, version), f"M={code}", "CONFIG_RDMA_SIW=m", "modules"]
    with open(log, "wb") as out:
        if subprocess.run(make, stdout=out, stderr=out, check=False).returncode != 0:
            raise SystemExit(f"roce: the module siw cannot be compiled; see {log}")
    module(work, version).parent.mkdir(exist_ok=True)
    shutil.copy(code / "siw.ko", module(work, version))
    shutil.rmtree(download)
