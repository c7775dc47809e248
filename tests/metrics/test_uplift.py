import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbench.errors import RecbenchError
from recbench.metrics.uplift import auuc, perfect_qini, qini, qini_curve, qini_share, uplift_at, uplift_curve

# Eight rows by falling score: who was treated, who responded.
SCORES = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
TREATED = torch.tensor([1, 0, 1, 0, 1, 0, 1, 0])
RESPONSES = torch.tensor([1, 0, 1, 0, 0, 1, 0, 1])


def experiment(n, seed, values=None):
    """Return scores that know some of the true uplift, which grows with a feature, and a random treatment."""
    generator = torch.Generator().manual_seed(seed)
    feature = torch.rand(n, generator=generator, dtype=torch.float64)
    treatment = torch.randint(2, (n,), generator=generator)
    outcome = (torch.rand(n, generator=generator) < 0.2 + treatment * 0.4 * feature).long()
    treatment[:2] = torch.tensor([0, 1])
    scores = feature + 0.2 * torch.randn(n, generator=generator)
    return scores if values is None else (scores * values).floor(), treatment, outcome


def test_by_hand():
    """Every second row is treated; the best two treated respond, and the last two control rows.

    After 8 rows: N_T = N_C = 4, Y_T = Y_C = 2: no effect in all. After 4: N_T = N_C = 2, Y_T = 2, Y_C = 0.
    """
    rows, values = qini_curve(SCORES, TREATED, RESPONSES)
    assert rows.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    # g = Y_T - Y_C N_T / N_C: 1, 1, 2, 2, 2, 2 - 1 * 3/3, 2 - 1 * 4/3, 2 - 2 * 4/4
    assert values.tolist() == pytest.approx([0, 1, 1, 2, 2, 2, 1, 2 / 3, 0])
    # f = (Y_T / N_T - Y_C / N_C) x: 1, 2, 3, 4, 2/3 * 5, (2/3 - 1/3) 6, (1/2 - 1/3) 7, 0
    assert uplift_curve(SCORES, TREATED, RESPONSES).values.tolist() == pytest.approx(
        [0, 1, 2, 3, 4, 10 / 3, 2, 7 / 6, 0]
    )
    assert qini(SCORES, TREATED, RESPONSES) == pytest.approx((9 + 2 / 3) / 64)
    assert auuc(SCORES, TREATED, RESPONSES) == pytest.approx((10 + 10 / 3 + 2 + 7 / 6) / 64)
    # The best ranking: 2 treated responders, 4 rows of no response (of either group), 2 control responders.
    # Its curve goes 0 -> 2 in 2 rows, stays for 4, goes back to 0 in 2: area 2 + 8 + 2.
    assert perfect_qini(TREATED, RESPONSES) == pytest.approx(12 / 64)
    assert qini_share(SCORES, TREATED, RESPONSES) == pytest.approx((9 + 2 / 3) / 12)
    assert uplift_at(SCORES, TREATED, RESPONSES, 0.5) == 1
    assert uplift_at(SCORES, TREATED, RESPONSES, 0.75) == pytest.approx(1 / 3)
    assert uplift_at(SCORES, TREATED, RESPONSES, 1) == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_constant_score_is_the_random_ranking(seed):
    _, treatment, outcome = experiment(300, seed)
    constant = torch.full((300,), 0.1 * seed)
    effect = float(outcome[treatment == 1].double().mean() - outcome[treatment == 0].double().mean())
    assert qini(constant, treatment, outcome) == 0
    assert auuc(constant, treatment, outcome) == pytest.approx(effect / 2)
    for share in (0.013, 0.3, 1):
        assert uplift_at(constant, treatment, outcome, share) == pytest.approx(effect)


def test_random_scores_have_no_qini_on_average():
    _, treatment, outcome = experiment(2000, 0)
    generator = torch.Generator().manual_seed(7)
    values = torch.tensor([qini(torch.rand(2000, generator=generator), treatment, outcome) for _ in range(300)])
    assert abs(float(values.mean())) < 3.5 * float(values.std()) / 300**0.5
    assert qini(experiment(2000, 0)[0], treatment, outcome) > 4 * float(values.std())


def test_knows_the_true_uplift():
    """The effect is 0.4 times the feature: 0.38 in the upper tenth of it, 0.2 in all."""
    generator = torch.Generator().manual_seed(2)
    n = 400_000
    feature = torch.rand(n, generator=generator)
    treatment = (torch.rand(n, generator=generator) < 0.3).long()
    outcome = (torch.rand(n, generator=generator) < 0.2 + treatment * 0.4 * feature).long()
    assert uplift_at(feature, treatment, outcome, 0.1) == pytest.approx(0.38, abs=0.02)
    assert uplift_at(feature, treatment, outcome, 1) == pytest.approx(0.2, abs=0.01)
    # f(x) / N = share * mean effect above = 0.4 (s - s^2 / 2): its integral is 0.4 / 3.
    assert auuc(feature, treatment, outcome) == pytest.approx(0.4 / 3, abs=0.005)
    # The Qini curve is 0.3 of that, the share of the treated, and the random line's area 0.3 * 0.1.
    assert qini(feature, treatment, outcome) == pytest.approx(0.3 * (0.4 / 3 - 0.1), abs=0.002)


