"""Command: download TpuGraphs, Google's graphs measured on TPUs.

Archives: https://github.com/google-research-datasets/tpu_graphs#dataset, which gives their names but not their sizes.
An interrupted transfer is resumed where it stopped, and a file gets its name only when it is complete.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import requests

from gbr import cli
from gbr.data.archive import unpack
from gbr.data.collection import OFFICIAL, OFFICIAL_TEST, SPLITS, Subset
from gbr.data.files import Report, exclusive_lock, parse_json, require_space, size_text, write_json
from gbr.errors import ArchiveError, DataError, DownloadError, UsageError

BASE_URL: Final = "http://download.tensorflow.org/data/tpu_graphs/v0/"
INDICES_URL: Final = "https://raw.githubusercontent.com/google-research-datasets/tpu_graphs/main/tpu_graphs/baselines/layout/eval_indices/"
COLLECTIONS: Final = tuple(name for names in OFFICIAL.values() for name in names)
#: The name on the command line of the configurations that the official evaluation scores.
INDICES: Final = "eval-indices"
#: Their files, by collection.
INDEX_FILES: Final = {name: f"{'_'.join(name.split(':')[1:])}.json" for name in OFFICIAL["layout"]}
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
#: Beside the graph files: what was unpacked, which shows without the archive that nothing is missing.
_RECEIPT: Final = ".unpacked.json"
_INDICES_FOLDER: Final = "eval_indices"
#: Bytes that a dropped connection loses at most.
_CHUNK: Final = 1 << 13
_TIMEOUT: Final = 60.0
_MAX_PAUSE: Final = 30.0
_BUSY: Final = (requests.codes.request_timeout, requests.codes.too_many_requests)

_EPILOG: Final = f"""\
NAME is a collection ({", ".join(COLLECTIONS[:2])} ...), the beginning of some names (layout, layout:nlp), all, or
{INDICES}: the configurations of the layout graphs that the official evaluation scores.  An interrupted download is
resumed by the same command.

Example: python -m gbr.download all --from predict-ai-model-runtime.zip"""


@dataclass(frozen=True)
class Archive:
    """One of Google's archives: a split of a collection."""

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
        return Subset(self.subset).folder(data_root) / self.split

    def sizes(self, data_root: Path) -> dict[str, int]:
        """Names and bytes of the graph files that exist."""
        # Names that begin with a dot are files being written.
        return {path.name: path.stat().st_size for path in self.folder(data_root).glob("[!.]*.npz")}

    def complete(self, data_root: Path) -> bool:
        """Whether all graphs exist: all that were unpacked, or else as many as were published."""
        sizes = self.sizes(data_root)
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
            unpacked = parse_json((self.folder(data_root) / _RECEIPT).read_bytes())["files"]
            return all(sizes.get(name) == size for name, size in unpacked.items())
        return len(sizes) >= self.n_graphs


@dataclass(frozen=True)
class Locations:
    """Where data come from and go to."""

    data_root: Path
    #: The official server, or a mirror that has the lists of the official evaluation too, in ``eval_indices/``.
    base_url: str = BASE_URL
    #: Folder of archives downloaded by other means, or one archive; no network is used then.
    source: Path | None = None

    @property
    def archives(self) -> Path:
        """Folder of archives while they are downloaded and unpacked."""
        return self.data_root / "archives"

    @property
    def indices(self) -> Path:
        """Folder of the lists of the official evaluation."""
        return self.data_root / _INDICES_FOLDER

    def url(self, name: str) -> str:
        """Address of a file."""
        return f"{self.base_url.rstrip('/')}/{name}"


