"""Small videos in which an action goes on as intended, and then fails at a known time"""

import json
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np

from memdpc.base.errors import ConfigError
from memdpc.base.files import write_bytes
from memdpc.data.shapes import claim
from memdpc.data.video import write_video

KINDS = ("Drop", "Slip", "Collision", "Miss")
RATES, LENGTHS = (10, 12, 15, 20), (5, 9)  # frames per second, seconds
SPEEDS, NEVER = (
    (0.2, 0.35),
    0.15,
)  # frame widths per second; the share of videos in which nothing fails


@dataclass(frozen=True)
class Mishap:
    "What is drawn for one video."

    kind: str  # one of `KINDS`
    fps: int
    frames: int
    when: float  # when it goes wrong, seconds; infinity: never
    place: float  # where it begins, frame widths
    speed: float  # frame widths per second, to the right
    beat: float  # seconds from step to step, or from toss to toss
    phase: float  # seconds


def plan(kind, seed=0, number=0):
    "The `Mishap` of a kind that `seed` and `number` draw"
    rng = np.random.default_rng([seed, 8, KINDS.index(kind), number])
    fps, length = int(rng.choice(RATES)), rng.uniform(*LENGTHS)
    when = rng.uniform(0.2, 0.65) * length
    if rng.random() < NEVER:
        when = inf
    return Mishap(
        kind,
        fps,
        round(length * fps),
        when,
        rng.random(),
        rng.uniform(*SPEEDS) * rng.choice([-1, 1]),
        rng.uniform(0.9, 1.2),
        rng.random(),
    )


FLOOR, GRAVITY = 0.92, 2.4  # frame heights from the top; frame heights per second squared


def hops(height, t, bounce, count=9):
    "How high something is, `t` seconds (an array) after it was let go at `height`; each hop is `bounce` times as fast as the one before"
    speed = np.sqrt(2 * GRAVITY * height)
    began, up = -speed / GRAVITY, np.zeros_like(t)  # as if it had been thrown up from the ground
    for _ in range(count):
        up = np.maximum(up, (t >= began) * (speed * (t - began) - GRAVITY / 2 * (t - began) ** 2))
        began, speed = began + 2 * speed / GRAVITY, speed * bounce
    return up


@dataclass(frozen=True)
class Body:
    "Something to draw, at every frame."

    figure: str  # disc, box or cross
    x: np.ndarray  # [T], of its centre; frame widths; NaN: it is not there
    y: np.ndarray  # [T]; frame heights from the top
    size: tuple[float, float]  # half width and half height
    angle: np.ndarray  # [T], radians


def bodies(mishap):
    "`[Body]` of a mishap"
    m, t = mishap, np.arange(mishap.frames) / mishap.fps
    still, after, x = (
        np.zeros_like(t),
        np.maximum(t - m.when, -99),
        m.place + m.speed * t,
    )  # after: seconds since it went wrong, negative before
    return {"Drop": drop, "Slip": slip, "Collision": collision, "Miss": miss}[m.kind](
        m, t, after, x, still
    )


def drop(m, t, after, x, still):
    "A hand carries a ball through the air, gently up and down; it lets go, and goes on"
    hand, ground = 0.14 + 0.05 * np.sin(2 * np.pi * (t / 1.7 + m.phase)), FLOOR - 0.15
    let_go = np.interp(m.when, t, hand) + 0.2
    ball = np.where(after < 0, hand + 0.2, ground - hops(ground - let_go, after, 0.7))
    return [Body("box", x, hand, (0.2, 0.05), still), Body("disc", x, ball, (0.15, 0.15), still)]


def slip(m, t, after, x, still):
    "Somebody walks, with a small bob at each step; trips, and tumbles on"
    turn = (
        np.pi / 2 * np.clip(after / 0.5, 0, 1) ** 2
        + np.maximum(after - 0.5, 0) * abs(m.speed) / 0.16
    )
    height = 0.28 * abs(np.cos(turn)) + 0.09 * abs(
        np.sin(turn)
    )  # of the centre above the lowest point
    bob = 0.03 * abs(np.sin(np.pi * t / m.beat)) * (after < 0)
    lean = 0.28 * np.sin(np.minimum(turn, np.pi / 2))  # the foot stays where it is
    return [
        Body(
            "box",
            x + np.sign(m.speed) * lean,
            FLOOR - height - bob,
            (0.09, 0.28),
            np.sign(m.speed) * turn,
        )
    ]


