"""Command: download TpuGraphs, Google's graphs measured on TPUs.

Archives: https://github.com/google-research-datasets/tpu_graphs#dataset, which gives their names but not their sizes.
An interrupted transfer is resumed where it stopped, and a file gets its name only when it is complete.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
import requests

from gbr import cli
from gbr.data.archive import unpack
from gbr.data.collection import OFFICIAL, OFFICIAL_TEST, SPLITS, Subset
from gbr.data.files import (
    Report,
    exclusive_lock,
    parse_json,
    remove_partial_files,
    require_space,
    size_text,
    write_json,
)
from gbr.errors import ArchiveError, DataError, DownloadError, UsageError

BASE_URL: Final = "http://download.tensorflow.org/data/tpu_graphs/v0/"
INDICES_URL: Final = "https://raw.githubusercontent.com/google-research-datasets/tpu_graphs/main/tpu_graphs/baselines/layout/eval_indices/"
COLLECTIONS: Final = tuple(name for names in OFFICIAL.values() for name in names)
#: The name on the command line of the configurations that the official evaluation scores.
INDICES: Final = "eval-indices"
#: Their files, and the validation graphs each lists.
INDEX_FILES: Final = {
    "layout:xla:default": ("xla_default.json", 7),
    "layout:xla:random": ("xla_random.json", 7),
    "layout:nlp:default": ("nlp_default.json", 20),
    "layout:nlp:random": ("nlp_random.json", 20),
}
#: Attempts in a row that bring nothing new before a transfer is given up.
TRIES: Final = 7

#: Graphs in train and valid, by Phothilimthana et al., "TpuGraphs", NeurIPS 2023.
_GRAPHS: Final = {
    "tile:xla": (5709, 676),
    "layout:xla:default": (61, 7),
    "layout:xla:random": (69, 7),
    "layout:nlp:default": (198, 20),
    "layout:nlp:random": (207, 20),
}
_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz", ".zip")
#: Archives that hold all collections: Google's, and that of the Kaggle competition.
_ALL_IN_ONE: Final = ("npz_all", "predict-ai-model-runtime")
#: Beside the graph files: what was unpacked, which shows without the archive that nothing is missing.
_RECEIPT: Final = ".unpacked.json"
_INDICES_FOLDER: Final = "eval_indices"
#: Bytes that a dropped connection loses at most.
_CHUNK: Final = 1 << 13
_TIMEOUT: Final = 60.0
_MAX_PAUSE: Final = 30.0
_TEMPORARY: Final = frozenset({408, 425, 429})
_PARALLEL_REQUESTS: Final = 8
_NO_SPACE: Final = "make room or name another folder with --data, then run the same command to resume"

_EPILOG: Final = f"""\
\b
NAME is a collection ({", ".join(COLLECTIONS[:2])} ...), the beginning of
some names (layout, layout:nlp), all, or {INDICES}: the 1000 configurations
of each validation graph of layout that the official evaluation scores.
All splits are downloaded unless --split is given.

\b
Archives are stored in ROOT/archives, checked, unpacked into ROOT/npz and
removed.  After an interruption, run the same command again to resume.

\b
    python -m gbr.download tile:xla eval-indices
    python -m gbr.download all --from predict-ai-model-runtime.zip"""


@dataclass(frozen=True, order=True)
class Archive:
    """One of Google's archives: a split of a collection.

    Parameters
    ----------
    subset, split : str
    """

    subset: str
    split: str

    @property
    def name(self) -> str:
        """File name on Google's server."""
        return f"npz_{self.subset.replace(':', '_')}_{self.split}.tar"

    @property
    def n_graphs(self) -> int:
        """Number of published graphs."""
        return (*_GRAPHS[self.subset], OFFICIAL_TEST[self.subset])[SPLITS.index(self.split)]

    def folder(self, data_root: Path) -> Path:
        """Folder of its graphs."""
        return data_root.joinpath("npz", *self.subset.split(":"), self.split)

    def sizes(self, data_root: Path) -> dict[str, int]:
        """Names and bytes of the graph files that exist."""
        # Names that begin with a dot are files being written.
        files = (path for path in self.folder(data_root).glob("*.npz") if not path.name.startswith("."))
        return {path.name: path.stat().st_size for path in files}

    def complete(self, data_root: Path) -> bool:
        """Whether all graphs exist: all that were unpacked, or else as many as were published."""
        sizes = self.sizes(data_root)
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
            unpacked = parse_json((self.folder(data_root) / _RECEIPT).read_bytes())["files"]
            return all(sizes.get(name) == size for name, size in unpacked.items())
        return len(sizes) >= self.n_graphs


