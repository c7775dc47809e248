import pytest
import torch
from torch.nn import functional

from recbench.models.base import parameter_count
from recbench.models.ctr.masknet import FieldNorm, MaskBlock, MaskNet


def test_parameter_count_on_frappe(frappe):
    config = MaskNet.Config(
        embedding_dim=10,
        arrangement="parallel",
        num_blocks=3,
        block_dim=50,
        reduction_ratio=2.0,
        hidden=(400, 400, 400),
        embedding_norm=False,
    )
    assert parameter_count(MaskNet(config, frappe)) == 571_691


def test_parameter_count_of_serial_blocks(frappe):
    config = MaskNet.Config(embedding_dim=10, arrangement="serial", hidden=(40, 20), reduction_ratio=0.5)

    def block(width, outputs):
        inner = width // 2
        return 100 * inner + inner + inner * width + width + width * outputs + 2 * outputs

    expected = 53_890 + 2 * 100 + block(100, 40) + block(40, 20) + 21
    assert parameter_count(MaskNet(config, frappe)) == expected


@pytest.mark.parametrize("layer_norm", [True, False])
def test_a_block_follows_its_equation(layer_norm):
    block = MaskBlock(6, 4, 3, 1.5, dropout=0.0, layer_norm=layer_norm)
    x0, hidden = torch.randn(5, 6), torch.randn(5, 4)
    first, _, second = block.mask
    assert first.out_features == 6
    mask = functional.linear(functional.linear(x0, first.weight, first.bias).relu(), second.weight, second.bias)
    mapped = (mask * hidden) @ block.layer[0].weight.T
    expected = (functional.layer_norm(mapped, (3,)) if layer_norm else mapped).relu()
    torch.testing.assert_close(block(x0, hidden), expected)


def test_each_field_is_normalised_by_itself():
    norm, embeddings = FieldNorm(3, 8), torch.randn(4, 3, 8)
    torch.testing.assert_close(norm(embeddings).mean(2), torch.zeros(4, 3), atol=1e-6, rtol=0)
    torch.nn.init.normal_(norm.scale)
    torch.nn.init.normal_(norm.shift)
    for field in range(3):
        expected = functional.layer_norm(embeddings[:, field], (8,), norm.scale[field], norm.shift[field])
        torch.testing.assert_close(norm(embeddings)[:, field], expected)


@pytest.mark.parametrize("embedding_norm", [True, False])
def test_serial_blocks_are_masked_by_the_original_embeddings(make, rows, embedding_norm):
    model = make(MaskNet, arrangement="serial", hidden=(12, 7), embedding_norm=embedding_norm)
    embeddings = model.embedding(rows)
    x0 = embeddings.flatten(1)
    first = functional.layer_norm(embeddings, (10,)).flatten(1) if embedding_norm else x0
    hidden = model.blocks[1](x0, model.blocks[0](x0, first))
    torch.testing.assert_close(model(rows), model.head(hidden).squeeze(1))


def test_parallel_blocks_all_see_the_embeddings(make, rows):
    model = make(MaskNet, num_blocks=2, block_dim=5, hidden=(9,), embedding_norm=False)
    x0 = model.embedding(rows).flatten(1)
    expected = model.head(torch.cat([block(x0, x0) for block in model.blocks], 1)).squeeze(1)
    torch.testing.assert_close(model(rows), expected)


def test_masks_of_one_leave_a_perceptron_without_first_biases(make, rows):
    model = make(MaskNet, arrangement="serial", hidden=(12, 7), embedding_norm=False, layer_norm=False)
    hidden = model.embedding(rows).flatten(1)
    for block in model.blocks:
        block.mask[-1].weight.data.zero_()
        block.mask[-1].bias.data.fill_(1.0)
        hidden = (hidden @ block.layer[0].weight.T).relu()
    torch.testing.assert_close(model(rows), model.head(hidden).squeeze(1))


@pytest.mark.parametrize("arrangement", ["serial", "parallel"])
def test_predictions_do_not_depend_on_the_batch(make, check_batch_size, arrangement):
    check_batch_size(make(MaskNet, arrangement=arrangement, dropout=0.5))
