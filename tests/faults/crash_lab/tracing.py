"""Watch a child's writes system call by system call, and stop it, or fail it, at any of them.

This is what `strace -e inject=` does, in Python through ptrace(2), so that no tool and no compiler is
needed: Linux 5.3 or later, on x86-64 (kill and fail) and AArch64 (kill). `available()` says whether the
kernel lets us. Only calls that change a file below one folder, or that send on a socket, are counted.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

__all__ = ["Call", "Child", "available", "can_fail", "trace"]

_TABLES = {
    "x86_64": {
        1: "write", 18: "pwrite64", 20: "writev", 296: "pwritev", 77: "ftruncate", 285: "fallocate",
        74: "fsync", 75: "fdatasync", 2: "open", 257: "openat", 82: "rename", 264: "renameat",
        316: "renameat2", 87: "unlink", 263: "unlinkat", 83: "mkdir", 258: "mkdirat", 84: "rmdir",
        44: "sendto", 46: "sendmsg",
    },
    "aarch64": {
        64: "write", 68: "pwrite64", 66: "writev", 70: "pwritev", 46: "ftruncate", 47: "fallocate",
        82: "fsync", 83: "fdatasync", 56: "openat", 38: "renameat", 276: "renameat2", 35: "unlinkat",
        34: "mkdirat", 206: "sendto", 211: "sendmsg",
    },
}  # fmt: skip
_BY_FD = {"write", "pwrite64", "writev", "pwritev", "ftruncate", "fallocate", "fsync", "fdatasync"}
_SENDS = {"sendto", "sendmsg", "write", "writev"}
_PATH_ARGUMENTS = {
    "open": (0,), "openat": (1,), "rename": (0, 1), "renameat": (1, 3), "renameat2": (1, 3),
    "unlink": (0,), "unlinkat": (1,), "mkdir": (0,), "mkdirat": (1,), "rmdir": (0,),
}  # fmt: skip

_TRACEME, _CONT_SYSCALL, _POKEUSER, _SETOPTIONS, _INFO = 0, 24, 6, 0x4200, 0x420E
_OPTIONS = 1 | 8 | 0x100000  # mark system-call stops, follow threads, die with the tracer
_SYSCALL_STOP = signal.SIGTRAP | 0x80
_ENTRY, _EXIT = 1, 2
_ORIG_RAX, _RAX = 15 * 8, 10 * 8
_WALL = 0x40000000


class _Info(ctypes.Structure):
    _fields_ = [
        ("op", ctypes.c_uint8), ("pad", ctypes.c_uint8 * 3), ("arch", ctypes.c_uint32),
        ("ip", ctypes.c_uint64), ("sp", ctypes.c_uint64), ("u", ctypes.c_uint64 * 8),
    ]  # fmt: skip


_libc = ctypes.CDLL(None, use_errno=True)
if sys.platform == "linux":
    _libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    _libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> int:
    return int(_libc.ptrace(request, pid, address or None, data or None))


class Call(NamedTuple):
    """One counted system call, at its entry. `paths` are the files it is about; a socket is `socket:…`."""

    pid: int
    name: str
    arguments: tuple[int, ...]
    paths: tuple[str, ...]


@dataclass
class Child:
    """How a traced child ended, and how many counted calls it had entered by then."""

    status: int = 0
    calls: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)

    @property
    def killed(self) -> bool:
        return os.WIFSIGNALED(self.status)


Decide = Callable[[int, Call], int | None]
"""`(n, call)`, n from 1 → None to let it be, -1 to kill the process before it, an errno to fail it."""


def available() -> bool:
    if sys.platform != "linux" or platform.machine() not in _TABLES:
        return False
    seen: list[int] = []
    trace(lambda: os.getppid, Path("/nowhere"), lambda _n, _c: None, each=seen.append)
    return bool(seen)


def can_fail() -> bool:
    return platform.machine() == "x86_64"


def trace(
    prepare: Callable[[], Callable[[], object]],
    folder: Path,
    decide: Decide,
    *,
    sockets: bool = False,
    done: Callable[[Call, int], None] | None = None,
    each: Callable[[int], None] | None = None,
    started: Callable[[], None] | None = None,
) -> Child:
    """Fork; in the child call `prepare` untraced, what it returns traced; ask `decide` at every counted call.

    `started()` is called between the two, and `done(call, result)` after each counted call that succeeded,
    with the child standing still. The caller must have no other children, and no threads.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            run = prepare()
            if _ptrace(_TRACEME, 0) == 0:
                os.kill(os.getpid(), signal.SIGSTOP)
            run()
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    found = Child()
    _, status = os.waitpid(pid, _WALL)
    if not os.WIFSTOPPED(status):
        found.status = status
        return found
    if started is not None:
        started()
    _ptrace(_SETOPTIONS, pid, 0, _OPTIONS)
    _ptrace(_CONT_SYSCALL, pid)
    names = _TABLES[platform.machine()]
    inside: dict[int, tuple[Call | None, int | None]] = {}
    info = _Info()
    while True:
        stopped, status = os.waitpid(-1, _WALL)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            if stopped == pid:
                found.status = status
                return found
            continue
        stop = os.WSTOPSIG(status)
        if stop != _SYSCALL_STOP:
            deliver = 0 if stop in (signal.SIGTRAP, signal.SIGSTOP) else stop
            _ptrace(_CONT_SYSCALL, stopped, 0, deliver)
            continue
        if each is not None:
            each(stopped)
        _ptrace(_INFO, stopped, ctypes.sizeof(info), ctypes.addressof(info))
        if info.op == _ENTRY:
            call = _counted(stopped, names.get(info.u[0]), tuple(info.u[1:7]), str(folder), sockets)
            verdict = None
            if call is not None:
                found.calls.append((call.name, call.paths))
                verdict = decide(len(found.calls), call)
                if verdict == -1:
                    os.kill(pid, signal.SIGKILL)
                    continue
                if verdict is not None:
                    _ptrace(_POKEUSER, stopped, _ORIG_RAX, (1 << 64) - 1)
            inside[stopped] = (call, verdict)
        elif info.op == _EXIT:
            call, verdict = inside.pop(stopped, (None, None))
            if verdict is not None:
                _ptrace(_POKEUSER, stopped, _RAX, (1 << 64) - verdict)
            elif call is not None and done is not None:
                result = ctypes.c_int64(info.u[0]).value
                if result >= 0:
                    done(call, result)
        _ptrace(_CONT_SYSCALL, stopped)


