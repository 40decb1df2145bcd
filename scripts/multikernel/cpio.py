# SPDX-License-Identifier: GPL-2.0
"""Writes initramfs archives (cpio, "newc") without needing root.

Everything belongs to root in them, time stamps are zero and the order is that
of the names, so that the same input gives the same bytes.
"""

import os
import stat
from pathlib import Path


class Archive:
    """An archive that is being put together; path -> (mode, bytes, device)."""

    def __init__(self):
        self.entries = {}

    def folder(self, name, mode=0o755):
        name = name.strip("/")
        if name and name not in self.entries:
            self.folder(os.path.dirname(name))
            self.entries[name] = (stat.S_IFDIR | mode, b"", (0, 0))

    def data(self, name, content, mode=0o644):
        name = name.strip("/")
        self.folder(os.path.dirname(name))
        self.entries[name] = (stat.S_IFREG | mode, content, (0, 0))

    def file(self, name, source):
        source = Path(source)
        mode = 0o755 if os.access(source, os.X_OK) else 0o644
        self.data(name, source.read_bytes(), mode)

    def link(self, name, target):
        name = name.strip("/")
        self.folder(os.path.dirname(name))
        self.entries[name] = (stat.S_IFLNK | 0o777, os.fsencode(target), (0, 0))

    def device(self, name, major, minor, mode=0o600):
        name = name.strip("/")
        self.folder(os.path.dirname(name))
        self.entries[name] = (stat.S_IFCHR | mode, b"", (major, minor))

    def tree(self, name, source):
        """Everything below the folder SOURCE; links stay links."""
        source = Path(source)
        self.folder(name)
        for path in sorted(source.rglob("*")):
            inside = f"{name}/{path.relative_to(source)}"
            if path.is_symlink():
                self.link(inside, os.readlink(path))
            elif path.is_dir():
                self.folder(inside)
            elif path.is_file():
                self.file(inside, path)

    def to_bytes(self):
        out = bytearray()
        for inode, (name, (mode, content, device)) in enumerate(sorted(self.entries.items()), 1):
            _member(out, inode, name, mode, content, device)
        _member(out, 0, "TRAILER!!!", 0, b"", (0, 0))
        # The next archive of a concatenation has to start aligned.
        out += b"\0" * (-len(out) % 512)
        return bytes(out)


def _member(out, inode, name, mode, content, device):
    raw = os.fsencode(name) + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (inode, mode, 0, 0, links, 0, len(content), 0, 0, *device, len(raw), 0)
    out += b"070701" + b"".join(b"%08x" % field for field in fields) + raw
    out += b"\0" * (-len(out) % 4)
    out += content
    out += b"\0" * (-len(out) % 4)
