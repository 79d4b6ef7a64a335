"""A work directory at an object-store address: copied there whole or not at all, and back."""

import errno
import itertools
import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from accdistill_jax.errors import UserError
from accdistill_jax.files import is_address
from accdistill_jax.storage import folder as folders
from accdistill_jax.storage import mirror, mirror_files, mirror_store
from accdistill_jax.storage.checkpoint import Checkpointer
from accdistill_jax.storage.export import load_params, save_params
from accdistill_jax.storage.folder import LocalFolder, RemoteFolder, open_folder
from accdistill_jax.storage.mirror import Mirror, staging_folder
from accdistill_jax.storage.mirror_store import Conflict
from accdistill_jax.storage.mirror_tree import fetch_tree

WAIT_S = 20.0
_number = itertools.count()


@pytest.fixture
def url() -> str:
    return f"memory://bucket-{next(_number)}/run"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(mirror_store, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(mirror_store, "_LONGEST_PAUSE_S", 0.01)


@pytest.fixture
def opened():
    """opened(url, folder, ...) -> a Mirror that has pulled, silent; closed at the end."""
    mirrors = []

    def make(url, folder, **options):
        mirrors.append(Mirror(url, folder, **{"say": lambda line: None, "patience_s": 0.05} | options))
        mirrors[-1].pull()
        return mirrors[-1]

    yield make
    for one in mirrors:
        one.close()


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def tree(folder: Path) -> dict[str, bytes]:
    """What the run wrote: everything but the mirror's own files."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.relative_to(folder).parts[0].startswith((".mirror", ".in-use"))
    }


class Store:
    """Stands before everything that changes a store or the journal: can count, fail and be killed."""

    def __init__(self, monkeypatch):
        self.calls: list[str] = []
        self.before = lambda number, what: None
        self.after = lambda number, what: None
        self._count = itertools.count()
        self._lock = threading.Lock()
        for module, owner, name in (
            (folders, RemoteFolder, "write"),
            (folders, RemoteFolder, "remove"),
            (mirror_store, mirror_store, "write_if_unchanged"),
            (mirror_files, mirror_files, "write_atomically"),
        ):
            monkeypatch.setattr(owner, name, self._wrapped(getattr(owner, name), f"{module.__name__}.{name}"))

    def _wrapped(self, function, what):
        def call(*arguments, **options):
            with self._lock:
                number = next(self._count)
                self.calls.append(what)
            self.before(number, what)
            value = function(*arguments, **options)
            self.after(number, what)
            return value

        return call

    def reset(self) -> None:
        self.calls, self._count = [], itertools.count()
        self.before = self.after = lambda number, what: None


@pytest.fixture
def store(monkeypatch) -> Store:
    return Store(monkeypatch)


class Killed(BaseException):
    """The process is gone."""


def refuse(*arguments):
    raise UserError("the object store refused (HTTP 403)")


def state(step: int) -> dict:
    return {"w": np.full((50, 20), step, np.float32), "step": np.int32(step)}


@pytest.fixture(scope="session")
def two_states(tmp_path_factory) -> tuple[Path, Path]:
    """A run's folder after step 2, and after step 4, an export and the removal of old checkpoints."""
    first, second = tmp_path_factory.mktemp("states") / "first", tmp_path_factory.mktemp("states") / "second"
    with Checkpointer(first / "student" / "checkpoints", keep_last=1) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, state(step))
    write(first, config_json="{}", metrics__student_jsonl="1\n2\n", data__synthetic="never copied")
    shutil.copytree(first, second)
    with Checkpointer(second / "student" / "checkpoints", keep_last=1) as checkpointer:
        for step in (3, 4):
            checkpointer.save(step, state(step))
    save_params(second / "student" / "export", {"w": np.ones(3, np.float32)}, {"kind": "student"})
    write(second, metrics__student_jsonl="1\n2\n3\n4\n", report__made_from="key")
    return first, second


def become(folder: Path, wanted: Path) -> None:
    """Makes a work directory what another one is, the mirror's own files left."""
    for path in list(folder.iterdir()) if folder.exists() else []:
        if not path.name.startswith((".mirror", ".in-use")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(wanted, folder, dirs_exist_ok=True)


def copied(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in tree(folder).items() if not name.startswith("data/")}


def newest_step(folder: Path) -> int:
    with Checkpointer(folder / "student" / "checkpoints") as checkpointer:
        step = checkpointer.latest_valid_step()
        restored = checkpointer.restore(step, state(0)).state
    assert restored["step"] == step
    np.testing.assert_array_equal(restored["w"], state(step)["w"])
    return step


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
        "write",
        "write_if_unchanged",
    ]