def select(names: Iterable[str], splits: Sequence[str] | None = None) -> list[Archive]:
    """Archives of collections, given by their names, beginnings of names (``layout:xla``, ``tile``) or ``all``."""
    chosen: set[str] = set()
    for name in names:
        matches = [one for one in COLLECTIONS if name in ("all", one) or one.startswith(f"{name}:")]
        if not matches:
            raise UsageError(f"{name}: not a collection of TpuGraphs; expected one of {', '.join(COLLECTIONS)}, all")
        chosen.update(matches)
    return [Archive(one, split) for one in COLLECTIONS if one in chosen for split in splits or SPLITS]


def fetch(url: str, path: Path, on_progress: Report = lambda done, total: None) -> None:
    """Download a file, resuming an interrupted download.

    Until it is complete, the file is ``<name>.part``, and ``<name>.part.json`` says which version of which file it is.
    A download is resumed only if the server confirms that its file is unchanged (``If-Range``, RFC 9110 section
    13.1.5), and started over otherwise.  ``on_progress`` gets the bytes downloaded and the size, or None if unknown.

    Raises
    ------
    DownloadError
        When the server refuses, :data:`TRIES` attempts in a row bring nothing new, or the disk is full.  What was
        downloaded is kept.
    """
    part, state_path = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")
    failures, furthest = 0, _size(part)
    while True:
        try:
            _receive(url, part, state_path, on_progress)
            break
        except requests.RequestException as fault:
            size = _size(part)
            failures, furthest = (0, size) if size > furthest else (failures + 1, furthest)
            if failures == TRIES:
                raise DownloadError(
                    f"{url}: {_reason(fault)}; gave up after {TRIES} attempts without progress; run the same command "
                    f"to resume at byte {size}"
                ) from fault
            pause = min(2.0**failures, _MAX_PAUSE)
            cli.note(f"{path.name}: {_reason(fault)} at byte {size}; trying again in {pause:.0f} s")
            time.sleep(pause)
        except OSError as fault:
            raise DownloadError(
                f"{part}: cannot be written ({fault.strerror or fault}); make room or name another folder with "
                "--data, then run the same command to resume"
            ) from fault
    state_path.unlink()
    os.replace(part, path)


def _receive(url: str, part: Path, state_path: Path, on_progress: Report) -> None:
    """Make one request and append its body to the partial file."""
    size, resumed = _size(part), False
    state: dict[str, Any] = {}
    with suppress(OSError, ValueError, TypeError, LookupError):
        state = parse_json(state_path.read_bytes())
        resumed = state["url"] == url and bool(state["validator"]) and 0 < size <= state["size"]
    if resumed and size == state["size"]:
        return
    headers = {"Range": f"bytes={size}-", "If-Range": state["validator"]} if resumed else {}
    with _request("GET", url, headers) as response:
        if response.status_code == requests.codes.ok:
            tag = response.headers.get("ETag", "")
            # A strong entity tag, or else the date of the last change.
            validator = tag if tag.startswith('"') else response.headers.get("Last-Modified")
            size, state = 0, {"url": url, "size": _length(response), "validator": validator}
            part.parent.mkdir(parents=True, exist_ok=True)
            # Written before the first byte, so that no byte is ever taken for one of another file.
            part.unlink(missing_ok=True)
            write_json(state_path, state, DownloadError)
        elif (
            not resumed or response.headers.get("Content-Range") != f"bytes {size}-{state['size'] - 1}/{state['size']}"
        ):
            part.unlink(missing_ok=True)
            raise requests.ConnectionError("unexpected answer to a range request")
        total = state["size"]
        require_space(part.parent, (total or 0) - size, part.name, DownloadError)
        on_progress(size, total)
        with part.open("ab") as out:
            for chunk in response.iter_content(_CHUNK):
                out.write(chunk)
                size += len(chunk)
                on_progress(size, total)
    if total not in (None, size):
        raise requests.exceptions.ChunkedEncodingError


