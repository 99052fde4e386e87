"""Explain every image of a data set: shards in, Zarr and Parquet out.

ray job submit --working-dir . -- python jobs/export_saliency.py --config my_job.yaml
"""

import argparse
import sys

from finer_ray.config.loading import load_config
from finer_ray.errors import exit_on_error


def main() -> None:
    parser = argparse.ArgumentParser(description="Explain every image of a data set.")
    parser.add_argument("--config", required=True, help="the job's YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override a key; repeatable")
    arguments = parser.parse_args()
    with exit_on_error():
        config = load_config(arguments.config, arguments.set)
        from finer_ray.pipeline.running import running

        with running(config.output.url):
            # After the config was checked, for to import torch and Ray takes seconds.
            from finer_ray.pipeline.export import Run

            with Run(config) as run:
                run.plan()  # shards become units of work; those that an earlier run has committed are left out
                run.explain()  # load, explain, write: unit by unit, side by side on the cluster
                summary = run.publish()  # committed parts become tables, which export.json names
    for note in summary.notes:
        print(note, file=sys.stderr)
    print(f"{summary.images} images explained, {summary.failures} failures: {config.output.url}")


if __name__ == "__main__":
    main()