def collision(m, t, after, x, still):
    "A wheel rolls along; a box comes the other way, fast, and throws it back"
    wheel = np.where(after < 0, x, x - 2 * m.speed * after)
    rolling = Body("cross", wheel, FLOOR - 0.17 + still, (0.17, 0.17), (wheel - m.place) / 0.17)
    if m.when == inf:
        return [rolling]
    side = np.sign(m.speed)
    box = m.place + m.speed * m.when + side * (0.28 + np.where(after < 0, -1.2, 0.36) * after)
    box = np.where(abs(box - wheel) < 0.6, box, np.nan)  # further away it is out of the picture
    return [rolling, Body("box", box, FLOOR - 0.14 + still, (0.11, 0.14), still)]


def miss(m, t, after, x, still):
    "A ball is tossed and caught, again and again; the hand is not where it lands, and it hops on along the floor"
    last = (t - m.phase if m.when == inf else after) % m.beat  # since it was caught last
    catch, ground, top = 0.63, FLOOR - 0.12, GRAVITY * m.beat**2 / 8
    tossed = catch - GRAVITY / 2 * last * (m.beat - last)
    missed = ground - hops(ground - catch + top, after + m.beat / 2, 0.75)
    aside = np.sign(m.speed) * 0.3 * np.clip(after / 0.3 + 1, 0, 1)
    return [
        Body("box", x + aside, 0.8 + still, (0.2, 0.05), still),
        Body("disc", x, np.where(after < 0, tossed, missed), (0.12, 0.12), still),
    ]


SIDE = 64  # height and width of the pictures, pixels
OBJECT, GROUND, EARTH, SNOW = (
    (235, 200, 80),
    (40, 60, 90),
    (70, 90, 120),
    (180, 188, 205),
)  # colours, the same in every video
LAMP, GRAIN = (
    0.3,
    3,
)  # flicker (of the log of brightness), the camera's noise (of 255): standard deviations
FLAKES, GUST = 10, 60  # flakes in a frame, and how many more for a second, once in a video


def cover(body, side):
    "How much of each pixel a body covers: [T, H, W]; left and right are joined, top and bottom are not"
    pixels = (np.arange(side, dtype=np.float32) + 0.5) / side
    x = ((pixels - np.nan_to_num(body.x, nan=0.5)[:, None] + 0.5) % 1 - 0.5).astype(
        np.float32
    )  # [T, W]
    y = (pixels - body.y[:, None]).astype(np.float32)  # [T, H]
    x, y = x[:, None, :], y[:, :, None]
    c, s = (f(body.angle)[:, None, None].astype(np.float32) for f in (np.cos, np.sin))
    u, v, (a, b) = abs(c * x + s * y), abs(c * y - s * x), body.size
    outside = {
        "disc": lambda: np.hypot(u, v) - a,
        "box": lambda: np.maximum(u - a, v - b),
        "cross": lambda: np.maximum(np.minimum(u, v) - 0.4 * a, np.maximum(u, v) - a),
    }[body.figure]()
    return np.clip(0.5 - 0.7 * side * outside, 0, 1) * ~np.isnan(body.x)[:, None, None]


def render_mishap(mishap, seed=0, number=0, side=SIDE):
    "The video of a mishap, in falling snow and under a flickering lamp: uint8 [T, H, W, 3]; the same arguments give the same pixels"
    rng, T = np.random.default_rng([seed, 9, KINDS.index(mishap.kind), number]), mishap.frames
    colours = {
        name: np.float32(value)
        for name, value in (
            ("object", OBJECT),
            ("ground", GROUND),
            ("earth", EARTH),
            ("snow", SNOW),
        )
    }
    earth = np.clip(side * ((np.arange(side) + 0.5) / side - FLOOR) + 0.5, 0, 1)[
        :, None, None
    ]  # [H, 1, 1]
    video = np.broadcast_to(
        colours["ground"] + earth * (colours["earth"] - colours["ground"]), (T, side, side, 3)
    ).astype(np.float32)
    for body in bodies(mishap):
        video += cover(body, side)[..., None] * (colours["object"] - video)
    y, x, gust = *rng.integers(side, size=(2, T, FLAKES + GUST)), rng.uniform(0, T)
    frame, flake = np.nonzero(
        (np.arange(FLAKES + GUST) < FLAKES) | (abs(np.arange(T) - gust) < mishap.fps / 2)[:, None]
    )
    for dy, dx in np.ndindex(2, 2):
        video[frame, (y[frame, flake] + dy) % side, (x[frame, flake] + dx) % side] = colours[
            "snow"
        ]  # 2x2 pixels each
    lamp, grain = (
        np.exp(rng.normal(0, LAMP, (T, 1, 1, 1))).astype(np.float32),
        GRAIN * rng.standard_normal((T, side, side, 1), dtype=np.float32),
    )
    return np.rint((lamp * video + grain).clip(0, 255)).astype(np.uint8)


