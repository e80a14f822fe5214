"""``make wheel``: a wheel of this checkout runs the quickstart where there is no clone.

A fresh environment in a temporary folder gets the wheel; ``sweeper run quickstart`` must give a front there, and plain
open_clip must load the exported winner by the lines of its model card, in a process that never sees sweeper.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from tests.paths import ROOT
from tests.release.environments import CheckError, fresh_environment, run, wheel_of_this_checkout

PACKAGES = """
import sys
print(model.encode_text(tokenizer(["a photo of a dog"])).shape[-1], {"sweeper", "trainables", "ray"} & set(sys.modules))
"""
"""What runs after the lines of the model card: the width of an embedding, and which of our packages were imported."""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="sweeper-wheel-") as temporary:
        folder = Path(temporary)
        wheel = wheel_of_this_checkout(folder)
        print(f"wheel: {wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB")
        start_s = time.monotonic()
        programs = fresh_environment(folder / "environment", [wheel], ROOT / "constraints.txt")
        print(f"installed in {time.monotonic() - start_s:.0f} s")
        where = run([programs / "python", "-c", "import sweeper; print(sweeper.__path__[0])"], folder).strip()
        if not Path(where).is_relative_to(folder / "environment"):
            raise CheckError(f"sweeper is imported from {where}, not from the wheel")
        run([programs / "sweeper", "--help"], folder)
        start_s = time.monotonic()
        printed = run([programs / "sweeper", "run", "quickstart"], folder)
        print(f"sweeper run quickstart: {time.monotonic() - start_s:.0f} s\n{printed}")
        front = json.loads((folder / "sweeps" / "quickstart" / "front" / "front.json").read_text())
        if not [point for point in front if point["trial"] is not None]:
            raise CheckError(f"the front has no trial: {front}")
        run([programs / "sweeper", "export", "quickstart", "winner"], folder)
        card = (folder / "winner" / "README.md").read_text()
        lines = card.partition("```python\n")[2].partition("```")[0]
        loaded = run([programs / "python", "-c", lines + PACKAGES], folder).strip()
        if not loaded.endswith(" set()"):
            raise CheckError(f"loading the winner imported more than open_clip: {loaded}")
        print(f"the exported winner loads with open_clip (embeddings of width {loaded.split()[0]})")


if __name__ == "__main__":
    main()
