"""The address holds a run's plain files: other programs read them in place, and earlier formats are recognised."""

import hashlib
import json
import struct
import threading

import pytest

from accdistill_jax.errors import UserError
from accdistill_jax.files import sealed
from accdistill_jax.storage import mirror
from accdistill_jax.storage.folder import RemoteFolder, open_folder
from accdistill_jax.storage.mirror_store import Conflict
from accdistill_jax.storage.mirror_tree import fetch_tree
from accdistill_jax.training.event_file import EventFile
from tests.storage.mirror.run_folders import become, copied, refuse, tree, write


def scalars(content: bytes) -> list[tuple[int, str, float]]:
    """(step, tag, value) of a TensorBoard event file."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    while content:
        [length] = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + length])
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        content = content[16 + length :]
    return found


def refuse_manifest(store):
    """Refuses every write after a copy's files are complete: the manifest is written after the journal."""
    store.reset()
    return lambda number, what: any("atomically" in call for call in store.calls) and refuse()


@pytest.mark.filterwarnings("ignore")
def test_other_programs_read_the_bucket_as_plain_files(opened, two_states, tmp_path, monkeypatch):
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "ENDPOINT_URL": endpoint}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        import boto3

        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="bucket")
        run = opened("s3://bucket/run", tmp_path / "one")
        become(tmp_path / "one", two_states[0])
        events = EventFile(tmp_path / "one" / "tensorboard" / "student", first_step=1)
        events.add("train/loss", 2.5, 1)
        events.flush()
        run.push()
        events.add("train/loss", 1.5, 2)
        events.close()
        (tmp_path / "one" / "report.md").write_text("# Report\n")
        run.push()

        listed = client.list_objects_v2(Bucket="bucket", Prefix="run/")["Contents"]
        read = {
            item["Key"].removeprefix("run/"): client.get_object(Bucket="bucket", Key=item["Key"])["Body"].read()
            for item in listed
        }
        manifest = json.loads(read.pop("mirror.json"))
        assert read == {
            name: content for name, content in tree(tmp_path / "one").items() if not name.startswith("data/")
        }
        assert read["report.md"] == b"# Report\n"
        (board,) = (content for name, content in read.items() if name.startswith("tensorboard/student/events"))
        assert scalars(board) == [(1, "train/loss", 2.5), (2, "train/loss", 1.5)]
        assert manifest["files"] == {
            name: [len(content), hashlib.sha256(content).hexdigest()] for name, content in read.items()
        }
    finally:
        server.stop()


def test_a_copy_that_was_cut_off_leaves_the_one_before_whole(url, opened, store, two_states, tmp_path):
    """Some of its files exist already, under names that the complete copy has with other content."""
    one = opened(url, tmp_path / "one")
    become(tmp_path / "one", two_states[0])
    one.push()
    become(tmp_path / "one", two_states[1])
    store.before = refuse_manifest(store)
    with pytest.raises(UserError):
        one.push()
    store.reset()
    remote = open_folder(url)
    second = copied(two_states[1])
    assert all(remote.read(name) == content for name, content in second.items())
    opened(url, tmp_path / "two")
    assert tree(tmp_path / "two") == copied(two_states[0])
    assert fetch_tree(url, tmp_path / "plain") == len(copied(two_states[0]))
    assert tree(tmp_path / "plain") == copied(two_states[0])


def test_files_of_a_copy_that_was_cut_off_go_with_the_next(url, opened, store, tmp_path):
    one = opened(url, tmp_path / "one")
    write(tmp_path / "one", a="1")
    one.push()
    write(tmp_path / "one", gone="never in a complete copy")
    store.before = refuse_manifest(store)
    with pytest.raises(UserError):
        one.push()
    store.reset()
    one.close()
    assert open_folder(url).names() == ["a", "gone", "mirror.json"]
    two = opened(url, tmp_path / "two")  # another machine goes on, and knows of that file by the manifest alone
    write(tmp_path / "two", b="2")
    two.push()
    assert open_folder(url).names() == ["a", "b", "mirror.json"]


def test_files_at_the_address_that_the_run_has_not_written_stay(url, opened, tmp_path):
    open_folder(url).write("notes.txt", b"mine")
    one = opened(url, tmp_path / "one")
    for text in "12":
        write(tmp_path / "one", a=text)
        one.push()
    assert open_folder(url).names() == ["a", "mirror.json", "notes.txt"]


def test_a_process_that_was_held_up_in_its_copy_spoils_nothing(url, opened, tmp_path, monkeypatch):
    """Another machine continues from the previous copy and completes a new one; then the first process continues."""
    one = opened(url, tmp_path / "one")
    write(tmp_path / "one", a="1", b="1")
    one.push()
    write(tmp_path / "one", a="one", b="one")
    upload = mirror.CopyStore.upload

    def late(store, *arguments):
        monkeypatch.setattr(mirror.CopyStore, "upload", upload)
        two = opened(url, tmp_path / "two")
        write(tmp_path / "two", a="two", c="two")
        two.push()
        return upload(store, *arguments)

    monkeypatch.setattr(mirror.CopyStore, "upload", late)
    with pytest.raises(Conflict, match="another run writes at"):
        one.push()
    opened(url, tmp_path / "three")
    assert tree(tmp_path / "three") == {"a": b"two", "b": b"1", "c": b"two"}


def test_a_plain_tree_is_fetched_from_an_address_at_which_a_run_goes_on(url, opened, tmp_path, monkeypatch):
    one = opened(url, tmp_path / "one")
    write(tmp_path / "one", a="1", b="1", c="1")
    one.push()
    read, texts, lock = RemoteFolder.read, iter("23"), threading.Lock()

    def slow(folder, name):
        with lock:
            if text := next(texts, None):
                write(tmp_path / "one", a=text, b=text)
                (tmp_path / "one" / "c").unlink(missing_ok=True)
                one.push()
        return read(folder, name)

    monkeypatch.setattr(RemoteFolder, "read", slow)
    assert fetch_tree(url, tmp_path / "plain") == 2
    assert tree(tmp_path / "plain") == {"a": b"3", "b": b"3"}


@pytest.fixture
def first_format(url):
    """An address with a run in the first format, whose objects are named by their content."""
    files = {"config.json": b"{}", "metrics/teacher.jsonl": b"1\n"}
    remote, listed = open_folder(url), {}
    for name, content in files.items():
        listed[name] = [len(content), hashlib.sha256(content).hexdigest()]
        remote.write(f"objects/{listed[name][1]}", content)
    record = {"format": 1, "host": "h", "time": "t", "run": "r", "generation": 3, "push": "p", "files": listed}
    remote.write("mirror.json", json.dumps(sealed(record)).encode())
    return files


def test_a_run_in_the_first_format_is_refused_with_the_way_out(url, opened, first_format, tmp_path):
    before = {name: open_folder(url).read(name) for name in open_folder(url).names()}
    with pytest.raises(Conflict, match=rf"earlier version; fetch it with .*mirror pull {url} FOLDER.*--workdir=FOLDER"):
        opened(url, tmp_path / "one")
    assert {name: open_folder(url).read(name) for name in open_folder(url).names()} == before


def test_a_run_in_the_first_format_can_be_fetched(url, first_format, tmp_path):
    assert fetch_tree(url, tmp_path / "plain") == 2
    assert tree(tmp_path / "plain") == first_format
