"""``rlkit data describe``: a dataset in one picture."""

from __future__ import annotations

from rlkit.commands import Catalog, collect
from rlkit.commands.options import DataDescribe
from rlkit.evaluation import data_figure
from rlkit.types import InputError


def run(options: DataDescribe, catalog: Catalog) -> int:
    """Draw the dataset. Raises InputError if it cannot be read, or the picture not be written."""
    if options.out.suffix.lower() != ".png":
        raise InputError(f"--out {options.out}: end the name in .png")
    episodes = collect.load(options, catalog)
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        data_figure.draw(options.out, episodes)
    except (OSError, ValueError) as error:
        raise InputError(f"--out {options.out}: cannot be written ({error})") from error
    print(f"written to {options.out}")
    return 0
