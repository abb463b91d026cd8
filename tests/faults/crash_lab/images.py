"""What a disk may hold after a power cut: the state at a moment, minus writes nobody had waited for.

`Disk` follows a traced process. A file's bytes are safe once fsync of the file returned; a name (created,
renamed, removed) once fsync of its folder returned. Everything later may be there, or not, or, for a
write, be there in part, in any order. That is stricter than ext4, XFS or APFS are in practice.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tracing import Call, memory

__all__ = ["Disk"]

_SECTOR = 512


@dataclass(eq=False)
class _File:
    safe: bytes = b""
    pending: list[Callable[[bytearray, Random | None], None]] = field(default_factory=list)

    def image(self, random: Random | None) -> bytes:
        data = bytearray(self.safe)
        if random is not None:
            for change in self.pending:
                if random.random() < 0.5:
                    change(data, random)
        return bytes(data)

    def sync(self) -> None:
        data = bytearray(self.safe)
        for change in self.pending:
            change(data, None)
        self.safe, self.pending = bytes(data), []


def _write(offset: int, data: bytes) -> Callable[[bytearray, Random | None], None]:
    def change(file: bytearray, random: Random | None) -> None:
        end = len(data)
        if random is not None and random.random() < 0.3:
            end = random.randrange(0, len(data) + 1) // _SECTOR * _SECTOR
        if len(file) < offset:
            file.extend(bytes(offset - len(file)))
        file[offset : offset + end] = data[:end]

    return change


def _truncate(size: int) -> Callable[[bytearray, Random | None], None]:
    def change(file: bytearray, _random: Random | None) -> None:
        if len(file) > size:
            del file[size:]
        else:
            file.extend(bytes(size - len(file)))

    return change


_Names = dict[str, "_File | None"]  # None is a folder


class Disk:
    """The files below `folder` as a traced process changes them. `skip` names files that need not last."""

    def __init__(self, folder: Path, skip: Callable[[str], bool]) -> None:
        self._root = str(folder)
        self._skip = skip
        self._by_inode: dict[int, _File] = {}
        self._now: _Names = {}
        self._safe: _Names = {}
        self._pending: dict[str, list[Callable[[_Names], None]]] = {}

    def start(self) -> None:
        """Everything there is now is safe."""
        for place, folders, files in os.walk(self._root):
            for name in folders:
                self._now[os.path.join(place, name)] = None  # noqa: PTH118
            for name in files:
                path = Path(place, name)
                file = _File(path.read_bytes())
                self._by_inode[path.stat().st_ino] = file
                self._now[str(path)] = file
        self._safe = dict(self._now)

    def done(self, call: Call, result: int) -> None:
        """Take note of a call that has succeeded, its process standing still."""
        name, a = call.name, call.arguments
        if name in ("open", "openat"):
            self._opened(call, result)
        elif name in ("rename", "renameat", "renameat2"):
            old, new = call.paths
            self._change(new, lambda names: names.update({new: names.pop(old)}) if old in names else None)
        elif name in ("unlink", "unlinkat", "rmdir"):
            (gone,) = call.paths
            self._change(gone, lambda names: names.pop(gone, None))
        elif name in ("mkdir", "mkdirat"):
            (made,) = call.paths
            self._change(made, lambda names: names.update({made: None}))
        else:
            number = a[0]
            at = f"/proc/{call.pid}/fd/{number}"
            if Path(at).is_dir():
                if name in ("fsync", "fdatasync"):
                    self._sync_folder(call.paths[0])
                return
            file = self._by_inode[Path(at).stat().st_ino]
            if name == "write":
                lines = Path(f"/proc/{call.pid}/fdinfo/{number}").read_text("ascii").splitlines()
                position = next(int(line[4:]) for line in lines if line.startswith("pos:"))
                file.pending.append(_write(position - result, memory(call.pid, a[1], result)))
            elif name == "pwrite64":
                file.pending.append(_write(a[3], memory(call.pid, a[1], result)))
            elif name == "ftruncate":
                file.pending.append(_truncate(a[1]))
            elif name in ("fsync", "fdatasync"):
                file.sync()
            elif name != "fallocate":
                raise NotImplementedError(name)

    def _opened(self, call: Call, number: int) -> None:
        (path,) = call.paths
        flags = call.arguments[1 if call.name == "open" else 2]
        inode = Path(f"/proc/{call.pid}/fd/{number}").stat().st_ino
        if path not in self._now:
            file = self._by_inode[inode] = _File()
            self._change(path, lambda names: names.update({path: file}))
        elif flags & os.O_TRUNC:
            self._by_inode[inode].pending.append(_truncate(0))

    def _change(self, path: str, change: Callable[[_Names], object]) -> None:
        change(self._now)
        self._pending.setdefault(os.path.dirname(path), []).append(change)  # type: ignore[arg-type]  # noqa: PTH120

    def _sync_folder(self, path: str) -> None:
        for change in self._pending.pop(path, []):
            change(self._safe)

    def image(self, into: Path, random: Random | None) -> None:
        """Write what the disk may hold now: nothing unsafe without `random`, else some of it."""
        names = dict(self._safe)
        if random is not None:
            for place in sorted(self._pending):
                for change in self._pending[place]:
                    if random.random() < 0.5:
                        change(names)
        folders = {self._root}
        for path in sorted(names):
            if os.path.dirname(path) not in folders or self._skip(path):  # noqa: PTH120
                continue
            target = into / path[len(self._root) + 1 :]
            file = names[path]
            if file is None:
                folders.add(path)
                target.mkdir()
            else:
                target.write_bytes(file.image(random))
