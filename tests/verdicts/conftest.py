"""Lines of logs are read with several threads too."""

from tests.datamodules.conftest import several_threads

__all__ = ["several_threads"]
