import numpy as np
import torch

from recbench.models.base import parameter_count
from recbench.models.ctr.lr import LR


def test_equals_the_design_matrix_times_the_weights(make, rows, fields):
    model = make(LR)
    design = np.zeros((300, fields.n_ids))
    np.add.at(design, (np.arange(300)[:, None], rows.ids.numpy()), 1.0)
    genres = rows.multi["genres"]
    owner = genres.rows().numpy()
    np.add.at(design, (owner, genres.values.numpy()), 1 / genres.lengths.numpy()[owner])
    expected = design @ model.linear.weight.detach().numpy()[:, 0] + model.bias.item()
    np.testing.assert_allclose(model(rows).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_parameter_count_on_frappe(frappe):
    assert parameter_count(LR(LR.Config(), frappe)) == 5_390


def test_loss_is_cross_entropy_and_penalty(make, rows):
    model = make(LR, embedding_l2=0.02)
    logits = model(rows).double()
    entropy = torch.log1p(torch.exp(-(2 * rows.labels - 1) * logits)).mean()
    expected = entropy + 0.01 * model.linear.weight.double().square().sum()
    torch.testing.assert_close(model.loss(rows), expected.float())


def test_predictions_do_not_depend_on_the_batch(make, check_batch_size):
    check_batch_size(make(LR))
