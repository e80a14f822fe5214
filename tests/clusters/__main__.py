"""Drills on real clusters of this machine, for root: ``python -m tests.clusters preemption --times 10``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.clusters import bucket, mlflow_stores, nodes, preemption, sharing
from tests.drills.sweeps import TRIALS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.clusters", description=__doc__)
    parser.add_argument("drill", choices=["preemption", "nodes", "sharing", "bucket", "mlflow"])
    parser.add_argument("--times", type=int, default=10, help="preemptions of the sweep; outages of a store")
    parser.add_argument("--trials", type=int, help="trials of the sweep; by default 8, of mlflow 24")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--limit", default="30m", help="time of an allocation of the preempted sweep")
    parser.add_argument(
        "--within", type=float, default=110.0, help="seconds of an allocation in which a preemption comes"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/sweeper-clusters"))
    arguments = parser.parse_args()
    if arguments.drill == "mlflow":
        return int(mlflow_stores.main(arguments.trials or 24, arguments.times, arguments.seed) > 0)
    if arguments.drill == "nodes":
        return int(nodes.main(arguments.folder) > 0)
    if arguments.drill == "sharing":
        return int(sharing.main(arguments.folder) > 0)
    if arguments.drill == "bucket":
        return int(bucket.main(arguments.folder, arguments.seed) > 0)
    times, trials = arguments.times, arguments.trials or TRIALS
    found = preemption.main(
        times, arguments.seed, arguments.nodes, arguments.limit, trials, arguments.within, arguments.folder
    )
    return int(found > 0)


sys.exit(main())
