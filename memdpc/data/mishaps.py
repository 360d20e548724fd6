"""Small videos in which an action goes on as intended, and then fails at a known time.

`write_mishaps` writes a few hundred of them in the layout of the Oops! dataset: something is
carried, walks, rolls or is tossed, and then it drops, trips, collides or is missed.
`memdpc.evaluation.oops` learns on them, and its tests run on them. What should a network need in
order to say where the line is?

| wanted | how |
|---|---|
| the next second can be foretold as long as all goes well | constant speed, a steady beat |
| the failure cannot be foretold | its time is drawn; it comes out of nothing |
| a second after the failure is like any other | things hop, tumble or roll on |
| a large change is not yet a failure | once in a video, a gust of snow |
| pictures alone are no great help | snow, a flickering lamp, grain |
| several frame rates, lengths, directions | drawn |

Drop and slip are the same, frame by frame, up to the failure. The other two announce themselves, as
they would in life: in a collision the other body comes into the picture some .2 s before, and in a
miss the hand leaves .3 s before the ball comes down.

What was tried, measured by balanced accuracy on one seed and 80 validation videos. Where things
came to rest after the failure, random weights did as well as trained ones, and motion as well as
both. With 48 pixels (2x2 cells) no network left the plateau of the loss in 160 steps; with 32 (one
cell) the loss fell from the first steps. Motion alone stayed at .75 until the gust of snow, which
is a large change and no failure; with it, at .49.
"""

import json
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from memdpc.base.errors import ConfigError
from memdpc.base.files import expand_home, write_bytes
from memdpc.data._dataset_folder import claim, write_missing
from memdpc.data.video import write_video

KINDS = ("Drop", "Slip", "Collision", "Miss")
RATES = (10, 12, 15, 20)  # frames per second
LENGTHS = (5, 9)  # seconds
SPEEDS = (0.2, 0.35)  # frame widths per second
NEVER = 0.15  # the share of videos in which nothing fails

FLOOR = 0.92  # frame heights from the top
GRAVITY = 2.4  # frame heights per second squared

SIDE = 64  # height and width of the pictures, pixels
OBJECT = np.array([235, 200, 80], np.float32)  # colours, the same in every video
GROUND = np.array([40, 60, 90], np.float32)
EARTH = np.array([70, 90, 120], np.float32)
SNOW = np.array([180, 188, 205], np.float32)
LAMP = 0.3  # flicker, standard deviation of the log of brightness
GRAIN = 3  # the camera's noise, standard deviation, of 255
FLAKES = 10  # flakes in a frame
GUST = 60  # how many more for a second, once in a video

ENCODING = {"crf": "26", "preset": "veryfast", "g": "12"}  # of x264
TITLES = (
    "{kind} in the snow {number}",
    "That's a {kind}! #{number}",
    '"{kind}" & more, no. {number}',
    "Früh übt sich – {kind} {number}",
    "雪の日 {kind} {number}",
)


# ---- what is drawn for a video


@dataclass(frozen=True)
class Mishap:
    """What is drawn for one video."""

    kind: str  # one of `KINDS`
    fps: int
    frames: int
    when: float  # when it goes wrong, seconds; infinity: never
    place: float  # where it begins, frame widths
    speed: float  # frame widths per second, to the right
    beat: float  # seconds from step to step, or from toss to toss
    phase: float  # seconds

    @property
    def length(self) -> float:
        """Seconds."""
        return self.frames / self.fps


def plan(
    kind: str,
    seed: int = 0,
    number: int = 0,
) -> Mishap:
    """The `Mishap` of a kind that `seed` and `number` draw."""
    rng = np.random.default_rng([seed, 8, KINDS.index(kind), number])
    fps = int(rng.choice(RATES))
    length = rng.uniform(*LENGTHS)
    when = rng.uniform(0.2, 0.65) * length
    if rng.random() < NEVER:
        when = inf
    return Mishap(
        kind,
        fps,
        frames=round(length * fps),
        when=when,
        place=rng.random(),
        speed=rng.uniform(*SPEEDS) * rng.choice([-1, 1]),
        beat=rng.uniform(0.9, 1.2),
        phase=rng.random(),
    )


# ---- how bodies move


@dataclass(frozen=True)
class Body:
    """Something to draw, at every frame."""

    figure: str  # disc, box or cross
    x: np.ndarray  # [T], of its centre; frame widths; NaN: it is not there
    y: np.ndarray  # [T]; frame heights from the top
    size: tuple[float, float]  # half width and half height
    angle: np.ndarray  # [T], radians


