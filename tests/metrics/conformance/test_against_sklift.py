"""scikit-uplift, by value to 1e-9 where scores do not tie."""

import numpy as np
import pytest
import torch

from recbench.metrics import uplift

# scikit-uplift 0.5.1 imports what scikit-learn 1.10 will no longer have.
theirs = pytest.importorskip("sklift.metrics", exc_type=ImportError)

pytestmark = pytest.mark.filterwarnings("ignore:Function stable_cumsum is deprecated:FutureWarning")


@pytest.fixture(params=[50, 1000], ids=str)
def experiment(request):
    """Scores without ties, treatment, and outcomes that the treatment makes likelier."""
    generator = torch.Generator().manual_seed(request.param)
    scores = torch.rand(request.param, generator=generator, dtype=torch.float64)
    treatment = (torch.rand(request.param, generator=generator) < 0.4).long()
    outcome = (torch.rand(request.param, generator=generator) < 0.2 + 0.3 * treatment * scores).long()
    return scores, treatment, outcome


def theirs_of(metric, experiment, **options):
    scores, treatment, outcome = (column.numpy() for column in experiment)
    return metric(outcome, scores, treatment, **options)


def test_curves(experiment):
    for ours, metric in ((uplift.qini_curve, theirs.qini_curve), (uplift.uplift_curve, theirs.uplift_curve)):
        rows, values = theirs_of(metric, experiment)
        np.testing.assert_allclose(ours(*experiment).rows, rows, rtol=0, atol=1e-9)
        np.testing.assert_allclose(ours(*experiment).values, values, rtol=0, atol=1e-9)


def test_its_qini_auc_score_is_the_share_of_the_perfect_qini(experiment):
    found = theirs_of(theirs.qini_auc_score, experiment)
    assert uplift.qini_share(*experiment) == pytest.approx(found, abs=1e-9)


def test_its_uplift_auc_score_is_a_share_too(experiment):
    """The area above that of random scores, half the mean effect, over the same of a perfect ranking."""
    scores, treatment, outcome = experiment
    random = uplift.auuc(torch.zeros_like(scores), treatment, outcome)
    rows, values = theirs.perfect_uplift_curve(outcome.numpy(), treatment.numpy())
    perfect = np.trapezoid(values, rows) / len(scores) ** 2
    ours = (uplift.auuc(*experiment) - random) / (perfect - random)
    assert ours == pytest.approx(theirs_of(theirs.uplift_auc_score, experiment), abs=1e-9)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.9])
def test_uplift_at(experiment, share):
    found = theirs_of(theirs.uplift_at_k, experiment, strategy="overall", k=share)
    assert uplift.uplift_at(*experiment, share) == pytest.approx(found, abs=1e-9)


def test_ties_in_uplift_at_are_in_the_reverse_order_of_rows():
    """Constant scores have the mean effect here; there, whatever the last rows have."""
    treatment, outcome = torch.tensor([1, 0, 1, 0]), torch.tensor([1, 0, 0, 1])
    forth, back = ((torch.ones(4), treatment, outcome), (torch.ones(4), treatment.flip(0), outcome.flip(0)))
    assert uplift.uplift_at(*forth, 0.5) == uplift.uplift_at(*back, 0.5) == 0
    assert theirs_of(theirs.uplift_at_k, forth, strategy="overall", k=0.5) == -1
    assert theirs_of(theirs.uplift_at_k, back, strategy="overall", k=0.5) == 1
