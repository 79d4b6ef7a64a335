"""A run with store and work directory in an object store that refuses all requests in the middle of training."""

import threading
from pathlib import Path

import pytest

from accdistill_jax.storage.checkpoint import Checkpointer
from accdistill_jax.storage.export import load_params
from accdistill_jax.storage.mirror import staging_folder
from accdistill_jax.storage.mirror_tree import fetch_tree
from tests.multiprocess.conftest import HELD

pytestmark = pytest.mark.slow


class S3:
    """A local S3 service that can be made to refuse."""

    def __init__(self):
        pytest.importorskip("moto")
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self.refuses = False
        service = DomainDispatcherApplication(create_backend_app)

        def answer(environ, start_response):
            if self.refuses:
                start_response("403 Forbidden", [("Content-Length", "0")])
                return [b""]
            return service(environ, start_response)

        self._server = make_server("127.0.0.1", 0, answer, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.environment = {
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_port}",
        }

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def s3(monkeypatch):
    server = S3()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server
    server.close()


def copy_to_bucket(folder: Path, name: str) -> str:
    """Copies a store into a new bucket; returns its address."""
    import boto3

    client = boto3.client("s3", region_name="us-east-1")
    client.create_bucket(Bucket="bucket")
    for path in folder.rglob("*"):
        if path.is_file():
            client.put_object(Bucket="bucket", Key=f"{name}/{path.relative_to(folder)}", Body=path.read_bytes())
    return f"s3://bucket/{name}"


@pytest.mark.filterwarnings("ignore")
def test_refused_in_the_middle_of_training(launch, settings, smoke_store, hold, s3, tmp_path, monkeypatch):
    store = copy_to_bucket(smoke_store, "stores/smoke")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    address, place = "s3://bucket/runs/one", hold()
    # without its memory, the reader would have all of so small a store after an epoch
    arguments = settings(address, **{"data.stores": f"('{store}',)", "data.cache_mb": 0})
    job = launch(1, 1, arguments, program=HELD, environment={0: place.before(7)})
    checkpoints = staging_folder(address) / "teacher/checkpoints"
    job.until(lambda: place.reached() and (checkpoints / "4.json").exists(), "step 7 is held")
    s3.refuses = True
    place.release()
    assert job.wait() == [2], job.logs()
    assert job.line(0).startswith(f"error: {store}/") and "PERMISSION_DENIED" in job.line(0), job.logs()
    with Checkpointer(checkpoints) as checkpointer:
        assert checkpointer.latest_valid_step() == 4
    s3.refuses = False
    again = launch(1, 1, arguments)
    again.finish()
    assert "continuing from step 4" in again.stdout(), again.logs()
    fetch_tree(address, tmp_path / "fetched")
    own, copied = (load_params(folder / "teacher/export") for folder in (staging_folder(address), tmp_path / "fetched"))
    assert own.meta["fingerprint"] == copied.meta["fingerprint"]
