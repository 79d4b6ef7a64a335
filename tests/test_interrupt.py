import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from accdistill_jax.interrupt import Interrupted, Interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_remembered_and_raised_when_asked(number):
    with Interruption() as interruption:
        interruption.raise_if_requested("nothing")
        assert not interruption.requested
        os.kill(os.getpid(), number)
        assert interruption.requested
        with pytest.raises(Interrupted, match=f"stopped by {number.name}; step 7 is saved") as caught:
            interruption.raise_if_requested("step 7 is saved")
    assert caught.value.signal_number == number


def test_former_handlers_are_back_afterwards():
    before = [signal.getsignal(s) for s in Interruption.SIGNALS]
    with Interruption():
        assert [signal.getsignal(s) for s in Interruption.SIGNALS] != before
    assert [signal.getsignal(s) for s in Interruption.SIGNALS] == before
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_outside_the_main_thread_nothing_is_changed():
    seen = []

    def work():
        with Interruption() as interruption:
            seen.append((interruption.requested, signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def test_the_second_signal_ends_the_process_at_once(repository):
    program = """
        import os, signal
        from accdistill_jax.interrupt import Interruption
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGTERM)
            print("first", interruption.requested, flush=True)
            os.kill(os.getpid(), signal.SIGTERM)
            print("never")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "first True\n", done.stderr
    assert done.returncode == -signal.SIGTERM
