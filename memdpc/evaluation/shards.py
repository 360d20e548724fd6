"""Features of whole datasets: computed in shards by any number of processes, kept, and joined.

A shard is a stretch of whole videos, about sixteen batches of clips. Where shards begin follows
from the videos and the batch size alone, and each is written whole or not at all. So one process or
eight, killed or not, leave the same files, and a killed job loses only the shards it was at.

`origin.json` tells what the features in a folder were made from, so that those of another network
are never taken for these. Nothing in a folder is written over or removed unless that file, and the
names of the files, show that it came from here: a user may name the folder of their videos.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from memdpc import __version__
from memdpc.base.errors import ConfigError, TrainingError
from memdpc.base.files import (
    LARGEST_JSON,
    atomic_write,
    hold_folder,
    read_plain,
    stamp,
    write_bytes,
)
from memdpc.base.terminal import progress_bar
from memdpc.data.clips import Clips
from memdpc.evaluation.arrays import (
    ARRAYS,
    Features,
    join_features,
    load_features,
    save_features,
)
from memdpc.training.processes import make_loader, watched_workers

logger = logging.getLogger(__name__)

# uint8 clips [B, N, 3, T, H, W] -> (blocks [B, N, D], context [B, D'])
Extractor = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

SHARD_BATCHES = 16
PATIENCE = 120  # seconds that a network disk may take to show what another machine has written
STALLED = timedelta(days=1)  # how long processes wait for the slowest of them
WRITTEN = {*(f"{name}.npy" for name in ARRAYS), "index.csv", "vectors.npy"}
ONE_NETWORK = "one network"  # a kind of features: those of one network, in `folder/subset`


# ---- computing


def cut_into_shards(clips: Clips, batch_size: int) -> list[range]:
    """The numbers of the videos of each shard: sixteen batches of clips, to the end of a video."""
    ends_of_batches = np.arange(0, len(clips), SHARD_BATCHES * batch_size)
    starts = np.unique(np.searchsorted(clips.first[:-1], ends_of_batches))
    starts = [int(start) for start in starts if start < len(clips.videos)]
    return [range(*ends) for ends in zip(starts, [*starts[1:], len(clips.videos)])]


def compute_shards(
    extractors: dict[str, Extractor],
    clips: Clips,
    shards: Sequence[range],
    batch_size: int = 16,
    num_workers: int = 0,
    description: str = "features",
) -> Iterator[tuple[range, dict[str, Features]]]:
    """Yield each shard with the `Features` of every extractor; each clip is decoded once."""
    batches = [_batches(clips, shard, batch_size) for shard in shards]
    with watched_workers():
        loader = make_loader(clips, list(chain.from_iterable(batches)), num_workers)
        loaded = iter(progress_bar(loader, description))
        for shard, own in zip(shards, batches):
            outputs, broken = _extract(extractors, islice(loaded, len(own)))
            whole = _whole_videos(broken, clips, shard)
            if not whole.all():
                lost = (~whole).sum()
                logger.warning(
                    "%s: left out %d videos that became unreadable",
                    description,
                    lost,
                )
            yield (
                shard,
                {
                    name: _gather(clips_of_source, clips, shard, whole)
                    for name, clips_of_source in outputs.items()
                },
            )


def _batches(clips: Clips, shard: range, batch_size: int) -> list[list[tuple[int, int]]]:
    """The (epoch, index) pairs of a shard's clips, batch by batch."""
    first = int(clips.first[shard.start])
    last = int(clips.first[shard.stop])
    keys = [(0, index) for index in range(first, last)]
    return [keys[at : at + batch_size] for at in range(0, len(keys), batch_size)]


def _extract(
    extractors: dict[str, Extractor], batches: Iterable[dict[str, torch.Tensor]]
) -> tuple[dict[str, list[tuple]], np.ndarray]:
    """`{name: [(blocks, context) of each batch]}`, and for each clip whether it is broken."""
    outputs: dict[str, list[tuple]] = {name: [] for name in extractors}
    broken = []
    for batch in batches:
        for name, extract in extractors.items():
            outputs[name].append(tuple(v.float().cpu().numpy() for v in extract(batch["clip"])))
        broken.append(batch["broken"].numpy())
    return outputs, np.concatenate(broken)


def _edges(clips: Clips, shard: range) -> np.ndarray:
    """Where the clips of each of a shard's videos begin among the shard's clips, and the end."""
    return clips.first[shard.start : shard.stop + 1] - clips.first[shard.start]


def _whole_videos(broken: np.ndarray, clips: Clips, shard: range) -> np.ndarray:
    """Which videos were read: for one that cannot be, `Clips` gives the next in its place."""
    return np.add.reduceat(broken, _edges(clips, shard)[:-1]) == 0


