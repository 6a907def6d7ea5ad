"""A base image without a registry: this machine's Python and busybox, and the libraries that they name.

python tools/services/base_image.py NAME      makes the image NAME, unless it is there: of python:3.12-slim, where it can be had
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import rpds

__all__ = ["archive", "make"]

_SKIPPED = {"test", "idlelib", "tkinter", "lib2to3", "site-packages", "dist-packages", "__pycache__"}


class _Tree:
    """An archive of files of this machine, each with the libraries it is linked to."""

    def __init__(self) -> None:
        self.data = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.data, mode="w")  # noqa: SIM115 - closed by `bytes`
        self.names: set[str] = set()

    def add(self, path: str | Path, name: str | Path = "") -> None:
        name = str(name or path).lstrip("/")
        if name in self.names:
            return
        self.names.add(name)
        self.tar.add(os.path.realpath(path), name, recursive=False)
        if ".so" in name or os.access(path, os.X_OK):
            self.add_libraries(path)

    def add_libraries(self, path: str | Path) -> None:
        linked = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
        for library in re.findall(r"/\S+\.so\S*", linked):
            self.add(library)

    def add_folder(self, path: Path) -> None:
        for folder, folders, files in os.walk(path):
            folders[:] = [one for one in folders if one not in _SKIPPED and not one.startswith("config-")]
            for file in files:
                self.add(Path(folder, file))

    def link(self, path: str | Path, target: str) -> None:
        member = tarfile.TarInfo(str(path).lstrip("/"))
        member.type, member.linkname = tarfile.SYMTYPE, target
        self.tar.addfile(member)

    def write(self, path: str | Path, content: bytes) -> None:
        member = tarfile.TarInfo(str(path).lstrip("/"))
        member.size, member.mode = len(content), 0o644
        self.tar.addfile(member, io.BytesIO(content))

    def add_pip(self) -> None:
        """Where this Python looks for packages, from the wheel that it or Debian keeps for new environments."""
        library = Path(os.__file__).parent
        place = Path("/usr/lib/python3/dist-packages") if sys.base_prefix == "/usr" else library / "site-packages"
        wheels = [*library.glob("ensurepip/_bundled/pip-*.whl"), *Path("/usr/share/python-wheels").glob("pip-*.whl")]
        with zipfile.ZipFile(wheels[0]) as wheel:
            for name in wheel.namelist():
                self.write(place / name, wheel.read(name))

    def bytes(self) -> bytes:
        self.tar.close()
        return self.data.getvalue()


def archive() -> tuple[bytes, list[str]]:
    """A tar of the image's files, and what `docker import --change` takes. pip works there as it does here."""
    tree, prefix = _Tree(), Path(sys.base_prefix)
    tree.add(os.path.realpath(sys.executable), prefix / "bin/python3")
    tree.link(prefix / "bin/python", "python3")
    tree.add_pip()
    tree.add_folder(Path(os.__file__).parent)
    for folder in ("/usr/share/python-wheels", "/etc/ssl/certs"):  # Debian's pip, for environments
        tree.add_folder(Path(folder))
    for module in Path(rpds.__file__).parent.glob(
        "*.so"
    ):  # of a package that pip installs; any Debian has what it needs
        tree.add_libraries(module)
    for library in Path("/usr/lib").glob("*-linux-gnu/libstdc++.so.6"):  # what wheels may expect of any Linux
        tree.add(library)
    busybox = shutil.which("busybox")
    assert busybox, "needs busybox: apt-get install busybox"
    tree.add(busybox, "/bin/busybox")
    for applet in subprocess.check_output([busybox, "--list"], text=True).split():
        if applet != "busybox":
            tree.link(f"/bin/{applet}", "busybox")
    tree.write("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    tree.write("/etc/group", b"root:x:0:\n")
    for folder in ("tmp", "home", "root"):
        made = tarfile.TarInfo(folder)
        made.type, made.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
        tree.tar.addfile(made)
    env = {"PATH": f"{prefix}/bin:/bin", **{name: text for name, text in os.environ.items() if name.startswith("PIP_")}}
    return tree.bytes(), [f'ENV {key}="{text}"' for key, text in env.items()]


def make(client: Any, name: str, tag: str = "latest") -> None:
    """Makes the image in that engine, by the low-level client's or the other's `api`."""
    content, changes = archive()
    client.api.import_image_from_data(content, repository=name, tag=tag, changes=changes)


def main() -> None:
    """For examples: the image that a registry has, else our own."""
    import docker

    name = sys.argv[1]
    with contextlib.closing(docker.from_env()) as client:
        if client.images.list(name):
            return
        try:
            client.images.pull("python", "3.12-slim").tag(name)
            print(f"{name}: python:3.12-slim")
        except docker.errors.APIError:  # no registry answers
            make(client, name)
            print(f"{name}: made of this machine's Python {sys.version.split()[0]}, as no registry answers")


if __name__ == "__main__":
    main()
