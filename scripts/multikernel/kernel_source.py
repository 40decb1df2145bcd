# SPDX-License-Identifier: GPL-2.0
"""Finds pristine Linux of the version in KVER, and takes files out of it.

Where it comes from: KSRC (a tree or a tarball) if set, else the newest $KVER.y
of the download cache, of Debian, of kernel.org, in this order;
LINUX_REFRESH=1 passes over the cache.
"""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
ROOT = SCRIPTS.parents[1]
CACHE = Path(os.environ["MK_CACHE"])
KVER = os.environ["KVER"]
# Debian suites that have had linux-source packages newer than a release's own,
# the likeliest first.
SUITES = {"7.3": ("trixie-backports", "sid", "forky"), None: ("forky", "sid", "trixie-backports")}
MIRROR = "https://cdn.kernel.org/pub/linux/kernel"


def say(text):
    print(f"==> {text}", file=sys.stderr, flush=True)


def die(text):
    sys.exit(f"error: {text}")


def run(*args, **kw):
    return subprocess.run([str(a) for a in args], check=True, text=True, **kw)


def version_key(path):
    """Sorts files by the kernel version in their name."""
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", path.name.split("_", 1)[-1])
    return tuple(int(part or 0) for part in found.groups()) if found else ()


def cached():
    debs = sorted((CACHE / "debs").glob(f"linux-source-{KVER}_*.deb"), key=version_key)
    tars = sorted((CACHE / "linux").glob(f"linux-{KVER}*.tar.xz"), key=version_key)
    return max(debs + tars, key=version_key, default=None)


def from_debian():
    package = f"linux-source-{KVER}"
    for suite in SUITES.get(KVER, SUITES[None]):
        say(f"looking for {package} in Debian {suite}")
        got = subprocess.run([SCRIPTS / "private-apt", suite, "get", "download", package],
                             cwd=CACHE / "debs", stdout=sys.stderr)
        # apt checks the package's hash against the signed list of the suite.
        if got.returncode == 0:
            return cached()
    return None


def from_kernel_org():
    base = f"{MIRROR}/v{KVER.split('.')[0]}.x"
    folder = CACHE / "linux"
    folder.mkdir(parents=True, exist_ok=True)
    say("looking for Linux at kernel.org")
    got = subprocess.run(["curl", "-fsSL", "--connect-timeout", "20", f"{base}/sha256sums.asc"],
                         capture_output=True, text=True)
    if got.returncode:
        return None
    # linux-7.3.tar.xz is the first of linux-7.3.y.
    sums = re.findall(rf"^([0-9a-f]{{64}})  (linux-{re.escape(KVER)}(?:\.\d+)?\.tar\.xz)$",
                      got.stdout, re.M)
    if not sums:
        return None
    digest, name = max(sums, key=lambda pair: version_key(Path(pair[1])))
    part = folder / f"{name}.part"
    run("curl", "-fL", "--progress-bar", "-o", part, f"{base}/{name}")
    found = hashlib.sha256(part.read_bytes()).hexdigest()
    if found != digest:
        part.unlink()
        die(f"{name} from kernel.org has SHA-256 {found}, and sha256sums.asc says {digest}")
    part.rename(folder / name)
    return folder / name


def source():
    """The tarball, package or tree that Linux comes from."""
    given = os.environ.get("KSRC")
    if given:
        path = Path(given).resolve()
        return path if path.exists() else die(f"KSRC={given}: there is no such file or folder")
    found = None if os.environ.get("LINUX_REFRESH") == "1" else cached()
    found = found or from_debian() or from_kernel_org() or cached()
    if not found:
        die(f"found no source of Linux {KVER}: neither in {CACHE}, nor in Debian, nor at "
            "kernel.org. Give a tree or tarball with KSRC=path")
    return found


def tree_version(tree):
    """The version as the tree's Makefile says it."""
    text = (tree / "Makefile").read_text()
    part = {key: re.search(rf"^{key} *=[ \t]*(.*)$", text, re.M).group(1)
            for key in ("VERSION", "PATCHLEVEL", "SUBLEVEL", "EXTRAVERSION")}
    return "{VERSION}.{PATCHLEVEL}.{SUBLEVEL}{EXTRAVERSION}".format(**part)


def extract(origin, folder, members=()):
    """Unpacks a tree, tarball or Debian package into FOLDER; MEMBERS: only these paths."""
    # The name of the top folder in the tarball differs from one to the next.
    wanted = ["--wildcards", *(f"*/{name}" for name in members)] if members else []
    if origin.is_dir():
        for name in members or (".",):
            if (origin / name).exists():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                run("cp", "-a", "--reflink=auto", *([f"{origin}/."] if name == "." else [origin / name]),
                    folder if name == "." else target)
        return
    if origin.suffix == ".deb":
        deb = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", origin], stdout=subprocess.PIPE)
        inner = subprocess.Popen(["tar", "-xO", "--wildcards", "./usr/src/linux-source-*.tar.xz"],
                                 stdin=deb.stdout, stdout=subprocess.PIPE)
        got = subprocess.run(["tar", "-xJ", "--strip-components=1", "-C", folder, *wanted],
                             stdin=inner.stdout, stderr=subprocess.PIPE, text=True)
        deb.stdout.close()
        inner.stdout.close()
        broken = deb.wait() or inner.wait()
    else:
        got = subprocess.run(["tar", "-xf", origin, "--strip-components=1", "-C", folder, *wanted],
                             stderr=subprocess.PIPE, text=True)
        broken = False
    # A member that this version of Linux lacks is for the caller to notice.
    if broken or (got.returncode and not (members and "Not found in archive" in got.stderr)):
        die(f"{origin} cannot be unpacked; delete it and try again\n{got.stderr}")
