import json

import pytest

from fai.sizes import Size


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (1_234_567, "1.2 MB"),
        (45 * 10**9, "45.0 GB"),
        (10**16, "10000.0 TB"),
    ],
)
def test_a_size_is_told_in_the_unit_that_fits(num_bytes: int, text: str) -> None:
    assert f"{Size(num_bytes)}" == str(Size(num_bytes)) == text


def test_a_size_is_a_number_to_a_program() -> None:
    assert json.dumps({"bytes": Size(1_234_567)}) == '{"bytes": 1234567}'
    assert Size(5) + 1 == 6
