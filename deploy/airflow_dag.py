"""Airflow: the night's export on a Ray cluster that stands, whose jobs are reached through RAY_JOB_ADDRESS.

Copy it into the folder of DAGs. The machine needs `ray[default]`, and a folder FINER_RAY_HOME that holds
deploy/nightly.yaml and goes along; the nodes need finer_ray[cluster], such as deploy/Dockerfile makes.
"""

import os
from datetime import datetime, timedelta

from airflow.sdk import dag, task


@dag(schedule="30 2 * * *", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1)
def finer_ray_nightly() -> None:
    """One task: submit the job, follow it, fail as it fails."""

    @task.bash(
        retries=3,
        retry_delay=timedelta(minutes=30),
        env={"RAY_AUTH_MODE": "token", "RAY_ADDRESS": os.environ.get("RAY_JOB_ADDRESS", "http://127.0.0.1:8265")},
        append_env=True,
        cwd=os.environ.get("FINER_RAY_HOME", "."),
    )
    def export() -> str:
        return "ray job submit --working-dir . -- finer-ray export deploy/nightly.yaml --verify --date {{ ds }}"

    export()


finer_ray_nightly()
