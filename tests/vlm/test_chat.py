from __future__ import annotations

import numpy as np
import pytest

from edit_r1.images import ImageError, encode_png
from edit_r1.vlm.chat import images_of, to_messages
from edit_r1.vlm.protocol import Request


def test_messages_keep_the_order_of_texts_and_images() -> None:
    request = Request(("Source: ", b"a", "\nEdited: ", b"b", "\nAnswer"), system="Be strict.")
    assert to_messages(request) == [
        {"role": "system", "content": [{"type": "text", "text": "Be strict."}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Source: "},
                {"type": "image"},
                {"type": "text", "text": "\nEdited: "},
                {"type": "image"},
                {"type": "text", "text": "\nAnswer"},
            ],
        },
    ]
    assert [message["role"] for message in to_messages(Request(("x",)))] == ["user"]


def test_images_are_decoded_in_order() -> None:
    pictures = [encode_png(np.full((16, 16 + 8 * index, 3), index, dtype=np.uint8)) for index in range(2)]
    images = images_of(Request((pictures[0], "and", pictures[1])))
    assert [(image.mode, image.size) for image in images] == [("RGB", (16, 16)), ("RGB", (24, 16))]
    with pytest.raises(ImageError):
        images_of(Request((b"no image",)))