def _counted(
    pid: int, name: str | None, arguments: tuple[int, ...], folder: str, sockets: bool
) -> Call | None:
    if name is None:
        return None
    if name in _BY_FD or name in _SENDS:
        try:
            target = str(Path(f"/proc/{pid}/fd/{ctypes.c_int(arguments[0]).value}").readlink())
        except OSError:
            return None
        counted = target.startswith(folder) or (sockets and name in _SENDS and target.startswith("socket:"))
        return Call(pid, name, arguments, (target,)) if counted else None
    creates = os.O_CREAT | os.O_TRUNC
    if name in ("open", "openat") and not arguments[1 if name == "open" else 2] & creates:
        return None
    paths = tuple(
        os.fsdecode(memory(pid, arguments[i], 4096).split(b"\x00")[0]) for i in _PATH_ARGUMENTS[name]
    )
    return Call(pid, name, arguments, paths) if any(p.startswith(folder) for p in paths) else None


def _text(pid: int, address: int) -> str:
    return os.fsdecode(memory(pid, address, 4096).split(b"\x00")[0])


def memory(pid: int, address: int, size: int) -> bytes:
    """Bytes of a stopped process, fewer at the end of a mapping."""
    with open(f"/proc/{pid}/mem", "rb", 0) as file:  # noqa: PTH123
        file.seek(address)
        try:
            return file.read(size)
        except OSError:
            file.seek(address)
            return file.read(4096 - address % 4096)
