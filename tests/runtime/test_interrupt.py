import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import pytest

from accdistill_jax.runtime.interrupt import Interrupted, Interruption, hold, request


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_remembered_and_raised_when_asked(number):
    with Interruption() as interruption:
        interruption.raise_if_requested("nothing")
        assert not interruption.requested
        os.kill(os.getpid(), number)
        assert interruption.requested
        with pytest.raises(Interrupted, match=f"stopped by {number.name}; step 7 is saved") as caught:
            interruption.raise_if_requested("step 7 is saved")
    assert caught.value.signal_number == number


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("place", ["collector", "finaliser", "weak reference"])
def test_a_signal_where_python_swallows_exceptions_is_raised_after_it(place):
    """Python would print the exception and go on."""
    hook, sent = sys.unraisablehook, []
    gc.collect()  # what other tests left must not be collected while the signal comes

    def send(*_):
        if not sent:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGINT)
            sum(range(1000))  # the handler runs in here

    thing = type("Thing", (), {"__del__": send} if place == "finaliser" else {})()
    reference = weakref.ref(thing, send) if place == "weak reference" else None
    if place == "collector":
        gc.callbacks.append(send)
    try:
        with pytest.raises(Interrupted), Interruption(at_once=True):
            del thing
            gc.collect()
            time.sleep(5.0)
            pytest.fail("nothing was raised")
    finally:
        if place == "collector":
            gc.callbacks.remove(send)
    assert sent and sys.unraisablehook is hook and (reference is None or reference() is None)


@pytest.mark.parametrize("before", [False, True])
def test_work_that_must_not_be_half_done_is_done_before_a_signal_is_raised(before):
    done = []
    with pytest.raises(Interrupted), Interruption(at_once=True):
        with contextlib.suppress(Interrupted) if before else contextlib.nullcontext():
            with hold(), hold():
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.01)
                done.append("first")
            done.append("too far")
        with hold():  # what was raised already is not raised again: this takes down what the first left
            done.append("second")
        raise Interrupted("of the test", signal.SIGTERM)
    assert done == (["first", "second"] if before else ["first"])


def test_held_back_outside_of_an_interruption_nothing_changes():
    with hold():
        pass
    with pytest.raises(KeyboardInterrupt), hold():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1.0)
        pytest.fail("not raised")


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
        import os, signal, time
        from accdistill_jax.runtime import interrupt
        interrupt.SAME_SIGNAL_S = 1.0  # a busy machine may come between
        with interrupt.Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # the same one, passed on by somebody else too
            print("first", interruption.requested, flush=True)
            time.sleep(1.5 * interrupt.SAME_SIGNAL_S)
            os.kill(os.getpid(), signal.SIGTERM)
            print("never")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "first True\n", done.stderr
    assert done.returncode == -signal.SIGTERM


@pytest.mark.parametrize("at_once", [False, True])
def test_a_request_from_another_thread_stops_like_a_signal_and_is_none(at_once):
    def ask():
        thread = threading.Thread(target=request, args=(signal.SIGTERM,))
        thread.start()
        thread.join()

    with Interruption(at_once=True) as outer, Interruption(at_once=at_once) as inner:
        if at_once:
            with pytest.raises(Interrupted, match="stopped by SIGTERM"):
                ask()
                while True:
                    time.sleep(0.01)
        else:
            ask()
        assert inner.signal_number == signal.SIGTERM and not outer.requested
        if not at_once:
            os.kill(
                os.getpid(), signal.SIGTERM
            )  # the signal that the request announced; would end the process if counted


@pytest.mark.parametrize("ignored", ["INT", "HUP"])
@pytest.mark.parametrize("begun", [False, True])
def test_what_is_ignored_when_the_process_begins_stays_ignored(repository, ignored, begun):
    """As in a shell's background job, or under nohup."""
    program = """
        import os, signal, sys, threading
        from accdistill_jax.runtime import early_stop, interrupt
        number = signal.Signals["SIG" + sys.argv[1]]
        early_stop.install()
        if sys.argv[2] == "False":
            os.kill(os.getpid(), number)
            print("goes on", flush=True)
            os.kill(os.getpid(), signal.SIGTERM)
        early_stop.uninstall()
        os.kill(os.getpid(), number)
        try:
            with interrupt.Interruption(at_once=True) as interruption:
                os.kill(os.getpid(), number)
                print("goes on", interruption.requested, flush=True)
                thread = threading.Thread(target=interrupt.request, args=(number,))
                thread.start()
                thread.join()
                signal.pause()
        except interrupt.Interrupted as stop:
            print("asked to stop by", stop.signal_number.name)
        os.kill(os.getpid(), number)
    """
    done = subprocess.run(
        [
            "bash",
            "-c",
            f"trap '' {ignored}; exec \"$@\"",
            "-",
            sys.executable,
            "-c",
            textwrap.dedent(program),
            ignored,
            str(begun),
        ],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (
        (0, f"goes on False\nasked to stop by SIG{ignored}\n") if begun else (143, "goes on\n")
    )


def test_a_request_with_nothing_running_is_ignored():
    request(signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_imports_ends_in_one_line(repository, tmp_path, number):
    """The command needs a second or more before it can handle a signal itself."""
    (tmp_path / "ml_collections.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "accdistill_jax.main", "--config=configs/distill.py"],
        cwd=repository,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert error == f"stopped by {number.name}; nothing was begun. The same command continues from there.\n"
