"""What the README shows, for tests that hold it to the truth."""

from __future__ import annotations

import re

from compose.home import REPO

README = (REPO / "README.md").read_text()


def shown_after(command: str) -> str:
    """Give the output that the README shows below `$ command`."""
    _, _, rest = README.partition(f"$ {command}\n")
    return rest.partition("```")[0].rstrip("\n")


def code_block(language: str, holding: str) -> str:
    """Give the one block of `language` that holds the text, as it is indented."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    (found,) = (block for block in blocks if holding in block)
    return str(found)


def refusals() -> dict[str, str]:
    """Give the refused DAG files of the README, below `tests/integration/dags`, and the line of each."""
    folder = "tests/integration/dags"
    blocks = shown_after(f"make check-dags DAGS={folder}").split("\n\n")
    found = dict(block.split("\n") for block in blocks)
    return {file.removeprefix(f"{folder}/"): line for file, line in found.items()}
