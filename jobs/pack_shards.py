"""Pack a published data set into shards: images, labels, boxes, masks and attributes.

ray job submit --working-dir . -- python jobs/pack_shards.py --format cub --source /data/CUB --to /data/cub
"""

import argparse

from finer_ray.datasets.catalogue import DATASETS
from finer_ray.datasets.pack import Packing, pack
from finer_ray.datasets.writers import WRITERS
from finer_ray.errors import exit_on_error


def main() -> None:
    parser = argparse.ArgumentParser(description="Pack a published data set into shards.")
    parser.add_argument("--format", required=True, choices=list(DATASETS), help="the data set's layout")
    parser.add_argument("--source", required=True, help="its folder, as published; every node must reach it")
    parser.add_argument("--to", required=True, help="the folder or URL that gets the shards")
    parser.add_argument("--as", dest="form", choices=list(WRITERS), default="webdataset", help="the shards' format")
    parser.add_argument("--split", default="all", help="one split, or all, each in shards of its own")
    parser.add_argument("--label", help="level of the class names, where there is more than one")
    parser.add_argument("--task", help="list of images, where there is more than one")
    parser.add_argument("--rows-per-shard", type=int, default=1000, help="images in a shard")
    with exit_on_error():
        packed = pack(Packing(**vars(parser.parse_args())))
    print(*packed.lines(), sep="\n")


if __name__ == "__main__":
    main()
