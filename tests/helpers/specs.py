"""A small spec of the typographic task, for tests of searches that train nothing."""

from __future__ import annotations

from typing import Any

from sweeper.spec.spec import Spec, spec_type


def make_spec(**changes: Any) -> Spec:
    """``changes`` replace whole sections; a search of ``searched_parameters``."""
    return spec_type("typographic").model_validate(
        {
            "name": "demo",
            "sets": {"world": {"kind": "world"}},
            "train": {"set": "world"},
            "evaluate": {"search": {"sets": ["world"]}, "test": {"sets": ["world"]}},
            "parameters": searched_parameters(),
            **changes,
        }
    )


def searched_parameters() -> dict[str, Any]:
    return {
        "objective": "dpo",
        "beta": {"low": 0.1, "high": 2.0, "log": True},
        "tune": "transform",
        "learning_rate": 0.01,
    }