def _request(method: str, url: str, headers: Mapping[str, str]) -> requests.Response:
    """Send a request; a refusal is a DownloadError, a failure that may pass a RequestException."""
    headers = {"User-Agent": "gbr", "Accept-Encoding": "identity", **headers}
    try:
        response = requests.request(method, url, headers=headers, timeout=_TIMEOUT, stream=True, allow_redirects=True)
    except (ValueError, requests.TooManyRedirects) as fault:  # requests raises ValueErrors for invalid addresses
        raise DownloadError(f"{url}: not the http address of a file ({fault}); name another server") from fault
    if response.status_code in _BUSY or response.status_code >= requests.codes.server_error:
        response.raise_for_status()
    if not response.ok and response.status_code != requests.codes.requested_range_not_satisfiable:
        raise DownloadError(
            f"{url}: the server says {response.status_code} {response.reason}; name another server with --base-url, "
            "or download the file with your browser and name its folder with --from"
        )
    return response


def _length(response: requests.Response) -> int | None:
    return int(response.headers["Content-Length"]) if "Content-Length" in response.headers else None


def _reason(fault: requests.RequestException) -> str:
    if fault.response is not None:
        return f"the server says {fault.response.status_code} {fault.response.reason}"
    if isinstance(fault, requests.exceptions.ChunkedEncodingError):
        return "the connection ended early"
    return str(fault).rpartition(": ")[2].strip("'\"()")  # the innermost of its causes


def _size(path: Path) -> int:
    """Bytes of a file, 0 if it does not exist."""
    return path.stat().st_size if path.exists() else 0


def remote_sizes(urls: Iterable[str]) -> list[int]:
    """Bytes of files on a server, 0 where it does not say; a DownloadError when it does not have one of them."""
    sizes = []
    for url in urls:
        try:
            with _request("HEAD", url, {}) as response:
                sizes.append(_length(response) or 0)
        except requests.RequestException as fault:
            raise DownloadError(
                f"{url}: no connection ({_reason(fault)}); check your network, or use --from"
            ) from fault
    return sizes


def get_graphs(archives: Sequence[Archive], locations: Locations, keep: bool = False) -> None:
    """Download and unpack the graphs of some archives that are missing below the data root.

    Each archive is downloaded, checked, unpacked and removed (unless ``keep``) before the next one.  Complete files are
    kept when one of them fails, and another call resumes.
    """
    data_root, source = locations.data_root, locations.source
    missing = [one for one in archives if not one.complete(data_root)]
    if not missing:
        return
    with exclusive_lock(locations.archives, DownloadError, "gbr.download"):
        if source:
            paths = [_local(source, one) for one in missing]
        else:
            paths = [locations.archives / one.name for one in missing]
            sizes = remote_sizes(locations.url(one.name) for one in missing)
            # A tar archive is as large as its files.
            needed = sum(sizes) + (sum(sizes) if keep else max(sizes))
            present = sum(_size(path) for one in missing for path in locations.archives.glob(f"{one.name}*"))
            require_space(data_root, needed - present, "downloading and unpacking", DownloadError)
        for archive, path in zip(missing, paths, strict=True):
            if not path.exists():
                with cli.transfer(archive.name) as on_progress:
                    fetch(locations.url(archive.name), path, on_progress)
            try:
                with cli.transfer("unpacking") as on_progress:
                    files = unpack(path, archive.subset, archive.split, data_root, on_progress)
            except ArchiveError:
                if not source:
                    path.unlink()
                raise
            if len(files) != archive.n_graphs:
                cli.note(f"{path.name}: expected {archive.n_graphs} graphs, as were published, got {len(files)}")
            write_json(archive.folder(data_root) / _RECEIPT, {"archive": path.name, "files": files}, DownloadError)
            if not source and not keep:
                path.unlink()


def _local(source: Path, archive: Archive) -> Path:
    """File of an archive in a folder that has it, also compressed, or one file that has everything."""
    for path in [source / archive.name, source / f"{archive.name}.gz"] if source.is_dir() else [source]:
        if path.is_file():
            return path
    raise DownloadError(f"{source}: {archive.name} (or .tar.gz) not found; name its folder, or npz_all.tar")


