import pyarrow as pa
import pytest

from flows.errors import StoreError
from flows.store.sql import bound, common_type, to_psycopg


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select $a::text", "select %(a)s::text"),
        ("select 7 % 2, $a % 5", "select 7 %% 2, %(a)s %% 5"),
        ("where x = $a and y = $a_2", "where x = %(a)s and y = %(a_2)s"),
        ("select 5 % 2, '50%', \"%\"", "select 5 %% 2, '50%%', \"%%\""),
        ("select '$a', 'it''s $a', $a", "select '$a', 'it''s $a', %(a)s"),
        ('select "$a", "a""$a"', 'select "$a", "a""$a"'),
        ("select 1 -- $a\n, $b", "select 1 -- $a\n, %(b)s"),
        ("select /* $a\n'*/ $b", "select /* $a\n'*/ %(b)s"),
        ("select $$ $a $$, $t$ $a $t$, $b", "select $$ $a $$, $t$ $a $t$, %(b)s"),
        ("select $1", "select $1"),
    ],
)
def test_parameters_are_rewritten_outside_text_names_and_comments(sql: str, expected: str) -> None:
    assert to_psycopg(sql) == expected


def test_parameters_are_matched_by_name() -> None:
    assert bound("select $a, '$b'", {"a": None}) == {"a": None}
    with pytest.raises(StoreError, match="has the parameters a, c; got a, b"):
        bound("select $a, $c", {"a": 1, "b": 2})


def test_types_the_stores_do_not_share_are_refused() -> None:
    assert common_type("x", pa.decimal128(38, 0)) == pa.int64()
    assert common_type("x", pa.list_(pa.float32())) == pa.list_(pa.float64())
    with pytest.raises(StoreError, match="column x has type duration"):
        common_type("x", pa.duration("us"))
