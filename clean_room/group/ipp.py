"""X25519 eight at a time by Intel's Cryptography Primitives Library, where the processor has AVX-512 IFMA.

The wheel `ipp-crypto` carries `libcrypto_mb.so.13` and no headers. What is used of it:

    uint64 mbx_get_algo_info(int algorithm)         lanes supported for X25519 (4); 0 if none
    uint32 mbx_x25519_mb8(uint8 *shared[8], const uint8 *private[8], const uint8 *public[8])

The status holds four bits a lane, lane 0 lowest: 0 done, 4 the result is zero, 10 the processor lacks the
instructions. A lane whose pointer is NULL is skipped with status 2. ctypes releases the GIL for the call.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from clean_room.errors import EngineUnavailable, PeerViolation
from clean_room.group.blinding import check_canonical, check_lengths, low_order
from clean_room.group.points import WHOLE, Buffer

__all__ = ["IppBlinder", "cpu_supports_ifma"]

LANES = 8
_X25519 = 4
_STATUS_LOW_ORDER = 4
_NEEDED = frozenset({"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512ifma"})
_RUNTIME = ("libintlc.so.5", "libirng.so", "libimf.so", "libsvml.so")
_LIBRARY = "libcrypto_mb.so.13"
_CPUINFO = Path("/proc/cpuinfo")
_Lanes = ctypes.c_void_p * LANES
_loading = threading.Lock()
Multiply: TypeAlias = Callable[[Any, Any, Any], int]


def cpu_supports_ifma(cpuinfo: str) -> bool:
    """Whether the text of /proc/cpuinfo names AVX-512 IFMA and its companions for every processor."""
    flags = [set(line.partition(":")[2].split()) for line in cpuinfo.splitlines() if line.startswith("flags")]
    return bool(flags) and all(found >= _NEEDED for found in flags)


def _folders() -> list[Path]:
    """Where the wheels put their libraries: <prefix>/lib, of the environment or of the user."""
    import site

    prefixes = [Path(sys.prefix), Path(sys.base_prefix), Path(site.getuserbase())]
    return [prefix / "lib" for prefix in prefixes]


@cache
def load_library() -> ctypes.CDLL:
    """The library with its functions declared. EngineUnavailable if it, or its runtime, is not installed.

    Its runtime is not on the loader's path, so it is loaded first, by name, into the global namespace.
    """
    for folder in _folders():
        if not (folder / _LIBRARY).exists():
            continue
        try:
            with _loading:
                for name in _RUNTIME:
                    ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)
                library = ctypes.CDLL(str(folder / _LIBRARY))
            library.mbx_get_algo_info.argtypes = [ctypes.c_int]
            library.mbx_get_algo_info.restype = ctypes.c_uint64
            library.mbx_x25519_mb8.argtypes = [_Lanes, _Lanes, _Lanes]
            library.mbx_x25519_mb8.restype = ctypes.c_uint32
        except (OSError, AttributeError):
            raise EngineUnavailable(
                f"The library {_LIBRARY} is there but cannot be loaded.",
                advice="Reinstall the extra: pip install 'comity[fast]'.",
            ) from None
        return library
    raise EngineUnavailable(
        f"The library {_LIBRARY} is not installed.", advice="Install the extra: pip install 'comity[fast]'."
    )


def eight_lanes(cpuinfo: str) -> Multiply:
    """`mbx_x25519_mb8`, if this processor runs it; EngineUnavailable if not.

    The processor is asked twice, by its flags and by the library; no kernel runs unless both say yes.
    """
    if not cpu_supports_ifma(cpuinfo):
        raise EngineUnavailable(
            "The engine ipp needs Linux and a processor with AVX-512 IFMA.",
            advice="Use auto or cryptography.",
        )
    library = load_library()
    if not library.mbx_get_algo_info(_X25519) & LANES:
        raise EngineUnavailable(
            "The engine ipp has no X25519 for this processor.", advice="Use auto or cryptography."
        )
    multiply: Multiply = library.mbx_x25519_mb8
    return multiply


class IppBlinder:
    """The fast engine. The constructor raises EngineUnavailable where it would not run.

    `multiply` is the eight-lane function (shared, private, public) → status; the library's by default.
    """

    name = "ipp"

    def __init__(self, multiply: Multiply | None = None) -> None:
        if multiply is None:
            cpuinfo = _CPUINFO.read_text("utf-8", "replace") if _CPUINFO.exists() else ""
            multiply = eight_lanes(cpuinfo)
        self._multiply = multiply

    def blind(self, scalar: bytes, points: Buffer) -> bytes:
        """See `Blinder.blind`."""
        n = check_lengths(scalar, points)
        if not n:
            return b""
        check_canonical(points)
        full = -(-n // LANES) * LANES
        # The last lanes are filled with the base point, so that every call has eight whole lanes.
        source = np.zeros((full, WHOLE), dtype=np.uint8)
        source[:n] = np.frombuffer(points, dtype=np.uint8).reshape(n, WHOLE)
        source[n:, 0] = 9
        result = np.empty((full, WHOLE), dtype=np.uint8)
        secret = ctypes.create_string_buffer(scalar, WHOLE)
        secrets = _Lanes(*[ctypes.addressof(secret)] * LANES)
        step = np.arange(0, full * WHOLE, WHOLE, dtype=np.uint64)
        publics = (step + np.uint64(source.ctypes.data)).data.cast("B")
        shareds = (step + np.uint64(result.ctypes.data)).data.cast("B")
        try:
            for start in range(0, full, LANES):
                status = self._multiply(
                    _Lanes.from_buffer(shareds, start * 8), secrets, _Lanes.from_buffer(publics, start * 8)
                )
                if status:
                    raise _failure(status)
        finally:
            ctypes.memset(secret, 0, WHOLE)
        # Refusing zeros does not rest on the library's status alone.
        if not result.any(axis=1).all():
            raise low_order()
        return result[:n].tobytes()


def _failure(status: int) -> PeerViolation | EngineUnavailable:
    lanes = {(status >> 4 * lane) & 15 for lane in range(LANES)}
    if lanes <= {0, _STATUS_LOW_ORDER}:
        return low_order()
    return EngineUnavailable(
        "The engine ipp failed on this processor.", advice="Use the engine cryptography."
    )
