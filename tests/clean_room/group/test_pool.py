from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from clean_room.errors import BadInput, ComityError, Misuse, PeerViolation
from clean_room.group import DST, BlindingPool, CryptographyBlinder, hash_to_curve, new_scalar, worker

ENGINE = CryptographyBlinder()
PEOPLE = [b"person-%d" % i for i in range(3000)]
COLUMN = pa.array(PEOPLE, pa.binary())


@pytest.fixture(scope="module")
def pool() -> Iterator[BlindingPool]:
    with BlindingPool(workers=2) as running:
        yield running


@pytest.fixture(scope="module")
def inline() -> Iterator[BlindingPool]:
    with BlindingPool() as running:
        yield running


def children() -> set[int]:
    """Pids below this process, whatever they run."""
    me = os.getpid()
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    below, grown = {me}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in below} | below
        grown, below = more != below, more
    return below - {me}


def test_processes_and_inline_give_the_same_bytes_in_order(pool: BlindingPool, inline: BlindingPool) -> None:
    k, other = new_scalar(os.urandom), new_scalar(os.urandom)
    points = pool.hash_and_blind(COLUMN, k)
    assert points == inline.hash_and_blind(COLUMN, k) == ENGINE.blind(k, hash_to_curve(PEOPLE))
    assert pool.blind(other, points) == inline.blind(other, points) == ENGINE.blind(other, points)


def test_chunked_sliced_and_empty_columns_are_read_right(pool: BlindingPool, inline: BlindingPool) -> None:
    k = new_scalar(os.urandom)
    chunked = pa.chunked_array([COLUMN[:700], COLUMN[700:701], COLUMN[701:1400]])
    for some in (pool, inline):
        assert some.hash_and_blind(chunked, k) == some.hash_and_blind(COLUMN[:1400], k)
        assert some.hash_and_blind(COLUMN[5:9], k) == ENGINE.blind(k, hash_to_curve(PEOPLE[5:9]))
        for empty in (COLUMN[:0], pa.chunked_array([], pa.binary())):
            assert some.hash_and_blind(empty, k) == b""
        assert some.blind(k, b"") == b""


def test_progress_rises_to_the_whole(pool: BlindingPool, inline: BlindingPool) -> None:
    for some in (pool, inline):
        seen: list[tuple[int, int]] = []
        some.hash_and_blind(COLUMN, new_scalar(os.urandom), progress=lambda *at, seen=seen: seen.append(at))
        assert len(seen) > 1
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
        assert seen[-1] == (3000, 3000)


def test_a_bad_point_in_any_chunk_is_a_violation_and_the_pool_lives_on(pool: BlindingPool) -> None:
    k = new_scalar(os.urandom)
    points = bytearray(pool.hash_and_blind(COLUMN, k))
    points[2500 * 32 : 2501 * 32] = bytes(32)
    with pytest.raises(PeerViolation, match="low order"):
        pool.blind(k, points)
    points[2500 * 32 : 2501 * 32] = b"\xff" * 32
    with pytest.raises(PeerViolation, match="canonical"):
        pool.blind(k, points)
    assert len(pool.blind(k, hash_to_curve([b"a"]))) == 32


def test_missing_identifiers_are_refused(pool: BlindingPool, inline: BlindingPool) -> None:
    for some in (pool, inline):
        with pytest.raises(BadInput):
            some.hash_and_blind(pa.array([b"a", None], pa.binary()), new_scalar(os.urandom))


def test_two_threads_get_their_own_answers(pool: BlindingPool) -> None:
    keys = [new_scalar(os.urandom) for _ in range(2)]
    got: dict[int, bytes] = {}
    threads = [
        threading.Thread(target=lambda n=n: got.__setitem__(n, pool.hash_and_blind(COLUMN[:1200], keys[n])))  # type: ignore[misc]
        for n in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(2):
        assert got[n] == ENGINE.blind(keys[n], hash_to_curve(PEOPLE[:1200]))


def test_closing_ends_every_worker() -> None:
    before = children()
    with BlindingPool(workers=2) as some:
        some.warm()
        started = children() - before
        assert len(started) == 2
    assert not started & children()
    with pytest.raises(Misuse):
        some.blind(new_scalar(os.urandom), b"")
    some.close()


def test_a_pool_that_was_never_used_starts_nothing_and_refuses_after_closing() -> None:
    before = children()
    for workers in (0, 2):
        with BlindingPool(workers=workers) as some:
            assert some.workers == workers
        with pytest.raises(Misuse):
            some.hash_and_blind(COLUMN, new_scalar(os.urandom))
    assert children() == before


def test_a_killed_worker_is_an_error_and_the_next_call_starts_afresh() -> None:
    with BlindingPool(workers=1) as some:
        k = new_scalar(os.urandom)
        before = children()
        some.warm()
        (pid,) = children() - before
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ComityError) as caught:
            some.hash_and_blind(COLUMN, k)
        assert caught.value.code == "worker_lost" and caught.value.retryable
        assert some.hash_and_blind(COLUMN[:9], k) == ENGINE.blind(k, hash_to_curve(PEOPLE[:9]))


