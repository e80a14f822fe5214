"""What ``make audit`` says: an audit that reached nobody does not pass for a clean one."""

from __future__ import annotations

import json
from typing import Any

from tests.release.audit import code_of, lines_of, read


def answer(*dependencies: dict[str, Any]) -> str:
    return json.dumps({"dependencies": list(dependencies), "fixes": []})


CLEAN = {"name": "rich", "version": "14.0", "vulns": []}
KNOWN = {"name": "torch", "version": "1.0", "vulns": [{"id": "CVE-1", "fix_versions": ["2.0"], "aliases": []}]}
UNKNOWN = {"name": "ray", "skip_reason": "not found"}


def test_a_service_that_knows_every_package_is_enough() -> None:
    audits = [read("pypi", answer(CLEAN, UNKNOWN), ""), read("osv", answer(CLEAN, CLEAN), "")]
    assert code_of(audits) == 0 and lines_of(audits)[-1] == "no vulnerability of these versions is known"


def test_a_known_vulnerability_fails_even_where_packages_are_missing() -> None:
    audits = [read("pypi", answer(KNOWN, UNKNOWN), "")]
    assert code_of(audits) == 1 and "torch 1.0: CVE-1, mended in 2.0" in lines_of(audits)


def test_nobody_reached_is_not_clean() -> None:
    nobody = [
        read("pypi", answer(UNKNOWN), ""),
        read("osv", "", "warning\nno route to host\n"),
        read("x", answer(), ""),
    ]
    assert code_of(nobody) == 2 and "the audit is not whole" in lines_of(nobody)[-1]
    assert "osv: no answer (no route to host)" in lines_of(nobody)
