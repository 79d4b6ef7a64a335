"""The folder of compiled programs; a damaged program in it does no harm."""

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from accdistill_jax.errors import UserError
from accdistill_jax.runtime.compilation_cache import use_compilation_cache

NAMES = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture(autouse=True)
def as_before():
    before = {name: getattr(jax.config, name) for name in NAMES}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def compute():
    """Compiled anew each time, because the function is a new object."""
    return jax.jit(lambda x: (x @ x).sum())(np.eye(3, dtype=np.float32))


def entries(folder):
    return sorted(folder.glob("*-cache"))


@pytest.mark.slow
def test_programs_are_kept_in_the_folder_and_a_torn_one_is_compiled_anew(tmp_path):
    folder = tmp_path / "new" / "programs"
    use_compilation_cache(str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    assert compute() == 3.0
    kept = entries(folder)
    assert kept
    for path in kept:
        path.write_bytes(path.read_bytes()[:40])
    compilation_cache.reset_cache()
    jax.clear_caches()
    with pytest.warns(UserWarning, match="Error reading persistent compilation cache entry"):
        assert compute() == 3.0


def test_off_holds_for_one_run_of_the_process(tmp_path):
    """A run with the cache off used to turn it off for later runs of the process."""
    use_compilation_cache("off")
    use_compilation_cache(str(tmp_path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    assert compute() == 3.0 and entries(tmp_path)
    use_compilation_cache("off")
    use_compilation_cache("")
    assert jax.config.jax_enable_compilation_cache


def test_off_keeps_nothing(tmp_path):
    use_compilation_cache(str(tmp_path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    use_compilation_cache("off")
    assert compute() == 3.0 and not entries(tmp_path)


def test_the_users_own_folder_unless_jax_is_set_to_one(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", "elsewhere")
    use_compilation_cache("")
    assert jax.config.jax_compilation_cache_dir == "elsewhere"
    jax.config.update("jax_compilation_cache_dir", None)
    use_compilation_cache("")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "accdistill_jax" / "xla")


def test_the_message_names_a_flag_only_of_a_command_that_has_it(monkeypatch):
    monkeypatch.setattr("accdistill_jax.runtime.compilation_cache.cache_folder", no_folder)
    said = []
    jax.config.update("jax_compilation_cache_dir", None)
    use_compilation_cache("", say=said.append)
    use_compilation_cache("", say=said.append, key="--config.runtime.compilation_cache")
    assert said == [
        "compiled programs are not kept: no home",
        "compiled programs are not kept: no home, or give --config.runtime.compilation_cache=FOLDER",
    ]


def no_folder():
    raise UserError("no home")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"config\.runtime\.compilation_cache: cannot make .*file/programs"):
        use_compilation_cache(str(tmp_path / "file" / "programs"))
