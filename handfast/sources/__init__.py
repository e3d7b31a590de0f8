"""Where a service's credentials come from: a directory, or whoever publishes."""

from handfast.sources.directory import DirectorySource
from handfast.sources.static import StaticSource

__all__ = ["DirectorySource", "StaticSource"]
