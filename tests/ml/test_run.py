import json
import shutil
from pathlib import Path

import pytest

from ml.bad_input import BadInput
from ml.checkpoint import save_model
from ml.config import ConfigInvalid, TrainConfig
from ml.dataset import DatasetInvalid
from ml.generation import PromptInvalid
from ml.run import Run, RunInvalid, open_run, read_config, write_config
from ml.sampling import SamplingInvalid
from ml.tokenizer import TokenizerInvalid
from tests.ml.make import make_config, make_model, make_tokenizer
from tests.ml.make_run import make_data


@pytest.fixture
def copied(trained: Run, tmp_path: Path) -> Path:
    """A copy of the run that a test may damage."""
    return Path(shutil.copytree(trained.folder, tmp_path / "RUN"))


def test_the_best_model_is_opened_unless_the_last_is_asked_for(trained: Run, copied: Path) -> None:
    assert trained.checkpoint.parent.name == "best"
    last = open_run(str(copied), checkpoint="last")
    assert last.checkpoint == copied / "checkpoints/000000001/model.safetensors"
    assert last.evaluate().total.loss > 3 * trained.evaluate().total.loss
    shutil.rmtree(copied / "best")
    assert open_run(copied).checkpoint == last.checkpoint


def test_generation_is_decided_by_its_seed_and_leaves_no_room_unused(trained: Run) -> None:
    drawn = [trained.generate("widget", temperature=2.0, seed=seed, max_tokens=20) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    question = trained.encode_question("What does widget number 7 draw?")
    whole = trained.generate(question, temperature=0.0)
    assert whole.finish_reason == "stop"
    assert whole.text.startswith("Widget number")
    assert whole.seconds >= whole.first_token_seconds > 0
    forced = trained.generate("widget " * 5, temperature=5.0)
    assert forced.finish_reason == "stop" or forced.prompt_tokens + forced.completion_tokens == 96


def test_a_stream_gives_the_same_text_in_pieces(trained: Run) -> None:
    question = trained.encode_question("3번째 위젯은 무엇을 그리나요?")
    stream = trained.stream(question, temperature=0.0, stop=("[/ANSWER]",))
    pieces = list(stream)
    assert len(pieces) > 3
    assert stream.completion == trained.generate(question, temperature=0.0, stop=("[/ANSWER]",))
    assert "".join(pieces) == stream.completion.text
    assert "가족의 이름" in stream.completion.text


def test_a_search_finds_a_text_at_least_as_likely_as_greed(trained: Run) -> None:
    question = trained.encode_question("What does widget number 7 draw?")
    assert "family" in trained.search(question, num_beams=3).text
    assert trained.search(question, num_beams=1, max_tokens=5).text == trained.generate(
        question, temperature=0.0, max_tokens=5
    ).text  # fmt: skip


def test_packed_weights_say_the_same(trained: Run) -> None:
    question = trained.encode_question("What does widget number 7 draw?")
    assert trained.packed().generate(question, temperature=0.0) == trained.generate(question, temperature=0.0)


def test_evaluation_takes_the_dataset_of_the_run_or_another(trained: Run, tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    own = trained.evaluate(on_progress=lambda done, total: heard.append((done, total)))
    assert own == trained.evaluate(Path(trained.data["folder"]))
    assert set(own.languages) == {"ko", "en"}
    assert heard[-1] == (own.total.tokens, own.total.tokens)
    other = make_data(tmp_path / "OTHER", num_documents=5, vocab_size=300)
    with pytest.raises(DatasetInvalid, match=r"OTHER was made with another tokenizer than .*RUN/tokenizer.json: copy"):
        trained.evaluate(other)


def test_a_run_that_names_no_dataset_asks_for_one(copied: Path) -> None:
    config, data = read_config(copied)
    write_config(copied, config=config, data={"vocab_size": data["vocab_size"]})
    with pytest.raises(DatasetInvalid, match="--data DATA"):
        open_run(copied).evaluate()


def test_analysis_attention_and_bench_are_those_of_their_modules(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml.speed.BANDWIDTH_BYTES", 2**20)
    tokens = trained.read_text("위젯")
    assert [position.token for position in trained.analyze("위젯", top=2).positions] == tokens
    assert trained.attention("위젯").shape == (2, 4, len(tokens), len(tokens))
    assert trained.bench(seconds=0.0, new_tokens=2).parameters == trained.model.config.num_parameters


def test_what_was_written_is_read(tmp_path: Path) -> None:
    config = TrainConfig(model=make_config())
    write_config(tmp_path, config=config, data={"folder": "/가족"})
    assert read_config(tmp_path) == (config, {"folder": "/가족"})


def test_a_folder_without_a_run_names_the_command_that_makes_one(tmp_path: Path) -> None:
    for folder in (tmp_path / "nothing", tmp_path):
        with pytest.raises(RunInvalid, match="holds no run: make one with `fai train DATA --out"):
            open_run(folder)


def test_a_run_without_a_checkpoint_says_how_to_go_on(copied: Path) -> None:
    shutil.rmtree(copied / "best")
    shutil.rmtree(copied / "checkpoints")
    with pytest.raises(RunInvalid, match=r"no checkpoint yet: go on with .* --resume"):
        open_run(copied)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"config": [], "data": {}}', '{"config": {}, "data": 1}', "\ud800"]
)
def test_a_damaged_config_is_named(copied: Path, text: str) -> None:
    (copied / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(RunInvalid, match=r"config.json is damaged"):
        open_run(copied)


def test_a_config_with_an_unknown_field_is_named(copied: Path) -> None:
    stored = json.loads((copied / "config.json").read_text(encoding="utf-8"))
    stored["config"]["model"]["n_heads"] = 4
    (copied / "config.json").write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(ConfigInvalid, match="n_heads"):
        open_run(copied)


def test_a_half_written_checkpoint_is_named_with_the_way_out(copied: Path) -> None:
    for folder, mend in (("best", "--checkpoint last"), ("checkpoints/000000001", "--resume")):
        path = copied / folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:1_000])
        with pytest.raises(RunInvalid, match=f"{path} cannot be used .*{mend}"):
            open_run(copied, checkpoint="best" if folder == "best" else "last")


