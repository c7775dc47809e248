import pytest
import torch

from recbench.tasks.kg import KGData, Triples


@pytest.fixture
def data():
    """8 users, 6 items, 20 entities, 3 relations; item 5 has no edge at all, two facts are parallel edges."""
    generator = torch.Generator().manual_seed(0)
    keys = torch.randperm(40, generator=generator)[:20].sort().values
    heads = torch.randint(5, (25,), generator=generator)
    relations = torch.randint(3, (25,), generator=generator)
    tails = torch.randint(6, 20, (25,), generator=generator)
    facts = torch.cat([torch.stack([heads, relations, tails]), torch.tensor([[0, 0], [0, 1], [7, 7]])], 1).unique(dim=1)
    return KGData(8, 6, keys // 5, keys % 5, 20, 3, Triples(*facts))
