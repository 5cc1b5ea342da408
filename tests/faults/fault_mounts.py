"""Small disks and read-only folders, in a mount namespace of this process's own: they are gone when it ends."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MOUNT = shutil.which("mount", path=f"{os.environ.get('PATH', '')}:/usr/bin:/bin:/sbin")


def own_mounts() -> bool:
    """Enter a mount namespace of this process and its children; False where the system does not allow it."""
    if sys.platform != "linux" or MOUNT is None:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNS if user == 0 else CLONE_NEWUSER | CLONE_NEWNS) != 0:
        return False
    try:
        if user != 0:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        _mount("--make-rprivate", "/")
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


class SmallDisk:
    """A folder with a file system of its own in memory, of a size that can be raised."""

    def __init__(self, folder: Path, size: int) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))

    def grow(self, size: int) -> None:
        _mount("-o", f"remount,size={size}", str(self.folder))

    def close(self) -> None:
        _umount(self.folder)
        self.folder.rmdir()


class ReadOnly:
    """A folder that nobody can write to, root included."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        _mount("--bind", str(folder), str(folder))
        _mount("-o", "remount,ro,bind", str(folder))
        self._closed = False

    def close(self) -> None:
        if not self._closed:
            _umount(self.folder)
            self._closed = True


def _mount(*arguments: str) -> None:
    assert MOUNT is not None
    subprocess.run([MOUNT, *arguments], check=True, capture_output=True)


def _umount(folder: Path) -> None:
    umount = shutil.which("umount", path=f"{os.environ.get('PATH', '')}:/usr/bin:/bin:/sbin")
    assert umount is not None
    subprocess.run([umount, "--lazy", str(folder)], check=True, capture_output=True)
