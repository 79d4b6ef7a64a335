"""GENEActiv wrist loggers: `.bin` files (accelerometer, no PPG).

Each file is a recording. A page holds 300 samples; its time stamp is rounded to half a second. So pages that follow each other get evenly
spaced samples: at the rate of the header, or in runs of over 1000 s at the rate of the stamps. The header's calibration gives g, its time
zone gives UTC. A file with fewer pages than its header states is refused as cut off; --damaged gap reads the pages that are whole.

Source: GENEActiv instruction manual, "Decoding .bin files".
"""

import datetime
import re
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from accdistill_jax.data.recording import Participant, Recording, RecordingSource, Stream, named
from accdistill_jax.data.recordings.common.files import Naming, file_sources, files_ending, read_bytes
from accdistill_jax.data.tree import Tree
from accdistill_jax.errors import UserError

CAN_CRASH = False
PAGE_SAMPLES = 300
_HEX_DIGITS = 12 * PAGE_SAMPLES
_FOLLOWED_S = 1000.0  # a shorter run does not determine the rate from stamps that are rounded to 0.5 s
_MOST_RATE_ERROR = 0.01
_MOST_JITTER_S = 1.0


class _Pages(NamedTuple):
    """Stamps [n] in seconds since 1970 (the device's clock), sequence numbers [n], raw counts [n, 300, 3]."""

    stamps: np.ndarray
    sequence: np.ndarray
    counts: np.ndarray


def find(
    tree: Tree, *, participant_from: Naming = "auto", damaged: Literal["refuse", "gap"] = "refuse"
) -> list[RecordingSource]:
    """Finds `.bin` files at any depth.

    Args:
        tree: the files to search.
        participant_from: the participant's id: the file's name, its prefix up to the first "_", or its parent folder;
            auto is the name, and asks in a preparation if names hold dates.
        damaged: refuse a file with damaged or missing pages, or read them as a gap.
    """
    return file_sources(tree, files_ending(tree, ".bin"), load, participant_from, damaged=damaged)


def load(path: Path, recording_id: str, participant_id: str, *, damaged: str) -> Recording:
    """Reads one file.

    Raises:
        UserError: the file is no GENEActiv file, is cut off or damaged, or its header lacks a value; the message names the file.
    """
    content = read_bytes(path)
    with named(path):
        if not content.startswith(b"Device Identity"):
            raise UserError("is no GENEActiv file: it must begin with the line 'Device Identity'")
        head, *pages = re.split(rb"Recorded Data\r?\n", content)
        header = _keys(head)
        rate_hz = _number(header, "Measurement Frequency", "Hz")
        read = _pages(pages, int(_number(header, "Number of Pages")), rate_hz, damaged)
        gain, offset = (np.array([_number(header, f"{axis} {name}") for axis in "xyz"]) for name in ("gain", "offset"))
        if (gain <= 0).any():
            raise UserError(f"the header's gains must be positive, got {gain.tolist()}")
        low, high = ((100.0 * count - offset) / gain for count in (-2048, 2047))
        stamps = read.stamps - 3600 * _zone_h(header)
        start = float(np.floor(stamps[0]))
        accel = Stream(
            "accel",
            ((100.0 * read.counts - offset) / gain).reshape(-1, 3).astype(np.float32),
            ("x", "y", "z"),
            "g",
            time_s=_times(stamps - start, read.sequence, rate_hz),
            range=(low, high),
            scale=float(100 / gain.mean()),
        )
        return Recording(recording_id, Participant(participant_id), "GENEActiv", "geneactiv", start, {"accel": accel})


def _keys(text: bytes) -> dict[str, str]:
    """The lines `key:value`."""
    lines = (line.partition(":") for line in text.decode("latin-1").splitlines())
    return {key.strip(): value.strip() for key, colon, value in lines if colon}


def _number(keys: dict[str, str], key: str, unit: str = "") -> float:
    text = keys.get(key, "").removesuffix(unit).strip()
    if not re.fullmatch(r"-?\d+(\.\d+)?", text):
        raise UserError(f"{key!r} must be a number, got {keys.get(key)!r}: another firmware, or a damaged header?")
    return float(text)


