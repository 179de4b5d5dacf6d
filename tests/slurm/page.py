# SPDX-License-Identifier: MIT
"""The scripts of docs/schedulers.md, as a reader would copy them."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs/schedulers.md"


def scripts():
    """name -> (language, text) of all blocks that have a name, which a page shown in a browser does not show."""
    found = re.findall(r"^<!-- script: (\S+) -->\n```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return {name: (language, text) for name, language, text in found}


def script(name):
    return scripts()[name][1]