class _Course(NamedTuple):
    """What all kinds share, at every frame: arrays [T]."""

    time: np.ndarray  # seconds
    after: np.ndarray  # seconds since it went wrong, negative before
    x: np.ndarray  # frame widths, of what goes on at constant speed
    still: np.ndarray  # zeros


def hops(
    height: float,
    time: np.ndarray,
    bounce: float,
    count: int = 9,
) -> np.ndarray:
    """How high something is, `time` seconds after it was let go at `height`; frame heights.

    Parabolas; each hop is `bounce` times as fast as the one before.
    """
    speed = np.sqrt(2 * GRAVITY * height)
    began = -speed / GRAVITY  # as if it had been thrown up from the ground
    up = np.zeros_like(time)
    for _ in range(count):
        since = time - began
        hop = speed * since - GRAVITY / 2 * since**2
        up = np.maximum(up, (time >= began) * hop)
        began = began + 2 * speed / GRAVITY
        speed = speed * bounce
    return up


def bodies(mishap: Mishap) -> list[Body]:
    """What moves in a mishap."""
    time = np.arange(mishap.frames) / mishap.fps
    after = np.maximum(time - mishap.when, -99)
    course = _Course(time, after, mishap.place + mishap.speed * time, np.zeros_like(time))
    return _MOTIONS[mishap.kind](mishap, course)


def _drop(
    mishap: Mishap,
    course: _Course,
) -> list[Body]:
    """A hand carries a ball through the air, gently up and down; it lets go, and goes on."""
    hand = 0.14 + 0.05 * np.sin(2 * np.pi * (course.time / 1.7 + mishap.phase))
    ground = FLOOR - 0.15
    let_go = np.interp(mishap.when, course.time, hand) + 0.2
    falling = ground - hops(ground - let_go, course.after, 0.7)
    ball = np.where(course.after < 0, hand + 0.2, falling)
    return [
        Body("box", course.x, hand, (0.2, 0.05), course.still),
        Body("disc", course.x, ball, (0.15, 0.15), course.still),
    ]


def _slip(
    mishap: Mishap,
    course: _Course,
) -> list[Body]:
    """Somebody walks, with a small bob at each step; trips, and tumbles on."""
    side = np.sign(mishap.speed)
    falling = np.pi / 2 * np.clip(course.after / 0.5, 0, 1) ** 2
    rolling = np.maximum(course.after - 0.5, 0) * abs(mishap.speed) / 0.16
    turn = falling + rolling
    height = 0.28 * abs(np.cos(turn)) + 0.09 * abs(np.sin(turn))  # of the centre over the ground
    bob = 0.03 * abs(np.sin(np.pi * course.time / mishap.beat)) * (course.after < 0)
    lean = 0.28 * np.sin(np.minimum(turn, np.pi / 2))  # the foot stays where it is
    x = course.x + side * lean
    return [Body("box", x, FLOOR - height - bob, (0.09, 0.28), side * turn)]


def _collision(
    mishap: Mishap,
    course: _Course,
) -> list[Body]:
    """A wheel rolls along; a box comes the other way, fast, and throws it back."""
    before = course.after < 0
    wheel = np.where(before, course.x, course.x - 2 * mishap.speed * course.after)
    angle = (wheel - mishap.place) / 0.17
    rolling = Body("cross", wheel, FLOOR - 0.17 + course.still, (0.17, 0.17), angle)
    if mishap.when == inf:
        return [rolling]
    way = 0.28 + np.where(before, -1.2, 0.36) * course.after
    box = mishap.place + mishap.speed * mishap.when + np.sign(mishap.speed) * way
    box = np.where(abs(box - wheel) < 0.6, box, np.nan)  # further away it is out of the picture
    return [rolling, Body("box", box, FLOOR - 0.14 + course.still, (0.11, 0.14), course.still)]


def _miss(
    mishap: Mishap,
    course: _Course,
) -> list[Body]:
    """A ball is tossed and caught, again and again; then it is missed, and hops along the floor."""
    beat = mishap.beat
    since = course.time - mishap.phase if mishap.when == inf else course.after
    caught = since % beat  # seconds since it was caught last
    catch = 0.63
    ground = FLOOR - 0.12
    top = GRAVITY * beat**2 / 8
    tossed = catch - GRAVITY / 2 * caught * (beat - caught)
    missed = ground - hops(ground - catch + top, course.after + beat / 2, 0.75)
    aside = np.sign(mishap.speed) * 0.3 * np.clip(course.after / 0.3 + 1, 0, 1)
    ball = np.where(course.after < 0, tossed, missed)
    return [
        Body("box", course.x + aside, 0.8 + course.still, (0.2, 0.05), course.still),
        Body("disc", course.x, ball, (0.12, 0.12), course.still),
    ]