def _zone_h(header: dict[str, str]) -> float:
    match = re.fullmatch(r"GMT ?([+-]\d\d):(\d\d)", header.get("Time Zone", ""))
    if not match:
        raise UserError(f"'Time Zone' must be such as GMT +01:00, got {header.get('Time Zone')!r}")
    return int(match[1]) + int(match[1][0] + match[2]) / 60


def _pages(pages: list[bytes], stated: int, rate_hz: float, damaged: str) -> _Pages:
    good, problem = [], f"has {len(pages)} of the {stated} pages that its header states" if len(pages) < stated else ""
    for number, page in enumerate(pages, 1):
        keys, digits = _keys(page), page.splitlines()[-1].strip() if page.strip() else b""
        if len(digits) != _HEX_DIGITS or not re.fullmatch(rb"[0-9A-Fa-f]+", digits) or "Page Time" not in keys:
            problem = problem or f"page {number} of {stated} is damaged or cut off"
            continue
        if abs(_number(keys, "Measurement Frequency") - rate_hz) > 0.05:
            raise UserError(
                f"page {number}: the rate changes to {keys['Measurement Frequency']} Hz; split the file there"
            )
        good.append((_stamp(keys["Page Time"], number), int(_number(keys, "Sequence Number")), digits))
    if problem and damaged == "refuse":
        raise UserError(f"{problem}: copy the file again, or read what is whole with --damaged gap")
    if not good:
        raise UserError("has a header but no whole page: nothing was recorded, or the file is cut off")
    octets = np.frombuffer(bytes.fromhex(b"".join(digits for *_, digits in good).decode()), np.uint8)
    octets = octets.reshape(len(good), PAGE_SAMPLES, 6).astype(np.int32)
    x = octets[..., 0] << 4 | octets[..., 1] >> 4
    y = (octets[..., 1] & 0x0F) << 8 | octets[..., 2]
    z = octets[..., 3] << 4 | octets[..., 4] >> 4
    counts = np.stack([x, y, z], -1)
    stamps, sequence = (np.array([row[i] for row in good]) for i in (0, 1))
    back = np.flatnonzero(np.diff(stamps) < 0)
    if back.size:
        raise UserError(f"page {back[0] + 2}: the clock goes back; split the file there")
    return _Pages(stamps, sequence, counts - 4096 * (counts >= 2048))


def _stamp(text: str, number: int) -> float:
    try:
        moment = datetime.datetime.strptime(text, "%Y-%m-%d %H:%M:%S:%f")
    except ValueError:
        raise UserError(f"page {number}: 'Page Time' is no date ({text!r})") from None
    return moment.replace(tzinfo=datetime.UTC).timestamp()


def _times(stamps: np.ndarray, sequence: np.ndarray, rate_hz: float) -> np.ndarray:
    """Time of each sample [samples]; runs of pages without a loss are evenly spaced."""
    page_s = PAGE_SAMPLES / rate_hz
    broken = (np.diff(sequence) != 1) | (np.abs(np.diff(stamps) - page_s) > _MOST_JITTER_S)
    edges = np.concatenate([[0], np.flatnonzero(broken) + 1, [len(stamps)]])
    times = np.empty((len(stamps), PAGE_SAMPLES))
    for begin, end in zip(edges[:-1], edges[1:], strict=True):
        page = np.arange(end - begin)
        first, step = stamps[begin], page_s
        if stamps[end - 1] - first > _FOLLOWED_S:
            step, first = np.polyfit(page, stamps[begin:end], 1)
            if abs(step / page_s - 1) > _MOST_RATE_ERROR:
                raise UserError(
                    f"pages follow each other every {step:.3f} s, but {PAGE_SAMPLES} samples at {rate_hz:g} Hz last "
                    f"{page_s:.3f} s: the header or the clock is wrong"
                )
        times[begin:end] = first + page[:, None] * step + np.arange(PAGE_SAMPLES) * step / PAGE_SAMPLES
    return np.maximum.accumulate(times.reshape(-1))
