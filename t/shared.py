"""Real catalogues, purchases and reviews, which are not ours to ship: COMMERCE_SHARED names their folder, or it lies beside the project's."""

import os
import pathlib

import pytest

from stack import ROOT

FOLDER = pathlib.Path(os.environ.get("COMMERCE_SHARED", ROOT.parent / "shared")) / "data"


def shared(*parts):
    """The path of what is there; the test that asks for it is skipped where it is not."""
    path = FOLDER.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is not here: it is real data, which is not ours to ship")
    return path
