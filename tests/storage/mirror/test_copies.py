"""A copy at the address is whole or absent, wherever the upload is killed or refused."""

import errno
import itertools
import os
import shutil
import threading

import pytest

from accdistill_jax.errors import UserError
from accdistill_jax.storage.checkpoint import Checkpointer
from accdistill_jax.storage.export import load_params
from accdistill_jax.storage.folder import open_folder
from accdistill_jax.storage.mirror_store import Conflict
from tests.storage.mirror.run_folders import WAIT_S, become, copied, newest_step, refuse, state, tree, write


class Killed(BaseException):
    """The process is gone."""


def test_a_recreated_machine_finds_everything_but_the_data(url, opened, two_states, tmp_path):
    become(tmp_path / "one", two_states[1])
    opened(url, tmp_path / "one").push()
    opened(url, tmp_path / "two")
    assert tree(tmp_path / "two") == copied(two_states[1])
    assert newest_step(tmp_path / "two") == 4
    assert load_params(tmp_path / "two" / "student" / "export").meta["kind"] == "student"


def test_the_copies_of_a_run_that_moves_between_machines(url, opened, two_states, tmp_path):
    one = opened(url, tmp_path / "one")
    become(tmp_path / "one", two_states[0])
    one.push()
    two = opened(url, tmp_path / "two")
    become(tmp_path / "two", two_states[1])
    two.push()
    one.close()
    opened(url, tmp_path / "one")
    assert copied(tmp_path / "one") == copied(two_states[1])
    assert (tmp_path / "one" / "data" / "synthetic").exists()
    assert not (tmp_path / "one" / "student" / "checkpoints" / "2").exists()


def test_unchanged_files_cost_nothing(url, opened, store, two_states, tmp_path):
    become(tmp_path / "one", two_states[0])
    one = opened(url, tmp_path / "one")
    one.push()
    store.reset()
    one.push()
    assert not [call for call in store.calls if "write_atomically" not in call]
    with (tmp_path / "one" / "metrics" / "student_jsonl").open("a") as file:
        file.write("3\n")
    one.push()
    assert [call.rpartition(".")[2] for call in store.calls if "files" not in call] == [
        "write_if_unchanged",  # the manifest says that a copy is under way
        "write",  # the file's old content is kept
        "write_if_unchanged",  # the file
        "write_if_unchanged",  # the manifest
        "remove",  # the old content
    ]


def test_the_address_holds_the_files_of_the_copy_under_their_names_and_no_others(url, opened, two_states, tmp_path):
    one = opened(url, tmp_path / "one")
    for wanted in (*two_states, two_states[0]):
        become(tmp_path / "one", wanted)
        one.push()
        remote = open_folder(url)
        objects = {name: remote.read(name) for name in remote.names() if name != "mirror.json"}
        assert objects == copied(wanted)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_any_write_a_reader_sees_the_state_before_or_after(opened, store, two_states, tmp_path, moment):
    first, second = copied(two_states[0]), copied(two_states[1])
    seen = []
    for number in itertools.count():
        url, one = f"memory://killed-{moment}-{number}/run", tmp_path / f"one{number}"
        store.reset()
        mirror_one = opened(url, one)
        become(one, two_states[0])
        mirror_one.push()
        become(one, two_states[1])
        store.reset()

        def kill(count, what, number=number):
            if count >= number:
                raise Killed

        setattr(store, moment, kill)
        try:
            mirror_one.push()
            finished = True
        except Killed:
            finished = False
        mirror_one.close()
        store.reset()
        fresh = tmp_path / f"fresh{number}"
        opened(url, fresh)
        seen.append(tree(fresh))
        assert seen[-1] in (first, second)
        if number % 5 == 0 or finished:
            assert newest_step(fresh) == (2 if seen[-1] == first else 4)
        again = opened(url, one)  # the same machine goes on
        assert copied(one) == second
        again.push()
        opened(url, tmp_path / f"then{number}")
        assert tree(tmp_path / f"then{number}") == second
        if finished:
            break
    assert first in seen
    assert second in seen
    assert number > 10


