"""A run, as commands and jobs start it: what libraries print is kept apart, and signals end it in order."""

from collections.abc import Iterator
from contextlib import contextmanager

from finer_ray.library_log import libraries_apart
from finer_ray.pipeline.stopping import stoppable


@contextmanager
def running(url: str) -> Iterator[None]:
    """Do what happens inside as a run; torch and Ray are best imported inside, for what they print at import.

    Args:
        url: of the output that is being made: its log is named after it (`finer_ray.library_log.log_file`), and where
            it is an export, its kept images are counted when the run is stopped.

    Raises:
        Stopped: a signal came, see `stoppable`.
    """
    with libraries_apart(url), stoppable(url):
        yield
