from __future__ import annotations

import io
import json
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gbr import __version__, done, evaluate, submit, train
from gbr import needs as _needs
from gbr import reproduce as command
from gbr.data.collection import Subset
from gbr.downloads.catalogue import COLLECTIONS, Piece
from gbr.downloads.retrieve import Place
from gbr.errors import DownloadError, GbrError
from gbr.evaluation import published as _claims
from tests.collection import write_collection
from tests.made import collection
from tests.mirror import Mirror, serving, tar

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Five tiny collections as a server has them: archives, and the lists of the official evaluation."""
    root = tmp_path_factory.mktemp("published")
    write_collection(root, {"train": 2, "valid": 1, "test": 1}, "tile:xla", n_configs=12)
    for name in COLLECTIONS[1:]:
        collection(root, name, train=2, valid=2, test=1)
    files = {}
    for name in COLLECTIONS:
        for split in ("train", "valid", "test"):
            piece = Piece(name, split)
            members = {
                path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(piece.folder(root).iterdir())
            }
            files[piece.archive] = tar(members)
    for source, search, count in (
        ("xla", "default", 7),
        ("xla", "random", 7),
        ("nlp", "default", 20),
        ("nlp", "random", 20),
    ):
        lists = {"valid_0": [0, 1, 2, 3, 3], "valid_1": [5, 0, 1]} | {f"g{n}": [0] for n in range(count - 2)}
        files[f"eval_indices/{source}_{search}.json"] = json.dumps(lists).encode()
    return files


@pytest.fixture
def mirror(published: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setattr(
        "gbr.models.params.default_capacity",
        lambda n_groups, n_rows: {
            "n_estimators": 3,
            "num_leaves": 4,
            "learning_rate": 0.3,
            "min_child_samples": 2,
        },
    )
    with serving(published) as mirror:
        yield mirror


def line(root: Path, mirror: Mirror, *more: str) -> list[str]:
    where = ["--data", root / "data", "--store", root / "store", "--out", root / "out", "--base-url", mirror.url]
    return [*map(str, where), "--jobs", "1", *more]


def fetched(mirror: Mirror) -> list[str]:
    return sorted({path[1:] for method, path, _ in mirror.asked if method == "GET"})


def test_from_nothing_to_the_table_over_an_interrupt(
    mirror: Mirror,
    published: dict[str, bytes],
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    trained: list[str] = []
    training = train.train

    def stopping(subset: Subset, *arguments: Any, **settings: Any) -> dict[str, Any]:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(subset.name)
        return training(subset, *arguments, **settings)

    monkeypatch.setattr(train, "train", stopping)
    assert command.main(line(tmp_path, mirror, "--yes")) == 130
    told = capsys.readouterr()
    assert "run the same command again to resume" in told.err
    size = sum(len(published[Piece("tile:xla", split).archive]) for split in ("train", "valid"))
    assert f"tile:xla: {size / 1000:.1f} kB to fetch" in told.err
    assert "roughly" in told.err
    assert json.loads((out / "results.json").read_text())["collections"].keys() == set(COLLECTIONS[:2])
    assert "npz_layout_xla_random_valid.tar" in fetched(mirror)
    assert "npz_layout_nlp_default_train.tar" not in fetched(mirror)

    mirror.asked.clear()

    def counting(subset: Subset, *arguments: Any, **settings: Any) -> dict[str, Any]:
        trained.append(subset.name)
        return training(subset, *arguments, **settings)

    monkeypatch.setattr(train, "train", counting)
    assert command.main(line(tmp_path, mirror, "--yes", "--json")) == 0
    assert trained == list(COLLECTIONS)
    assert fetched(mirror) == [
        f"npz_layout_nlp_{search}_{split}.tar" for search in ("default", "random") for split in ("train", "valid")
    ]
    results = json.loads(capsys.readouterr().out)
    assert results == json.loads((out / "results.json").read_text())
    for name, found in results["collections"].items():
        run = out / name.replace(":", "-")
        again = evaluate.evaluate(
            run, Subset(name), "valid", tmp_path / "data", tmp_path / "store", jobs=1, protocol="official"
        )
        assert found["valid"] == again["valid"]
        assert found["valid"]["n_graphs"] == (1 if name == "tile:xla" else 2)
        assert found["seconds"].keys() == {"build", "train", "evaluate"}
        assert found["model"] == str(run)
        every, listed = results["rows"][:2]
        assert every[name] == found["valid"]["score"]
        assert listed[name] == found["valid"]["official"]["score"]
    page = (out / "results.md").read_text()
    assert f"| gbr, all configurations | {results['rows'][0]['tile:xla']:.3f} |" in page
    assert "| 6th place: graph networks | 0.975 | 0.455 | 0.671 | 0.539 | 0.927 | 0.694 | 0.706 |" in page
    assert page.count("\n| layout:") == 4

    # Nothing is left to do: no question, no request, no training; and the same figures.
    mirror.asked.clear()
    assert command.main(line(tmp_path, mirror)) == 0
    told = capsys.readouterr()
    assert told.out == page
    assert mirror.asked == []
    assert len(trained) == 5

    # The test graphs alone are fetched for a submission.
    assert command.main(line(tmp_path, mirror, "--subset", "tile", "layout:nlp", "--submission", "--yes")) == 0
    assert len(trained) == 5
    assert fetched(mirror) == [
        "npz_layout_nlp_default_test.tar",
        "npz_layout_nlp_random_test.tar",
        "npz_tile_xla_test.tar",
    ]
    rows = (out / "submission.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [
        "tile:xla:matmul_3",
        "layout:nlp:default:test_0",
        "layout:nlp:random:test_0",
    ]
    assert submit.main(["--check", str(out / "submission.csv"), "--data", str(tmp_path / "data")]) == 0

    # A model of another version is trained again; that is asked about.
    manifest = out / "tile-xla/manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"gbr": "{__version__}"', '"gbr": "0.0.0"'))
    assert command.main(line(tmp_path, mirror, "--subset", "tile")) == 2
    assert "nobody is there to ask" in capsys.readouterr().err
    assert command.main(line(tmp_path, mirror, "--subset", "tile", "--yes")) == 0
    assert trained[5:] == ["tile:xla"]
    # The table keeps what other calls found.
    assert (out / "results.md").read_text().count("\n| layout:") == 4
    assert done.State(out).known().keys() == set(COLLECTIONS)
    (out / "state.json").write_text((out / "state.json").read_text().replace(f'"gbr": "{__version__}"', '"gbr": "0"'))
    assert done.State(out).known() == {}


def test_archives_that_were_fetched_by_other_means(
    published: dict[str, bytes], mirror: Mirror, tmp_path: Path, capsys: Capture
) -> None:
    for name, body in published.items():
        if "random" in name and "xla" in name:
            (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "here" / name).write_bytes(body)
    where = ["--data", tmp_path / "data", "--store", tmp_path / "store", "--out", tmp_path / "out", "--jobs", 1]
    line = [*map(str, where), "--from", str(tmp_path / "here"), "--subset", "layout:xla:random", "--yes"]
    assert command.main(line) == 1
    assert "has no xla_default.json" in capsys.readouterr().err
    for name in ("xla_default", "nlp_default", "nlp_random"):
        body = published[f"eval_indices/{name}.json"]
        (tmp_path / f"here/eval_indices/{name}.json").write_bytes(body)
    assert command.main(line) == 0
    assert "| layout:xla:random | 2 |" in capsys.readouterr().out


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_begins_without_a_yes(
    mirror: Mirror, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert command.main(line(tmp_path, mirror, "--subset", "tile")) == 2
    assert "this takes long, and nobody is there to ask; say --yes" in capsys.readouterr().err
    for answer in ("n\n", "\n", ""):
        monkeypatch.setattr("sys.stdin", _Terminal(answer))
        assert command.main(line(tmp_path, mirror, "--subset", "tile")) == 1
        told = capsys.readouterr()
        assert "begin? [y/N]" in told.err
        assert told.out == ""
    assert fetched(mirror) == []
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("sys.stdin", _Terminal("y\n"))
    assert command.main(line(tmp_path, mirror, "--subset", "tile")) == 0


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(
    mirror: Mirror, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage(10**12, 10**12 - 10**9, 10**9))
    assert command.main(line(tmp_path, mirror, "--subset", "layout:nlp", "--yes")) == 1
    assert "the features, about, needs" in capsys.readouterr().err
    assert fetched(mirror) == []


def test_what_is_needed_follows_from_what_is_there(mirror: Mirror, tmp_path: Path) -> None:
    place = Place(tmp_path, mirror.url)
    pieces = [Piece("layout:nlp:random", split) for split in ("train", "valid")]

    def needs(*, cores: int = 1, built: tuple[str, ...] = (), trained: bool = False, memory: int = 1 << 40) -> Any:
        return _needs.needs_of("layout:nlp:random", pieces, place, 1364, cores, memory, built, trained=trained)

    one = needs()
    sizes = [len(mirror.files[piece.archive]) for piece in pieces]
    assert (one.fetch, one.largest) == (sum(sizes), max(sizes))
    two = needs(cores=2)
    assert (two.build, two.train) == (one.build / 2, one.train / 2)
    assert needs(built=("train", "valid")).build == needs(built=("train", "valid")).store == 0
    assert 0 < needs(built=("train",)).store < one.store / 5
    assert needs(trained=True).train == 0
    assert needs(memory=1 << 30).train < one.train
    mirror.surplus = None
    assert needs().fetch is None
    del mirror.files["npz_layout_nlp_random_train.tar"]
    with pytest.raises(DownloadError, match=r"npz_layout_nlp_random_train\.tar"):
        needs()


@pytest.mark.parametrize(
    ("arguments", "status", "match"),
    [
        (["--subset", "tile:cpu"], 2, "tile:cpu: no collection of TpuGraphs"),
        (["--subset", "eval-indices"], 2, "--subset: expected collections"),
        (["--base-url", "ftp://x", "--yes"], 2, "--base-url ftp://x: want an address"),
        (["--from", "nowhere", "--yes"], 2, "--from nowhere: no such folder"),
        (["--memory", "0"], 2, "expected a positive number"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], status: int, match: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main(arguments) == status
    (told,) = capsys.readouterr().err.splitlines()
    assert match in told


def test_a_torn_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(GbrError, match=r"state\.json: cannot be read .*remove it: models and features stay"):
        done.State(tmp_path)


def test_published_scores_are_of_the_collections() -> None:
    for row in _claims.PUBLISHED:
        assert row.keys() <= {"system", "public", "private", *COLLECTIONS}
        whole = [row[name] for name in COLLECTIONS if name in row]
        if len(whole) == 5:
            assert abs(sum(whole) / 5 - row["public"]) < 0.08