def test_objects_that_no_copy_needs_are_removed(url, opened, two_states, tmp_path):
    one = opened(url, tmp_path / "one")
    become(tmp_path / "one", two_states[0])
    one.push()
    become(tmp_path / "one", two_states[1])
    one.push()
    before = {content.sha256 for content in one._journal.base.values()}
    write(tmp_path / "one", metrics__student_jsonl="1\n")
    one.push()
    now = {content.sha256 for content in one._journal.base.values()}
    assert {name.partition("/")[2] for name in open_folder(url).names("objects")} == before | now


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_any_write_a_reader_sees_the_state_before_or_after(
    opened, store, two_states, tmp_path, moment
):
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
        mirror_one._held.close()
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


def test_refused_at_any_write_the_next_push_completes_the_copy(opened, store, two_states, tmp_path):
    for number in itertools.count():
        url, one = f"memory://refused-{number}/run", tmp_path / f"one{number}"
        store.reset()
        mirror_one = opened(url, one, patience_s=0.0)
        become(one, two_states[0])
        mirror_one.push()
        become(one, two_states[1])
        store.reset()
        store.before = lambda count, what, number=number: count >= number and "folder" in what and refuse()
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
                if "folder.write" in what and (step := next(steps, None)):
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


def test_a_folder_that_is_ahead_is_kept_and_copied(url, opened, store, tmp_path):
    one = opened(url, tmp_path / "one")
    write(tmp_path / "one", a="1")
    one.push()
    write(tmp_path / "one", a="2", b="new")
    store.before = lambda number, what: "folder" in what and refuse()
    with pytest.raises(UserError, match="could not be copied"):
        one.push()
    one.close()
    store.reset()
    again = opened(url, tmp_path / "one")
    assert tree(tmp_path / "one") == {"a": b"2", "b": b"new"}
    again.push()
    opened(url, tmp_path / "two")
    assert tree(tmp_path / "two") == {"a": b"2", "b": b"new"}


def test_a_first_copy_that_failed_loses_nothing(url, opened, store, tmp_path):
    one = opened(url, tmp_path / "one")
    write(tmp_path / "one", a="1")
    store.before = lambda number, what: "write_if" in what and refuse()
    with pytest.raises(UserError):
        one.push()
    one.close()
    store.reset()
    opened(url, tmp_path / "one").push()
    opened(url, tmp_path / "two")
    assert tree(tmp_path / "two") == {"a": b"1"}


def test_files_that_somebody_deleted_locally_are_fetched_again(url, opened, tmp_path):
    write(tmp_path / "one", a="1", b__c="2")
    one = opened(url, tmp_path / "one")
    one.push()
    one.close()
    shutil.rmtree(tmp_path / "one" / "b")
    opened(url, tmp_path / "one").push()
    assert tree(tmp_path / "one") == {"a": b"1", "b/c": b"2"}


def test_parted_runs_are_refused(url, opened, tmp_path):
    write(tmp_path / "one", a="1")
    one = opened(url, tmp_path / "one")
    one.push()
    two = opened(url, tmp_path / "two")
    write(tmp_path / "two", a="2")
    two.push()
    write(tmp_path / "one", b="never copied")
    with pytest.raises(Conflict, match="another run writes at .*; stop one of the two.*--workdir="):
        one.push()
    one.close()
    with pytest.raises(Conflict, match="went on elsewhere.*Delete that folder.*--workdir="):
        opened(url, tmp_path / "one")
    assert tree(tmp_path / "one") == {"a": b"1", "b": b"never copied"}
    other = opened(f"{url}-2", tmp_path / "three")
    write(tmp_path / "three", a="3")
    other.push()
    other.close()
    for foreign in ("three", "four"):
        write(tmp_path / foreign, z="foreign")
        with pytest.raises(Conflict, match="different runs"):
            opened(url, tmp_path / foreign)
    opened(url, tmp_path / "five")
    assert tree(tmp_path / "five") == {"a": b"2"}