def annotate(mishap, rng, number=3):
    "What annotators say, who watch a mishap independently: times in seconds, -1 where one sees no failure"
    length = mishap.frames / mishap.fps
    if mishap.when == inf:
        return [
            round(rng.uniform(0, length), 3) if rng.random() < 0.05 else -1 for _ in range(number)
        ]
    seen = rng.normal(mishap.when, 0.12, number).clip(0, length).round(3)
    return [float(t) if rng.random() > 0.1 else -1 for t in seen]


def entry(times, length):
    "Oops!'s entry of a video"
    stdev = statistics.pstdev(times)
    return {
        "t": times,
        "len": length,
        "stdev": stdev,
        "rel_t": [t / length for t in times],
        "rel_stdev": stdev / length,
        "n_notfound": times.count(-1),
    }


TITLES = (
    "{kind} in the snow {number}",
    "That's a {kind}! #{number}",
    '"{kind}" & more, no. {number}',
    "Früh übt sich – {kind} {number}",
    "雪の日 {kind} {number}",
)


def mishap_title(kind, number):
    "A name such as people give their videos"
    return TITLES[number % len(TITLES)].format(kind=kind, number=number)


def mishap_part(number):
    "Which part of the dataset a video is in"
    return "val" if number % 4 == 3 else "train"


def mishap_lists(videos_per_kind, seed=0):
    "`{file name: text}` of Oops!'s annotations: lists of names, all and filtered, and times; of the training videos every fourth has no times"
    lists, times, fourth = (
        {f"{part}{suffix}.txt": [] for part in ("train", "val") for suffix in ("", "_filtered")},
        {},
        {},
    )
    for number in range(videos_per_kind):
        for kind in KINDS:
            rng, mishap = (
                np.random.default_rng([seed, 10, KINDS.index(kind), number]),
                plan(kind, seed, number),
            )
            name, part = mishap_title(kind, number), mishap_part(number)
            said, length = annotate(mishap, rng), mishap.frames / mishap.fps
            lists[f"{part}.txt"].append(name)
            if number % 16 in (4, 9, 14):
                continue  # unlabelled
            times[name] = entry(said, length)
            if said.count(-1) > 1:
                continue
            lists[f"{part}_filtered.txt"].append(name)
            if part == "val":
                fourth[name] = entry(annotate(mishap, rng, 1), length)
    files = {name: "\n".join(lines) + "\n" for name, lines in lists.items()}
    return files | {
        f"{name}.json": json.dumps(table) + "\n"
        for name, table in (("transition_times", times), ("heldout_transition_times", fourth))
    }


def write_one_mishap(task):
    "Render and write one video: `task` is (path, kind, seed, number)"
    path, kind, seed, number = task
    mishap = plan(kind, seed, number)
    write_video(
        path,
        render_mishap(mishap, seed, number),
        mishap.fps,
        options={"crf": "26", "preset": "veryfast", "g": "12"},
    )


def write_mishaps(
    out,  # the dataset's folder, `oops_dataset`
    videos_per_kind=120,  # at least 4
    seed=0,  # draws everything
    num_workers=0,
):  # processes that render and encode; 0: this one
    """Write the mishaps in Oops!'s layout and return their folder as a `Path`; what is there stays, as in `write_shapes`.

    Raises `ConfigError` if `out` holds something else, `OSError` from the disk; a file is there whole or not at all.
    """
    out = Path(out)
    if seed < 0:
        raise ConfigError(f"seed must not be negative; got {seed}")
    if videos_per_kind < 4:
        raise ConfigError(
            f"videos_per_kind must be at least 4, so that there is one for validation; got {videos_per_kind}"
        )
    claim(out, {"dataset": "memdpc mishaps 1", "videos_per_kind": videos_per_kind, "seed": seed})
    for folder in (out / "annotations", out / "oops_video/train", out / "oops_video/val"):
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("*.part"):
            left.unlink()
    for name, text in mishap_lists(videos_per_kind, seed).items():
        if not (out / "annotations" / name).exists():
            write_bytes(out / "annotations" / name, text.encode())
    tasks = [
        (
            os.fspath(
                out / "oops_video" / mishap_part(number) / f"{mishap_title(kind, number)}.mp4"
            ),
            kind,
            seed,
            number,
        )
        for number in range(videos_per_kind)
        for kind in KINDS
    ]
    tasks = [task for task in tasks if not os.path.exists(task[0])]
    if num_workers < 2 or len(tasks) < 32:
        list(map(write_one_mishap, tasks))
    else:
        with ProcessPoolExecutor(num_workers) as pool:
            list(pool.map(write_one_mishap, tasks, chunksize=8))
    return out