@given(seed=st.integers(0, 10**6), n=st.integers(30, 200), values=st.sampled_from([3, 20, None]))
@settings(max_examples=60, deadline=None)
def test_bounds_order_and_scale(seed, n, values):
    scores, treatment, outcome = experiment(n, seed, values)
    measured = [f(scores, treatment, outcome) for f in (qini, auuc, qini_share)]
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    for other in (
        (scores[order], treatment[order], outcome[order]),
        (scores * 3 - 8, treatment.bool(), outcome.float()),
    ):
        assert [f(*other) for f in (qini, auuc, qini_share)] == pytest.approx(measured, abs=1e-12)
        assert uplift_at(*other, 0.7) == pytest.approx(uplift_at(scores, treatment, outcome, 0.7), abs=1e-12)
    assert abs(measured[0]) <= 1
    assert abs(measured[1]) <= 1
    perfect = outcome * (2 * treatment - 1)
    assert qini_share(perfect, treatment, outcome) == pytest.approx(1)


def test_tied_rows_are_cut_in_proportion():
    """The mean over all orders of a tie group of 4 (2 treated, 2 control) counts half of each kind."""
    scores = torch.tensor([2, 2, 1, 1, 1, 1])
    treatment, outcome = torch.tensor([1, 0, 1, 1, 0, 0]), torch.tensor([1, 0, 1, 0, 1, 0])
    # Of the first 4 rows: treated 1 + 1 with 1 + 0.5 responses, control 1 + 1 with 0 + 0.5.
    assert uplift_at(scores, treatment, outcome, 4 / 6) == pytest.approx(0.75 - 0.25)


def test_a_group_that_is_missing_at_the_top():
    scores, treatment, outcome = torch.tensor([3, 2, 1]), torch.tensor([1, 1, 0]), torch.tensor([1, 0, 1])
    # The control rate counts as 0 until the third row.
    assert uplift_curve(scores, treatment, outcome).values.tolist() == pytest.approx([0, 1, 1, -1.5])
    assert qini_curve(scores, treatment, outcome).values.tolist() == pytest.approx([0, 1, 1, -1])
    with pytest.raises(RecbenchError, match=r"no control rows among the first 0\.5 of 3"):
        uplift_at(scores, treatment, outcome, 0.5)
    with pytest.raises(RecbenchError, match=r"no treated rows among the first 0\.3 of 3"):
        uplift_at(-scores, treatment, outcome, 0.3)


@pytest.mark.parametrize(
    ("scores", "treatment", "outcome", "sentence"),
    [
        ([], [], [], "N > 0"),
        ([1.0], [1, 0], [1, 0], "N > 0"),
        ([1.0, float("nan")], [1, 0], [1, 0], "1 of 2 scores are NaN or infinite"),
        ([1.0, 2.0], [1, 2], [1, 0], "treatment is 0 or 1 in every row; 1 of 2"),
        ([1.0, 2.0], [1, 0], [0.5, 0.5], "outcome is 0 or 1 in every row; 2 of 2"),
        ([1.0, 2.0], [1, 1], [1, 0], "2 of 2 rows were treated"),
        ([1.0, 2.0], [0, 0], [1, 0], "0 of 2 rows were treated"),
    ],
)
@pytest.mark.parametrize("measure", [qini, auuc, qini_share])
def test_refuses_bad_input(measure, scores, treatment, outcome, sentence):
    with pytest.raises(RecbenchError, match=sentence):
        measure(torch.tensor(scores), torch.tensor(treatment), torch.tensor(outcome))


def test_a_score_that_knows_the_treatment_passes_the_perfect_ranking():
    """All control rows first: the curve counts the treated rows only, so it stays at 0 until the harm shows."""
    treatment = torch.tensor([0] * 23 + [1] * 2)
    outcome = torch.tensor([1] * 16 + [0] * 9)
    assert qini_share(-treatment, treatment, outcome) == pytest.approx(23 / 9)


def test_refuses_what_is_not_defined():
    nobody = torch.zeros(8, dtype=torch.long)
    with pytest.raises(RecbenchError, match="no ranking is better"):
        qini_share(SCORES, TREATED, nobody)
    assert qini(SCORES, TREATED, nobody) == 0
    for share in (0, 1.2, float("nan")):
        with pytest.raises(RecbenchError, match="above 0 and up to 1"):
            uplift_at(SCORES, TREATED, RESPONSES, share)


def test_hillstrom(mirrored):
    """An e-mail to women: those who bought women's goods before visit the shop because of it."""
    import polars as pl

    from recbench.data.cards import load_card
    from recbench.data.source import Source

    customers = Source(load_card("hillstrom")).table("interactions")
    customers = customers.filter(pl.col("treatment").is_in(["Womens E-Mail", "No E-Mail"]))
    treatment = torch.tensor((customers["treatment"] == "Womens E-Mail").to_numpy())
    visits = torch.tensor(customers["visit"].to_numpy()).long()
    womens = torch.tensor(customers["womens"].cast(pl.Int64).to_numpy())
    rate = {group: float(visits[treatment == group].double().mean()) for group in (True, False)}
    assert uplift_at(womens, treatment, visits, 1) == pytest.approx(rate[True] - rate[False])
    assert uplift_at(womens, treatment, visits, 0.3) > 1.4 * (rate[True] - rate[False])
    assert qini(-womens, treatment, visits) < 0 < qini(womens, treatment, visits)
    assert 0 < qini_share(womens, treatment, visits) < 0.2
