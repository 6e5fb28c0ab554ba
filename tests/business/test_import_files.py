"""Telling formats apart, and what is no product file at all."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from services.business.imports import shopify
from services.business.imports.files import Format, catalog_file
from services.business.imports.rows import ROWS_MAX, FileProblem, Row
from services.business.imports.together import together
from tests.business.product_files import SAMPLES, mug, read_all, shopify_csv


@pytest.mark.parametrize(
    ("name", "file_format"),
    [
        ("shopify.csv", Format.SHOPIFY),
        ("google.tsv", Format.GOOGLE_TSV),
        ("google.xml", Format.GOOGLE_XML),
    ],
)
def test_the_format_is_told_by_how_a_file_begins(name: str, file_format: Format) -> None:
    assert catalog_file(SAMPLES / name).format is file_format


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"PK\x03\x04rest", "zip or Excel"),
        ("Handle,Title\n".encode("utf-16"), "UTF-16"),
        (b"a,b,c\n1,2,3\n", "neither a Shopify product CSV"),
        (bytes(range(256)), "neither a Shopify product CSV"),
        (b"Handle,Title\nmug,Mug\n", "lacks the columns Variant Price"),
        (b"id\tname\n1\tMug\n", "lacks the columns title, price"),
        (b'Handle,Title,Variant Price\nmug,"Mug,5\n' + b"x" * 2_000_000, "is a quote left open"),
    ],
)
def test_what_is_no_product_file_is_refused_with_its_name(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "some.file"
    path.write_bytes(content)
    with pytest.raises(FileProblem, match=reason) as caught:
        read_all(path)
    assert str(path) in str(caught.value)


def test_a_folder_or_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match="is not a file"):
        catalog_file(tmp_path)
    with pytest.raises(FileProblem, match="does not exist"):
        catalog_file(tmp_path / "nothing.csv")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileProblem, match="is not a file"):
        catalog_file(tmp_path / "pipe")


def test_a_header_alone_is_a_file_without_products(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text("Handle,Title,Variant Price\n")
    assert read_all(path) == ({}, [])


def rows_of(keys: list[str]) -> list[Row]:
    return [Row(key, line, {"Title": f"{key} \udce9"}) for line, key in enumerate(keys, start=2)]


def test_a_small_file_keeps_its_order() -> None:
    groups = list(together(rows_of(["b", "a", "b", "c"]), sort_rows=10))
    assert [[row.line for row in group] for group in groups] == [[2, 4], [3], [5]]


def test_a_large_file_is_brought_together_on_disk_with_nothing_lost() -> None:
    keys = [f"key{number * 7919 % 100}" for number in range(1000)]
    rows = rows_of(keys)
    groups = list(together(rows, sort_rows=64))
    assert len(groups) == 100
    assert sorted(row for group in groups for row in group) == sorted(rows)
    for group in groups:
        assert len({row.key for row in group}) == 1
        assert [row.line for row in group] == sorted(row.line for row in group)


def test_rows_that_just_fill_one_run_are_all_there() -> None:
    assert sum(len(group) for group in together(rows_of(["a", "b"] * 5), sort_rows=10)) == 10


def test_a_key_with_too_many_rows_is_cut_off_and_refused(tmp_path: Path) -> None:
    groups = list(together(rows_of(["a"] * (ROWS_MAX + 500)), sort_rows=64))
    assert [len(group) for group in groups] == [ROWS_MAX + 1]
    row = mug(**{"Option1 Name": "Size"})
    rows = [row | {"Option1 Value": str(number)} for number in range(ROWS_MAX + 1)]
    products, bad = read_all(shopify_csv(tmp_path / "f.csv", rows))
    assert products == {}
    assert f"has more than {ROWS_MAX} rows" in bad[0].reason


@pytest.mark.faults
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak_bytes(products: int) -> int:
        path = tmp_path / f"{products}.csv"
        with path.open("w") as file:
            file.write("Handle,Title,Variant Price,Body (HTML)\n")
            file.writelines(f"h{number},T,5,{'words ' * 20}\n" for number in range(products))
        tracemalloc.start()
        count = sum(1 for _ in together(shopify.rows(path, lambda _: None), sort_rows=500))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == products
        return peak

    assert peak_bytes(8000) < 1.5 * peak_bytes(2000)
