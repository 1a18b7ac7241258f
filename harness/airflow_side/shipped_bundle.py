"""A Dag bundle for workers on machines without the harness's files: it brings the suite's Dag file along.

Imported by Airflow in a worker, as ``classpath`` of ``[dag_processor] dag_bundle_config_list``.
"""

from __future__ import annotations

import os
from importlib import resources

from airflow.dag_processing.bundles.local import LocalDagBundle

FILE = "conformance_dag.py"


class ShippedBundle(LocalDagBundle):
    """A local bundle whose Dag file is put where the harness has it: names of its callables hold the path's digest."""

    def initialize(self) -> None:
        """Write the file, unless it is there already."""
        content = (resources.files("executor_conformance.suites") / "bundle" / FILE).read_bytes()
        target = self.path / FILE
        if not target.exists() or target.read_bytes() != content:
            self.path.mkdir(parents=True, exist_ok=True)
            draft = target.with_name(f"{FILE}.{os.getpid()}")
            draft.write_bytes(content)
            draft.replace(target)
        super().initialize()
