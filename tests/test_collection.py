from __future__ import annotations

from pathlib import Path

import pytest

from gbr.data.collection import Subset, available, graph_files, known_bad, resolve, splits_present
from gbr.errors import DataError, UsageError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / "npz" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def test_a_name_is_its_folder_and_its_id() -> None:
    subset = Subset("layout:nlp:random")
    assert subset.folder(Path("data")) == Path("data/npz/layout/nlp/random")
    assert subset.kind == "layout"
    assert subset.parts == ("layout", "nlp", "random")
    assert subset.id("abc") == "layout:nlp:random:abc"


def test_available_lists_folders_with_graphs(tmp_path: Path) -> None:
    touch(tmp_path, "tile/cpu/train/a.npz", "layout/xla/default/test/b.npz", "layout/cpu/random/valid/c.npz")
    touch(
        tmp_path, "tile/empty/train/readme.txt", "tile/odd/other/a.npz", "layout/loose/train/a.npz", "x/y/train/a.npz"
    )
    assert [subset.name for subset in available(tmp_path)] == ["layout:cpu:random", "layout:xla:default", "tile:cpu"]


def test_a_short_name_prefers_the_official_collection(tmp_path: Path) -> None:
    touch(tmp_path, "tile/cpu/train/a.npz", "layout/cpu/random/train/a.npz")
    assert resolve("tile", tmp_path) == Subset("tile:cpu", "tile means tile:cpu here")
    assert resolve("layout", tmp_path).name == "layout:cpu:random"
    touch(tmp_path, "tile/xla/valid/a.npz", "layout/nlp/random/train/a.npz")
    assert resolve("tile", tmp_path) == Subset("tile:xla", "tile means tile:xla here")
    assert resolve("layout", tmp_path).name == "layout:nlp:random"
    assert resolve("tile:cpu", tmp_path) == Subset("tile:cpu", None)


def test_a_kind_that_could_be_several_collections_lists_them(tmp_path: Path) -> None:
    touch(tmp_path, "layout/nlp/random/train/a.npz", "layout/xla/default/train/a.npz", "layout/cpu/random/train/a.npz")
    with pytest.raises(UsageError, match="layout: could be layout:xla:default, layout:nlp:random; give one of these"):
        resolve("layout", tmp_path)


def test_the_corrupted_graphs_are_known_by_collection() -> None:
    assert known_bad(Subset("layout:xla:default"), "unet_3d.4x4.bf16")
    assert known_bad(Subset("layout:xla:random"), "unet3d")
    assert not known_bad(Subset("layout:xla:random"), "mlperf_bert_batch_24_2x2")
    assert not known_bad(Subset("layout:cpu:random"), "unet_nhwc")


@pytest.mark.parametrize("name", ["tile:xla", "tiles", "tile:", "../tile:cpu", "layout", ""])
def test_a_name_that_matches_nothing_lists_available_collections(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "tile/cpu/train/a.npz", "tile/gpu/train/a.npz")
    with pytest.raises(
        UsageError, match=r"no such collection below .*; there is tile:cpu, tile:gpu; give one of these, or another"
    ):
        resolve(name, tmp_path)


def test_an_empty_data_root_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere/npz holds no collection at all; name another folder with --data"):
        resolve("tile", tmp_path / "nowhere")


def test_graph_files_are_sorted_without_partial_files(tmp_path: Path) -> None:
    touch(tmp_path, *(f"tile/xla/train/{name}" for name in ("b.npz", "a.npz", ".c.npz", "d.npz.part", "a[1].npz")))
    subset = Subset("tile:xla")
    assert [path.name for path in graph_files(subset, tmp_path, "train")] == ["a.npz", "a[1].npz", "b.npz"]
    assert splits_present(subset, tmp_path) == ("train",)


def test_a_split_without_graphs_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "tile/xla/train/a.npz", "tile/xla/valid/readme.txt")
    subset = Subset("tile:xla")
    with pytest.raises(DataError, match=r"tile/xla/valid: holds no \.npz file; tile:xla needs its valid graphs there"):
        graph_files(subset, tmp_path, "valid")
    with pytest.raises(DataError, match=r"tile/xla/test: no such folder"):
        graph_files(subset, tmp_path, "test")
    with pytest.raises(UsageError, match="split 'dev': expected one of train, valid, test"):
        graph_files(subset, tmp_path, "dev")
