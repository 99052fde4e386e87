"""The table of CAM methods: a new one is a module that defines a `Method`, and its line here."""

from finer_ray.plugins import table
from finer_ray.saliency.chefer import CHEFER
from finer_ray.saliency.gem import GEM
from finer_ray.saliency.gradcam import GRADCAM
from finer_ray.saliency.gradcampp import GRADCAMPP
from finer_ray.saliency.hirescam import HIRESCAM
from finer_ray.saliency.layercam import LAYERCAM
from finer_ray.saliency.legrad import LEGRAD
from finer_ray.saliency.mask import MASK
from finer_ray.saliency.method import Method
from finer_ray.saliency.rise import RISE
from finer_ray.saliency.scorecam import SCORECAM
from finer_ray.saliency.xgradcam import XGRADCAM

METHODS: dict[str, Method] = table(
    Method, (GRADCAM, LAYERCAM, HIRESCAM, XGRADCAM, GRADCAMPP, SCORECAM, RISE, MASK, GEM, LEGRAD, CHEFER)
)
