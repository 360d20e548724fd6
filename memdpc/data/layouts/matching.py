"""Files that lists name, found on the disk, where names may be spelled in another way.

Lists are as old as their dataset, and copies have been re-encoded, unpacked by another system or
fetched by other programs since. So where no file has the listed name, names are compared by less
and less of them: without case and Unicode's form, without the suffix, without the difference of
space and underscore. A file is taken where it is the only one that is left and the name the only
one that asks for it; that is said (`Listing.renamed`). All others are absent, with the nearest name
that is there (`Listing.hint`).
"""

import os
import re
import unicodedata
from bisect import bisect
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from memdpc.data.layouts.listing import ABSENT, UNCLEAR, Listed, Missing
from memdpc.data.layouts.walk import VIDEO_SUFFIXES, holds_litter, video_paths

__all__ = []

_COMPARED = 200  # names among which the nearest is sought: a comparison takes about 0.1 ms
_LONGEST = 255  # letters of a file's name

Names = dict[str, list[str]]  # names by what stays of them


class Form(NamedTuple):
    """What stays of a name when it is compared."""

    of_listed: Callable[[str], str]
    of_file: Callable[[str], str]


class Match(NamedTuple):
    """What became of the names of a list."""

    there: list[Listed]  # with the paths of their files
    absent: list[Missing]
    unused: list[str]  # files that no list names
    renamed: list[tuple[str, str]]  # (name in the list, another name on the disk)
    hint: str  # the nearest name to the first that is absent; '' where none is near


def normalize_name(name: str) -> str:
    """What stays of a name when case and Unicode's normal form do not count.

    UCF101 spells one name in two ways: the class is `HandstandPushups`, its videos are
    `v_HandStandPushups_g01_c01.avi`, and copies differ in the folder's name. Oops! has names with
    accents, which some file systems store as one character and others as two.
    """
    return unicodedata.normalize("NFC", name).casefold()


def without_suffix(name: str) -> str:
    """`normalize_name` without suffixes: downloaders make `x.mp4.mkv`, re-encoding `x.mp4`."""
    stem, suffix = os.path.splitext(normalize_name(name))
    while suffix in VIDEO_SUFFIXES:
        stem, suffix = os.path.splitext(stem)
    return stem + suffix


def loosely(name: str) -> str:
    """`without_suffix`, and spaces as underscores, wide letters as plain ones, `\\` as `/`.

    Downloaders write `：` for the colon that Windows forbids in names.
    """
    plain = unicodedata.normalize("NFKC", without_suffix(name)).casefold()
    return re.sub(r"[\s_]+", "_", plain.replace("\\", "/"))


FORMS = tuple(Form(form, form) for form in (normalize_name, without_suffix, loosely))


def list_files(
    root: Path,
    folder: str,
    listed: Iterable[Listed],
    missing: list[Missing],
) -> list[str]:
    """The video files in `root/folder`, and those that `listed` names where nobody looks."""
    found = video_paths(root, folder, missing)
    named = {entry.path for entry in listed if holds_litter(entry.path)}
    return found + sorted(path for path in named if os.path.isfile(root / path))


def match_files(
    found: Iterable[str],
    listed: Sequence[Listed],
    others: Iterable[Listed] = (),
    forms: Iterable[Form] = FORMS,
) -> Match:
    """The `Listed` with their files, as spelled among the paths `found`, and what is left over.

    Names are compared, never searched for: a glob would take `[2]` in a name for a pattern. A file
    whose own name is listed stands for nothing else; `others` are listed, too, and not asked for.
    """
    found = list(found)
    names = dict.fromkeys(entry.path for entry in (*listed, *others))
    file_of, unclear = _pair(names, set(found), forms)
    used = set(file_of.values())
    unused = [path for path in found if path not in used]
    there: list[Listed] = []
    absent: list[Missing] = []
    renamed: dict[str, str] = {}
    for entry in listed:
        path = file_of.get(entry.path)
        if path is None:
            absent.append((entry.path, UNCLEAR if entry.path in unclear else ABSENT))
            continue
        there.append(entry._replace(path=path))
        if path != entry.path:
            renamed[entry.path] = path
    hint = ""
    if absent:
        hint = _hint(absent[0][0], unclear, unused)
    return Match(there, absent, unused, list(renamed.items()), hint)


def _pair(
    names: Iterable[str],
    files: set[str],
    forms: Iterable[Form],
) -> tuple[dict[str, str], Names]:
    """({name: its file}, {name: files that it might mean}), by one form after the other."""
    file_of = {name: name for name in names if name in files}
    free = files.difference(file_of)
    sought = [name for name in names if name not in file_of]
    unclear: Names = {}
    for form in forms:
        alike = _group(free, form.of_file)
        for key, group in _group(sought, form.of_listed).items():
            candidates = alike.get(key, [])
            if len(candidates) == len(group) == 1:
                file_of[group[0]] = candidates[0]
            elif candidates:
                unclear.update(dict.fromkeys(group, candidates))
        free.difference_update(file_of.values())
        sought = [name for name in sought if name not in file_of]
    return file_of, unclear


def _group(
    names: Iterable[str],
    form: Callable[[str], str],
) -> Names:
    groups: Names = {}
    for name in names:
        groups.setdefault(form(name), []).append(name)
    return groups


def _hint(
    name: str,
    unclear: Names,
    unused: list[str],
) -> str:
    """`nearest to NAME: PATH`, or '' where no name is near."""
    nearest = sorted(unclear.get(name, ()))[:3] or _nearest(name, unused)
    return f"nearest to {name}: {' or '.join(nearest)}" if nearest else ""


def _nearest(
    name: str,
    files: list[str],
) -> list[str]:
    """The file of the name most like `name`, of those beside it in the alphabet; in its folder."""
    folder = os.path.dirname(name)
    beside = [path for path in files if os.path.dirname(path) == folder] or files
    beside = sorted(beside, key=os.path.basename)
    sought = os.path.basename(name)[:_LONGEST]
    place = bisect(beside, sought, key=os.path.basename)
    start = max(0, place - _COMPARED // 2)
    paths = {os.path.basename(path): path for path in beside[start : start + _COMPARED]}
    return [paths[like] for like in get_close_matches(sought, paths, 1)]
