"""`benchmark input`: segments into host memory, what training waits for them, minutes generated and prepared; object stores."""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accdistill_jax.benchmark import contest
from accdistill_jax.benchmark.contest import Contender, Measured, spread
from accdistill_jax.config.load import add_config, load_config
from accdistill_jax.errors import UserError

MODULE = "accdistill_jax.benchmark.contenders"
PARTS = ("reading", "wait", "generating", "preparing")
VIEWS = "accdistill_jax, 2 threads, views of the teacher in place of PPG"
MEMORY = "copied from memory by numpy"
# the steps whose waiting is measured: as configured, and the fastest there is, which asks for most
WAITS = {
    "as configured": (),
    "half of the tokens, teacher's views cached": (
        "--config.student.drop_fraction=0.5",
        "--config.teacher.cached_views=2",
    ),
}
CONCURRENCIES = (1, 8, 32, 128)
LARGE_CACHE_MB, SMALL_CACHE_MB, NO_CACHE_MB = 256, 1, 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments besides those of every benchmark."""
    add_config(parser, "distill:smoke")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    parser.add_argument(
        "--object-store",
        action="store_true",
        help="measure instead the reading from a local S3 service with added latency",
    )
    number = {"type": int, "metavar": "N"}
    parser.add_argument(
        "--participants", default=64, help="of the noise store; three in four train (default 64)", **number
    )
    parser.add_argument("--segments", default=128, help="of each of them (default 128)", **number)
    parser.add_argument("--segment-s", type=float, default=60.0, metavar="S", help="of the noise store (default 60)")
    parser.add_argument("--batch", default=256, help="segments of a batch that is read (default 256)", **number)
    parser.add_argument(
        "--wait-steps", default=100, help="of one measurement of the input wait (default 100)", **number
    )
    parser.add_argument("--people", default=16, help="participants, and recordings, made (default 16)", **number)
    parser.add_argument("--minutes", default=240, help="of each of them (default 240)", **number)
    parser.add_argument("--latency-ms", type=float, default=20.0, metavar="MS", help="of the object store (default 20)")
    parser.add_argument(
        "--round-s", type=float, default=1.0, metavar="S", help="seconds of one measurement (default 1)"
    )


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
            "the noise store is smaller than a batch: raise --participants (from 8 on) or --segments, or lower --batch"
        )
    told = (
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
    record: dict[str, Any] = {name: getattr(arguments, name) for name in told}
    with tempfile.TemporaryDirectory() as folder:
        if arguments.object_store:
            record["training_segments"] = training_segments(arguments)
            record["object_store"] = measure_object_store(arguments, Path(folder), say)
            return record
        if {"reading", "wait"} & set(arguments.only):
            store = noise_store(arguments, Path(folder), say)
        if "reading" in arguments.only:
            record["reading"] = measure_reading(arguments, store, say)
        if "wait" in arguments.only:
            say("training, and its waiting for input")
            from accdistill_jax.benchmark.contenders import input_wait

            record["wait"] = {
                name: input_wait.train(
                    arguments.config,
                    [*arguments.overrides, *settings],
                    store=store,
                    workdir=Path(folder) / f"run-{number}",
                    windows=arguments.rounds,
                    steps=arguments.wait_steps,
                )
                for number, (name, settings) in enumerate(WAITS.items())
            }
        if "generating" in arguments.only:
            order = {"population": (arguments.people, arguments.minutes)}
            record["generating"] = measure_making(order, arguments, Path(folder) / "generated", say)
        if "preparing" in arguments.only:
            from accdistill_jax.benchmark.made_up.raw_recordings import write_recordings

            say("making raw recordings")
            raw = Path(folder) / "raw"
            raw.mkdir()
            files = write_recordings(raw, recordings=arguments.people, minutes=arguments.minutes)
            order = {"files": [str(file) for file in files]}
            record["preparing"] = measure_making(order, arguments, Path(folder) / "prepared", say)
    return record


def noise_store(arguments: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> Path:
    """Writes the store that is read."""
    from accdistill_jax.benchmark.made_up.made_up_store import write_noise_store

    say("writing the noise store")
    people, segments = arguments.participants, arguments.segments
    write_noise_store(folder / "store", participants=people, segments=segments, segment_s=arguments.segment_s)
    return folder / "store"


def reading_order(arguments: argparse.Namespace, store: str) -> dict[str, Any]:
    """Order for every reading contender, with defaults for the settings that may differ; an iteration is about an epoch."""
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
    """Of the noise store."""
    return sum(number % 8 > 1 for number in range(arguments.participants)) * arguments.segments


def measure_reading(arguments: argparse.Namespace, store: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Ours, Grain over ArrayRecord with several numbers of threads and processes, and copying alone."""
    order = reading_order(arguments, str(store))
    peer = order | {"folder": str(store.parent), "processes": 0}
    contenders = [
        Contender(ours(1), f"{MODULE}.reading", order | {"threads": 1}),
        Contender(ours(2), f"{MODULE}.reading", order),
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
    found = contest.compete(contenders, rounds=arguments.rounds, round_s=arguments.round_s, say=say)
    return {name: one._asdict() for name, one in found.items()}


def ours(threads: int) -> str:
    """Name of a contender."""
    return f"accdistill_jax, {threads} thread{'s' * (threads > 1)}"


def measure_making(
    order: dict[str, Any], arguments: argparse.Namespace, out: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """Ours in one process and in two, and the obvious loop."""
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
        Contender("the obvious scipy loop", f"{MODULE}.making_scipy", order | {"out": str(out / "loop")}),
    ]
    found = contest.compete(contenders, rounds=arguments.rounds, round_s=arguments.round_s, say=say)
    return {name: one._asdict() for name, one in found.items()}


def local_service(address: str) -> dict[str, str]:
    """Variables by which S3 is the service at an address, whatever server and account the user has set."""
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
    """Reading through a local S3 service, by concurrency and cache."""
    from accdistill_jax.benchmark.made_up.object_store import BUCKET, serve_folder

    noise_store(arguments, folder, say)
    order = reading_order(arguments, f"s3://{BUCKET}/store")
    latency_ms = arguments.latency_ms
    settings = [(latency_ms, concurrency, SMALL_CACHE_MB) for concurrency in CONCURRENCIES]
    settings += [(latency_ms, 32, NO_CACHE_MB), (latency_ms, 32, LARGE_CACHE_MB), (0.0, 32, SMALL_CACHE_MB)]
    with serve_folder(folder, latency_s=latency_ms / 1e3) as slow, serve_folder(folder, latency_s=0.0) as quick:
        contenders = []
        for latency, concurrency, cache in settings:
            own = {"concurrency": concurrency, "cache_mb": cache, "prefetch": 2, "steps": 1}
            own["warm_steps"] = order["steps"] if cache == LARGE_CACHE_MB else 1
            keys = local_service(slow if latency else quick)
            name = f"{latency:g} ms, concurrency {concurrency}, cache {cache} MB"
            contenders.append(Contender(name, f"{MODULE}.reading", order | own, keys))
        found = contest.compete(contenders, rounds=arguments.rounds, round_s=arguments.round_s, say=say)
    return [
        {"latency_ms": latency, "concurrency": concurrency, "cache_mb": cache, "measured": one._asdict()}
        for (latency, concurrency, cache), one in zip(settings, found.values(), strict=True)
    ]


def report(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    out = ["# Input\n"]
    for name, (title, text) in {
        "reading": ("Segments into host memory, from a warm page cache", _reading),
        "wait": ("The training loop's wait for its input", _wait),
        "generating": ("Minutes generated", _making),
        "preparing": ("Minutes of recordings prepared", _making),
        "object_store": ("Segments from an object store", _object_store),
    }.items():
        if name in record:
            out.append(f"\n## {title}\n\n{text(record[name], record)}")
    return "".join(out)


def by_unit(part: dict[str, dict]) -> dict[str, Measured]:
    """Measurements in seconds per segment or minute, so that contenders whose iterations differ in size compare."""
    found = {}
    for name, plain in part.items():
        one = Measured(**plain)
        size = one.facts.get("segments") or one.facts.get("minutes")
        found[name] = one._replace(seconds=[seconds / size for seconds in one.seconds])
    return found


def _reading(part: dict[str, dict], record: dict[str, Any]) -> str:
    from accdistill_jax.benchmark.model.tables import table

    found = by_unit(part)
    rates = {name: contest.rates(one, per_iteration=1) for name, one in found.items()}
    peers = [name for name, one in found.items() if "ArrayRecord" in name and one.seconds]
    best = max(peers, key=lambda name: rates[name].median, default=None)
    arrays = found[ours(1)].facts["bytes_per_segment"]
    total = sum(one["bytes"] for one in arrays.values())
    rows = []
    for name, one in found.items():
        if not one.seconds:
            rows.append([name, f"left out: {one.facts['skipped']}", "", "", ""])
            continue
        gain = contest.ratios(found[best], one).text("{:.2f}") if best and name != best else ""
        rate = rates[name]
        rows.append(
            [name, rate.text("{:.0f}"), f"{rate.median * total / 1e9:.2f}", gain, f"{one.peak_bytes / 1e9:.2f}"]
        )
    header = ("", "segments/s", "GB/s", f"times as fast as {best}", "peak memory, GB")
    first, warm = (rates_of(found, best, name) for name in (f"{ours(2)}, first reading", ours(2)))
    gains = f" Times as fast as {best}: {first} with every checksum compared, {warm} reading on." if best else ""
    wire = ", ".join(f"{name} {one['bytes']:.0f} ({one['dtype']})" for name, one in arrays.items())
    return table(header, rows) + (
        f"\nBatches of {record['batch']} in a seeded global shuffle. Ours compares a segment's checksum when a process first reads "
        f'it: "first reading" opens the store anew for every epoch (opening counted), the other rows read on.{gains} Handed to the device, '
        f"bytes per segment: {total:.0f}: {wire}.\n"
    )


def rates_of(found: dict[str, Measured], base: str | None, name: str) -> str:
    """Speed relative to `base`; "" without one."""
    return contest.ratios(found[base], found[name]).text("{:.2f}") if base else ""


def _wait(part: dict[str, dict[str, list[float]]], record: dict[str, Any]) -> str:
    from accdistill_jax.benchmark.model.tables import table

    rows = [
        [
            f"{record['config']}, {name}",
            spread(one["segments_per_s"]).text("{:.0f}"),
            spread(one["input_wait_fraction"]).scaled(100).text("{:.2f}"),
        ]
        for name, one in part.items()
    ]
    return table(("student of", "segments/s trained", "waiting for input, % of the time"), rows) + (
        f"\nThe real command, by its own account, over {record['wait_steps']} steps each, compilation left out.\n"
    )


def _making(part: dict[str, dict], record: dict[str, Any]) -> str:
    from accdistill_jax.benchmark.model.tables import table

    found = by_unit(part)
    *own, loop = found
    rows = [
        [
            name,
            contest.rates(one, per_iteration=1).text("{:.0f}"),
            "1" if name == loop else contest.ratios(found[loop], one).text("{:.2f}"),
            "" if name == own[0] or name == loop else contest.ratios(found[own[0]], one).text("{:.2f}"),
        ]
        for name, one in found.items()
    ]
    facts = found[own[0]].facts
    return table(("", "minutes of signal per second", "times the loop", "times one worker"), rows) + (
        f"\n{facts['minutes']} minutes of {record['people']} participants, of which selection keeps {facts['kept']}, into a store "
        "with tables, checksums and manifest; the start of the worker processes counted. What the loop leaves out: "
        "`accdistill_jax/benchmark/contenders/making_scipy.py`.\n"
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
    size = record["training_segments"] * sum(one["bytes"] for one in facts["bytes_per_segment"].values()) / 1e6
    return table(("added latency, ms", "data.read_concurrency", "data.cache_mb", "segments/s"), rows) + (
        f"\n{size:.0f} MB of training segments behind a local S3 service that adds the latency to every request; a segment takes two "
        f"requests (PPG, acceleration); without a cache, every batch of {record['batch']} fetches the indices of its shards (here one of each "
        f"signal) again. {LARGE_CACHE_MB} MB hold everything, and an epoch was read before. The service runs on the same cores: "
        "without latency it and the reader bind.\n"
    )
