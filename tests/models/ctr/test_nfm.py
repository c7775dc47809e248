import torch

from recbench.models.base import parameter_count
from recbench.models.ctr.fm import FM
from recbench.models.ctr.nfm import NFM


def test_parameter_count_on_frappe(frappe):
    assert parameter_count(NFM(NFM.Config(embedding_dim=10, hidden=(400, 400, 400)), frappe)) == 384_880


def test_is_a_factorisation_machine_without_hidden_layers(make, rows):
    model, fm = make(NFM, embedding_dim=6, hidden=()), make(FM, embedding_dim=6)
    model.mlp[0].weight.data.fill_(1.0)
    model.mlp[0].bias.data.fill_(0.3)
    shared = {name: model.state_dict()[name] for name in ("embedding.weight", "linear.weight")}
    fm.load_state_dict(shared | {"bias": torch.tensor(0.3)})
    torch.testing.assert_close(model(rows), fm(rows), rtol=1e-4, atol=1e-4)


def test_perceptron_reads_the_pooled_products_alone(make, rows):
    model = make(NFM, embedding_dim=6, hidden=(8,))
    e = model.embedding(rows)
    pooled = sum(e[:, i] * e[:, j] for i in range(4) for j in range(i + 1, 4))
    expected = model.linear(rows).sum((1, 2)) + model.mlp(pooled).squeeze(1)
    torch.testing.assert_close(model(rows), expected, rtol=1e-4, atol=1e-4)


def test_predictions_do_not_depend_on_the_batch(make, check_batch_size):
    check_batch_size(make(NFM, dropout=0.5, batch_norm=True))