_MOTIONS: dict[str, Callable[[Mishap, _Course], list[Body]]] = {
    "Drop": _drop,
    "Slip": _slip,
    "Collision": _collision,
    "Miss": _miss,
}


# ---- pictures


def cover(
    body: Body,
    side: int,
) -> np.ndarray:
    """How much of each pixel a body covers: [T, H, W], 0 to 1.

    Left and right of the frame are joined, top and bottom are not.
    """
    pixels = (np.arange(side, dtype=np.float32) + 0.5) / side
    centre = np.nan_to_num(body.x, nan=0.5)[:, None]
    x = ((pixels - centre + 0.5) % 1 - 0.5).astype(np.float32)[:, None, :]  # [T, 1, W]
    y = (pixels - body.y[:, None]).astype(np.float32)[:, :, None]  # [T, H, 1]
    cos = np.cos(body.angle)[:, None, None].astype(np.float32)
    sin = np.sin(body.angle)[:, None, None].astype(np.float32)
    along = abs(cos * x + sin * y)
    across = abs(cos * y - sin * x)
    outside = _distance(body.figure, along, across, body.size)
    there = ~np.isnan(body.x)[:, None, None]
    return np.clip(0.5 - 0.7 * side * outside, 0, 1) * there


def _distance(
    figure: str, along: np.ndarray, across: np.ndarray, size: tuple[float, float]
) -> np.ndarray:
    """How far a place is outside a figure, from its place along and across; negative inside."""
    width, height = size
    if figure == "disc":
        return np.hypot(along, across) - width
    if figure == "box":
        return np.maximum(along - width, across - height)
    thickness = np.minimum(along, across) - 0.4 * width
    return np.maximum(thickness, np.maximum(along, across) - width)


def draw_mishap(
    mishap: Mishap,
    side: int = SIDE,
) -> np.ndarray:
    """A mishap in fine weather: float32 [T, H, W, 3], 0 to 255."""
    height = (np.arange(side) + 0.5) / side  # of the rows, frame heights from the top
    earth = np.clip(side * (height - FLOOR) + 0.5, 0, 1)[:, None, None]  # [H, 1, 1]
    background = GROUND + earth * (EARTH - GROUND)
    shape = (mishap.frames, side, side, 3)
    video = np.broadcast_to(background, shape).astype(np.float32)
    for body in bodies(mishap):
        video += cover(body, side)[..., None] * (OBJECT - video)
    return video


def render_mishap(
    mishap: Mishap,
    seed: int = 0,
    number: int = 0,
    side: int = SIDE,
) -> np.ndarray:
    """A mishap in falling snow and under a flickering lamp: uint8 [T, H, W, 3].

    The same arguments give the same pixels.
    """
    rng = np.random.default_rng([seed, 9, KINDS.index(mishap.kind), number])
    video = draw_mishap(mishap, side)
    _add_snow(video, rng, mishap.fps)
    lamp = np.exp(rng.normal(0, LAMP, (mishap.frames, 1, 1, 1))).astype(np.float32)
    shape = (mishap.frames, side, side, 1)
    grain = GRAIN * rng.standard_normal(shape, dtype=np.float32)
    return np.rint((lamp * video + grain).clip(0, 255)).astype(np.uint8)


def _add_snow(
    video: np.ndarray,
    rng: np.random.Generator,
    fps: int,
) -> None:
    """Flakes of 2x2 pixels into `video` [T, H, W, 3], and once, for a second, many more."""
    frames, side = video.shape[:2]
    y, x = rng.integers(side, size=(2, frames, FLAKES + GUST))
    gust = rng.uniform(0, frames)
    always = np.arange(FLAKES + GUST) < FLAKES
    in_gust = (abs(np.arange(frames) - gust) < fps / 2)[:, None]
    frame, flake = np.nonzero(always | in_gust)
    for down, right in np.ndindex(2, 2):
        row = (y[frame, flake] + down) % side
        column = (x[frame, flake] + right) % side
        video[frame, row, column] = SNOW


# ---- annotators, and the files


def annotate(
    mishap: Mishap,
    rng: np.random.Generator,
    number: int = 3,
) -> list[float]:
    """What annotators say, who watch a mishap independently: seconds, -1 where one sees no failure.

    They see it a tenth of a second before or after it comes; one in ten times somebody misses it,
    and now and then somebody sees a failure where there is none.
    """
    if mishap.when == inf:
        return [_false_alarm(mishap, rng) for _ in range(number)]
    seen = rng.normal(mishap.when, 0.12, number).clip(0, mishap.length).round(3)
    return [float(time) if rng.random() > 0.1 else -1 for time in seen]


