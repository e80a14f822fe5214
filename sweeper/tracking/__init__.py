"""MLflow as a projection of a sweep: one parent run, one child run per trial for ever, whatever dies.

The driver's ``Tracker`` only appends events to the sweep's outbox. A process of its own sends them in order, so that
neither MLflow's import (5 s) nor its server's absence costs the sweep anything. Whatever is sent can be sent again:
runs are found by their tags before they are made, metrics carry the event's time, the rest is overwritten.
"""

from sweeper.tracking.runs import Runs, Store, find_runs, find_store
from sweeper.tracking.tracker import Tracker

__all__ = ["Runs", "Store", "Tracker", "find_runs", "find_store"]
