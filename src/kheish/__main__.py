"""``python -m kheish`` is ``kheish-daemon``."""

from kheish.daemon.main import main

if __name__ == "__main__":
    main()