def test_a_checkpoint_of_another_shape_is_refused_with_the_difference(copied: Path) -> None:
    save_model(make_model(make_config(n_layer=3)), copied / "best/model.safetensors")
    with pytest.raises(RunInvalid, match=r"another shape .*n_layer 3, not 2"):
        open_run(copied)


def test_a_missing_or_exchanged_tokenizer_is_named_with_its_source(copied: Path) -> None:
    path = copied / "tokenizer.json"
    make_tokenizer().save(str(path))
    with pytest.raises(TokenizerInvalid, match=r"not the tokenizer that the run was trained with: copy .*DATA"):
        open_run(copied)
    path.write_text("{}")
    with pytest.raises(TokenizerInvalid, match=r"tokenizer.json is damaged .*: copy .*DATA/tokenizer.json there"):
        open_run(copied)
    path.unlink()
    with pytest.raises(TokenizerInvalid, match=r"There is no .*tokenizer.json: copy .*DATA/tokenizer.json there"):
        open_run(copied)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(copied: Path) -> None:
    config, _ = read_config(copied)
    make_tokenizer(vocab_size=330).save(str(copied / "tokenizer.json"))
    write_config(copied, config=config, data={})
    with pytest.raises(RunInvalid, match="330 tokens and the model knows 320"):
        open_run(copied)


@pytest.mark.parametrize(
    ("prompt", "params", "problem"),
    [
        ("", {}, PromptInvalid),
        ("widget " * 300, {}, PromptInvalid),
        ("widget", {"max_tokens": 1_000}, PromptInvalid),
        ("\ud800", {}, PromptInvalid),
        ("widget", {"temperature": -1.0}, SamplingInvalid),
    ],
)
def test_a_prompt_or_a_number_that_cannot_be_is_refused_before_anything_is_generated(
    trained: Run, prompt: str, params: dict[str, float], problem: type[BadInput]
) -> None:
    with pytest.raises(problem):
        trained.stream(prompt, **params)


@pytest.mark.timeout(20)
def test_a_book_is_refused_before_its_tokens_are_counted(trained: Run) -> None:
    with pytest.raises(PromptInvalid, match=r"has 60,000,000 bytes and the model's context of 96 tokens holds at most"):
        trained.generate("위" * 20_000_000)
    with pytest.raises(PromptInvalid, match="shorten the prompt"):
        trained.analyze("x " * 20_000_000)
