"""``python -m kheish`` is ``kheish-daemon``."""

from kheish.cli.root import main

if __name__ == "__main__":
    main()
