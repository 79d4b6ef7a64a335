"""Opens a segment store, for use in Python."""

import os

from accdistill_jax.api.finding import check_folder
from accdistill_jax.data.store.store import Store
from accdistill_jax.files import is_address
from accdistill_jax.user_paths import expanded


def open_store(path: str | os.PathLike[str], *, verify: bool = False) -> Store:
    """Opens a store that `accdistill prepare` made.

    Args:
        path: folder, or address in an object store (gs://, s3://), as a str.
        verify: also read every file and compare its checksum.

    Returns:
        The store; its participants, its table of segments, and its signals on demand.

    Raises:
        UserError: no such folder, no store in it, an unfinished or a damaged one; the message says what to do.

    Examples:
        >>> import accdistill_jax as ad
        >>> store = ad.open_store("store")
        >>> store.rate_hz, store.samples, store.channels["accel"], store.units["accel"]
        (64.0, 3840, ('x', 'y', 'z'), 'g')

        `participants` is a table of PyArrow, with a row for each participant:

        >>> store.participants.num_rows, store.participants.column_names[:2]
        (12, ['participant', 'split'])

        `segments` holds the columns of the segment table, each [num_segments]:

        >>> store.segments["hr_bpm"].shape == (store.num_segments,)
        True
        >>> store.segments["participant"][0]
        'synthetic-0-000000'

        Rows are read in physical units:

        >>> rows = store.indices("validation")[:4]
        >>> signals = store.read_signals(rows)
        >>> signals["accel"].shape, signals["ppg"].shape
        ((4, 3840, 3), (4, 3840, 2))
    """
    text = expanded(path)
    if not is_address(text) and not os.path.exists(text + ".partial"):
        check_folder(text)
    return Store.open(text, verify=verify)