def _gather(
    outputs: Sequence[tuple[np.ndarray, np.ndarray]],
    clips: Clips,
    shard: range,
    whole: np.ndarray,
) -> Features:
    """Rows of the `whole` videos of a shard, from its batches of (blocks, context)."""
    edges = _edges(clips, shard)
    counts = np.diff(edges)[whole].astype(np.float32)

    def mean_over_clips(values: np.ndarray) -> np.ndarray:
        sums = np.add.reduceat(values, edges[:-1])[whole]
        return (sums.T / counts).T

    blocks = np.concatenate([blocks for blocks, _ in outputs])  # [clips, N, D]
    context = np.concatenate([context for _, context in outputs])
    videos = [clips.videos.videos[number] for number in np.array(shard)[whole]]
    return Features(
        blocks=mean_over_clips(blocks),
        context=mean_over_clips(context),
        labels=np.array([video.label for video in videos], int),
        groups=np.array([video.group for video in videos], str),
        paths=np.array([video.path for video in videos], str),
        block_std=mean_over_clips(np.std(blocks, axis=1)),
    )


# ---- where features come from


def fingerprint(
    kind: str,
    model: torch.nn.Module,
    clips: Iterable[Clips],
    seed: int,
    random: bool,
) -> dict[str, Any]:
    """What features depend on (weights, videos, sizes), as JSON takes it."""
    clips = list(clips)
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    for part in clips:
        digest.update(repr(_stamps(part)).encode())
    return {
        "kind": kind,
        "random": random,
        "weights and videos": digest.hexdigest(),
        "clips": [_sizes(part) for part in clips],
        "seed": seed,
        "version": __version__,
    }


def _stamps(clips: Clips) -> list[tuple]:
    """Path, size and time of change, and label of every video."""
    videos = clips.videos
    numbered = enumerate(videos.videos)
    return [(video.path, stamp(videos.path(i)), video.label) for i, video in numbered]


def _sizes(clips: Clips) -> list[Any]:
    root = str(Path(clips.videos.root).resolve())
    frames = [
        clips.num_blocks,
        clips.block_len,
        clips.frame_stride,
        clips.img_size,
    ]
    return [*frames, clips.time_stride, repr(clips.starts), root]


def known_origin(folder: Path) -> dict[str, Any]:
    """`{'made from', 'sources'}` of the features in `folder`, {} if unknown or cut short.

    `sources` names the extractors, and is None until all their features are complete. Raises
    `ConfigError` where the file was not written here.
    """
    try:
        known = json.loads(read_plain(folder / "origin.json", LARGEST_JSON).decode())
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    except (ValueError, RecursionError):  # a pipe, nesting or digits without end
        known = None
    match known:
        case {"made from": {"kind": str()}, "sources": None}:
            return known
        case {"made from": {"kind": str()}, "sources": [*names]}:
            if all(isinstance(name, str) for name in names):
                return known
    reason = "its origin.json is damaged, or not of features"
    advice = "name another out, or remove the folder if nothing else lies in it"
    raise ConfigError(f"{folder}: {reason}: {advice}")


def known_sources(
    folder: Path, made_from: dict[str, Any], subsets: Iterable[str] = ()
) -> list[str] | None:
    """Names of the complete features in `folder` that were made from `made_from`, else None.

    Each of `subsets` must be there. Raises `ConfigError` for features of another kind.
    """
    known = known_origin(folder)
    if not known:
        return None
    kind = known["made from"]["kind"]
    if kind != made_from["kind"]:
        wanted = made_from["kind"]
        raise ConfigError(f"{folder}: holds features of {kind}, not of {wanted}: name another out")
    sources = known["sources"]
    if known["made from"] != made_from or sources is None:
        return None
    places = [folder / source / subset for source in sources for subset in subsets]
    return sources if all(place.is_dir() for place in places) else None


def _write_origin(
    folder: Path,
    made_from: dict[str, Any],
    sources: Sequence[str] | None = None,
) -> None:
    origin = {"made from": made_from, "sources": sources}
    write_bytes(folder / "origin.json", json.dumps(origin).encode())


def refuse_foreign(folder: Path, kind: str, subsets: Iterable[str]) -> None:
    """Raise `ConfigError` where features of `kind` would be written over somebody's own files."""
    for subset in subsets:
        for place in folder.glob(subset if kind == ONE_NETWORK else f"*/{subset}"):
            if not ((folder / "origin.json").is_file() and _holds_features_alone(place)):
                reason = "exists, and nothing shows that it holds features alone"
                raise ConfigError(f"{place}: {reason}: name another out")


def _holds_features_alone(place: Path) -> bool:
    return place.is_dir() and {path.name for path in place.glob("[!.]*")} <= WRITTEN


# ---- keeping


