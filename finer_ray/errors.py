"""Errors that a user can act on: each message says what was wrong, where, and what to do."""


class FinerRayError(Exception):
    """Base of every error that the command line prints as one plain message."""


class ConfigError(FinerRayError):
    """The job's config asks for something that cannot be done; raised before any work starts."""


class InputError(FinerRayError):
    """The input as a whole is unusable: no shards, or too many images that fail."""


class ExportError(FinerRayError):
    """An export on disk is missing, unfinished, or was made with another config."""


class QueryError(FinerRayError):
    """A query that cannot be answered: its SQL is wrong, or it asks for what an export does not hold."""
