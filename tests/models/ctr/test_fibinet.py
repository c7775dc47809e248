import itertools

import pytest
import torch

from recbench.models.base import parameter_count
from recbench.models.ctr.fibinet import SENET, BilinearProducts, FiBiNET


@pytest.mark.parametrize(("bilinear", "matrices"), [("all", 1), ("each", 9), ("interaction", 45)])
def test_parameter_count_on_frappe(frappe, bilinear, matrices):
    config = FiBiNET.Config(
        embedding_dim=10, bilinear=bilinear, reduction_ratio=2.0, hidden=(400, 400, 400), batch_norm=True
    )
    assert parameter_count(FiBiNET(config, frappe)) == 743_480 + 100 * (matrices - 1)


@pytest.mark.parametrize("kind", ["all", "each", "interaction"])
def test_products_equal_the_explicit_ones(kind):
    products, embeddings = BilinearProducts(4, 5, kind), torch.randn(3, 4, 5)
    found = products(embeddings)
    for number, (i, j) in enumerate(itertools.combinations(range(4), 2)):
        matrix = products.weight[{"all": 0, "each": i, "interaction": number}[kind]]
        torch.testing.assert_close(found[:, number], (embeddings[:, i] @ matrix) * embeddings[:, j])


@pytest.mark.parametrize("kind", ["all", "each", "interaction"])
def test_identity_matrices_give_the_products_of_a_factorisation_machine(kind):
    products, embeddings = BilinearProducts(4, 5, kind), torch.randn(3, 4, 5)
    products.weight.data[:] = torch.eye(5)
    pair_sum = (embeddings.sum(1) ** 2 - (embeddings**2).sum(1)) / 2
    torch.testing.assert_close(products(embeddings).sum(1), pair_sum)


def test_senet_weighs_whole_fields():
    senet, embeddings = SENET(4, 2), torch.randn(3, 4, 5)
    weights = ((embeddings.mean(2) @ senet.squeeze.weight.T).relu() @ senet.excite.weight.T).relu()
    torch.testing.assert_close(senet(embeddings), weights[:, :, None] * embeddings)


def test_logit_is_the_linear_part_and_a_perceptron_of_both_products(make, rows):
    model = make(FiBiNET, bilinear="each")
    embeddings = model.embedding(rows)
    both = [model.interaction(x).flatten(1) for x in (embeddings, model.senet(embeddings))]
    expected = model.linear(rows).sum((1, 2)) + model.mlp(torch.cat(both, 1)).squeeze(1)
    torch.testing.assert_close(model(rows), expected)


@pytest.mark.parametrize("bilinear", ["all", "each", "interaction"])
def test_predictions_do_not_depend_on_the_batch(make, check_batch_size, bilinear):
    check_batch_size(make(FiBiNET, bilinear=bilinear, dropout=0.5, batch_norm=True))
