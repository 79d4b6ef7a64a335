"""`benchmark input`: reading segments, the training loop's wait for them, generating and preparing minutes, object stores."""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accdistill_jax.benchmark import contest
from accdistill_jax.benchmark.contest import Contender, Measured, spread
from accdistill_jax.config.load import add_config, load_config
from accdistill_jax.errors import UserError
from accdistill_jax.runtime.cpu_devices import available_cores

MODULE = "accdistill_jax.benchmark.contenders"
PARTS = ("reading", "wait", "generating", "preparing")
VIEWS = "accdistill_jax, 2 threads, the teacher's views in place of PPG"
MEMORY = "copied from memory by numpy"
# Steps for which the wait is measured: as configured, and the fastest step, which needs the most segments per second.
WAITS = {
    "as configured": (),
    "half of the tokens, teacher's views cached": (
        "--config.student.drop_fraction=0.5",
        "--config.teacher.cached_views=2",
    ),
}
CONCURRENCIES = (1, 8, 32, 128)
MOST_THREADS = 16  # with more cores, more threads are measured too
LARGE_CACHE_MB, SMALL_CACHE_MB, NO_CACHE_MB = 256, 1, 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments besides those of every benchmark."""
    add_config(parser, "distill:smoke-mean")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure (default: all)")
    parser.add_argument(
        "--object-store",
        action="store_true",
        help="measure only the reading from a local S3 service with added latency",
    )
    number: dict[str, Any] = {"type": int, "metavar": "N"}
    parser.add_argument(
        "--participants", default=64, help="participants of the noise store; 3 in 4 train (default 64)", **number
    )
    parser.add_argument("--segments", default=128, help="segments of each participant (default 128)", **number)
    parser.add_argument(
        "--segment-s", type=float, default=60.0, metavar="S", help="seconds per segment of the noise store (default 60)"
    )
    parser.add_argument("--batch", default=256, help="segments per batch that is read (default 256)", **number)
    parser.add_argument(
        "--wait-steps", default=100, help="training steps per measurement of the wait (default 100)", **number
    )
    parser.add_argument(
        "--people",
        default=16,
        help="participants (and recordings) that are generated and prepared (default 16)",
        **number,
    )
    parser.add_argument("--minutes", default=240, help="minutes of each of these participants (default 240)", **number)
    parser.add_argument(
        "--latency-ms", type=float, default=20.0, metavar="MS", help="latency of the object store (default 20)"
    )
    parser.add_argument("--round-s", type=float, default=1.0, metavar="S", help="seconds per measurement (default 1)")


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Measures and returns a record of plain values.

    Raises:
        UserError: a process failed, or the noise store is smaller than a batch.
    """
    load_config(arguments.config, arguments.overrides)
    if arguments.object_store:
        arguments.participants, arguments.batch = min(arguments.participants, 8), min(arguments.batch, 64)
    if arguments.batch > training_segments(arguments):
        raise UserError(
            "the noise store is smaller than a batch: raise --participants (to 8 or more) or --segments, or lower --batch"
        )
    settings = (
        "config",
        "rounds",
        "participants",
        "segments",
        "segment_s",
        "batch",
        "wait_steps",
        "people",
        "minutes",
        "latency_ms",
    )
    record: dict[str, Any] = {name: getattr(arguments, name) for name in settings}
    with tempfile.TemporaryDirectory() as folder:
        if arguments.object_store:
            record["training_segments"] = training_segments(arguments)
            record["object_store"] = measure_object_store(arguments, Path(folder), say)
            return record
        store = Path(folder) / "store"
        if {"reading", "wait"} & set(arguments.only):
            write_noise(arguments, store, say)
        if "reading" in arguments.only:
            record["reading"] = measure_reading(arguments, store, say)
        if "wait" in arguments.only:
            say("training, to measure its wait for input")
            from accdistill_jax.benchmark.contenders import input_wait

            record["wait"] = {
                name: input_wait.measure_input_wait(
                    arguments.config,
                    [*arguments.overrides, *changes],
                    store=store,
                    workdir=Path(folder) / f"run-{number}",
                    windows=arguments.rounds,
                    steps=arguments.wait_steps,
                )
                for number, (name, changes) in enumerate(WAITS.items())
            }
        if "generating" in arguments.only:
            order = {"population": (arguments.people, arguments.minutes)}
            record["generating"] = measure_making(order, arguments, Path(folder) / "generated", say)
        if "preparing" in arguments.only:
            from accdistill_jax.benchmark.made_up.raw_recordings import write_recordings

            say("generating raw recordings")
            raw = Path(folder) / "raw"
            raw.mkdir()
            files = write_recordings(raw, recordings=arguments.people, minutes=arguments.minutes)
            order = {"files": [str(file) for file in files]}
            record["preparing"] = measure_making(order, arguments, Path(folder) / "prepared", say)
    return record


