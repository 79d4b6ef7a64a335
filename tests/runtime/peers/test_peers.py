"""The control plane between the processes of a run, with real processes (without jax, so that they start at once)."""

import textwrap
import time

import pytest

from accdistill_jax.errors import UserError
from accdistill_jax.runtime.peers.agreement import disagreement
from accdistill_jax.runtime.peers.peers import Peers
from tests.runtime.peers.peer_processes import ALARM_S, FINISH, LEAVING, ended, run


def test_gather_share_and_barrier(processes):
    body = """
        for again in range(50):
            assert peers.gather("squares", {"of": rank, "is": rank * rank + again}) == [
                {"of": r, "is": r * r + again} for r in range(count)
            ]
        assert peers.share("seed", 7 if peers.first else None) == 7
        assert peers.from_first("config", lambda: {"rank": rank}) == {"rank": 0}
        sizes = [len(text) for text in peers.gather("large", "x" * (3_000_000 + rank))]
        assert sizes == [3_000_000, 3_000_001, 3_000_002]
        mark = Path(folder) / f"reached-{rank}"
        mark.touch()
        peers.barrier("all here")
        assert len(list(Path(folder).glob("reached-*"))) == count
        peers.agree({"store": "ab12", "version": [1, 2]})
    """
    for status, out, error in run(processes, 3, textwrap.dedent(body) + FINISH):
        assert (status, out, error) == (0, "", "")


def test_gather_waits_for_the_last(processes):
    body = """
        if rank == 1:
            say("ready")
            wait_for_go()
        else:
            say("ready")
        say(peers.gather("late", rank), (Path(folder) / "go").exists())
    """
    processes.start(3, textwrap.dedent(body) + FINISH)
    processes.expect("ready")
    processes.go()
    for process in processes.all:
        assert ended(process, ALARM_S, time.monotonic()) == (0, "[0, 1, 2] True\n", "")


def test_from_first_raises_a_user_error_everywhere(processes):
    body = """
def fail():
    assert peers.first
    raise UserError("no folder /data; make it")
""" + LEAVING.format(work='peers.from_first("folder", fail)')
    for status, out, error in run(processes, 3, body):
        assert (status, out, error) == (2, "", "error: no folder /data; make it\n")


@pytest.mark.parametrize("count, odd", [(3, 2), (3, 0), (2, 1)])
def test_agree_names_the_odd_process(processes, count, odd):
    work = f"""peers.agree({{"seed": 1, "store fingerprint": "ab" * 20 if rank == {odd} else "cd" * 20}})"""
    usual = 1 if odd == 0 else 0
    for status, _, error in run(processes, count, LEAVING.format(work=work)):
        assert status == 2
        assert error == (
            f"error: process {odd} has another store fingerprint (abababababababab..) than process {usual} "
            "(cdcdcdcdcdcdcdcd..); start all processes with the same command, code and data\n"
        )


def test_disagreement():
    assert disagreement([{"a": 1, "b": None}] * 3) is None
    same = "x" * 100
    line = disagreement([{"a": 1, "b": same + "1"}, {"a": 1, "b": same + "2", "c": True}])
    assert line.startswith("process 1 has another b (..xxxxxxxx2) than process 0 (..xxxxxxxx1); they also differ in c;")
    assert disagreement([{"a": 1}, {}]).startswith("process 1 has another a (missing) than process 0 (1);")
    assert disagreement([{"a": 1}, {"a": "1"}]) is not None
    four = disagreement([{"a": 1}, {"a": 2}, {"a": 1}, {"a": 3}])
    assert four.startswith("processes 1, 3 have another a (2) than process 0 (1);")


def test_different_names_are_a_failure_everywhere(processes):
    body = """
        try:
            peers.gather("this" if rank < 2 else "that", rank)
        except RuntimeError as error:
            say(error)
        assert peers.gather("again", rank) == [0, 1, 2]
    """
    results = run(processes, 3, textwrap.dedent(body) + FINISH)
    assert {status for status, *_ in results} == {0}
    (message,) = {out for _, out, _ in results}
    assert "'this'" in message and "'that'" in message and "(call 1)" in message


def test_a_gather_without_one_that_has_finished_fails(processes):
    body = """
        if rank != 1:
            try:
                peers.gather("more", rank)
            except RuntimeError as error:
                say(error)
    """
    results = run(processes, 3, textwrap.dedent(body) + FINISH)
    failure = "process 1 has finished and takes no part in 'more' (call 1)\n"
    assert [out for _, out, _ in results] == [failure, "", failure]


def test_strangers_are_dropped(processes):
    before = """
        if rank == 1:
            address, token = exchange.get("peers", 20.0).split()
            host, port = address.split(":")
            for line in (
                b'{"kind": "hello", "rank": 1, "token": "wrong"}\\n',
                b'{"kind": "hello", "rank": 1}\\n',
                b'{"kind": "leave", "status": 2, "reason": "no"}\\n',
                b"GET / HTTP/1.1\\r\\n\\r\\n",
                b"[" * 100_000 + b"\\n",
                b"x" * 1_000_000,
                f'{{"kind": "hello", "rank": 5, "token": "{token}"}}\\n'.encode(),
            ):
                with socket.create_connection((host, int(port)), timeout=10) as stranger:
                    try:
                        stranger.sendall(line)
                        answer = stranger.recv(100)
                    except ConnectionError:
                        answer = b""
                    assert answer == b"", answer
            say("all dropped")
    """
    body = 'assert peers.gather("rank", rank) == [0, 1]\n' + FINISH
    (first, second) = run(processes, 2, body, before=before)
    assert first == (0, "", "")
    assert second == (0, "all dropped\n", "")


def test_alone():
    peers = Peers.alone()
    assert (peers.rank, peers.count, peers.first) == (0, 1, True)
    assert peers.gather("name", (1, None)) == [[1, None]]
    assert peers.share("name", "value") == "value"
    assert peers.from_first("name", lambda: {"a": 1.5}) == {"a": 1.5}
    peers.barrier("name")
    peers.agree({"a": 1})
    with pytest.raises(UserError, match="^told$"):
        peers.from_first("name", lambda: (_ for _ in ()).throw(UserError("told")))
    with pytest.raises(TypeError):
        peers.gather("name", object())
    peers.set_stop_handler(lambda reason, status: None)
    peers.explain(ValueError("no one else is to blame"))
    with peers.waiting("nobody"):
        pass
    with peers.progress("training", within_s=60.0) as watch:
        watch.beat(1)
        with watch.pause():
            pass
    peers.leave(0, "finished")
    peers.close()
    peers.close()