def test_an_emptied_or_older_address_is_refused(url, opened, tmp_path):
    write(tmp_path / "one", a="1")
    one = opened(url, tmp_path / "one")
    one.push()
    older = open_folder(url).read("mirror.json")
    write(tmp_path / "one", a="2")
    one.push()
    one.close()
    open_folder(url).write("mirror.json", older)
    with pytest.raises(Conflict, match="older copy"):
        opened(url, tmp_path / "one")
    assert open_folder(url).remove_ours(lambda name: True)
    with pytest.raises(Conflict, match=r"is empty.*\.mirror\.json"):
        opened(url, tmp_path / "one")
    (tmp_path / "one" / ".mirror.json").unlink()
    opened(url, tmp_path / "one").push()
    opened(url, tmp_path / "two")
    assert tree(tmp_path / "two") == {"a": b"2"}


def test_two_runs_on_one_machine_are_refused(url, opened, tmp_path):
    opened(url, tmp_path / "one")
    with pytest.raises(UserError, match="another process of this machine"):
        opened(url, tmp_path / "one")


def test_two_first_copies_at_one_address(url, opened, tmp_path):
    write(tmp_path / "one", a="1")
    write(tmp_path / "two", a="2")
    one, two = opened(url, tmp_path / "one"), opened(url, tmp_path / "two")
    one.push()
    with pytest.raises(Conflict, match="another run"):
        two.push()
    opened(url, tmp_path / "three")
    assert tree(tmp_path / "three") == {"a": b"1"}


def test_background_copies_are_one_at_a_time_and_coalesced(url, opened, store, tmp_path):
    one = opened(url, tmp_path / "one")
    begun, go_on = threading.Event(), threading.Event()

    def hold(number, what):
        begun.set()
        assert go_on.wait(WAIT_S)

    write(tmp_path / "one", a="1")
    store.before = hold
    one.push_later()
    assert begun.wait(WAIT_S)
    for text in "234":
        write(tmp_path / "one", a=text)
        one.push_later()
    go_on.set()
    one.wait()
    assert one._journal.generation == 2
    opened(url, tmp_path / "two")
    assert tree(tmp_path / "two") == {"a": b"4"}


def test_a_failed_background_copy_warns_and_is_caught_up(url, opened, store, tmp_path):
    lines = []
    one = opened(url, tmp_path / "one", say=lines.append)
    for text in "12":
        write(tmp_path / "one", a=text)
        store.before = lambda number, what: "folder" in what and refuse()
        one.push_later()
        one.wait()
    assert len(lines) == 2
    assert all(line.startswith(f"warning: not copied to {url}") and "403" in line for line in lines)
    store.reset()
    one.push_later()
    one.wait()
    assert len(lines) == 2
    opened(url, tmp_path / "two")
    assert tree(tmp_path / "two") == {"a": b"2"}


def test_the_final_push_does_not_wait_for_the_patience_of_a_background_copy(url, opened, store, tmp_path):
    one = opened(url, tmp_path / "one", patience_s=1000.0)
    write(tmp_path / "one", a="1")
    refused = threading.Event()

    def fail(number, what):
        if threading.current_thread() is not threading.main_thread() and "folder" in what:
            refused.set()
            refuse()

    mirror_store._LONGEST_PAUSE_S = mirror_store._FIRST_PAUSE_S = 1000.0
    store.before = fail
    one.push_later()
    assert refused.wait(WAIT_S)
    store.before = lambda number, what: None
    one.push()
    opened(url, tmp_path / "two")
    assert tree(tmp_path / "two") == {"a": b"1"}


def test_a_conflict_in_the_background_surfaces_once_and_for_all(url, opened, tmp_path):
    write(tmp_path / "one", a="1")
    one = opened(url, tmp_path / "one")
    one.push()
    two = opened(url, tmp_path / "two")
    write(tmp_path / "two", a="2")
    two.push()
    write(tmp_path / "one", a="3")
    one.push_later()
    with pytest.raises(Conflict):
        one.wait()
    with pytest.raises(Conflict):
        one.push_later()
    opened(url, tmp_path / "three")
    assert tree(tmp_path / "three") == {"a": b"2"}


def test_disk_full_while_pulling(url, opened, two_states, tmp_path, monkeypatch):
    become(tmp_path / "one", two_states[1])
    opened(url, tmp_path / "one").push()
    written, fsync = itertools.count(), os.fsync

    def full(descriptor):
        if next(written) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(folders.os, "fsync", full)
        with pytest.raises(UserError, match="disk is full"):
            opened(url, tmp_path / "two")
    assert not list((tmp_path / "two").rglob("4.json"))
    assert json.loads((tmp_path / "two" / ".mirror.json").read_text())["pulling"]
    opened(url, tmp_path / "two")
    assert tree(tmp_path / "two") == copied(two_states[1])


