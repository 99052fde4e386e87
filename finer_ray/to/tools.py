"""The tools that an export can be written for."""

from finer_ray.plugins import table
from finer_ray.to.coco import COCO
from finer_ray.to.fiftyone import FIFTYONE
from finer_ray.to.labelstudio import LABELSTUDIO
from finer_ray.to.png import PNG
from finer_ray.to.tool import Tool

TOOLS = table(Tool, (FIFTYONE, COCO, LABELSTUDIO, PNG))