def get_indices(locations: Locations) -> None:
    """Download the lists of the official evaluation that are missing below the data root, and check them."""
    from gbr.evaluation.protocol import SPLIT, indices_of

    with exclusive_lock(locations.archives, DownloadError, "gbr.download"):
        for subset, name in INDEX_FILES.items():
            with suppress(DataError):
                indices_of(Subset(subset), SPLIT, locations.indices)
                continue
            if locations.source:
                found = locations.source / _INDICES_FOLDER / name
                if not found.is_file():
                    raise DownloadError(f"{found}: not found; copy the lists of TpuGraphs there, or omit --from")
                locations.indices.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(found, locations.indices / name)
            else:
                mirrored = locations.url(f"{_INDICES_FOLDER}/{name}")
                url = f"{INDICES_URL}{name}" if locations.base_url == BASE_URL else mirrored
                fetch(url, locations.indices / name)
            indices_of(Subset(subset), SPLIT, locations.indices)


def _list(archives: Sequence[Archive], locations: Locations, as_json: bool) -> None:
    """Print the size of each archive, and how many of its graphs exist below the data root."""
    sizes = remote_sizes(locations.url(one.name) for one in archives)
    entries: list[dict[str, Any]] = [
        {"name": one.subset, "split": one.split, "bytes": size, "graphs": one.n_graphs}
        | {"present": len(one.sizes(locations.data_root))}
        for one, size in zip(archives, sizes, strict=True)
    ]
    if as_json:
        cli.emit_json(entries)
        return
    rows = [list((one | {"bytes": size_text(one["bytes"])}).values()) for one in entries]
    cli.table(f"TpuGraphs at {locations.base_url}", ["name", "split", "size", "graphs", "present"], rows)
    print(f"{size_text(sum(sizes))} in all; unpacking needs as much again")


base_url_option = click.option("--base-url", default=BASE_URL, metavar="URL", help="The official server or a mirror.")
source_option = click.option(
    "--from",
    "source",
    type=click.Path(exists=True, path_type=Path),
    metavar="DIR",
    help="Use archives that are already in this folder, or this one archive; no network.",
)


@cli.command("gbr.download", epilog=_EPILOG)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@cli.data_option
@cli.splits_option
@click.option("--list", "list_only", is_flag=True, help="List what is available, its size, and what is present.")
@base_url_option
@source_option
@click.option("--keep", is_flag=True, help="Keep the archives after unpacking.")
@cli.json_option
def main(
    *,
    names: Sequence[str],
    data: Path,
    splits: tuple[str, ...] | None,
    list_only: bool,
    base_url: str,
    source: Path | None,
    keep: bool,
    as_json: bool,
) -> None:
    """Download TpuGraphs, Google's graphs measured on TPUs."""
    locations = Locations(data, base_url, source)
    archives = select([name for name in names if name != INDICES] or (["all"] if list_only else []), splits)
    if list_only:
        if source is not None:
            raise UsageError("--list: asks the server for sizes; leave out --from")
        _list(archives, locations, as_json)
        return
    if not names:
        raise UsageError(f"expected a NAME: {', '.join((*COLLECTIONS, INDICES))} or all; --list shows sizes")
    if INDICES in names:
        get_indices(locations)
    get_graphs(archives, locations, keep)
    cli.note("TpuGraphs is by Phothilimthana et al. (NeurIPS 2023), CC BY 4.0; cite it where you show results")
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    for archive in archives:
        counts[archive.subset][archive.split] = len(archive.sizes(data))
    if as_json:
        cli.emit_json({"graphs": counts})
        return
    for subset, found in counts.items():
        print(f"{subset}: {', '.join(f'{count} {split}' for split, count in found.items())} graphs")
    if INDICES in names:
        print(f"{INDICES}: {', '.join(INDEX_FILES.values())}")


if __name__ == "__main__":
    sys.exit(main())
