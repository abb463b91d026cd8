"""The eight-lane engine. Its kernel runs only where the processor has AVX-512 IFMA; detection, loading,
declarations and the handling of lanes are tested everywhere, with a kernel of our own behind the same
C signature. Where the processor has it, `choose_blinder` is checked to hand it out."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from clean_room.errors import EngineUnavailable, PeerViolation
from clean_room.group import CryptographyBlinder, choose_blinder, hash_to_curve, ipp, new_scalar
from clean_room.group.blinding import BASE_POINT
from clean_room.group.engines import cross_check
from clean_room.group.ipp import IppBlinder, cpu_supports_ifma, eight_lanes, load_library

REFERENCE = CryptographyBlinder()
IFMA = "flags\t\t: fpu avx512f avx512dq avx512bw avx512vl avx512ifma avx512_vbmi2\n"
SIGNATURE = ctypes.CFUNCTYPE(ctypes.c_uint32, *[ctypes.POINTER(ctypes.c_void_p)] * 3)


def kernel(shared: object, private: object, public: object) -> int:
    """What mbx_x25519_mb8 does, lane by lane through the reference engine."""
    status = 0
    for lane in range(8):
        k, u = ctypes.string_at(private[lane], 32), ctypes.string_at(public[lane], 32)  # type: ignore[index]
        try:
            out = REFERENCE.blind(k, u)
        except PeerViolation:
            out, status = bytes(32), status | 4 << 4 * lane
        ctypes.memmove(shared[lane], out, 32)  # type: ignore[index]
    return status


def with_kernel(function: object) -> IppBlinder:
    c = SIGNATURE(function)
    return IppBlinder(lambda *lanes: c(*lanes) & 0xFFFFFFFF)


@pytest.fixture(scope="module")
def installed() -> ctypes.CDLL:
    return load_library()


def test_the_lanes_agree_with_the_reference_at_every_length() -> None:
    engine = with_kernel(kernel)
    k = new_scalar(os.urandom)
    for n in range(20):
        points = hash_to_curve([b"%d" % i for i in range(n)])
        assert engine.blind(k, points) == REFERENCE.blind(k, points)


def test_the_lanes_pass_the_cross_check() -> None:
    cross_check(with_kernel(kernel), REFERENCE)


@pytest.mark.parametrize("lane", [0, 7, 8, 10])
def test_a_low_order_point_in_any_lane_is_refused(lane: int) -> None:
    points = bytearray(hash_to_curve([b"%d" % i for i in range(11)]))
    points[lane * 32 : lane * 32 + 32] = bytes(32)
    with pytest.raises(PeerViolation, match="low order"):
        with_kernel(kernel).blind(new_scalar(os.urandom), points)


def test_a_zero_result_is_refused_even_if_the_kernel_calls_it_good() -> None:
    def silent(*lanes: object) -> int:
        kernel(*lanes)
        return 0

    with pytest.raises(PeerViolation, match="low order"):
        with_kernel(silent).blind(new_scalar(os.urandom), BASE_POINT + bytes(32))


@pytest.mark.parametrize("status", [0xAAAAAAAA, 0x2, 0x44444442])
def test_any_other_status_is_the_engine_s_failure_not_the_partner_s(status: int) -> None:
    with pytest.raises(EngineUnavailable):
        with_kernel(lambda *lanes: ctypes.c_int32(status).value).blind(new_scalar(os.urandom), BASE_POINT)


def test_only_a_processor_with_every_flag_counts() -> None:
    assert cpu_supports_ifma(IFMA)
    assert cpu_supports_ifma(IFMA * 4)
    assert not cpu_supports_ifma("")
    assert not cpu_supports_ifma("processor: 0\n")
    assert not cpu_supports_ifma(IFMA.replace(" avx512ifma", ""))
    assert not cpu_supports_ifma(IFMA.replace("avx512ifma", "avx512ifmax"))
    assert not cpu_supports_ifma(IFMA + IFMA.replace(" avx512ifma", ""))


def test_the_library_loads_with_its_functions_declared(installed: ctypes.CDLL) -> None:
    assert installed.mbx_x25519_mb8.restype is ctypes.c_uint32
    assert [a._length_ for a in installed.mbx_x25519_mb8.argtypes] == [8, 8, 8]
    assert installed.mbx_get_algo_info.restype is ctypes.c_uint64
    assert load_library() is installed


def test_the_library_and_the_processor_s_flags_give_one_verdict(installed: ctypes.CDLL) -> None:
    flags = cpu_supports_ifma(Path("/proc/cpuinfo").read_text())
    assert bool(installed.mbx_get_algo_info(4) & 8) == flags


def test_the_engine_is_chosen_exactly_where_the_processor_runs_it(installed: ctypes.CDLL) -> None:
    if installed.mbx_get_algo_info(4) & 8:
        assert choose_blinder("auto").name == choose_blinder("ipp").name == "ipp"
        assert choose_blinder("auto").blind(BASE_POINT, BASE_POINT) == REFERENCE.blind(BASE_POINT, BASE_POINT)
    else:
        assert choose_blinder("auto").name == "cryptography"
        with pytest.raises(EngineUnavailable):
            choose_blinder("ipp")


def test_on_a_processor_without_it_the_library_itself_answers_unsupported(installed: ctypes.CDLL) -> None:
    # What keeps a wrong guess from being an illegal instruction: the dispatcher checks once more.
    if installed.mbx_get_algo_info(4) & 8:
        return
    buffers = [ctypes.create_string_buffer(256) for _ in range(3)]
    lanes = [(ctypes.c_void_p * 8)(*[ctypes.addressof(b) + 32 * i for i in range(8)]) for b in buffers]
    assert installed.mbx_x25519_mb8(*lanes) == 0xAAAAAAAA


def test_flags_alone_do_not_start_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        mbx_get_algo_info = staticmethod(lambda algorithm: 0)

    monkeypatch.setattr(ipp, "load_library", lambda: Library)
    with pytest.raises(EngineUnavailable, match="no X25519"):
        eight_lanes(IFMA)


def test_a_missing_and_a_broken_library_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ipp, "_folders", lambda: [tmp_path])
    with pytest.raises(EngineUnavailable, match="not installed"):
        load_library.__wrapped__()
    (tmp_path / "libcrypto_mb.so.13").write_bytes(b"not a library")
    with pytest.raises(EngineUnavailable, match="cannot be loaded"):
        load_library.__wrapped__()
