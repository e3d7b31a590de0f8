"""Where a service's credentials come from: an agent's socket, a directory, or whoever publishes.

:class:`~handfast.sources.socket.SocketSource` lies in its own module, since it brings gRPC with it.
"""

from handfast.sources.directory import DirectorySource
from handfast.sources.static import StaticSource

__all__ = ["DirectorySource", "StaticSource"]