@dataclass(frozen=True)
class Store:
    """A folder for the features of some clips: `folder/source/subset`, and shards until then."""

    folder: Path
    clips: dict[str, Clips]  # of each subset ('train', 'test')
    made_from: dict[str, Any]  # see `fingerprint`
    batch_size: int = 16
    num_workers: int = 0

    @property
    def shards(self) -> Path:
        """The folder of the shards: its name is a digest of all that they depend on."""
        inputs = json.dumps([self.made_from, self.batch_size])
        return self.folder / f"shards-{hashlib.sha256(inputs.encode()).hexdigest()[:16]}"

    def shard_folder(self, source: str, subset: str, shard: range) -> Path:
        """Where a shard of a source's features lies, by its first video."""
        return self.shards / source / subset / f"{shard.start:08d}"

    def missing(self, subset: str, sources: Iterable[str]) -> list[range]:
        """Those shards of a subset that are not there yet, of one source or another."""
        sources = list(sources)
        lacking = []
        for shard in cut_into_shards(self.clips[subset], self.batch_size):
            places = [self.shard_folder(source, subset, shard) for source in sources]
            if not all(place.is_dir() for place in places):
                lacking.append(shard)
        return lacking

    def begin(self) -> None:
        """From now on nothing in the folder counts as complete, and old shards are gone."""
        stale = []
        if known_origin(self.folder):
            stale = list(self.folder.glob("shards-" + 16 * "[0-9a-f]"))
        _write_origin(self.folder, self.made_from)
        for shards in stale:
            if shards != self.shards:
                shutil.rmtree(shards)
        self.shards.mkdir(exist_ok=True)

    def compute(
        self,
        subset: str,
        extractors: dict[str, Extractor],
        shards: Sequence[range],
    ) -> None:
        """Compute some shards of a subset; each is written whole or not at all."""
        if not shards:
            return
        computed = compute_shards(
            extractors,
            self.clips[subset],
            shards,
            self.batch_size,
            self.num_workers,
            subset,
        )
        for shard, features_of in computed:
            for source, features in features_of.items():
                place = self.shard_folder(source, subset, shard)
                if not place.is_dir():
                    with atomic_write(place) as part:
                        save_features(part, features)

    def join(self, sources: Sequence[str]) -> None:
        """Write the shards as one folder for each source and subset, and remove them."""
        for source in sources:
            for subset, clips in self.clips.items():
                shards = cut_into_shards(clips, self.batch_size)
                places = [self.shard_folder(source, subset, shard) for shard in shards]
                target = self.folder / source / subset
                (target / "vectors.npy").unlink(missing_ok=True)  # of earlier features
                features = join_features([load_features(place) for place in places])
                save_features(target, features, clips.videos.classes)
        _write_origin(self.folder, self.made_from, list(sources))
        shutil.rmtree(self.shards)


def load_kept(store: Store) -> dict[str, dict[str, Features]]:
    """`{source: {subset: Features}}` of a store's complete folder.

    Raises `ConfigError` where another job has begun to put other features there meanwhile.
    """
    sources = known_sources(store.folder, store.made_from) or ()
    loaded = {}
    for source in sources:
        parts = {name: load_features(store.folder / source / name) for name in store.clips}
        loaded[source] = parts
    if not sources or known_sources(store.folder, store.made_from) != sources:
        reason = "another job writes other features here: name another out"
        raise ConfigError(f"{store.folder}: {reason}")
    return loaded


def keep_features(
    store: Store,
    make_extractors: Callable[[], dict[str, Extractor]],
    accelerator: Accelerator,
) -> None:
    """Have a store's folder hold its features; what is there already is not computed again.

    With several processes all of them call this. Raises `ConfigError` where another job is at work
    in the folder, or where it must not be written.
    """
    if known_sources(store.folder, store.made_from, store.clips) is not None:
        return
    refuse_foreign(store.folder, store.made_from["kind"], store.clips)
    lock = hold_folder(store.folder) if accelerator.is_main_process else None
    try:
        _compute_together(store, make_extractors, accelerator)
    finally:
        if lock is not None:
            lock.release()


def _compute_together(
    store: Store,
    make_extractors: Callable[[], dict[str, Extractor]],
    accelerator: Accelerator,
) -> None:
    """Each process computes its share of the missing shards, and the main process joins all."""
    patience = PATIENCE if accelerator.num_processes > 1 else 0
    if accelerator.is_main_process:
        store.begin()
    _meet()
    if not _wait_for(store.shards.is_dir, patience):
        advice = "out must be on a shared disk"
        raise TrainingError(f"{store.shards}: made by the main process, and not here; {advice}")
    extractors = make_extractors()

    def missing() -> dict[str, list[range]]:
        return {subset: store.missing(subset, extractors) for subset in store.clips}

    # The main process decides what is missing: others may see the disk later than it does.
    for subset, shards in broadcast_object_list([missing()])[0].items():
        share = shards[accelerator.process_index :: accelerator.num_processes]
        store.compute(subset, extractors, share)
    _meet()
    if accelerator.is_main_process:
        if not _wait_for(lambda: not any(missing().values()), patience):
            advice = "start again, and what is there is kept"
            raise TrainingError(f"{store.shards}: some shards are missing; {advice}")
        store.join(list(extractors))
    _meet()
    if not _wait_for(
        lambda: known_sources(store.folder, store.made_from) is not None,
        patience,
    ):
        raise TrainingError(f"{store.folder}: the main process has not completed the features")


def _meet() -> None:
    """Wait for the other processes, if there are any.

    By CPU: a barrier of GPUs gives up after ten minutes, and one process may have more to do.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    try:
        dist.barrier(dist.new_group(backend="gloo", timeout=STALLED))
    except RuntimeError as error:
        raise TrainingError("another process died: start again, what is there is kept") from error


def _wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether `condition` holds, now or within so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


__all__ = []