PARENT = """
import os, time
from clean_room.group import BlindingPool
pool = BlindingPool(workers=2)
pool.warm()
print(*[pool._idle.get().process.pid for _ in range(2)], flush=True)
time.sleep(60)
"""


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    root = str(Path(__file__).parents[3])
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    ) as parent:
        assert parent.stdout is not None
        try:
            pids = [int(pid) for pid in parent.stdout.readline().split()]
        finally:
            parent.kill()
    assert len(pids) == 2
    for _ in range(100):
        if not any(alive(pid) for pid in pids):
            return
        time.sleep(0.1)
    for pid in pids:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
    pytest.fail("a worker outlived its parent")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_closing_while_at_work_is_misuse_in_the_thread_at_work() -> None:
    some = BlindingPool(workers=1, chunk=64)
    raised: list[BaseException] = []

    def work() -> None:
        try:
            some.hash_and_blind(COLUMN, new_scalar(os.urandom), progress=lambda *at: some_done.set())
        except Misuse as error:
            raised.append(error)

    some_done = threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    assert some_done.wait(30)
    some.close()
    thread.join()
    assert len(raised) == 1


def test_no_secret_is_in_a_worker_s_command_line_or_environment(pool: BlindingPool) -> None:
    pool.warm()
    k = new_scalar(os.urandom)
    pool.hash_and_blind(COLUMN, k)
    for pid in children():
        for name in ("cmdline", "environ"):
            shown = Path(f"/proc/{pid}/{name}").read_bytes()
            assert k not in shown and k.hex().encode() not in shown


def test_requests_and_answers_survive_the_trip() -> None:
    for people in ([], [b""], [b"a", b"", b"bcd"]):
        column = pa.array([b"before", *people, b"after"], pa.binary())[1:-1]
        payload = b"".join(worker.pack(column))
        k = new_scalar(os.urandom)
        requests = io.BytesIO(b"".join(worker.encode_request(worker.HASH_AND_BLIND, k, DST, [payload])))
        answers = io.BytesIO()
        worker.serve(requests, answers, ENGINE)
        answers.seek(0)
        assert worker.decode_answer(answers) == ENGINE.blind(k, hash_to_curve(people))


def test_an_error_of_a_worker_comes_back_as_it_was_and_a_cut_answer_as_a_lost_worker() -> None:
    requests = io.BytesIO(b"".join(worker.encode_request(worker.BLIND, bytes(32), b"", [bytes(32)])))
    answers = io.BytesIO()
    worker.serve(requests, answers, ENGINE)
    with pytest.raises(PeerViolation, match="low order"):
        worker.decode_answer(io.BytesIO(answers.getvalue()))
    for end in range(len(answers.getvalue())):
        with pytest.raises(worker.WorkerLost):
            worker.decode_answer(io.BytesIO(answers.getvalue()[:end]))


def test_impossible_settings_are_refused() -> None:
    for workers, chunk in ((-1, 10), (0, 0), (0, 65_537)):
        with pytest.raises(Misuse):
            BlindingPool(workers, chunk=chunk)


def test_a_small_chunk_cuts_the_same_answer(inline: BlindingPool) -> None:
    k = new_scalar(os.urandom)
    with BlindingPool(chunk=7) as small:
        assert small.hash_and_blind(COLUMN[:50], k) == inline.hash_and_blind(COLUMN[:50], k)
        assert np.frombuffer(small.blind(k, hash_to_curve(PEOPLE[:50])), np.uint8).size == 1600