def test_a_damaged_object_is_not_taken(url, opened, tmp_path):
    write(tmp_path / "one", a="1")
    opened(url, tmp_path / "one").push()
    remote = open_folder(url)
    (name,) = remote.names("objects")
    remote.write(name, b"2")
    with pytest.raises(UserError, match=r"\(a\) is damaged"):
        opened(url, tmp_path / "two")
    remote.remove(name)
    with pytest.raises(UserError, match="objects are missing"):
        opened(url, tmp_path / "three")
    assert tree(tmp_path / "two") == tree(tmp_path / "three") == {}


def test_a_copy_replaced_while_it_is_fetched(url, opened, tmp_path, monkeypatch):
    write(tmp_path / "one", a="1", b="1")
    one = opened(url, tmp_path / "one")
    one.push()
    read = RemoteFolder.read

    def slow(folder, name):
        monkeypatch.setattr(RemoteFolder, "read", read)
        for text in "23":
            write(tmp_path / "one", a=text, b=text * 2)
            one.push()
        return read(folder, name)

    monkeypatch.setattr(RemoteFolder, "read", slow)
    opened(url, tmp_path / "two").push()
    assert tree(tmp_path / "two") == {"a": b"3", "b": b"33"}


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "{}",
        "[]",
        '{"format": 2}',
        '{"format": 1, "run": "r", "generation": 1, "push": "p", "files": 3}',
        '{"format": 1, "run": "r", "generation": 1, "push": "p", "files": {"../x": [1, "a"]}}',
    ],
)
def test_what_is_no_manifest_is_refused(url, opened, tmp_path, manifest):
    open_folder(url).write("mirror.json", manifest.encode())
    with pytest.raises(UserError, match=r"mirror\.json is no list of a run's files"):
        opened(url, tmp_path / "one")


def test_an_unreadable_journal_is_refused(url, opened, tmp_path):
    write(tmp_path / "one")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / ".mirror.json").write_text("{")
    with pytest.raises(UserError, match=r"\.mirror\.json cannot be read"):
        opened(url, tmp_path / "one")


def test_a_store_that_cannot_be_reached_is_named(opened, tmp_path, monkeypatch):
    def call(*arguments, **options):
        raise RuntimeError("PERMISSION_DENIED: HTTP 403 [source locations='x']\nmore")

    monkeypatch.setattr(mirror_store.ts.KvStore, "open", call)
    with pytest.raises(
        UserError, match=r"^gs://bucket/run/mirror.json: .*\(PERMISSION_DENIED: HTTP 403\); check"
    ) as told:
        opened("gs://bucket/run", tmp_path / "one")
    assert "\n" not in str(told.value)


def test_addresses_and_their_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert (
        is_address("gs://b/run")
        and is_address("s3://b")
        and not is_address("runs/x")
        and not is_address("file:///x")
    )
    with pytest.raises(UserError, match="cannot be written"):
        is_address("https://example.org/run")
    folder = staging_folder("gs://bucket/a b/run/")
    assert folder.parent == tmp_path / "accdistill_jax" / "runs"
    assert folder.name.startswith("bucket-a-b-run-")
    assert folder == staging_folder("gs://bucket/a b/run") != staging_folder("s3://bucket/a b/run")


def test_a_plain_tree_by_the_command_line(opened, two_states, tmp_path, capsys):
    url = f"file://{tmp_path}/bucket/run"
    become(tmp_path / "one", two_states[1])
    opened(url, tmp_path / "one").push()
    assert mirror.main(["ls", url]) == 0
    assert "student/export/export.json" in capsys.readouterr().out
    assert mirror.main(["pull", url, str(tmp_path / "plain")]) == 0
    assert tree(tmp_path / "plain") == copied(two_states[1])
    assert mirror.main(["pull", url, str(tmp_path / "plain")]) == 2
    assert mirror.main(["ls", f"file://{tmp_path}/nothing"]) == 2
    assert capsys.readouterr().err.count("error: ") == 2


def test_a_plain_tree_appears_whole_or_not_at_all(url, opened, tmp_path, monkeypatch):
    write(tmp_path / "one", a="1", b="2")
    opened(url, tmp_path / "one").push()
    monkeypatch.setattr(LocalFolder, "write", refuse)
    with pytest.raises(UserError):
        fetch_tree(url, tmp_path / "plain")
    assert not (tmp_path / "plain").exists()


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
