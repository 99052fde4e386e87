"""`finer-ray`, or `python -m finer_ray`: the command line, whose import takes in the plugins."""

from finer_ray.errors import exit_on_error


def main() -> None:
    """Run the command line; known errors, a plugin's too, become one plain message and an exit code of their kind."""
    with exit_on_error():
        from finer_ray.cli import app

        app()


if __name__ == "__main__":
    main()
