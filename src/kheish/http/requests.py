"""What requests may hold."""

from __future__ import annotations

import warnings

from pydantic import BaseModel, ConfigDict
from pydantic.warnings import UnsupportedFieldAttributeWarning

# FastAPI names every body, pydantic finds that odd, and FastAPI hides it, but only where the check is built at once.
warnings.filterwarnings("ignore", category=UnsupportedFieldAttributeWarning)


class Asked(BaseModel):
    """What a body is checked against: its check is built when the first one comes, so that a start need not wait."""

    model_config = ConfigDict(defer_build=True)
