"""Models outside the package: one new file, and no other edit."""

import re

import pytest

from recbench.errors import RecbenchError, UsageError
from recbench.models.registry import load_model
from recbench.running.result import read_result

CTR = '''
import torch
from torch import nn
from recbench.models.base import CTRModel, TrainedConfig, tunable

class Weights(CTRModel):
    """A weight for every value."""

    class Config(TrainedConfig):
        scale: float = tunable(1.0, low=0.5, high=2.0)

    def __init__(self, config, fields):
        super().__init__(config, fields)
        self.weight = nn.Embedding(fields.n_ids, 1)

    def forward(self, batch):
        return self.config.scale * self.weight(batch.ids).sum((1, 2))
'''

TOPN = '''
from torch import nn
from recbench.models.base import Recommender, TrainedConfig

class Towers(Recommender):
    """Inner products, trained on rows of users."""

    class Config(TrainedConfig):
        dim: int = 8

    def __init__(self, config, data):
        super().__init__(config, data)
        self.left, self.right = nn.Embedding(data.n_items, config.dim), nn.Linear(config.dim, data.n_items)

    def batches(self, data):
        return data.user_rows(self.config.batch_size)

    def loss(self, batch):
        return nn.functional.binary_cross_entropy_with_logits(self.score(batch), batch.dense())

    def score(self, batch):
        return self.right(batch.times(self.left.weight))
'''

KG = '''
import torch
from recbench.models.base import ClosedFormRecommender

class Known(ClosedFormRecommender):
    """Likes items that much is known of."""

    tasks = ("kg",)

    def __init__(self, config, data):
        super().__init__(config, data)
        self.register_buffer("facts", torch.zeros(data.n_items))

    def fit(self, data):
        self.facts.copy_(torch.bincount(data.graph.heads, minlength=data.n_entities)[: data.n_items])

    def score(self, batch):
        return self.facts.expand(len(batch), -1)
'''

RATING = '''
import torch
from torch import nn
from recbench.models.base import RatingModel, TrainedConfig
from recbench.models.procedure import Phase, Stage

class Biases(RatingModel):
    """A bias of the user and one of the item, in two stages."""

    class Config(TrainedConfig):
        pass

    def __init__(self, config, data):
        super().__init__(config, data)
        self.user = nn.Parameter(torch.zeros(data.n_users))
        self.item = nn.Parameter(torch.zeros(data.n_items))

    def procedure(self, data):
        for name, parameter in (("users", self.user), ("items", self.item)):
            phase = Phase(name, self.batches(data), self.loss, [parameter], self.config.learning_rate)
            yield Stage(name, [phase], self.config.epochs, self.config.patience)

    def loss(self, batch):
        return nn.functional.binary_cross_entropy(self.predict(batch.users, batch.items), batch.labels)

    def predict(self, users, items):
        return (self.user[users] + self.item[items]).sigmoid()
'''

SHORT = ("epochs=1", "tracking=off")
BENCHMARKS = {
    "ctr/ml-100k": (CTR, "weights", SHORT),
    "topn/ml-100k": (TOPN, "towers", SHORT),
    "kg/ml-100k": (KG, "known", ("tracking=off",)),
    "rating/ml-100k-semisynthetic": (RATING, "biases", SHORT),
}


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_one_new_file_is_enough(benchmark, command, tmp_path):
    code, name, values = BENCHMARKS[benchmark]
    (tmp_path / "my_model.py").write_text(code)
    answer = command("run", benchmark, "my_model.py", *values, "--out", "out")
    assert answer.status == 0, answer.err
    result = read_result(tmp_path / "out" / benchmark / name / "seed-1")
    assert result.status == "finished"
    assert result.model.name == name
    assert result.model.source == "my_model.py"
    assert len(result.model.source_sha256) == 64
    assert result.model.parameters > 0
    assert name in answer.out
    again = command("run", tmp_path / "out" / benchmark / name / "seed-1", "--out", "again")
    assert again.status == 0, again.err
    assert "equal" in again.out
    compared = command("compare", "out")
    assert compared.status == 0, compared.err
    assert name in compared.out


def test_its_configuration_is_checked_as_any_other(command, tmp_path):
    (tmp_path / "my_model.py").write_text(CTR)
    assert "did you mean scale" in command("run", "ctr/ml-100k", "my_model.py", "scal=2").complaint
    complaint = command("run", "ctr/ml-100k", "my_model.py", "scale=much").complaint
    assert "scale" in complaint
    assert "'much'" in complaint
    complaint = command("run", "topn/ml-100k", "my_model.py").complaint
    assert "is for ctr benchmarks; topn/ml-100k is a topn benchmark" in complaint
    assert not (tmp_path / "results").exists()