@dataclass(frozen=True)
class Locations:
    """Where data come from and go to.

    Parameters
    ----------
    data_root : Path
    base_url : str, optional
        A mirror with the archives, and the lists of the official evaluation in ``eval_indices/``.  Default: the
        official servers.
    source : Path, optional
        Folder of archives downloaded by other means, or one archive; no network is used then.
    """

    data_root: Path
    base_url: str | None = None
    source: Path | None = None

    def __post_init__(self) -> None:
        if self.base_url and self.source:
            raise UsageError("--base-url and --from exclude each other: --from uses no network")
        if self.base_url and not self.base_url.startswith(("http://", "https://")):
            raise UsageError(f"--base-url {self.base_url}: expected an address that begins with http:// or https://")
        if self.source and not self.source.exists():
            raise UsageError(f"--from {self.source}: no such folder or archive")

    @property
    def archives(self) -> Path:
        """Folder of archives while they are downloaded and unpacked."""
        return self.data_root / "archives"

    @property
    def indices(self) -> Path:
        """Folder of the lists of the official evaluation."""
        return self.data_root / _INDICES_FOLDER

    def url(self, archive: Archive) -> str:
        """Address of an archive."""
        return f"{(self.base_url or BASE_URL).rstrip('/')}/{archive.name}"

    def index_url(self, name: str) -> str:
        """Address of a list of the official evaluation."""
        return f"{self.base_url.rstrip('/')}/{_INDICES_FOLDER}/{name}" if self.base_url else INDICES_URL + name

    def downloaded(self, archive: Archive) -> int:
        """Bytes of an archive that are downloaded."""
        path = self.archives / archive.name
        return _size(path) or _size(path.with_name(f"{path.name}.part"))

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Lock the folder of archives, and remove it afterwards if it is empty."""
        with exclusive_lock(self.archives, DownloadError, "gbr.download"):
            remove_partial_files(self.archives)
            yield
        with suppress(OSError):  # archives were kept
            self.archives.rmdir()


def select(names: Iterable[str], splits: Sequence[str] | None) -> tuple[list[Archive], bool]:
    """Archives by the names of a command line, and whether the lists of the official evaluation are among them.

    Parameters
    ----------
    names : iterable of str
        Collections, beginnings of their names (``layout:xla``, ``tile``), ``all`` or ``eval-indices``.
    splits : sequence of str or None
        All by default.

    Raises
    ------
    UsageError
        For an unknown name.
    """
    chosen: set[str] = set()
    for name in names:
        matches = [one for one in COLLECTIONS if name in ("all", one) or one.startswith(f"{name}:")]
        if not matches and name != INDICES:
            raise UsageError(
                f"{name}: not a collection of TpuGraphs; expected one of {', '.join((*COLLECTIONS, INDICES))}, all"
            )
        chosen.update(matches)
    archives = [Archive(one, split) for one in COLLECTIONS if one in chosen for split in splits or SPLITS]
    return archives, INDICES in set(names)


def find_archives(source: Path, archives: Collection[Archive]) -> dict[Path, list[Archive]]:
    """Archive files that were downloaded by other means, each with what is to be taken out of it.

    Parameters
    ----------
    source : Path
        A folder with Google's archives (also compressed) or Kaggle's, or one archive that has everything.
    archives : collection of Archive

    Raises
    ------
    DownloadError
        When there is none for one of ``archives``.
    """
    if source.is_file():
        return {source: list(archives)}
    found: dict[Path, list[Archive]] = {}
    for archive in archives:
        stems = (archive.name.removesuffix(".tar"), *_ALL_IN_ONE)
        candidates = (source / f"{stem}{suffix}" for stem in stems for suffix in _SUFFIXES)
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            raise DownloadError(
                f"{source}: no archive of {archive.subset} {archive.split}; expected {archive.name} (or .tar.gz), "
                f"{_ALL_IN_ONE[0]}.tar or {_ALL_IN_ONE[1]}.zip in it, or name the archive itself"
            )
        found.setdefault(path, []).append(archive)
    return found


def fetch(
    url: str,
    path: Path,
    on_progress: Report = lambda done, total: None,
    note: Callable[[str], None] = lambda text: None,
) -> None:
    """Download a file, resuming an interrupted download.

    Until it is complete, the file is ``<name>.part``, and ``<name>.part.json`` says which version of which file it is.
    A download is resumed only if the server confirms that its file is unchanged (``If-Range``, RFC 9110 section
    13.1.5), and started over otherwise.

    Parameters
    ----------
    url : str
        ``http`` or ``https``.
    path : Path
        Created once the file has the size, and the MD5 if any, that the server gives.
    on_progress : callable
        Called with the bytes downloaded and the size, or None where it is unknown.
    note : callable
        Called with a message about each interruption that was survived.

    Raises
    ------
    DownloadError
        When the server refuses, :data:`TRIES` attempts in a row bring nothing new, the MD5 differs, or the disk is
        full.  Except for a wrong MD5, what was downloaded is kept.
    """
    part = path.with_name(f"{path.name}.part")
    state_path = path.with_name(f"{path.name}.part.json")
    failures, furthest = 0, _size(part)
    while True:
        try:
            md5 = _receive(url, part, state_path, on_progress, note)
            break
        except requests.RequestException as fault:
            size = _size(part)
            failures, furthest = (0, size) if size > furthest else (failures + 1, furthest)
            if failures == TRIES:
                kept = f"its first {size} bytes are kept in {part}; " if size else ""
                raise DownloadError(
                    f"{url}: {_reason(fault)}; gave up after {TRIES} attempts without progress; {kept}run the same "
                    "command to resume"
                ) from fault
            retry_after = "" if fault.response is None else fault.response.headers.get("Retry-After", "")
            pause = min(float(retry_after) if retry_after.isdecimal() else 2.0 ** max(failures - 1, 0), _MAX_PAUSE)
            note(f"{path.name}: {_reason(fault)} at byte {size}; trying again in {pause:.0f} s")
            time.sleep(pause)
        except OSError as fault:
            raise DownloadError(f"{part}: cannot be written ({fault.strerror or fault}); {_NO_SPACE}") from fault
    if md5:
        with part.open("rb") as stream:
            digest = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).digest()
        if base64.b64encode(digest).decode() != md5:
            _remove(part, state_path)
            raise DownloadError(f"{url}: MD5 differs from the server's; the file is removed, run the command again")
    os.replace(part, path)
    _remove(state_path)


def _receive(url: str, part: Path, state_path: Path, on_progress: Report, note: Callable[[str], None]) -> str | None:
    """Make one request and append its body to the partial file; returns the MD5 that the server gives, if any."""
    size, known = _size(part), None
    with suppress(OSError, ValueError, TypeError, LookupError):
        state = parse_json(state_path.read_bytes())
        if state["url"] == url and state["validator"] and 0 < size <= state["size"]:
            known = state
    if known and size == known["size"]:
        return known["md5"]  # type: ignore[no-any-return]
    with _request("GET", url, {"Range": f"bytes={size}-", "If-Range": known["validator"]} if known else {}) as response:
        status, state = response.status_code, {"url": url, **_description(response)}
        if status in _TEMPORARY or status >= requests.codes.server_error:
            response.raise_for_status()
        if status == requests.codes.ok:
            if known:
                note(f"{part.name}: the server's file has changed or it cannot resume; starting over")
            size = 0
            part.parent.mkdir(parents=True, exist_ok=True)
            part.unlink(missing_ok=True)
            # Written before the first byte, so that no byte is ever taken for one of another file.
            write_json(state_path, state, DownloadError)
        elif not known:
            raise DownloadError(_refusal(url, response))
        elif response.headers.get("Content-Range") == f"bytes {size}-{known['size'] - 1}/{known['size']}":
            state = known
        else:
            _remove(part, state_path)
            raise requests.ConnectionError(f"unexpected answer to a range request (status {status})")
        total = state["size"]
        require_space(part.parent, (total or 0) - size, part.name, DownloadError)
        on_progress(size, total)
        with part.open("ab") as out:
            for chunk in response.iter_content(_CHUNK):
                out.write(chunk)
                size += len(chunk)
                on_progress(size, total)
    if total not in (None, size):
        raise requests.ConnectionError("the connection ended early")
    return state["md5"]  # type: ignore[no-any-return]


def _request(method: str, url: str, headers: dict[str, str]) -> requests.Response:
    headers = {"User-Agent": "gbr", "Accept-Encoding": "identity"} | headers
    try:
        return requests.request(method, url, headers=headers, timeout=_TIMEOUT, stream=True, allow_redirects=True)
    except (ValueError, requests.TooManyRedirects) as fault:  # the exceptions of requests for addresses are ValueErrors
        raise DownloadError(f"{url}: not the http address of a file ({fault}); name another server") from fault


def _description(response: requests.Response) -> dict[str, Any]:
    """Size, validator (strong entity tag, or else date of the last change) and MD5 of a file, None where not given."""
    size, tag = response.headers.get("Content-Length", ""), response.headers.get("ETag", "")
    md5 = re.search(r"\bmd5=([A-Za-z0-9+/]{22}==)", response.headers.get("x-goog-hash", ""))
    return {
        "size": int(size) if size.isdecimal() else None,
        "validator": tag if tag.startswith('"') else response.headers.get("Last-Modified"),
        "md5": md5[1] if md5 else None,
    }


def _refusal(url: str, response: requests.Response) -> str:
    return (
        f"{url}: the server says {response.status_code} {response.reason}; name another server with --base-url, or "
        "download the file with your browser and name its folder with --from"
    )


def _reason(fault: requests.RequestException) -> str:
    if fault.response is not None:
        return f"the server says {fault.response.status_code} {fault.response.reason}"
    if isinstance(fault, requests.Timeout) or "timed out" in str(fault):
        return "the server does not answer"
    if isinstance(fault, requests.exceptions.ChunkedEncodingError):
        return "the connection ended early"
    return str(fault).rpartition(": ")[2].rstrip("'\")")


def remote_sizes(urls: Sequence[str]) -> list[int | None]:
    """Bytes of files on a server, None where it does not tell.

    Raises
    ------
    DownloadError
        When the server cannot be reached or does not have one of them.
    """

    def size(url: str) -> int | None:
        try:
            with _request("HEAD", url, {}) as response:
                if response.status_code in (404, 410):
                    raise DownloadError(_refusal(url, response))
                return _description(response)["size"] if response.ok else None
        except requests.RequestException as fault:
            raise DownloadError(
                f"{url}: no connection ({_reason(fault)}); check your network and proxy, or download the file "
                "elsewhere and name its folder with --from"
            ) from fault

    with ThreadPoolExecutor(_PARALLEL_REQUESTS) as pool:
        return list(pool.map(size, urls))


def get_graphs(archives: Sequence[Archive], locations: Locations, keep: bool = False) -> tuple[int, int]:
    """Download and unpack the graphs of some archives that are missing below the data root.

    Each archive is downloaded, checked, unpacked and removed before the next one.

    Parameters
    ----------
    archives : sequence of Archive
    locations : Locations
    keep : bool
        Leave the archives in ``locations.archives``.

    Returns
    -------
    written, kept : int
        Graph files unpacked, and graph files of the unpacked archives that existed before.

    Raises
    ------
    DownloadError
        When the disk is too small, a server or folder does not have an archive, or one is damaged; complete files are
        kept, and another call resumes.
    """
    missing = []
    for archive in archives:
        if archive.complete(locations.data_root):
            n_graphs = len(archive.sizes(locations.data_root))
            cli.note(f"{archive.subset} {archive.split}: {n_graphs} graphs exist already")
        else:
            missing.append(archive)
    counts = [0, 0]
    if locations.source:
        for path, parts in find_archives(locations.source, missing).items():
            _unpack(path, parts, locations.data_root, counts)
    elif missing:
        with locations.exclusive():
            _require_space_for(missing, locations, keep)
            for archive in missing:
                path = locations.archives / archive.name
                if not path.is_file():
                    with cli.transfer(archive.name) as on_progress:
                        fetch(locations.url(archive), path, on_progress, cli.note)
                try:
                    _unpack(path, [archive], locations.data_root, counts)
                except ArchiveError as fault:
                    _remove(path)
                    raise ArchiveError(f"{fault} (the archive is removed)") from fault
                if not keep:
                    _remove(path)
    return counts[0], counts[1]


def _require_space_for(archives: Sequence[Archive], locations: Locations, keep: bool) -> None:
    """Check free space for downloading and unpacking; a tar archive is as large as its files."""
    sizes = [size or 0 for size in remote_sizes([locations.url(archive) for archive in archives])]
    needed = sum(sizes) + (sum(sizes) if keep else max(sizes)) - sum(map(locations.downloaded, archives))
    require_space(locations.data_root, needed, "downloading and unpacking", DownloadError)


def _unpack(path: Path, archives: Sequence[Archive], data_root: Path, counts: list[int]) -> None:
    # Short enough for a line of 80 columns beside the bar.
    name = path.name.removeprefix("npz_").removesuffix(".tar")
    with cli.transfer(f"unpacking {name}") as on_progress:
        found = unpack(path, [(one.subset, one.split) for one in archives], data_root, on_progress)
    counts[0] += found.written
    counts[1] += found.kept
    for archive in archives:
        files = found.files[archive.subset, archive.split]
        if len(files) != archive.n_graphs:
            cli.note(
                f"{path.name}: {len(files)} graphs of {archive.subset} {archive.split}; {archive.n_graphs} were "
                "published"
            )
        write_json(archive.folder(data_root) / _RECEIPT, {"archive": path.name, "files": files}, DownloadError)


def get_indices(locations: Locations) -> None:
    """Download the four lists of the official evaluation that are missing below the data root.

    Raises
    ------
    DownloadError, DataError
        When one cannot be downloaded or is not such a list.
    """
    for subset, (name, n_graphs) in INDEX_FILES.items():
        path, new = locations.indices / name, locations.archives / name
        with suppress(DataError, DownloadError):
            _check_indices(subset, path, n_graphs)
            continue
        with locations.exclusive():
            try:
                if locations.source:
                    folders = (locations.source, locations.source / _INDICES_FOLDER)
                    found = next((folder / name for folder in folders if (folder / name).is_file()), None)
                    if found is None:
                        raise DownloadError(
                            f"{locations.source}: {name} not found; name a folder that has it, or omit --from"
                        )
                    shutil.copyfile(found, new)
                else:
                    fetch(locations.index_url(name), new, note=cli.note)
                _check_indices(subset, new, n_graphs)
                path.parent.mkdir(parents=True, exist_ok=True)
                os.replace(new, path)
            except OSError as fault:
                raise DownloadError(f"{path}: cannot be written ({fault.strerror or fault}); {_NO_SPACE}") from fault
            finally:
                _remove(new)


def _check_indices(subset: str, path: Path, n_graphs: int) -> None:
    from gbr.evaluation.protocol import SPLIT, indices_of

    found = indices_of(Subset(subset), SPLIT, path.parent) or {}
    if len(found) != n_graphs:
        raise DownloadError(f"{path}: expected {n_graphs} graphs, got {len(found)}; name another server or folder")


def _size(path: Path) -> int:
    """Bytes of a file, 0 if it does not exist."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _remove(*paths: Path) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _list(archives: Sequence[Archive], indices: bool, locations: Locations, as_json: bool) -> None:
    """Print what is published, its size, and what of it exists below the data root."""
    entries: list[dict[str, Any]] = [
        {
            "name": one.subset,
            "part": one.split,
            "graphs": one.n_graphs,
            "here": len(one.sizes(locations.data_root)),
            "complete": one.complete(locations.data_root),
            "fetched": locations.downloaded(one),
            "url": locations.url(one),
        }
        for one in archives
    ]
    for name, n_graphs in INDEX_FILES.values() if indices else ():
        exists = (locations.indices / name).is_file()
        entry = {"name": INDICES, "part": name, "graphs": n_graphs, "here": n_graphs if exists else 0}
        entries.append(entry | {"complete": exists, "fetched": 0, "url": locations.index_url(name)})
    try:
        sizes = [None] * len(entries) if locations.source else remote_sizes([entry["url"] for entry in entries])
    except DownloadError as fault:
        cli.note(f"sizes are unknown: {fault}")
        sizes = [None] * len(entries)
    entries = [entry | {"bytes": size} for entry, size in zip(entries, sizes, strict=True)]
    if as_json:
        cli.emit_json(entries)
        return
    rows = [
        [one["name"], one["part"], one["bytes"] and size_text(one["bytes"]), one["graphs"], _state(one)]
        for one in entries
    ]
    title = f"TpuGraphs in {locations.source}" if locations.source else f"TpuGraphs at {locations.base_url or BASE_URL}"
    cli.table(title, ["name", "part", "size", "graphs", "here"], rows)
    if total := sum(one["bytes"] or 0 for one in entries):
        print(f"{size_text(total)} in all; unpacking needs as much again")


