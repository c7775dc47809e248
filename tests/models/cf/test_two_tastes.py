"""A world with a known answer: even users like even items, odd users odd ones; each user's own item is withheld."""

from collections.abc import Mapping

import pytest
import torch

from recbench.models.base import Recommender
from recbench.models.registry import load_model
from recbench.tasks.interactions import TopNData
from recbench.training.checkpoint import Checkpoints
from recbench.training.trainer import Trainer

SIZE = 60
PERSONALISED: dict[str, dict[str, object]] = {
    "itemknn": {},
    "userknn": {},
    "p3alpha": {},
    "rp3beta": {},
    "puresvd": {"embedding_dim": 2},
    "slim": {},
    "ease": {"l2": 1.0},
    "ials": {"embedding_dim": 8},
    "bprmf": {"batch_size": 256, "learning_rate": 2e-2, "epochs": 20},
    "neumf": {"batch_size": 256, "learning_rate": 2e-2, "embedding_dim": 8, "epochs": 20},
    "lightgcn": {"batch_size": 256, "learning_rate": 2e-2, "n_layers": 2, "epochs": 20},
    "multdae": {"batch_size": 20, "hidden": (16,), "learning_rate": 1e-2, "epochs": 20},
    "recvae": {"batch_size": 20, "hidden": 32, "embedding_dim": 16, "learning_rate": 1e-2, "epochs": 20},
    "multvae": {"batch_size": 20, "hidden": (32,), "embedding_dim": 16, "learning_rate": 1e-2, "epochs": 20},
}


def hit_rate(name: str, config: Mapping[str, object]) -> float:
    """Share of users whose withheld item comes first among the items they have not seen."""
    numbers = torch.arange(SIZE)
    seen = ((numbers[:, None] - numbers) % 2 == 0) & ~torch.eye(SIZE, dtype=torch.bool)
    users, items = seen.nonzero().T.contiguous()
    data = TopNData(SIZE, SIZE, users, items)
    torch.manual_seed(0)
    model_class = load_model(name)
    model = model_class.create(model_class.Config.parse(config, "test"), data)
    assert isinstance(model, Recommender)

    def validate() -> dict[str, float]:
        model.prepare_scoring()
        scores = model.score(data.user_batch(numbers)).masked_fill(seen, -torch.inf)
        return {"hit@1": float((scores.argmax(1) == numbers).double().mean())}

    device = torch.device("cpu")
    Trainer(model, data, validate, metric="hit@1", device=device, seed=0, checkpoints=Checkpoints(None)).fit()
    with torch.no_grad():
        return validate()["hit@1"]


@pytest.mark.parametrize("name", PERSONALISED)
def test_a_personalised_model_finds_the_withheld_item(name: str) -> None:
    assert hit_rate(name, PERSONALISED[name]) >= 0.95


@pytest.mark.parametrize("name", ["popularity", "random"])
def test_a_ranking_without_knowledge_of_the_user_does_not(name: str) -> None:
    assert hit_rate(name, {}) <= 0.2
