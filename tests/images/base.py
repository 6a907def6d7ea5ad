"""A base image without a registry: this machine's Python with pip, busybox, and the libraries that they name."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

_LEFT_OUT = {"test", "tests", "idlelib", "tkinter", "lib2to3", "site-packages", "dist-packages", "__pycache__"}


def archive() -> bytes:
    """The image's file system, for `docker import`."""
    data, names = io.BytesIO(), set()
    busybox = shutil.which("busybox")
    assert busybox, "apt-get install busybox"

    with tarfile.open(fileobj=data, mode="w") as tar:

        def add(path: str | Path, name: str | Path = "") -> None:
            name = str(name or path).lstrip("/")
            if name in names:
                return
            names.add(name)
            tar.add(os.path.realpath(path), name, recursive=False)
            if ".so" in name or os.access(path, os.X_OK):
                linked = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
                for library in re.findall(r"/\S+\.so\S*", linked):
                    add(library)

        def add_folder(path: Path, at: Path) -> None:
            for folder, folders, files in os.walk(path):
                folders[:] = [one for one in folders if one not in _LEFT_OUT and not one.startswith("config-")]
                for file in files:
                    add(Path(folder, file), at / Path(folder).relative_to(path) / file)

        library = Path(os.__file__).parent
        add(os.path.realpath(sys.executable), Path(sys.base_prefix, "bin/python3"))
        add_folder(library, library)
        pip = importlib.util.find_spec("pip")
        assert pip and pip.origin, "needs pip"
        add_folder(Path(pip.origin).parent, library / "pip")
        add(busybox, "bin/busybox")
        links = {
            f"bin/{applet}": "busybox" for applet in subprocess.check_output([busybox, "--list"], text=True).split()
        }
        links["etc/passwd"] = ""
        for name, to in links.items():
            entry = tarfile.TarInfo(name)
            if name == "etc/passwd":
                text = b"root:x:0:0:root:/root:/bin/sh\n"
                entry.size = len(text)
                tar.addfile(entry, io.BytesIO(text))
            elif to and name != "bin/busybox":
                entry.type, entry.linkname = tarfile.SYMTYPE, to
                tar.addfile(entry)
        for folder, mode in (("tmp", 0o1777), ("home", 0o755), ("root", 0o755), ("opt", 0o755)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
    return data.getvalue()
