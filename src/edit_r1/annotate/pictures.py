"""The pictures of a task as they are shown: one file each, named after its content.

What is shown is what is exported. A picture that all browsers show alike is kept byte for byte; others (turned by EXIF,
16 bits, TIFF, with metadata that may name its editor) are kept as PNG, which loses no pixel of what a judge sees.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from edit_r1.images import plain_picture
from edit_r1.store import StoreError, write_bytes

PictureId = str
"""SHA-256 of the kept bytes, hexadecimal. It says nothing about who made the picture."""

_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Pictures:
    """The folder of kept pictures."""

    folder: Path

    def keep(self, data: bytes) -> PictureId:
        """Keeps an encoded picture and returns its id.

        Raises:
            ImageError: as `images.decode_pil`.
            StoreError: when it cannot be written.
        """
        name = hashlib.sha256(data).hexdigest()
        if self.path(name).exists():  # these bytes were decoded and found plain: data that grow are not read anew
            return name
        shown = plain_picture(data)
        name = hashlib.sha256(shown).hexdigest()
        path = self.path(name)
        if not path.exists():
            write_bytes(path, shown)
        return name

    def path(self, picture: PictureId) -> Path:
        """Where a picture lies. Raises ValueError for what is no id, so that nothing else is ever opened."""
        if not _ID.fullmatch(picture):
            raise ValueError(f"{picture[:80]!r} is not the id of a picture")
        return self.folder / picture[:2] / picture

    def read(self, picture: PictureId) -> bytes:
        """The bytes of a picture.

        Raises:
            StoreError: when its file is gone or is not what was kept.
        """
        path = self.path(picture)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StoreError(
                f"{path}: cannot be read ({error.strerror or error}): put the file back from a copy of the folder"
            ) from error
        if hashlib.sha256(data).hexdigest() != picture:
            raise StoreError(f"{path}: is not the picture that was kept: put the file back from a copy of the folder")
        return data
