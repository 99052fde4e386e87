"""Explain what a schedule's day has brought: a job whose places carry the date, as {date}, verified at the end.

ray job submit --working-dir . -- python jobs/scheduled_export.py --config nightly.yaml

    input: {shards: "s3://bucket/{date}/*.tar"}     one export a day, or a fixed output.url that grows day by day
    output: {url: "s3://bucket/exports/{date}"}

The exit code says what a scheduler should do: see docs/operations.md.
"""

import argparse
import sys
from datetime import UTC, date, datetime

from finer_ray.config.loading import load_config
from finer_ray.errors import ExportError, exit_on_error


def main() -> None:
    parser = argparse.ArgumentParser(description="Explain what a day has brought.")
    parser.add_argument("--config", required=True, help="the job's YAML file")
    parser.add_argument("--date", type=date.fromisoformat, default=datetime.now(UTC).date(), help="YYYY-MM-DD; today")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override a key; repeatable")
    arguments = parser.parse_args()
    with exit_on_error():
        config = load_config(arguments.config, arguments.set, {"date": arguments.date.isoformat()})
        # After the config was checked, for to import torch and Ray takes seconds.
        from finer_ray.pipeline.export import export
        from finer_ray.pipeline.stopping import stoppable
        from finer_ray.store.verify import verify_export

        with stoppable(config.output.url):
            summary = export(config)
        # Keys are not compared again: shards may have been archived since.
        findings = verify_export(config.output.url, keys=False)
        if findings:
            raise ExportError(f"{config.output.url} is not whole: {'; '.join(findings)}")
    for note in summary.notes:
        print(note, file=sys.stderr)
    print(f"{summary.images} images explained, {summary.failures} failures, {summary.new} new: {config.output.url}")


if __name__ == "__main__":
    main()