def write_noise(arguments: argparse.Namespace, store: Path, say: Callable[[str], None]) -> None:
    """Writes the store that is read."""
    from accdistill_jax.benchmark.made_up.made_up_store import write_noise_store

    say("writing the noise store")
    people, segments = arguments.participants, arguments.segments
    write_noise_store(store, participants=people, segments=segments, segment_s=arguments.segment_s)


def reading_order(arguments: argparse.Namespace, store: str) -> dict[str, Any]:
    """The order of every reading contender, with defaults for settings that differ between them; an iteration is about an epoch."""
    steps = training_segments(arguments) // arguments.batch
    return {
        "store": store,
        "batch": arguments.batch,
        "steps": steps,
        "warm_steps": steps,
        "threads": 2,
        "prefetch": 8,
        "once": False,
        "concurrency": 32,
        "cache_mb": LARGE_CACHE_MB,
    }


def training_segments(arguments: argparse.Namespace) -> int:
    """Number of training segments of the noise store."""
    return sum(number % 8 > 1 for number in range(arguments.participants)) * arguments.segments


def measure_reading(arguments: argparse.Namespace, store: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Measures ours, Grain over ArrayRecord with several numbers of threads and processes, and copying alone."""
    order = reading_order(arguments, str(store))
    peer = order | {"folder": str(store.parent), "processes": 0}
    threads = sorted({1, 2, max(2, min(MOST_THREADS, available_cores()))})
    contenders = [
        *(Contender(ours(count), f"{MODULE}.reading", order | {"threads": count}) for count in threads),
        Contender(f"{ours(2)}, first reading", f"{MODULE}.reading", order | {"once": True}),
        *(
            Contender(f"Grain over ArrayRecord, {text}", f"{MODULE}.reading_arrayrecord", peer | tuning)
            for text, tuning in {
                "no thread": {"threads": 0, "prefetch": 0},
                "1 thread": {"threads": 1},
                "2 threads": {"threads": 2},
                "16 threads": {"threads": 16, "prefetch": 16},
                "2 processes": {"threads": 1, "prefetch": 2, "processes": 2},
            }.items()
        ),
        Contender(VIEWS, f"{MODULE}.reading_views", order | {"folder": str(store.parent)}),
        Contender(MEMORY, f"{MODULE}.reading_memory", order),
    ]
    results = contest.compete(contenders, rounds=arguments.rounds, round_s=arguments.round_s, say=say)
    return {name: measured._asdict() for name, measured in results.items()}


def ours(threads: int) -> str:
    """Name of our contender with this number of threads."""
    return f"accdistill_jax, {threads} thread{'s' * (threads > 1)}"


def measure_making(
    order: dict[str, Any], arguments: argparse.Namespace, out: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measures ours with one and with two worker processes, and a plain scipy loop."""
    out.mkdir()
    contenders = [
        *(
            Contender(
                f"accdistill_jax, {count} worker{'s' * (count > 1)}",
                f"{MODULE}.making",
                order | {"out": str(out / str(count)), "workers": count},
            )
            for count in (1, 2)
        ),
        Contender("plain scipy loop", f"{MODULE}.making_scipy", order | {"out": str(out / "loop")}),
    ]
    results = contest.compete(contenders, rounds=arguments.rounds, round_s=arguments.round_s, say=say)
    return {name: measured._asdict() for name, measured in results.items()}


def local_service(address: str) -> dict[str, str]:
    """Environment variables that direct S3 requests to `address`, in place of any server and account of the user."""
    endpoints = dict.fromkeys(("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"), address)
    return endpoints | {
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_SESSION_TOKEN": "",
        "AWS_PROFILE": "",
    }


def measure_object_store(
    arguments: argparse.Namespace, folder: Path, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Measures reading through a local S3 service, by concurrency and cache."""
    from accdistill_jax.benchmark.made_up.object_store import BUCKET, serve_folder

    write_noise(arguments, folder / "store", say)
    order = reading_order(arguments, f"s3://{BUCKET}/store")
    latency_ms = arguments.latency_ms
    settings = [(latency_ms, concurrency, SMALL_CACHE_MB) for concurrency in CONCURRENCIES]
    settings += [(latency_ms, 32, NO_CACHE_MB), (latency_ms, 32, LARGE_CACHE_MB), (0.0, 32, SMALL_CACHE_MB)]
    with serve_folder(folder, latency_s=latency_ms / 1e3) as slow, serve_folder(folder, latency_s=0.0) as quick:
        contenders = []
        for latency, concurrency, cache in settings:
            tuning = {"concurrency": concurrency, "cache_mb": cache, "prefetch": 2, "steps": 1}
            tuning["warm_steps"] = order["steps"] if cache == LARGE_CACHE_MB else 1
            keys = local_service(slow if latency else quick)
            name = f"{latency:g} ms, concurrency {concurrency}, cache {cache} MB"
            contenders.append(Contender(name, f"{MODULE}.reading", order | tuning, keys))
        results = contest.compete(contenders, rounds=arguments.rounds, round_s=arguments.round_s, say=say)
    return [
        {"latency_ms": latency, "concurrency": concurrency, "cache_mb": cache, "measured": measured._asdict()}
        for (latency, concurrency, cache), measured in zip(settings, results.values(), strict=True)
    ]


def report(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    out = ["# Input\n"]
    for name, (title, text) in {
        "reading": ("Reading segments into host memory, from a warm page cache", _reading),
        "wait": ("The training loop's wait for its input", _wait),
        "generating": ("Generating minutes", _making),
        "preparing": ("Preparing minutes of recordings", _making),
        "object_store": ("Reading segments from an object store", _object_store),
    }.items():
        if name in record:
            out.append(f"\n## {title}\n\n{text(record[name], record)}")
    return "".join(out)


def by_unit(part: dict[str, dict]) -> dict[str, Measured]:
    """Measurements in seconds per segment or minute, which makes contenders with iterations of different size comparable."""
    by_name = {}
    for name, plain in part.items():
        measured = Measured(**plain)
        size = measured.facts["segments" if "segments" in measured.facts else "minutes"]
        by_name[name] = measured._replace(seconds=[seconds / size for seconds in measured.seconds])
    return by_name


def _reading(part: dict[str, dict], record: dict[str, Any]) -> str:
    from accdistill_jax.benchmark.model.tables import table

    results = by_unit(part)
    rates = {name: contest.rates(measured, per_iteration=1) for name, measured in results.items()}
    peers = [name for name, measured in results.items() if "ArrayRecord" in name and measured.seconds]
    best = max(peers, key=lambda name: rates[name].median, default=None)
    arrays = results[ours(1)].facts["bytes_per_segment"]
    total = sum(array["bytes"] for array in arrays.values())
    rows = []
    for name, measured in results.items():
        if not measured.seconds:
            rows.append([name, f"left out: {measured.facts['skipped']}", "", "", ""])
            continue
        gain = contest.ratios(results[best], measured).text("{:.2f}") if best and name != best else ""
        rate = rates[name]
        rows.append(
            [name, rate.text("{:.0f}"), f"{rate.median * total / 1e9:.2f}", gain, f"{measured.peak_bytes / 1e9:.2f}"]
        )
    header = ("", "segments/s", "GB/s", f"times as fast as {best}", "peak memory, GB")
    first, warm = (rates_of(results, best, name) for name in (f"{ours(2)}, first reading", ours(2)))
    gains = f" Times as fast as {best}: {first} with every checksum compared, {warm} without." if best else ""
    wire = ", ".join(f"{name} {array['bytes']:.0f} ({array['dtype']})" for name, array in arrays.items())
    return table(header, rows) + (
        f"\nBatches of {record['batch']} in a seeded global shuffle. Ours compares a segment's checksum when a process reads it for the "
        f'first time: "first reading" opens the store again for every epoch (included in its time), the other rows keep it open.{gains} '
        f"Bytes per segment that go to the device: {total:.0f}: {wire}.\n"
    )


def rates_of(results: dict[str, Measured], base: str | None, name: str) -> str:
    """Speed relative to the contender `base`; "" if `base` is None."""
    return contest.ratios(results[base], results[name]).text("{:.2f}") if base else ""


def _wait(part: dict[str, dict[str, list[float]]], record: dict[str, Any]) -> str:
    from accdistill_jax.benchmark.model.tables import table

    rows = [
        [
            f"{record['config']}, {name}",
            spread(timings["segments_per_s"]).text("{:.0f}"),
            spread(timings["input_wait_fraction"]).scaled(100).text("{:.2f}"),
        ]
        for name, timings in part.items()
    ]
    return table(("student of", "segments/s trained", "waiting for input, % of the time"), rows) + (
        f"\nFrom the timings that the training command logs, over {record['wait_steps']} steps each, without compilation.\n"
    )


def _making(part: dict[str, dict], record: dict[str, Any]) -> str:
    from accdistill_jax.benchmark.model.tables import table

    results = by_unit(part)
    first, *_, loop = results
    rows = [
        [
            name,
            contest.rates(measured, per_iteration=1).text("{:.0f}"),
            "1" if name == loop else contest.ratios(results[loop], measured).text("{:.2f}"),
            "" if name in (first, loop) else contest.ratios(results[first], measured).text("{:.2f}"),
        ]
        for name, measured in results.items()
    ]
    facts = results[first].facts
    return table(("", "minutes of signal per second", "times the loop", "times a single worker"), rows) + (
        f"\n{facts['minutes']} minutes of {record['people']} participants (selection keeps {facts['kept']}) become a store with "
        "tables, checksums and manifest; the time includes the start of the worker processes. "
        "`accdistill_jax/benchmark/contenders/making_scipy.py` lists the work that the loop omits.\n"
    )


def _object_store(part: list[dict[str, Any]], record: dict[str, Any]) -> str:
    from accdistill_jax.benchmark.model.tables import table

    rows = [
        [
            f"{row['latency_ms']:g}",
            str(row["concurrency"]),
            str(row["cache_mb"]),
            contest.rates(by_unit({"": row["measured"]})[""], per_iteration=1).text("{:.0f}"),
        ]
        for row in part
    ]
    facts = part[0]["measured"]["facts"]
    size = record["training_segments"] * sum(array["bytes"] for array in facts["bytes_per_segment"].values()) / 1e6
    return table(("added latency, ms", "data.read_concurrency", "data.cache_mb", "segments/s"), rows) + (
        f"\n{size:.0f} MB of training segments behind a local S3 service, which adds the latency to every request. A segment takes two "
        f"requests (PPG, acceleration). Without a cache, every batch of {record['batch']} fetches the indices of its shards again (here "
        f"one shard per signal). A cache of {LARGE_CACHE_MB} MB holds all segments, and an epoch was read before. The service runs on the "
        "same cores: without latency, these cores are the limit.\n"
    )