def test_package_and_class(command, tmp_path, monkeypatch):
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "several.py").write_text(CTR + TOPN)
    monkeypatch.syspath_prepend(tmp_path)
    answer = command("run", "ctr/ml-100k", "my_package.several:Weights", *SHORT, "--out", "out")
    assert answer.status == 0, answer.err
    assert read_result(tmp_path / "out/ctr/ml-100k/weights/seed-1").model.source == "my_package.several:Weights"
    assert load_model("my_package.several:Towers").model_name() == "towers"
    with pytest.raises(UsageError, match="unknown class 'Tower'; did you mean Towers"):
        load_model("my_package.several:Tower")
    for missing in ("no_package.several:Weights", "my_package.none:Weights"):
        with pytest.raises(UsageError, match="No module named"):
            load_model(missing)


def test_several_classes_in_a_file(tmp_path):
    file = tmp_path / "several.py"
    file.write_text(CTR + TOPN)
    with pytest.raises(UsageError, match=r"expected one model class, found Towers, Weights; name it as FILE\.py:Class"):
        load_model(str(file))
    assert load_model(f"{file}:Towers").model_name() == "towers"
    file.write_text("x = 1\n")
    with pytest.raises(UsageError, match="expected one model class, found none"):
        load_model(str(file))


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("def broken(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_file_that_cannot_be_imported(command, tmp_path, code, sentence):
    (tmp_path / "my_model.py").write_text(code)
    answer = command("run", "ctr/ml-100k", "my_model.py")
    assert "model file my_model.py cannot be imported" in answer.complaint
    assert sentence in answer.complaint
    assert answer.status == 1
    assert "does not exist" in command("run", "ctr/ml-100k", "no_model.py").complaint


@pytest.mark.parametrize(
    ("benchmark", "before", "after", "sentence"),
    [
        ("topn/ml-100k", "return self.right(", "return torch.nan * self.right(", "loss of phase 'train'"),
        ("topn/ml-100k", "batch.times(self.left.weight))", "batch.times(self.left.weight))[:, 1:]", "[Ss]ize|shape"),
        ("ctr/ml-100k", ".sum((1, 2))", ".sum(2)", "[Ss]ize|shape"),
        ("ctr/ml-100k", ".sum((1, 2))", ".sum((1, 2)) / 0", "the loss of phase 'train' of weights is"),
        (
            "kg/ml-100k",
            "return self.facts.expand(len(batch), -1)",
            "return self.facts.expand(len(batch), -1) / 0",
            "NaN",
        ),
        (
            "kg/ml-100k",
            "return self.facts.expand(len(batch), -1)",
            "return self.facts.expand(len(batch), -1).T",
            r"expected \(\d+, 1682\)",
        ),
        ("rating/ml-100k-semisynthetic", ".sigmoid()", ".sigmoid()[:, None]", "[Ss]ize|shape"),
    ],
)
def test_a_model_that_misbehaves_fails_in_a_sentence(command, tmp_path, benchmark, before, after, sentence):
    code, name, values = BENCHMARKS[benchmark]
    assert before in code
    (tmp_path / "my_model.py").write_text("import torch\n" + code.replace(before, after))
    answer = command("run", benchmark, "my_model.py", *values, "--out", "out")
    assert answer.status == 1
    assert re.search(sentence, answer.complaint)
    folder = tmp_path / "out" / benchmark / name / "seed-1"
    result = read_result(folder)
    assert result.status == "failed"
    assert re.search(sentence, result.error)
    assert {path.name for path in folder.iterdir()} <= {"result.json", "log.txt", "checkpoint"}


def test_a_model_without_a_loss_says_so(command, tmp_path):
    code = TOPN.replace("def loss(", "def other(")
    (tmp_path / "my_model.py").write_text(code)
    complaint = command("run", "topn/ml-100k", "my_model.py", *SHORT).complaint
    assert "Towers defines neither loss() nor procedure()" in complaint


def test_files_of_one_name_are_kept_apart(tmp_path):
    for folder, code in (("a", CTR), ("b", TOPN)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "my_model.py").write_text(code)
    first = load_model(str(tmp_path / "a" / "my_model.py"))
    second = load_model(str(tmp_path / "b" / "my_model.py"))
    assert (first.model_name(), second.model_name()) == ("weights", "towers")
    with pytest.raises(RecbenchError):
        load_model(str(tmp_path / "c" / "my_model.py"))
