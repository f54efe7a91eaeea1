"""Fetches adapters from uploads, folders, the hub and URLs."""

from cluster.adapters.sources.folder import FolderSource
from cluster.adapters.sources.hub import HubSource
from cluster.adapters.sources.protocol import AdapterSource
from cluster.adapters.sources.upload import FilesSource, UploadedFile, UploadSource
from cluster.adapters.sources.url import UrlSource

__all__ = [
    "AdapterSource",
    "FilesSource",
    "FolderSource",
    "HubSource",
    "UploadSource",
    "UploadedFile",
    "UrlSource",
]
