"""Where adapters come from: uploads, folders, the hub, URLs."""

from cluster.adapters.sources.folder import FolderSource
from cluster.adapters.sources.protocol import AdapterSource
from cluster.adapters.sources.upload import FilesSource, UploadedFile, UploadSource

__all__ = ["AdapterSource", "FilesSource", "FolderSource", "UploadSource", "UploadedFile"]
