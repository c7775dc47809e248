"""What tests of several rankers share."""

import pytest
import torch

from recbench.tasks.interactions import TopNData

N_USERS, N_ITEMS = 20, 15


@pytest.fixture
def data() -> TopNData:
    """Return interactions of 20 users with 15 items, three in ten of all pairs."""
    there = torch.rand(N_USERS, N_ITEMS, generator=torch.Generator().manual_seed(3)) < 0.3
    return TopNData(N_USERS, N_ITEMS, *there.nonzero().T.contiguous())