def _false_alarm(
    mishap: Mishap,
    rng: np.random.Generator,
) -> float:
    if rng.random() < 0.05:
        return round(rng.uniform(0, mishap.length), 3)
    return -1


def oops_entry(
    times: Sequence[float],
    length: float,
) -> dict[str, Any]:
    """What Oops!'s transition_times.json holds for a video of `length` seconds."""
    stdev = statistics.pstdev(times)
    return {
        "t": list(times),
        "len": length,
        "stdev": stdev,
        "rel_t": [time / length for time in times],
        "rel_stdev": stdev / length,
        "n_notfound": list(times).count(-1),
    }


def mishap_title(
    kind: str,
    number: int,
) -> str:
    """A name such as people give their videos."""
    return TITLES[number % len(TITLES)].format(kind=kind, number=number)


def mishap_part(number: int) -> str:
    """Which part of the dataset a video is in: every fourth is for validation."""
    return "val" if number % 4 == 3 else "train"


def mishap_lists(
    videos_per_kind: int,
    seed: int = 0,
) -> dict[str, str]:
    """{file name: text} of Oops!'s annotations: lists of names, and times.

    A quarter of the training videos was never shown to annotators. The filtered lists hold the
    videos in which at least two of three saw a failure; of those in validation a fourth was asked.
    """
    parts = ("train", "train_filtered", "val", "val_filtered")
    names: dict[str, list[str]] = {part: [] for part in parts}
    times: dict[str, dict] = {}
    fourth: dict[str, dict] = {}
    for number, kind in _every_video(videos_per_kind):
        rng = np.random.default_rng([seed, 10, KINDS.index(kind), number])
        mishap = plan(kind, seed, number)
        name = mishap_title(kind, number)
        part = mishap_part(number)
        seen = annotate(mishap, rng)
        names[part].append(name)
        if number % 16 in (4, 9, 14):
            continue  # unlabelled
        times[name] = oops_entry(seen, mishap.length)
        if seen.count(-1) > 1:
            continue
        names[f"{part}_filtered"].append(name)
        if part == "val":
            fourth[name] = oops_entry(annotate(mishap, rng, 1), mishap.length)
    files = {f"{part}.txt": "\n".join(lines) + "\n" for part, lines in names.items()}
    files["transition_times.json"] = json.dumps(times) + "\n"
    files["heldout_transition_times.json"] = json.dumps(fourth) + "\n"
    return files


def _every_video(videos_per_kind: int) -> list[tuple[int, str]]:
    """(number, kind) of all videos, in the order of the lists."""
    return [(number, kind) for number in range(videos_per_kind) for kind in KINDS]


def write_mishaps(
    out: str | os.PathLike, videos_per_kind: int = 120, seed: int = 0, num_workers: int = 0
) -> Path:
    """Write the mishaps in Oops!'s layout, and return their folder.

    Args:
        out: the dataset's folder, `oops_dataset`
        videos_per_kind: at least 4, so that there is one for validation
        seed: draws everything
        num_workers: processes that render and encode; 0: this one

    What is there stays; after an interruption a call writes what is missing, and each file is there
    whole or not at all. Raises `ConfigError` if `out` holds something else, `OSError` from the
    disk.
    """
    out = Path(expand_home(out))
    if seed < 0:
        raise ConfigError(f"seed must not be negative; got {seed}")
    if videos_per_kind < 4:
        raise ConfigError(
            "videos_per_kind must be at least 4, so that there is one for validation; "
            f"got {videos_per_kind}"
        )
    claim(out, {"dataset": "memdpc mishaps 1", "videos_per_kind": videos_per_kind, "seed": seed})
    for name, text in mishap_lists(videos_per_kind, seed).items():
        if not (out / "annotations" / name).exists():
            write_bytes(out / "annotations" / name, text.encode())
    write_missing(_write_video, _tasks(out, videos_per_kind, seed), num_workers)
    return out


class _Task(NamedTuple):
    """A video to write."""

    path: str
    kind: str
    seed: int
    number: int


def _tasks(out: Path, videos_per_kind: int, seed: int) -> list[_Task]:
    tasks: list[_Task] = []
    for number, kind in _every_video(videos_per_kind):
        path = out / "oops_video" / mishap_part(number) / f"{mishap_title(kind, number)}.mp4"
        tasks.append(_Task(os.fspath(path), kind, seed, number))
    return tasks


def _write_video(task: _Task) -> None:
    mishap = plan(task.kind, task.seed, task.number)
    frames = render_mishap(mishap, task.seed, task.number)
    write_video(task.path, frames, mishap.fps, options=ENCODING)


__all__ = ["write_mishaps"]
