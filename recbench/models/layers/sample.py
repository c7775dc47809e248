"""A bounded sample of training rows, on which a model's explanation is computed."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from recbench.tasks.ctr import CTRBatch, CTRData

ROWS = 10_000
ROWS_AT_ONCE = 1_000


def sample_rows(data: CTRData) -> Iterator[CTRBatch]:
    """Yield up to 10,000 random training rows, always the same ones, in batches of 1,000."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    rows = data.all_rows()
    yield from rows.take(order[:ROWS].to(rows.ids.device)).split(ROWS_AT_ONCE)