def _state(one: dict[str, Any]) -> str | None:
    if one["complete"]:
        return f"all {one['here']}"
    if one["fetched"]:
        return f"{size_text(one['fetched'])} downloaded"
    return f"{one['here']} graphs" if one["here"] else None


def source_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add ``--base-url`` and ``--from``, whose value is ``source``."""
    base_url = click.option("--base-url", metavar="URL", help=f"A mirror.  [default: {BASE_URL}]")
    source = click.option(
        "--from",
        "source",
        type=cli.PATH,
        metavar="DIR",
        help="Use archives that are already in this folder, or this one archive; no network.",
    )
    return base_url(source(function))


@cli.command("gbr.download", epilog=_EPILOG)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@cli.data_option
@cli.splits_option
@click.option("--list", "list_only", is_flag=True, help="List what is available, its size, and what is present.")
@source_options
@click.option(
    "--repack",
    is_flag=True,
    help="Also copy every layout graph to <stem>.gbr, which builds read without decompression.",
)
@click.option("--keep", is_flag=True, help="Keep the archives after unpacking.")
@cli.json_option
def main(
    *,
    names: Sequence[str],
    data: Path,
    splits: tuple[str, ...] | None,
    list_only: bool,
    base_url: str | None,
    source: Path | None,
    repack: bool,
    keep: bool,
    as_json: bool,
) -> None:
    """Download TpuGraphs, Google's graphs measured on TPUs."""
    if not names and not list_only:
        raise UsageError(f"expected a NAME: {', '.join((*COLLECTIONS, INDICES))} or all; --list shows sizes")
    archives, indices = select(names or ("all", INDICES), splits)
    locations = Locations(data, base_url, source)
    if list_only:
        _list(archives, indices, locations, as_json)
        return
    layouts = dict.fromkeys(one.subset for one in archives if one.subset.startswith("layout:"))
    if repack and not layouts:
        raise UsageError("--repack: only layout graphs are repacked; omit it or name a layout collection")
    if indices:
        get_indices(locations)
    written, kept = get_graphs(archives, locations, keep)
    for subset in layouts if repack else ():
        _repack(subset, [one.split for one in archives if one.subset == subset], data)
    if written:
        cli.note("TpuGraphs is by Phothilimthana et al. (NeurIPS 2023), CC BY 4.0; cite it where you show results")
    counts: dict[str, dict[str, int]] = {}
    for archive in archives:
        counts.setdefault(archive.subset, {})[archive.split] = len(archive.sizes(data))
    root = "" if data == Path("data") else f" --data {data}"
    steps = {subset: f"python -m gbr.train --subset {subset}{root}" for subset in counts}
    if indices:
        steps[INDICES] = f"python -m gbr.evaluate --model DIR --subset layout:... --protocol official{root}"
    if as_json:
        cli.emit_json({"graphs": counts, "written": written, "kept": kept, "next": steps})
        return
    for subset, found in counts.items():
        print(f"{subset}: {', '.join(f'{count} {split}' for split, count in found.items())} graphs")
    if indices:
        print(f"{INDICES}: {', '.join(name for name, _ in INDEX_FILES.values())}")
    for step in steps.values():
        print(f"next: {step}")


def _repack(subset: str, splits: Sequence[str], data_root: Path) -> None:
    from gbr.data.pool import cores
    from gbr.data.repack import repack_all

    repack_all(Subset(subset), data_root, splits, cores(), partial(cli.progress, label=f"copies of {subset}"))


if __name__ == "__main__":
    sys.exit(main())
