"""Train linear probes: backbones x data sets in, safetensors and a table of accuracies out.

ray job submit --working-dir . -- python jobs/train_probe.py --config my_probes.yaml
"""

import argparse

from finer_ray.config.loading import load_section
from finer_ray.errors import exit_on_error
from finer_ray.probe.config import ProbesConfig


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a linear probe for every backbone and data set.")
    parser.add_argument("--config", required=True, help="the probing job's YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override a key; repeatable")
    arguments = parser.parse_args()
    with exit_on_error():
        config = load_section(ProbesConfig, arguments.config, arguments.set)
        from finer_ray.pipeline.running import running

        with running(config.output.url):
            # After the config was checked, for to import torch and Ray takes seconds.
            from finer_ray.probe.accuracy_table import accuracy_markdown
            from finer_ray.probe.run import probe

            records = probe(config)
    print(accuracy_markdown(records))


if __name__ == "__main__":
    main()
