import pytest

from ml.codecs import codec_for
from ml.config import CODECS
from tests.ml.codecs.make import SHAPES


@pytest.mark.parametrize("name", CODECS)
def test_every_codec_of_the_settings_exists_and_is_made_once(name: str) -> None:
    codec = codec_for(name, SHAPES)
    assert codec.name == name
    assert codec_for(name, dict(reversed(SHAPES.items()))) is codec
    assert list(codec.shapes) == sorted(SHAPES)


def test_only_what_leaves_values_out_feeds_its_error_back() -> None:
    decays = {name: codec_for(name, SHAPES).error_decay for name in CODECS}
    expected = {"dense": 0.0, "int8": 0.0, "int4": 0.0, "topk": 0.95, "ternary": 1.0}
    assert decays == {name: expected[name.partition("-")[0]] for name in CODECS}


@pytest.mark.parametrize(
    "name", ["", "pickle", "topk", "topk-", "topk-064", "topk-64.0", "topk-٦٤", "int16", "ternary", "none"]
)
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="there is no codec"):
        codec_for(name, SHAPES)
