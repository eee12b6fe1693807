"""The first steps of every command on pictures: settings, backbones, device, pictures and their split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autotune.backbones.registry import Registry
from autotune.cache.pixels import fill_pixels, pixel_rows
from autotune.data import datasets
from autotune.data.catalog import check_readable, read_catalog
from autotune.data.picture import Picture
from autotune.data.split import MANIFEST, TRAIN, VALIDATION, Split, read_manifest, split_catalog
from autotune.files import cache_folder
from autotune.formats.cost import DeviceProfile
from autotune.search.candidates import Selection, expand_recommended
from autotune.search.read_ahead import ReadAhead
from autotune.search.settings import Settings
from autotune.study.check_request import check_request
from autotune.study.checks import has_started, recorded_split, recorded_visits, refuse_changed, refuse_incomplete
from autotune.study.growth.after import changes
from autotune.study.listener import StudyListener
from autotune.study.request import SearchRequest
from autotune.study.storage.record import open_record


@dataclass(frozen=True)
class Prepared:
    """A request with its pictures read and split. earlier: the folder of the study that it follows. settings: as
    requested, not yet resolved. root: of all paths. profile: of the device that the limits are for.
    """

    folder: Path
    earlier: Path | None
    settings: Settings
    registry: Registry
    device: str
    split: Split
    root: Path
    profile: DeviceProfile | None


def prepare(request: SearchRequest, listener: StudyListener, device: str, store_pixels: bool = True) -> Prepared:
    """Check a request, then read and split its pictures. Nothing is written to the study's folder.

    device: on which trials run. store_pixels: also resize decoded pictures and store them, which saves a search from
    decoding them again. Raises AutotuneError for problems that the user can fix.
    """
    checked = check_request(request)
    folder, registry = checked.folder, checked.registry
    refuse_incomplete(folder)
    settings = expand_recommended(checked.settings, device)
    is_new = not has_started(folder)
    old = _old_pictures(request, checked.earlier) if is_new else ()
    ahead = ReadAhead(settings, registry, request.weights, old) if store_pixels else None
    split, root = _read_split(request, folder, settings, old, ahead, listener)
    if checked.earlier and is_new:
        for line in changes(checked.earlier.name, old, split.pictures).lines(checked.earlier.name):
            listener.say(line)
    return Prepared(folder, checked.earlier, settings, registry, device, split, root, checked.profile)


def decode_pictures(split: Split, root: Path, selection: Selection, listener: StudyListener) -> None:
    """Decode the pictures that trials use, training and validation, at every size that is searched."""
    pictures = (*split.part(TRAIN), *split.part(VALIDATION))
    for one in selection.candidates:
        how = one.backbone.traits.interpolation
        for size in one.options.pixels:
            fill_pixels(pixel_rows(size, how), root, pictures, how, listener.progress(f"Decoding to {size} pixels"))


def _old_pictures(request: SearchRequest, earlier: Path | None) -> tuple[Picture, ...]:
    """Return the pictures of an earlier study, whose parts are kept. Raises StudyError if its manifest has changed."""
    if earlier is None:
        return read_manifest(request.manifest) if request.manifest else ()
    with open_record(earlier) as record:
        return recorded_split(record, earlier).pictures


def _read_split(request: SearchRequest, folder: Path, settings: Settings, old: tuple[Picture, ...],
                ahead: ReadAhead | None, listener: StudyListener) -> tuple[Split, Path]:  # fmt: skip
    """Return the split and the root of its paths. A study that has started keeps its manifest.

    Raises StudyError if the pictures of such a study have changed.
    """
    source = datasets.locate(request.data, cache_folder(), listener.say)
    manifest = folder / MANIFEST
    own = read_manifest(manifest) if manifest.is_file() and has_started(folder) else ()
    known = {picture.path: picture for picture in own}
    catalog = read_catalog(source, known, listener.progress("Reading"), None if own else ahead,
                           settings.group_by)  # fmt: skip
    if not request.skip_unreadable:
        check_readable(catalog)
    listener.close()
    if own:
        refuse_changed(folder, own, catalog.pictures)
        return Split(catalog.classes, own, catalog.skipped, {}, recorded_visits(folder)), catalog.root
    return split_catalog(catalog, settings.seed, settings.validation, settings.test, old), catalog.root
