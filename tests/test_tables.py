"""One reader of small CSV files: what it takes, and what it says of a file that is wrong."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepen.errors import ConfigError, DatasetError, MeasureError
from deepen.tables import DELIMITERS, parse_csv_header, read_csv_cells, read_csv_rows

TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Z"), exclude_characters="\ufeff"), max_size=6
)
TABLES = st.integers(1, 4).flatmap(
    lambda width: st.tuples(
        st.lists(TEXTS.filter(bool), min_size=width, max_size=width, unique=True),
        st.lists(st.lists(TEXTS, min_size=width, max_size=width).filter(any), max_size=5),
    )
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables") / "a.csv"


@given(TABLES, st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
def test_what_the_csv_module_writes_is_read_back(
    file: Path, table: tuple[list[str], list[list[str]]], ending: str, mark: bool
) -> None:
    names, cells = table
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator=ending).writerows([names, *cells])
    file.write_bytes(text.getvalue().encode("utf-8-sig" if mark else "utf-8"))
    found, lines = read_csv_cells(file)
    assert found == names
    assert lines == [(number, row) for number, row in enumerate(cells, 2)]
    assert read_csv_rows(file, names)[1] == [(n, dict(zip(names, row, strict=True))) for n, row in lines]


@given(st.sampled_from(DELIMITERS), st.integers(2, 5), st.integers(0, 3))
def test_any_delimiter_blank_lines_and_spaces_are_taken(file: Path, delimiter: str, width: int, blank: int) -> None:
    names = [f"c{k}" for k in range(width)]
    header, row = (delimiter.join(f" {cell} " for cell in cells) for cells in (names, range(width)))
    file.write_text(blank * "\n" + header + "\n" + blank * "\n" + row + "\n" + blank * (delimiter + "\n"))
    assert read_csv_cells(file) == (names, [(2 + 2 * blank, [str(k) for k in range(width)])])


@given(st.integers(1, 4), st.integers(0, 6))
def test_short_lines_are_filled_and_long_ones_named(file: Path, width: int, cells: int) -> None:
    file.write_text(",".join("abcd"[:width]) + "\n\n" + ",".join(["x"] * cells) + "\n")
    if cells > width:
        with pytest.raises(DatasetError, match=rf"a.csv line 3: {cells} cells under {width} columns"):
            read_csv_cells(file)
        assert read_csv_cells(file, long_lines=True)[1] == [(3, ["x"] * cells)]
    else:
        assert read_csv_cells(file)[1] == ([(3, ["x"] * cells + [""] * (width - cells))] if cells else [])


def test_a_quoted_cell_may_run_over_lines(file: Path) -> None:
    file.write_text('a,b\n"1\n2", "x, y"\n3,4\n')
    assert read_csv_cells(file)[1] == [(3, ["1\n2", "x, y"]), (4, ["3", "4"])]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty; give a CSV file with a header"),
        (b"\xef\xbb\xbf\n , \n", "empty"),
        (b"a,b\n\xff\xfe\n", "not a text file in UTF-8"),
        (b"a,b,a\n1,2,3\n", "column 'a' appears twice"),
        (b"b\n1\n", "lacks the column a; add it"),
        (b'a,b\n1,"' + b"x" * 200_000 + b'"\n', "line 2: not CSV"),
    ],
)
@pytest.mark.parametrize("error", [DatasetError, MeasureError])
def test_a_wrong_file_is_the_callers_error(
    file: Path, content: bytes, message: str, error: type[DatasetError | MeasureError]
) -> None:
    file.write_bytes(content)
    with pytest.raises(error, match=message) as caught:
        read_csv_cells(file, ["a"], error=error)
    assert str(file) in str(caught.value)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    try:
        names, lines = read_csv_cells(file)
    except DatasetError:
        return
    assert all(len(cells) == len(names) and number >= 2 for number, cells in lines)


def test_a_file_that_is_not_there_is_a_wrong_name(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.csv", tmp_path):
        with pytest.raises(ConfigError, match="check the path"):
            read_csv_cells(path)


def test_a_header_is_told_from_its_first_bytes() -> None:
    assert parse_csv_header(b"\xef\xbb\xbfa;b,c;d\r\n1;2") == (";", ["a", "b,c", "d"])
    assert parse_csv_header(b"") == (",", [])