@pytest.mark.slow
def test_refused_at_any_write_the_next_push_completes_the_copy(opened, store, two_states, tmp_path):
    for number in itertools.count():
        url, one = f"memory://refused-{number}/run", tmp_path / f"one{number}"
        store.reset()
        mirror_one = opened(url, one, patience_s=0.0)
        become(one, two_states[0])
        mirror_one.push()
        become(one, two_states[1])
        store.reset()
        store.before = lambda count, what, number=number: count >= number and "atomically" not in what and refuse()
        try:
            mirror_one.push()
        except UserError as error:
            assert "complete in" in str(error) and url in str(error) and "403" in str(error)
            assert copied(one) == copied(two_states[1])
        made = len(store.calls)
        store.reset()
        mirror_one.push()
        opened(url, tmp_path / f"fresh{number}")
        assert tree(tmp_path / f"fresh{number}") == copied(two_states[1])
        if number > made:
            break


@pytest.mark.parametrize("lost", [False, True])
def test_a_passing_refusal_is_not_noticed(url, opened, store, tmp_path, lost):
    one = opened(url, tmp_path / "one", patience_s=WAIT_S)
    write(tmp_path / "one", a="1")
    store.reset()
    fail = lambda number, what: number < 6 and "atomically" not in what and refuse()
    setattr(store, "after" if lost else "before", fail)
    one.push()
    opened(url, tmp_path / "two")
    assert tree(tmp_path / "two") == {"a": b"1"}


def test_a_checkpoint_replaced_during_the_copy_is_never_half_there(url, opened, store, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    with Checkpointer(one / "student" / "checkpoints", keep_last=1) as checkpointer:
        checkpointer.save(1, state(1))
        checkpointer.wait()
        mirror_one = opened(url, one)

        steps, lock = iter((2, 3)), threading.Lock()

        def save(number, what):
            with lock:
                if "write_if" in what and (step := next(steps, None)):
                    checkpointer.save(step, state(step))
                    checkpointer.wait()

        store.before = save
        mirror_one.push()
        opened(url, two).close()
        assert newest_step(two) == 1
        mirror_one.push()
    opened(url, two)
    assert newest_step(two) == 3


def test_half_written_files_are_not_copied(url, opened, two_states, tmp_path):
    one = tmp_path / "one"
    become(one, two_states[0])
    checkpoints = one / "student" / "checkpoints"
    shutil.copytree(checkpoints / "2", checkpoints / "3")
    shutil.copytree(checkpoints / "2", checkpoints / "4.orbax-checkpoint-tmp-1")
    write(one, config_json_tmp="")
    (one / "config_json_tmp").rename(one / ".config.json.1-2.tmp")
    (one / "link").symlink_to(one / "config_json")
    opened(url, one).push()
    opened(url, tmp_path / "two")
    assert tree(tmp_path / "two") == copied(two_states[0])


def test_without_hard_links_files_are_copied(url, opened, two_states, tmp_path, monkeypatch):
    def link(*arguments):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", link)
    become(tmp_path / "one", two_states[1])
    opened(url, tmp_path / "one").push()
    assert not (tmp_path / "one" / ".mirror").exists()
    opened(url, tmp_path / "two")
    assert tree(tmp_path / "two") == copied(two_states[1])


@pytest.mark.filterwarnings("ignore")
def test_s3(opened, two_states, tmp_path, monkeypatch):
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "ENDPOINT_URL": endpoint}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        import boto3

        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="bucket")
        url = "s3://bucket/some/run"
        one = opened(url, tmp_path / "one")
        become(tmp_path / "one", two_states[0])
        one.push()
        become(tmp_path / "one", two_states[1])
        one.push()
        two = opened(url, tmp_path / "two")
        assert tree(tmp_path / "two") == copied(two_states[1])
        write(tmp_path / "two", a="2")
        two.push()
        write(tmp_path / "one", a="1")
        with pytest.raises(Conflict, match="another run writes at s3://bucket/some/run"):
            one.push()
        with pytest.raises(UserError, match="s3://other/run"):
            opened("s3://other/run", tmp_path / "three").push()
    finally:
        server.stop()
