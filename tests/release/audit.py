"""``make audit``: known vulnerabilities of the exact versions in constraints.txt, by pip-audit.

pip-audit runs in an environment of its own (uv makes it). Exit codes: 0 nothing known, 1 something known, 2 not all
packages could be looked up: an audit that reached nobody has found nothing, and must not pass for a clean one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.paths import ROOT

SERVICES = ("pypi", "osv")
"""Where pip-audit asks, in this order: the second only if the first does not know all packages."""


@dataclass(frozen=True)
class Audit:
    """The answer of one service."""

    service: str
    looked_up: int
    skipped: int
    """Number of packages that the service did not answer for."""
    problem: str | None
    """Why there is no answer at all."""
    known: tuple[str, ...]
    """A line for each known vulnerability."""

    @property
    def is_whole(self) -> bool:
        return self.problem is None and self.skipped == 0 and self.looked_up > 0


def read(service: str, output: str, errors: str) -> Audit:
    """Return the audit that pip-audit has printed as JSON."""
    try:
        dependencies: Sequence[Mapping[str, Any]] = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        lines = [line for line in errors.splitlines() if line.strip()]
        return Audit(service, 0, 0, lines[-1][:200] if lines else "pip-audit printed nothing", ())
    skipped = sum("skip_reason" in dependency for dependency in dependencies)
    known = [
        f"{dependency['name']} {dependency['version']}: {found['id']}"
        + (f", mended in {', '.join(found['fix_versions'])}" if found.get("fix_versions") else "")
        for dependency in dependencies
        for found in dependency.get("vulns", ())
    ]
    return Audit(service, len(dependencies) - skipped, skipped, None, tuple(known))


def lines_of(audits: Sequence[Audit]) -> list[str]:
    """Return what is printed of the services that were asked."""
    lines = []
    for audit in audits:
        if audit.problem is not None:
            lines.append(f"{audit.service}: no answer ({audit.problem})")
        else:
            lines.append(f"{audit.service}: {audit.looked_up} packages looked up, {audit.skipped} not known there")
    known = sorted({line for audit in audits for line in audit.known})
    lines += known or []
    if not any(audit.is_whole for audit in audits):
        lines.append("the audit is not whole: no service answered for every package; run it where one can be reached")
    elif not known:
        lines.append("no vulnerability of these versions is known")
    return lines


def code_of(audits: Sequence[Audit]) -> int:
    if any(audit.known for audit in audits):
        return 1
    return 0 if any(audit.is_whole for audit in audits) else 2


def main() -> int:
    """Run the audit, print its result and return the exit code."""
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv is None:
        print("uv is not installed; `make test` once installs it into .venv")
        return 2
    audits: list[Audit] = []
    for service in SERVICES:
        command = [uv, "tool", "run", "--from", "pip-audit", "pip-audit", "--requirement", "constraints.txt"]
        command += ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--timeout", "15"]
        command += ["--vulnerability-service", service, "--format", "json", *sys.argv[1:]]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        audits.append(read(service, done.stdout, done.stderr))
        if audits[-1].is_whole:
            break
    print("\n".join(lines_of(audits)))
    return code_of(audits)


if __name__ == "__main__":
    sys.exit(main())
