import torch

from recbench.models.base import parameter_count
from recbench.models.ctr.deepfm import DeepFM
from recbench.models.ctr.fm import FM


def test_is_a_factorisation_machine_where_the_perceptron_gives_zero(make, rows):
    deepfm, fm = make(DeepFM, embedding_dim=6), make(FM, embedding_dim=6)
    deepfm.mlp[-1].weight.data.zero_()
    deepfm.mlp[-1].bias.data.fill_(0.7)
    shared = {name: deepfm.state_dict()[name] for name in ("embedding.weight", "linear.weight")}
    fm.load_state_dict(shared | {"bias": torch.tensor(0.7)})
    torch.testing.assert_close(deepfm(rows), fm(rows), rtol=1e-4, atol=1e-4)


def test_perceptron_sees_the_embeddings_of_the_factorisation_machine(make, rows):
    model = make(DeepFM, embedding_dim=6)
    whole = model(rows)
    perceptron = model.mlp(model.embedding(rows).flatten(1)).squeeze(1)
    model.mlp[-1].weight.data.zero_()
    model.mlp[-1].bias.data.zero_()
    torch.testing.assert_close(whole - model(rows), perceptron, rtol=1e-4, atol=1e-4)


def test_parameter_count_on_frappe(frappe):
    config = DeepFM.Config(embedding_dim=10, hidden=(400, 400, 400), batch_norm=True)
    assert parameter_count(DeepFM(config, frappe)) == 423_280


def test_predictions_do_not_depend_on_the_batch(make, check_batch_size):
    check_batch_size(make(DeepFM, dropout=0.5, batch_norm=True))
