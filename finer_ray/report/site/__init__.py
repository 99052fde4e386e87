"""The report: a static folder that shows an export in any browser, from disk and without a network."""

from finer_ray.report.site.single_file import write_single_file
from finer_ray.report.site.site_writer import write_report

__all__ = ["write_report", "write_single_file"]
